"""The race finds the front of configurations with known accuracies from a fraction of the runs."""

import itertools

import numpy as np
import pytest

from planner.policy.race import CORRECT, Posterior, Race, hypervolume, similarity
from planner.profiling.columns import Configuration

MODELS, SIZES, TEMPERATURES = ("small", "large"), (4, 8, 16), (0.4, 0.8)


def space():
    return [
        Configuration(
            strategy=strategy, hyperparameters={"n": n, "temperature": t}, policy_model=model, verifier="prm"
        )
        for model, strategy, n, t in itertools.product(MODELS, ("beam_search", "dvts"), SIZES, TEMPERATURES)
    ]  # fmt: skip


def law(configuration):
    """(probability on a problem of middling difficulty, cost)."""
    large, n = configuration.policy_model == "large", configuration.hyperparameters["n"]
    cool = configuration.hyperparameters["temperature"] == 0.4
    return 0.35 + 0.2 * large + 0.05 * np.log2(n / 4) + 0.08 * cool, n * (3.0 if large else 1.0)


def outcomes(configurations, problems, seed):
    """Correct or not [C, P]: a problem's luck is common to all configurations, with a little of their own."""
    rng = np.random.default_rng(seed)
    common, own = rng.random(problems), rng.random((len(configurations), problems))
    level = np.array([law(c)[0] for c in configurations])
    return ((0.85 * common + 0.15 * own) < level[:, None]).astype(float)


def test_hypervolume_is_the_area_of_the_staircase():
    accuracy, log_cost = np.array([0.5, 0.7, 0.6]), np.array([1.0, 2.0, 3.0])
    # From 1 to 2 the best is 0.5, from 2 to 4 it is 0.7; the third point is dominated.
    assert hypervolume(accuracy, log_cost, worst=0.2, dearest=4.0) == pytest.approx(0.3 * 1 + 0.5 * 2)
    assert hypervolume(accuracy, log_cost, worst=0.9, dearest=4.0) == 0
    assert hypervolume(accuracy, log_cost, worst=0.2, dearest=0.5) == 0


def test_similarity_is_a_correlation_that_falls_with_every_difference():
    configurations = space()
    matrix = similarity(configurations)
    assert np.allclose(np.diag(matrix), 1)
    assert np.linalg.eigvalsh(matrix).min() > -1e-9
    place = {(c.policy_model, c.strategy, *c.hyperparameters.values()): i for i, c in enumerate(configurations)}
    at = place["small", "dvts", 4, 0.4]
    near, far, further = (
        place[key] for key in (("small", "dvts", 8, 0.4), ("small", "dvts", 16, 0.4), ("large", "dvts", 16, 0.8))
    )
    assert 1 > matrix[at, near] > matrix[at, far] > matrix[at, further]


def test_the_posterior_compares_configurations_that_ran_on_other_problems():
    configurations = space()
    values = outcomes(configurations, 400, seed=3)
    hard = values.mean(axis=0).argsort()
    seen = np.full_like(values, np.nan)
    large = np.array([c.policy_model == "large" for c in configurations])
    # The large model is seen on the harder problems only, beside one small configuration on all of them.
    small_one = int(np.flatnonzero(~large)[0])
    seen[np.ix_(np.flatnonzero(large), hard[:200])] = values[np.ix_(np.flatnonzero(large), hard[:200])]
    seen[np.ix_(np.flatnonzero(~large), hard[200:])] = values[np.ix_(np.flatnonzero(~large), hard[200:])]
    seen[small_one] = values[small_one]
    raw = np.nanmean(seen, axis=1)
    believed = Posterior.of(seen, similarity(configurations), CORRECT, variance=0.25)
    assert raw[large].mean() < raw[~large].mean()
    assert believed.mean[large].mean() > believed.mean[~large].mean()
    unseen = seen.copy()
    unseen[0] = np.nan
    wider = Posterior.of(unseen, similarity(configurations), CORRECT, variance=0.25)
    assert wider.covariance[0, 0] > believed.covariance[0, 0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_tenth_of_the_runs_finds_the_front(seed):
    configurations = space()
    problems = 300
    values, cost = outcomes(configurations, problems, seed), np.array([law(c)[1] for c in configurations])
    race = Race.start(configurations, problems, seed=seed)
    wanted, block = race.first(0.2), 10
    covered = {configurations[c].policy_model for c in wanted} | {configurations[c].strategy for c in wanted}
    assert covered == {"small", "large", "beam_search", "dvts"}
    while race.runs.sum() < 0.1 * values.size:
        for c in wanted:
            for p in np.flatnonzero(np.isnan(race.correct[c]))[:block]:
                race.record(c, int(p), bool(values[c, p]), float(cost[c]))
        wanted, block = race.wanted(), 5
    truth, log_cost = np.array([law(c)[0] for c in configurations]), np.log(cost)
    found = race.front()
    area, whole = (
        hypervolume(truth[members], log_cost[members], worst=0.0, dearest=float(log_cost.max()) + 0.01)
        for members in (found, list(range(len(truth))))
    )
    assert area > 0.9 * whole
    # Runs go where the front is: the cool configurations get most of them.
    cool = np.array([c.hyperparameters["temperature"] == 0.4 for c in configurations])
    assert race.runs[cool].sum() > 1.5 * race.runs[~cool].sum()


def test_a_race_ends_when_the_front_ran_on_everything():
    configurations = space()[:4]
    race = Race.start(configurations, 3, seed=0)
    for c in range(4):
        for p in range(3):
            race.record(c, p, bool((c + p) % 2), 1.0 + c)
    assert race.wanted() == []
