"""What `planner evaluate` says of a policy: its cross-validation, and the policy as it stands on another bank."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated import simulate

from planner.errors import InputError, PolicyError
from planner.policy.difficulty import DifficultyPredictor
from planner.policy.fit import fit_bank
from planner.policy.folder import PolicyDocument, read_policy
from planner.policy.held_out import evaluate_on, evaluation_of
from planner.profiling.bank import Bank
from planner.profiling.importers import import_bank
from planner.profiling.outcomes import outcomes_from_bank

METHODS = {"policy_oracle_difficulty", "policy", "best_fixed", "best_of_n", "majority", "adaptive", "oracle"}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[PolicyDocument, DifficultyPredictor, Any]:
    bank, _ = simulate(90, 16, difficulty=8)
    folder = fit_bank(bank, tmp_path_factory.mktemp("evaluate") / "policy", folds=3, trials=30).folder
    return read_policy(folder), DifficultyPredictor.load(folder / "predictor"), bank


def check_form(found: dict[str, Any]) -> None:
    assert found["budgets"]
    for entry in found["budgets"]:
        assert entry["unit"] == found["unit"]
        assert set(entry["methods"]) == METHODS
        for method in entry["methods"].values():
            if method is not None:
                assert method["ci"][0] <= method["accuracy"] <= method["ci"][1]
                assert method["cost"] > 0
    assert set(found["efficiency_gain"]) == {"best_of_n", "majority", "adaptive", "cheapest"}
    for entries in found["efficiency_gain"].values():
        for gain in entries or []:
            assert {"n", "value", "ci", "at_accuracy", "lower_bound"} <= set(gain)
            assert gain["n"] in (4, 16, 64)
    json.dumps(found, allow_nan=False)


def test_cross_validation_is_what_fitting_measured(fitted) -> None:
    document, _, _ = fitted
    found = evaluation_of(document)
    check_form(found)
    assert found["source"] == "cross-validation"
    assert found["budgets"] == document.evaluation["budgets"]
    assert {"log_loss", "base_log_loss", "spearman", "calibration_error"} <= set(found["predictor"])
    with pytest.raises(PolicyError, match="--bank"):
        evaluation_of(PolicyDocument(document.folder, document.policy, {}))


def test_on_other_problems_the_policy_stands_as_it_is(fitted) -> None:
    document, predictor, _ = fitted
    other, _ = simulate(150, 16, difficulty=8, seed=7)
    other.digest = lambda: "other"  # type: ignore[method-assign]
    found = evaluate_on(document, predictor, other)
    check_form(found)
    assert (found["source"], found["held_out"], found["problems"]) == ("bank", True, 150)
    last = found["budgets"][-1]["methods"]
    assert all(last[name] is not None for name in METHODS)
    # Baselines keep the hyperparameters that did best where the policy was fitted.
    outcomes = outcomes_from_bank(other)
    labels = [c.label for c in outcomes.configurations]
    mean = outcomes.by_problem(outcomes.accuracy).mean(axis=0)
    for name in ("best_fixed", "best_of_n", "majority"):
        assert last[name]["accuracy"] == pytest.approx(mean[labels.index(last[name]["plan"])])
    oracle = last["oracle"]["accuracy"]
    assert all(method["accuracy"] <= oracle + 1e-9 for method in last.values())
    assert found["predictor"]["log_loss"] < found["predictor"]["base_log_loss"]


def test_labels_of_the_bank_choose_nothing_but_the_oracle(fitted) -> None:
    """Shuffled labels change accuracies, and no plan of policy, best fixed strategy or baselines."""
    document, predictor, _ = fitted
    true, shuffled = (simulate(60, 16, difficulty=8, seed=5)[0] for _ in range(2))
    scored = shuffled.samples["role"] == "score"
    flipped = np.random.default_rng(0).permutation(shuffled.samples.loc[scored, "correct"].to_numpy())
    shuffled.samples.loc[scored, "correct"] = flipped
    before, after = (evaluate_on(document, predictor, bank) for bank in (true, shuffled))
    for a, b in zip(before["budgets"], after["budgets"], strict=True):
        for name in METHODS - {"oracle", "policy_oracle_difficulty"}:
            assert (a["methods"][name] is None) == (b["methods"][name] is None)
            if a["methods"][name] is not None:
                assert a["methods"][name]["plan"] == b["methods"][name]["plan"]
                assert a["methods"][name]["cost"] == pytest.approx(b["methods"][name]["cost"], rel=0.2)


def test_its_own_bank_is_called_not_held_out(fitted) -> None:
    document, predictor, bank = fitted
    found = evaluate_on(document, predictor, bank)
    assert found["held_out"] is False
    assert "nothing here is held out" in found["notes"][0]


def test_a_bank_that_cannot_serve_is_refused(fitted) -> None:
    document, predictor, _ = fitted
    tokens, _ = simulate(20, 8, flops=False)
    with pytest.raises(InputError, match=r"tokens.*flops"):
        evaluate_on(document, predictor, tokens)
    stranger, _ = simulate(20, 8, models={"large": 2.0})
    with pytest.raises(InputError, match="none of the policy's"):
        evaluate_on(document, predictor, stranger)


def test_plans_of_sizes_and_lengths_that_this_bank_would_not_try_are_replayed(fitted) -> None:
    document, predictor, _ = fitted
    plan = next(p for p in document.policy["plans"] if p["strategy"] == "adaptive_majority")
    at = document.policy["plans"].index(plan)
    fields = {**plan["hyperparameters"], "max_n": 13, "give_up_tokens": 97, "min_n": 4}
    plans = [*document.policy["plans"]]
    plans[at] = {**plan, "hyperparameters": fields}
    policy = {**document.policy, "plans": plans}
    other, _ = simulate(60, 16, difficulty=8, seed=7)
    other.digest = lambda: "other"  # type: ignore[method-assign]
    found = evaluate_on(PolicyDocument(document.folder, policy, document.evaluation), predictor, other)
    assert not [note for note in found["notes"] if "cannot be replayed" in note]
    plans[at] = {**plan, "hyperparameters": {**fields, "max_n": 99}}
    found = evaluate_on(PolicyDocument(document.folder, policy, document.evaluation), predictor, other)
    (note,) = [note for note in found["notes"] if "cannot be replayed" in note]
    assert note.startswith("1 of")
    assert "max_n=99" in note


def test_best_of_n_costs_what_its_verifier_reads_or_the_report_says_that_it_does_not(fitted) -> None:
    document, predictor, _ = fitted
    other, _ = simulate(60, 16, difficulty=8, seed=7)
    priced = evaluate_on(document, predictor, other)
    other.manifest["verifier"] = {**other.manifest["verifier"], "config": None}
    by_policy = evaluate_on(document, predictor, other)
    # The bank knows the verifier's name only; the policy knows its config.
    assert by_policy["budgets"] == priced["budgets"]
    assert "verifier_cost" not in priced["missing"]
    best = priced["budgets"][-1]["methods"]["best_of_n"]
    assert best["cost_parts"]["verifier"] > 0
    assert best["cost"] == pytest.approx(sum(best["cost_parts"].values()))
    nameless = {**document.policy, "verifier": {**document.policy["verifier"], "config": None}}
    unknown = evaluate_on(PolicyDocument(document.folder, nameless, document.evaluation), predictor, other)
    cheap = unknown["budgets"][-1]["methods"]["best_of_n"]
    assert cheap["cost_parts"]["verifier"] is None
    assert cheap["cost"] < best["cost"]
    assert "best_of_n" in unknown["missing"]["verifier_cost"]
    assert "majority" not in unknown["missing"]["verifier_cost"]
    text = " ".join(_printed(unknown).split())
    assert re.search(r"best-of-N \S+ [.\d]+ \S+ [-.\d]+ \S+ > \d", text)
    assert "leave it out" in text
    assert "> " not in _printed(priced)


def _printed(found: dict[str, Any]) -> str:
    from planner.cli import evaluate as command

    with command.console.capture() as captured:
        command._show(found)
    return captured.get()


def test_an_imported_bank_from_file_to_evaluation(tmp_path: Path) -> None:
    def imported(name: str, seed: int) -> Bank:
        bank, _ = simulate(60, 8, scores=False, flops=False, greedy=False, seed=seed)
        path = tmp_path / f"{name}.jsonl"
        with path.open("w") as file:
            for row in bank.problems.to_dict("records"):
                mine = bank.samples[bank.samples["problem_id"] == row["problem_id"]]
                samples = [
                    {"key": k, "correct": bool(c), "tokens": int(t)}
                    for k, c, t in zip(mine["answer_key"], mine["correct"], mine["generated_tokens"], strict=True)
                ]
                print(json.dumps({**row, "policy": "m", "temperature": 0.8, "samples": samples}), file=file)
        return import_bank([path], tmp_path / name).bank

    folder = fit_bank(imported("train", 0), tmp_path / "policy", folds=3, trials=20).folder
    document, predictor = read_policy(folder), DifficultyPredictor.load(folder / "predictor")
    found = evaluate_on(document, predictor, imported("test", 1))
    check_form(found)
    assert (found["unit"], found["bank"], found["held_out"]) == ("tokens", "test", True)
    assert found["efficiency_gain"]["best_of_n"] is None
    assert all(entry["methods"]["best_of_n"] is None for entry in found["budgets"])
    assert all(entry["methods"]["majority"] is not None for entry in found["budgets"][1:])
