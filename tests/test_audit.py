"""The verifier's audit tells a verifier that ranks answers from one that only tells easy problems from hard ones."""

import numpy as np
import pytest
from simulated import simulate

from planner.policy.audit import audit, pooled_auc, within_auc
from planner.policy.masks import best_of_n_families, stops_at, unfit
from planner.policy.statistics import Resamples
from planner.profiling.columns import Configuration
from planner.profiling.outcomes import outcomes_from_bank


def test_auc_is_the_share_of_pairs_that_are_in_order():
    scores = np.array([[0.9, 0.2, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5]])
    correct = np.array([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    scored = np.ones((3, 4), bool)
    within = within_auc(scores, correct, scored)
    # First problem: 0.9 beats both, 0.5 beats 0.2 and ties with 0.5.
    assert within[0] == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert np.isnan(within[1])
    assert within[2] == 0.5
    scored[0, 2] = False
    assert within_auc(scores, correct, scored)[0] == 1
    flat, right = scores.ravel(), correct.ravel() > 0.5
    pairs = [(a > b) + 0.5 * (a == b) for a in flat[right] for b in flat[~right]]
    assert pooled_auc(flat, correct.ravel()) == pytest.approx(np.mean(pairs))
    assert pooled_auc(flat, np.ones(12)) is None


def rescored(bank, how):
    """The bank with scores that `how` makes from (correct, problem's success rate, noise in [0, 1])."""
    rng = np.random.default_rng(5)
    samples = bank.samples
    rate = samples.groupby("problem_id")["correct"].transform("mean").astype(float)
    noise = rng.random(len(samples))
    bank.samples = samples.assign(
        scores=[[float(s)] for s in how(samples["correct"].astype(float), rate, noise).clip(0, 1)]
    )
    return bank


@pytest.mark.parametrize("useful", [True, False])
def test_pooled_auc_alone_does_not_show_what_a_verifier_is_worth(useful):
    bank, _ = simulate(problems=150, n=16, difficulty=8)
    how = (lambda c, r, e: 0.3 + 0.4 * c + 0.3 * e) if useful else (lambda c, r, e: 0.9 * r + 0.1 * e)
    bank = rescored(bank, how)
    outcomes = outcomes_from_bank(bank)
    resamples = Resamples.draw(len(outcomes.problem_ids), count=200)
    found = audit(bank, outcomes, resamples)
    row = next(r for r in found["figures"] if r["bucket"] == "all" and r["aggregation"] == "last")
    assert row["auc_pooled"] > 0.85
    low, high = row["auc_within_ci"]
    assert low <= row["auc_within"] <= high
    assert (row["auc_within"] > 0.95) == useful
    assert useful or low < 0.5 < high or abs(row["auc_within"] - 0.5) < 0.05
    assert row["problems_with_both"] < row["problems"] == 150
    buckets = [r["bucket"] for r in found["figures"] if r["aggregation"] == "last"]
    assert buckets == ["all", "hard", "medium", "easy"]
    masked = {m["configuration"] for m in found["masked"]}
    # With n = 16 a useless verifier may stay: on hard problems a random answer beats the vote.
    size = 16 if useful else 4
    best_of = {c.label for c in outcomes.configurations if c.strategy == "best_of_n" and c.samples == size}
    assert bool(masked & best_of) != useful
    assert all("without it by" in m["reason"] or "lower its accuracy" in m["reason"] for m in found["masked"])


def test_a_bank_without_scores_has_no_audit():
    bank, _ = simulate(problems=40, n=4, scores=False)
    outcomes = outcomes_from_bank(bank)
    assert audit(bank, outcomes, Resamples.draw(40, count=50)) is None


def family(ns, **more):
    return [
        Configuration(strategy="best_of_n", hyperparameters={"n": n, **more}, policy_model="m", verifier="prm")
        for n in ns
    ]


def test_best_of_n_stops_where_more_samples_lower_accuracy():
    rng = np.random.default_rng(0)
    level = np.array([0.5, 0.6, 0.55, 0.4])
    values = (rng.random((400, 1)) < level).astype(float)
    configurations = family([2, 4, 16, 64], selection="max")
    assert [len(m) for m in best_of_n_families(configurations + family([2], selection="vote")).values()] == [4, 1]
    assert stops_at(values) == 1
    assert stops_at(values[:, :2]) is None
    cost = np.array([2.0, 4.0, 16.0, 64.0])
    masked = unfit(configurations, values, cost, [values.mean(axis=0)])
    assert set(masked) == {2, 3}
    assert f"{values[:, 1].mean():.3f} at 4, {values[:, 3].mean():.3f} here" in masked[3]
    # Where a bucket gains by them, they stay.
    helped = unfit(configurations, values, cost, [values.mean(axis=0), np.array([0.1, 0.1, 0.2, 0.2])])
    assert not helped


def test_what_costs_more_and_does_worse_than_a_vote_is_masked():
    rng = np.random.default_rng(1)
    vote = Configuration(strategy="majority", hyperparameters={"n": 8}, policy_model="m")
    configurations = [vote, *family([8])]
    values = (rng.random((400, 1)) < np.array([0.7, 0.5])).astype(float)
    mean = values.mean(axis=0)
    assert set(unfit(configurations, values, np.array([8.0, 12.0]), [mean])) == {1}
    assert not unfit(configurations, values, np.array([8.0, 4.0]), [mean]), "it is cheaper"
    assert not unfit(configurations, values[:, ::-1], np.array([8.0, 12.0]), [mean[::-1]]), "it is better"
