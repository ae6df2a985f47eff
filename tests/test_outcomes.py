"""Outcomes on banks with a known law."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from simulated import RUN_COLUMNS, simulate

from planner.errors import BankError
from planner.models.cost import ModelShape, sampling_cost, scoring_cost
from planner.profiling.columns import Configuration
from planner.profiling.outcomes import outcomes_from_bank
from planner.strategies import from_dict


def column(outcomes, strategy: str, **fields) -> int:
    found = [
        i for i, c in enumerate(outcomes.configurations)
        if c.strategy == strategy and all(c.hyperparameters.get(k) == v for k, v in fields.items())
    ]  # fmt: skip
    assert len(found) == 1, found
    return found[0]


def test_rows_accuracy_and_difficulty_with_samples_set_apart() -> None:
    bank, p = simulate(80, 8, difficulty=16)
    outcomes = outcomes_from_bank(bank)
    assert outcomes.accuracy.shape == (80, len(outcomes.configurations))
    apart = bank.samples[bank.samples["role"] == "difficulty"].groupby("problem_id")["correct"].mean()
    assert outcomes.difficulty["small"] == pytest.approx(apart.reindex(outcomes.problem_ids).to_numpy(float))
    single = bank.samples[(bank.samples["role"] == "score") & (bank.samples["temperature"] > 0)]
    mean = single.groupby("problem_id")["correct"].mean().reindex(outcomes.problem_ids).to_numpy(float)
    assert outcomes.accuracy[:, column(outcomes, "majority", n=1)] == pytest.approx(mean)
    assert outcomes.trials.tolist() == [24.0] * 80
    assert np.abs(outcomes.pass_at_1 - p).mean() < 0.08
    for c in outcomes.configurations:  # what the table names can be built and run
        from_dict({"strategy": c.strategy, "hyperparameters": dict(c.hyperparameters)})


def test_costs_are_the_models_own_account() -> None:
    bank, _ = simulate(10, 4, difficulty=4)
    outcomes = outcomes_from_bank(bank)
    shape = ModelShape.from_config(bank.manifest["policy_models"]["small"]["config"])
    rows = bank.samples[
        (bank.samples["role"] == "score") & (bank.samples["temperature"] > 0) & (bank.samples["problem_id"] == "p3")
    ]
    prefill, decode = sampling_cost(shape, 20, rows["generated_tokens"].to_numpy(float))
    at = outcomes.problem_ids.index("p3")
    best = column(outcomes, "best_of_n", n=4, aggregation="last", selection="vote")
    assert outcomes.prefill[at, best] == pytest.approx(prefill)
    assert outcomes.decode[at, best] == pytest.approx(np.sum(decode))
    own = rows["verifier_tokens"].to_numpy(float) - 20
    verifier = scoring_cost(shape, 20, 0, 0) + np.sum(scoring_cost(shape, own, 20, 2))
    assert outcomes.verifier[at, best] == pytest.approx(verifier)
    assert outcomes.verifier[at, column(outcomes, "majority", n=4)] == 0.0
    assert (outcomes.cost_p95 >= outcomes.cost * 0.999).all()
    assert outcomes.unit == "flops"
    greedy = column(outcomes, "greedy")
    assert outcomes.reference_cost == pytest.approx(outcomes.cost[:, greedy].mean())


def test_halving_never_scores_the_samples_that_gave_the_bucket() -> None:
    # Every problem has the same p: a bucket from other samples must not predict the score.
    bank, _ = simulate(300, 8, scores=False, flops=False, greedy=False)
    rng = np.random.default_rng(0)
    bank.samples["correct"] = rng.random(len(bank.samples)) < 0.5
    bank.samples["answer_key"] = np.where(bank.samples["correct"], "right", "wrong")
    outcomes = outcomes_from_bank(bank)
    assert outcomes.accuracy.shape[0] == 600
    assert outcomes.unit == "tokens"
    one = outcomes.accuracy[:, column(outcomes, "majority", n=1)]
    lucky = outcomes.difficulty["small"] >= 0.75
    assert abs(one[lucky].mean() - one[~lucky].mean()) < 4 * 0.5 / np.sqrt(lucky.sum() * 4)
    by = outcomes.by_problem(one)
    assert by == pytest.approx(outcomes.pass_at_1)


def test_no_verifier_no_best_of_n_and_unknown_tokens_are_noted() -> None:
    bank, _ = simulate(12, 4, scores=False, flops=False, difficulty=4)
    bank.samples["prompt_tokens"] = None
    outcomes = outcomes_from_bank(bank)
    assert not any(c.strategy == "best_of_n" for c in outcomes.configurations)
    assert any("prefill is left out" in note for note in outcomes.notes)


def test_live_runs_enter_and_partial_ones_do_not() -> None:
    bank, _ = simulate(6, 4, difficulty=4)
    fields = json.dumps({"n": 4, "expansions": 2, "temperature": 0.8})
    rows = [
        [f"p{i}", "small", "prm", name, fields, i % 2 == 0, 20, 100, 120, 1.0, 10.0, 5.0]
        for name, count in (("beam_search", 6), ("dvts", 3)) for i in range(count) for _ in range(2)
    ]  # fmt: skip
    bank.runs = pd.DataFrame(rows, columns=RUN_COLUMNS)
    outcomes = outcomes_from_bank(bank)
    beam = column(outcomes, "beam_search", n=4)
    assert outcomes.accuracy[:, beam].tolist() == [1, 0, 1, 0, 1, 0]
    assert outcomes.cost[0, beam] == pytest.approx(16.0)
    assert not any(c.strategy == "dvts" for c in outcomes.configurations)
    assert any("dvts" in note for note in outcomes.notes)


def test_ragged_samples_carry_the_last_value() -> None:
    bank, _ = simulate(20, 8, difficulty=4)
    short = (bank.samples["problem_id"] == "p0") & (bank.samples["role"] == "score") & (bank.samples["index"] >= 5)
    bank.samples = bank.samples[~short]
    outcomes = outcomes_from_bank(bank)
    at = outcomes.problem_ids.index("p0")
    four, eight = (column(outcomes, "majority", n=n) for n in (4, 8))
    assert outcomes.accuracy[at, eight] == outcomes.accuracy[at, four]
    assert any("different numbers" in note for note in outcomes.notes)


def test_nothing_to_evaluate_is_an_error() -> None:
    bank, _ = simulate(5, 4, difficulty=4)
    bank.samples = bank.samples[bank.samples["problem_id"] != "p1"]
    with pytest.raises(BankError, match="no strategy could be evaluated"):
        outcomes_from_bank(bank)


def test_sizes_and_rules_from_elsewhere_are_replayed_beside_the_banks_own() -> None:
    """A policy's `give_up_tokens` come from the lengths of its own bank, its largest N from that bank's counts."""
    bank, _ = simulate(40, 16, seed=3)
    settings = {"temperature": 0.8, "top_p": 1.0}
    named = [
        Configuration(strategy="majority", hyperparameters={"n": 5, **settings}, policy_model="small"),
        Configuration(
            strategy="best_of_n", policy_model="small", verifier="prm",
            hyperparameters={"n": 6, **settings, "aggregation": "last", "selection": "max"},
        ),
        *(
            Configuration(
                strategy="adaptive_majority", policy_model="small",
                hyperparameters={"max_n": 11, "threshold": 0.7, "batch": 3, **rule, **settings},
            )
            for rule in ({}, {"give_up_tokens": 77, "min_n": 6}, {"posterior": "dirichlet"})
        ),
    ]  # fmt: skip
    scored = {"aggregation": "mean", **settings}
    named += [
        Configuration(strategy=strategy, policy_model="small", verifier=verifier, hyperparameters=fields)
        for strategy, verifier, fields in (
            ("odds_vote", "prm", {"n": 6, **scored}),
            (
                "arbitrated_majority",
                "prm",
                {**scored, "max_n": 11, "threshold": 0.9, "batch": 2, "answers": 3, "readings": 1},
            ),
            ("adaptive_best_of_n", "prm", {"max_n": 11, "min_gain": 0.03, **scored}),
            ("confidence_vote", None, {"n": 11, "threshold": 0.7, **settings}),
        )
    ]
    beyond = Configuration(strategy="majority", hyperparameters={"n": 17, **settings}, policy_model="small")
    other = Configuration(strategy="majority", hyperparameters={"n": 5, "temperature": 0.3}, policy_model="small")
    plain, outcomes = outcomes_from_bank(bank), outcomes_from_bank(bank, also=[*named, beyond, other])
    keys = [c.key for c in outcomes.configurations]
    assert not {c.key for c in named} & {c.key for c in plain.configurations}
    assert {c.key for c in named} <= set(keys)
    assert not {beyond.key, other.key} & set(keys)
    at = [keys.index(c.key) for c in named]
    mean, cost = outcomes.accuracy.mean(axis=0), outcomes.cost.mean(axis=0)
    four, eight = (column(outcomes, "majority", n=n) for n in (4, 8))
    assert cost[four] < cost[at[0]] < cost[eight]
    assert abs(mean[at[0]] - (mean[four] + mean[eight]) / 2) < 0.04
    # A rule that gives up, and one that asks for more, spend less and more than the plain one.
    assert cost[at[3]] < cost[at[2]] < cost[at[4]]
    # Each draws 11 at most, and some of them are scored, or all that are drawn.
    eleven = outcomes.decode.mean(axis=0)[at[1]] * 11 / 6
    for place, name in zip(at[6:], ("arbitrated", "best-of-N", "confidence"), strict=True):
        assert 0.2 * eleven < outcomes.decode.mean(axis=0)[place] < eleven, name
        assert (outcomes.verifier.mean(axis=0)[place] > 0) == (name != "confidence")
        assert outcomes.accuracy[:, place].mean() > mean[column(outcomes, "majority", n=1)] - 0.02
    # What the bank has of its own is not changed by what is asked beside it.
    own = [keys.index(c.key) for c in plain.configurations]
    assert outcomes.accuracy[:, own] == pytest.approx(plain.accuracy)
