"""What fitting keeps for the report beside the held-out comparison: sizes, outcomes by problem, features, lost answers."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import simulate

from planner.core import stable_hash
from planner.policy.fit import fit_bank
from planner.policy.sizes import RATIOS, allowance, size_comparisons
from planner.policy.statistics import Resamples
from planner.policy.verifier_curves import calibration_bins, length_bins, roc_points
from planner.profiling.outcomes import outcomes_from_bank


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    bank, _ = simulate(90, 12, models={"small": 0.5, "large": 2.0}, difficulty=8)
    for name, parameters in (("small", 1_000_000), ("large", 14_000_000)):
        bank.manifest["policy_models"][name]["parameters"] = parameters
    lost = (bank.samples["policy_model"] == "small") & (bank.samples["index"] == 0)
    bank.samples.loc[lost, "finished"] = False
    bank.samples.loc[lost, "answer_key"] = None
    return fit_bank(bank, tmp_path_factory.mktemp("parts") / "policy", folds=3, trials=10), bank


def test_the_allowance_is_the_papers():
    # METHODS section 4: a model 14 times larger, about 258, 63 and 15.8 times.
    assert [allowance(14, r) for r in RATIOS] == pytest.approx([257.75, 63.4, 15.8], abs=0.1)


def test_sizes_compare_the_smaller_model_with_the_larger_ones_single_answer(fitted):
    result, _ = fitted
    found = result.evaluation["sizes"]
    assert {(e["small"], e["large"]) for e in found} == {("small", "large")}
    assert {e["r"] for e in found} == set(RATIOS)
    assert {e["bucket"] for e in found} == {"all", "hard", "medium", "easy"}
    for e in found:
        assert e["times"] == 14
        assert e["difference"] == pytest.approx(e["small_accuracy"] - e["large_accuracy"])
        assert e["ci"][0] <= e["difference"] <= e["ci"][1]
    greedy = [p for p in result.evaluation["curves"] if (p["strategy"], p["policy_model"]) == ("greedy", "large")]
    everything = next(e for e in found if e["bucket"] == "all")
    assert everything["large_accuracy"] == pytest.approx(greedy[0]["points"][0]["accuracy"])
    # What R allows is kept to over all problems: with little to spend the small model spends little.
    spent = {e["r"]: e["spent"] for e in found if e["bucket"] == "all"}
    assert all(spent[r] <= allowance(14, r) * 1.05 for r in RATIOS)


def test_without_parameters_sizes_are_not_compared(fitted):
    _, bank = fitted
    outcomes = outcomes_from_bank(bank)
    resamples = Resamples.draw(len(outcomes.problem_ids), count=50)
    assert size_comparisons(outcomes, {"small": 1e6}, resamples) == []
    assert size_comparisons(outcomes, {"small": 1e6, "large": 1e6}, resamples) == []


def test_outcomes_by_problem_are_the_held_out_ones(fitted):
    result, bank = fitted
    kept = result.evaluation["by_problem"]
    keys = kept["problems"].split()
    assert len(set(keys)) == len(bank.problems) == 90
    row = bank.problems.iloc[0]
    assert keys[0] == stable_hash(str(row["problem_id"]), row["prompt"])[:10]
    for text, entry in zip(kept["thousandths"], result.evaluation["budgets"], strict=True):
        values = np.array([int(v) for v in text.split()]) / 1000
        assert values.mean() == pytest.approx(entry["methods"]["policy"]["accuracy"], abs=5e-4)


def test_useful_features_are_those_that_tell(fitted):
    features = fitted[0].evaluation["difficulty"]["features"]
    shares = [f["gain_share"] for f in features]
    assert shares == sorted(shares, reverse=True)
    assert 0.5 < sum(shares) <= 1 + 1e-6
    # A prompt's hardness is the number of its terms.
    assert {"number_count", "n_plus", "characters", "n_digit", "n_space", "words"} & {
        f["feature"] for f in features[:3]
    }


def test_what_has_no_answer_is_counted_by_model(fitted):
    result, bank = fitted
    rows = bank.samples[bank.samples["policy_model"] == "small"]
    assert result.evaluation["answerless"] == {"small": pytest.approx((~rows["finished"]).mean())}


def test_commands_make_the_policy_again(fitted):
    result, bank = fitted
    command = result.policy["provenance"]["command"]
    assert command == "planner fit bank -o policy --seed 0 --folds 3 --trials 10"
    assert bank.manifest["source"] == "profile", "no recipe on record, so no command for it"


def test_the_rocs_area_is_the_auc_within_problems():
    from planner.policy.audit import pooled_auc, within_auc

    rng = np.random.default_rng(0)
    correct = (rng.random((300, 12)) < rng.random((300, 1))).astype(float)
    scores = np.round(np.clip(0.3 + 0.3 * correct + rng.normal(0, 0.25, correct.shape), 0, 1), 2)
    scored = rng.random(correct.shape) < 0.9
    found = roc_points(scores, correct, scored)
    within, pooled = (np.trapezoid(found[part], found["wrong_accepted"]) for part in ("within", "pooled"))
    assert within == pytest.approx(np.nanmean(within_auc(scores, correct, scored)), abs=0.01)
    assert pooled == pytest.approx(pooled_auc(scores[scored], correct[scored]), abs=0.01)
    assert roc_points(scores, np.ones_like(correct), scored) is None


def test_a_calibrated_score_is_on_the_diagonal_and_a_reward_has_none():
    rng = np.random.default_rng(1)
    scores = rng.random((400, 8))
    correct = (rng.random(scores.shape) < scores).astype(float)
    keep, resamples = np.ones(scores.shape, bool), Resamples.draw(400, count=200)
    bins = calibration_bins(scores, correct, keep, resamples)
    assert sum(b["n"] for b in bins) == scores.size
    assert all(abs(b["predicted"] - b["true"]) < 0.06 for b in bins)
    assert all(b["ci"][0] <= b["true"] <= b["ci"][1] for b in bins)
    assert calibration_bins(scores * 4 - 2, correct, keep, resamples) is None


def test_length_is_relative_to_the_problems_own():
    rng = np.random.default_rng(2)
    tokens = rng.integers(50, 150, (200, 8)).astype(float) * np.where(np.arange(200)[:, None] % 2, 10, 1)
    correct = (rng.random(tokens.shape) < 0.5).astype(float)
    mean = tokens.mean(axis=1, keepdims=True)
    scores = np.where(correct > 0.5, 0.8, 0.2 + 0.2 * tokens / mean)
    keep, resamples = np.ones(tokens.shape, bool), Resamples.draw(200, count=100)
    found = length_bins(scores, correct, tokens, keep, resamples)
    assert all(b["score"] == pytest.approx(0.8) for b in found["right"])
    rising = [b["score"] for b in found["wrong"]]
    assert rising == sorted(rising)
    assert rising[-1] - rising[0] > 0.1
    assert length_bins(scores, correct, np.full(tokens.shape, 7.0), keep, resamples) is None
    assert length_bins(scores, correct, np.zeros(tokens.shape), keep, resamples) is None
