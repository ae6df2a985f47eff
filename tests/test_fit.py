"""Fitting end to end on simulators with a known law: what comes out is honest, complete and repeatable."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from simulated import simulate

from planner.errors import PolicyError
from planner.policy.choose import PlanTable
from planner.policy.compare import _cost_at
from planner.policy.fit import fit_bank
from planner.policy.folder import read_policy, write_policy
from planner.policy.search import front, search
from planner.policy.space import Space, mask
from planner.policy.table import bucket_of, budget_grid, fit_plans
from planner.profiling.outcomes import Configuration, outcomes_from_bank


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    bank, p = simulate(90, 16, difficulty=16)
    return fit_bank(bank, tmp_path_factory.mktemp("fit") / "policy", folds=3, trials=40), p, bank


def test_every_method_is_reported_with_interval_and_cost(fitted) -> None:
    result, _, _ = fitted
    methods = {"policy_oracle_difficulty", "policy", "best_fixed", "best_of_n", "majority", "adaptive", "oracle"}
    for entry in result.evaluation["budgets"]:
        assert set(entry["methods"]) == methods
        for found in entry["methods"].values():
            if found is None:
                continue
            assert found["ci"][0] <= found["accuracy"] <= found["ci"][1]
            known = [v for v in found["cost_parts"].values() if v is not None]
            assert sum(known) == pytest.approx(found["cost"])
        oracle = entry["methods"]["oracle"]["accuracy"]
        assert all(m is None or m["accuracy"] <= oracle + 1e-9 for m in entry["methods"].values())
        assert all(d["detectable"] >= 0 for d in entry["differences"].values())
    last = result.evaluation["budgets"][-1]["methods"]
    assert last["policy"]["accuracy"] > last["majority"]["accuracy"] - 0.05


def test_the_predictor_is_judged_by_problem_and_by_group(fitted) -> None:
    result, _, _ = fitted
    found = result.evaluation["difficulty"]
    for by in ("by_problem", "by_group"):
        assert set(found[by]) == {"base_rate", "length", "prompt", "probe_2", "probe_4"}
        for figures in found[by].values():
            low, high = figures["calibration_error_ci"]
            assert 0 <= low <= high
            assert figures["difference_ci"][0] <= figures["difference"] + 1e-9
    # What cross-validation saw is what is judged: prompts tell the class, groups are the classes.
    assert found["by_problem"]["prompt"]["difference"] < -0.1
    assert found["by_group"]["prompt"]["log_loss"] > found["by_problem"]["prompt"]["log_loss"]


def test_policy_document_is_complete_and_monotone(fitted) -> None:
    result, _, _ = fitted
    document = read_policy(result.folder)
    policy = document.policy
    assert PlanTable.from_document(policy).accuracy.shape == (len(policy["plans"]), 3)
    assert len(policy["plans"]) <= 40
    assert sum(policy["bucket_counts"].values()) == 90
    assert any(p["strategy"] == "greedy" for p in policy["plans"])
    for name in policy["bucket_edges"]:
        values = [row["cells"][name]["accuracy"] for row in policy["table"] if name in row["cells"]]
        assert all(b >= a - 0.005 for a, b in itertools.pairwise(values))
        for row in policy["table"]:
            if name in row["cells"]:
                assert policy["plans"][row["cells"][name]["plan"]]["cost"][name]["p95"] <= row["budget"] * (1 + 1e-6)
    text = (result.folder / "policy.json").read_text() + (result.folder / "evaluation.json").read_text()
    assert "NaN" not in text
    assert str(result.folder.parent) not in text


def test_same_seed_same_policy(fitted, tmp_path) -> None:
    result, _, bank = fitted
    again = fit_bank(bank, tmp_path / "policy", folds=3, trials=40)
    for part in ("plans", "table"):
        assert json.dumps(again.policy[part]) == json.dumps(result.policy[part])
    assert again.evaluation["budgets"] == result.evaluation["budgets"]


def test_without_a_verifier_best_of_n_is_null_and_explained(tmp_path) -> None:
    bank, _ = simulate(40, 8, scores=False, flops=False)
    result = fit_bank(bank, tmp_path / "policy", folds=2, trials=20)
    assert all(entry["methods"]["best_of_n"] is None for entry in result.evaluation["budgets"])
    assert result.evaluation["efficiency_gain"]["best_of_n"] is None
    assert "verifier" in result.evaluation["missing"]
    assert result.evaluation["unit"] == "tokens"


def test_no_gain_is_reported_where_prompts_say_nothing(tmp_path) -> None:
    bank, _ = simulate(60, 8, difficulty=8, scores=False)
    bank.problems["prompt"] = None
    result = fit_bank(bank, tmp_path / "policy", folds=3, trials=20)
    assert "predictor" in result.evaluation["missing"]
    # Without information the policy is one plan for everybody, and cannot beat the best fixed one by more than noise.
    for entry in result.evaluation["budgets"]:
        difference = entry["differences"].get("best_fixed")
        assert difference is None or difference["difference"] < 0.05


def test_search_covers_small_spaces_and_finds_the_front_of_large_ones() -> None:
    configurations = [
        Configuration(strategy=s, hyperparameters={"n": n, "temperature": t}, policy_model=m)
        for s in ("majority", "best_of_n") for m in ("a", "b") for n in range(1, 33) for t in (0.4, 0.7, 1.0)
    ]  # fmt: skip
    n = np.array([c.samples for c in configurations], dtype=float)
    accuracy = np.log(n) * np.array([1.0 if c.strategy == "best_of_n" else 0.5 for c in configurations])
    everything = Space(configurations, range(len(configurations)))
    assert sorted(search(everything, accuracy, n, trials=1000, seed=0)) == list(range(len(configurations)))
    tried = search(everything, accuracy, n, trials=120, seed=0)
    assert len(tried) <= 120
    assert tried == search(everything, accuracy, n, trials=120, seed=0)
    best = accuracy[front(list(range(len(n))), accuracy, n)]
    assert accuracy[front(tried, accuracy, n)].max() > 0.9 * best.max()


def test_verifier_plans_are_masked_without_one() -> None:
    with_it = Configuration(strategy="best_of_n", hyperparameters={"n": 4}, policy_model="a", verifier="prm")
    without = Configuration(strategy="majority", hyperparameters={"n": 4}, policy_model="a")
    assert mask([with_it, without], verifier=None) == [1]
    assert mask([with_it, without], verifier="prm") == [0, 1]


def test_buckets_follow_the_edges() -> None:
    assert bucket_of(np.array([0.0, 0.099, 0.1, 0.49, 0.5, 1.0, math.nan])).tolist() == [0, 0, 1, 1, 2, 2, -1]


def test_cost_at_an_accuracy_is_interpolated_on_log_cost() -> None:
    accuracy, cost = np.array([0.2, 0.4, 0.3, 0.6]), np.array([1.0, 10.0, 20.0, 100.0])
    assert _cost_at(accuracy, cost, 0.3)[0] == pytest.approx(math.sqrt(10))
    assert _cost_at(accuracy, cost, 0.1) == (1.0, True)
    assert _cost_at(accuracy, cost, 0.7) == (None, False)
    # The running best: the dip at cost 20 does not count.
    assert _cost_at(accuracy, cost, 0.5)[0] == pytest.approx(math.exp(0.5 * (math.log(20) + math.log(100))))


def test_damaged_folders_are_refused(fitted, tmp_path) -> None:
    result, _, _ = fitted
    folder = write_policy(tmp_path / "p", {**result.policy, "schema_version": 99}, {}, lambda path: path.mkdir())
    with pytest.raises(PolicyError, match=r"schema_version.*99"):
        read_policy(folder)
    (folder / "policy.json").write_text('{"schema_version": 1')
    with pytest.raises(PolicyError, match="not readable as JSON"):
        read_policy(folder)
    with pytest.raises(PolicyError, match="no such file"):
        read_policy(tmp_path / "nowhere")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("keep")
    with pytest.raises(PolicyError, match="no policy folder"):
        write_policy(other, result.policy, {}, lambda path: path.mkdir())
    assert (other / "thesis.txt").read_text() == "keep"


def test_the_best_fixed_plan_of_every_budget_is_among_the_plans(monkeypatch) -> None:
    monkeypatch.setattr("planner.policy.table._MOST_PLANS", 12)  # too few for every bucket's front
    outcomes = outcomes_from_bank(simulate(60, 16, seed=5)[0])
    budgets = [multiple * outcomes.reference_cost for multiple in budget_grid(outcomes)]
    fitted = fit_plans(outcomes, np.arange(60), budgets, trials=60, seed=0, verifier="prm")
    assert len(fitted.plans) == 12
    assert {fitted.best_fixed(budget) for budget in budgets} <= set(fitted.plans)
