"""Statistics against textbook values and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from planner.policy.statistics import (
    Resamples,
    calibration_error,
    cost_percentile,
    detectable_difference,
    paired_p_value,
    rank_correlation,
    shrink,
)


def test_bootstrap_interval_is_the_normal_one_for_many_problems() -> None:
    values = np.random.default_rng(0).normal(0.3, 1.0, 2000)
    low, high = Resamples.draw(2000, seed=1).interval(values)
    margin = 1.96 * values.std() / np.sqrt(2000)
    assert low == pytest.approx(values.mean() - margin, abs=0.006)
    assert high == pytest.approx(values.mean() + margin, abs=0.006)


def test_bootstrap_is_paired_and_seeded() -> None:
    values = np.random.default_rng(0).random(50)
    once, again = Resamples.draw(50, seed=3), Resamples.draw(50, seed=3)
    assert (once.weights == again.weights).all()
    assert once.interval(values - (values - 0.1)) == pytest.approx((0.1, 0.1))


def test_detectable_difference_has_80_percent_power() -> None:
    rng = np.random.default_rng(0)
    effect = detectable_difference(rng.normal(0, 1, 10_000)) * 10  # the standard error of 100 problems
    draws = rng.normal(effect, 1, (4000, 100))
    z = draws.mean(1) / (draws.std(1, ddof=1) / 10)
    assert (np.abs(z) > 1.96).mean() == pytest.approx(0.8, abs=0.03)


def test_paired_p_value() -> None:
    differences = np.random.default_rng(0).normal(0, 1, 400)
    differences += 1.645 / 20 * differences.std(ddof=1) - differences.mean()
    assert paired_p_value(differences) == pytest.approx(0.05, abs=1e-3)
    assert paired_p_value(np.zeros(10)) == 1.0
    assert paired_p_value(np.zeros(0)) == 1.0


def test_shrinkage_pulls_noise_in_and_keeps_signal() -> None:
    rng = np.random.default_rng(0)
    overall = np.linspace(0.3, 0.7, 20)
    noise = (rng.random((12, 20)) < overall - 0.1).astype(float)
    estimate, _ = shrink(noise, np.ones(12), overall)
    truth = overall - 0.1
    assert np.abs(estimate - truth).mean() < 0.6 * np.abs(noise.mean(0) - truth).mean()
    signal = np.tile(np.where(np.arange(20) % 2, 0.9, 0.1), (400, 1)) + rng.normal(0, 0.01, (400, 20))
    kept, _ = shrink(signal, np.ones(400), np.full(20, 0.5))
    assert kept == pytest.approx(signal.mean(0), abs=0.01)
    alone, error = shrink(np.zeros((0, 20)), np.zeros(0), overall)
    assert (alone == overall).all()
    assert error.min() >= 0.5


def test_cost_percentile_covers_problems_and_draws() -> None:
    mean = np.repeat([[10.0], [20.0]], 50, axis=0)
    assert cost_percentile(mean, mean)[0] == 20.0
    draws = cost_percentile(np.full((100, 1), 10.0), np.full((100, 1), 10 + 1.645 * 2))
    assert draws[0] == pytest.approx(10 + 1.645 * 2, rel=0.02)


def test_rank_correlation_with_ties() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 40).astype(float), rng.integers(0, 5, 40).astype(float)
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert rank_correlation(x, np.ones(40)) is None


def test_calibration_error_is_small_when_calibrated_and_right_when_not() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(4000)
    y = (rng.random(4000) < p).astype(float)
    assert calibration_error(p, y)[0] < 0.02
    error, bins = calibration_error(np.clip(p + 0.2, 0, 1.2), y)
    assert error == pytest.approx(0.2, abs=0.02)
    assert sum(int(b["n"]) for b in bins) == 4000  # type: ignore[call-overload]
