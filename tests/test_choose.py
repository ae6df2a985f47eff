"""The choice over arrays: expected accuracy over the distribution, within the budget, ties to the cheapest."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_fixture import document, predictor, prompt_of

from planner.api import Planner
from planner.errors import PolicyError
from planner.policy.choose import TIE, PlanTable, choose_one, choose_plans

TABLE = PlanTable.from_document(document())
HARD, MEDIUM, EASY = np.eye(3)


def test_hard_and_easy_prompts_get_different_plans_at_the_same_budget() -> None:
    choice = choose_plans(TABLE, np.array([HARD, MEDIUM, EASY]), 32e6)
    assert choice.plan.tolist() == [3, 3, 1]
    assert choice.expected_accuracy.tolist() == pytest.approx([0.35, 0.60, 0.96])
    assert choice.expected_cost.tolist() == [24e6, 24e6, 4e6]


def test_plans_that_the_table_does_not_name_are_not_chosen() -> None:
    assert choose_plans(TABLE, EASY[None], 1e9).plan.tolist() == [1]  # plan 4 is .005 better, but no cell's winner


def test_the_95th_percentile_must_fit() -> None:
    assert choose_plans(TABLE, HARD[None], 24e6).plan.tolist() == [2]  # its mean would fit, its p95 (28.8e6) does not
    assert choose_plans(TABLE, HARD[None], 1.1e6).plan.tolist() == [-1]
    assert np.isnan(choose_plans(TABLE, HARD[None], 1.1e6).expected_accuracy[0])


def test_hopeless_is_said_and_costs_the_least() -> None:
    bad = document()
    table = PlanTable.from_document(
        bad | {"plans": [p | {"accuracy": {**p["accuracy"], "hard": {"value": 0.01}}} for p in bad["plans"]]}
    )
    choice = choose_plans(table, HARD[None], 32e6)
    assert choice.plan.tolist() == [0]
    assert choice.hopeless.tolist() == [True]


def test_ties_go_to_the_cheapest() -> None:
    near = document()
    near["plans"] = copy.deepcopy(near["plans"])
    near["plans"][1]["accuracy"]["easy"]["value"] = 0.90 + TIE / 2
    near["plans"][2]["accuracy"]["easy"]["value"] = near["plans"][3]["accuracy"]["easy"]["value"] = 0.90
    assert choose_plans(PlanTable.from_document(near), EASY[None], 32e6).plan.tolist() == [0]


def test_plans_can_be_left_out() -> None:
    allowed = np.array([True, True, False, False, True])
    assert choose_plans(TABLE, HARD[None], 32e6, allowed=allowed).plan.tolist() == [0]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_more_budget_never_expects_less_and_a_batch_is_its_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.dirichlet(np.ones(3), 20)
    budgets = np.sort(rng.uniform(1.3e6, 64e6, 20))
    one = np.repeat(rows[:1], 20, axis=0)
    assert (np.diff(choose_plans(TABLE, one, budgets).expected_accuracy) >= -TIE).all()
    together = choose_plans(TABLE, rows, budgets)
    for i in range(20):
        alone = choose_plans(TABLE, rows[i : i + 1], float(budgets[i]))
        assert alone.plan[0] == together.plan[i]
        assert alone.expected_accuracy[0] == together.expected_accuracy[i]
        assert together.p95[i] <= budgets[i] * (1 + 1e-9)


def test_the_next_better_plan_is_named_with_the_budget_that_really_buys_it() -> None:
    dear = copy.deepcopy(document())
    for cell in dear["plans"][3]["cost"].values():
        cell["p95"] = 41e6  # beyond the row that names it
    planner = Planner(dear, predictor())
    prompt = prompt_of(9)
    said = planner.choose(prompt, "33x").explain()
    assert "next better: 41 MFLOPs would buy best_of_n(n=16" in said
    assert planner.choose(prompt, "41x").hyperparameters["n"] == 16
    assert planner.choose(prompt, "40.9x").hyperparameters["n"] != 16


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_one_prompt_and_many_choose_alike(seed: int) -> None:
    """Random tables: ties, budgets at and beside the rows' and plans' own, plans left out, hopeless prompts."""
    rng = np.random.default_rng(seed)
    some = copy.deepcopy(document())
    for plan in some["plans"]:
        for cell in plan["accuracy"].values():
            cell["value"] = float(rng.choice([0.001, 0.3, 0.302, 0.6]))
        for cell in plan["cost"].values():
            cell["total"] = float(rng.choice([1e6, 2e6, 8e6, 30e6]))
            cell["p95"] = cell["total"] * float(rng.choice([1.0, 1.5]))
    table = PlanTable.from_document(some)
    rows = np.concatenate([rng.dirichlet(np.ones(3), 8), np.eye(3)])
    for budget in (0.9e6, 2e6, 2e6 * (1 + 1e-12), 8e6, 31e6, 1e9):
        for allowed in (None, rng.random(5) < 0.6):
            many = choose_plans(table, rows, budget, allowed=allowed).plan
            assert [choose_one(table, row, budget, allowed) for row in rows] == many.tolist()


def test_unmeasured_buckets_take_the_overall_figure() -> None:
    thin = copy.deepcopy(document())
    thin["plans"][0]["accuracy"]["hard"] = {"value": None, "n": 0}
    assert PlanTable.from_document(thin).accuracy[0, 0] == pytest.approx((0.02 + 0.30 + 0.90) / 3)


@pytest.mark.parametrize(
    "damage",
    [
        {"plans": []},
        {"table": [{"budget": 1}]},
        {"plans": [{"strategy": "greedy"}]},
        {"table": [{"budget": 1, "cells": {}, "best_fixed": 99}]},
    ],
)
def test_damage_is_a_policy_error(damage: dict[str, object]) -> None:
    with pytest.raises(PolicyError, match="damaged"):
        PlanTable.from_document(document() | damage)


def test_a_multiple_of_the_reference_cost_is_the_budget_that_the_table_calls_so() -> None:
    # Both are written with nine digits: 4 x 53767359.1 is a little less than the table's first budget.
    changed = {**document(), "reference_cost": 53767359.1}
    changed["table"] = [{**changed["table"][0], "budget": 215069437.0}]
    table = PlanTable.from_document(changed)
    assert table.row(4 * 53767359.1) == 0
    assert table.row(3.99999 * 53767359.1) == -1
