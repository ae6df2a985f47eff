"""Statistics with problems as the unit: bootstrap intervals, paired differences, shrinkage, calibration (METHODS
section 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Interval", "Resamples", "calibration_error", "cost_percentile", "detectable_difference", "paired_p_value",
    "rank_correlation", "share_within", "shrink",
]  # fmt: skip

Floats: TypeAlias = NDArray[np.float64]
Interval: TypeAlias = tuple[float, float]

_POWER = 1.96 + 0.84  # two-sided 5 %, 80 % power


@dataclass(frozen=True, slots=True)
class Resamples:
    """Bootstrap weights of problems, [B, P], each row summing to 1: the same for everything that is compared."""

    weights: Floats

    @classmethod
    def draw(cls, problems: int, *, count: int = 1000, seed: int = 0) -> Resamples:
        rng = np.random.default_rng(seed)
        return cls(rng.multinomial(problems, np.full(problems, 1 / problems), size=count) / problems)

    def means(self, values: Floats) -> Floats:
        """[P, ...] -> the mean in each resample, [B, ...]."""
        means: Floats = np.tensordot(self.weights, values, axes=1)
        return means

    def interval(self, values: Floats) -> Interval:
        """95 % percentile interval of the mean of `values` [P]."""
        return percentile_interval(self.means(values))

    def ratio_interval(self, sums: Floats, counts: Floats) -> Interval:
        """95 % interval of sum(`sums`) / sum(`counts`), both [P]; resamples in which nothing counts are left out."""
        below = self.means(counts)
        return percentile_interval(self.means(sums)[below > 0] / below[below > 0])


def percentile_interval(draws: Floats) -> Interval:
    """2.5th and 97.5th percentile of bootstrap draws [B]."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def detectable_difference(differences: Floats) -> float:
    """Smallest mean of paired differences [P] that this many problems would show (80 % power, two-sided 5 %)."""
    return _POWER * _standard_error(differences)


def paired_p_value(differences: Floats) -> float:
    """One-sided p-value of a mean of paired differences [P] above 0 (normal approximation); 1 where there is none."""
    error, mean = _standard_error(differences), float(np.mean(differences)) if len(differences) else 0.0
    if len(differences) < 2 or mean <= 0:
        return 1.0
    return 0.0 if error == 0 else 0.5 * math.erfc(mean / error / math.sqrt(2))


def shrink(values: Floats, counts: Floats, overall: Floats) -> tuple[Floats, Floats]:
    """Empirical-Bayes estimates of a bucket's accuracies, and their standard errors.

    Args:
        values: [n, C] outcomes of the bucket's problems under C configurations.
        counts: [n] what each row counts, in problems (half where a problem has two rows).
        overall: [C] mean over all problems.

    Returns:
        ([C], [C]): each configuration's mean in the bucket, drawn toward the strategy's overall curve moved by the
        bucket's mean offset. Between-configuration variance is estimated by moments (as DerSimonian and Laird do): what
        the spread of the residuals has beyond their paired sampling variance. Without problems the overall curve is
        all there is.
    """
    weight = float(counts.sum())
    if weight < 2:
        return overall.copy(), np.full(overall.shape, 0.5)
    mean = np.average(values, axis=0, weights=counts)
    error = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=counts) / (weight - 1))
    offset = float((mean - overall).mean())
    # Problems are shared, so only what a configuration does differently from the others is noise in the contrast.
    contrast = values - values.mean(axis=1, keepdims=True)
    noise = np.average((contrast - contrast.mean(axis=0)) ** 2, axis=0, weights=counts) / (weight - 1)
    residual = mean - overall - offset
    between = max(float((residual**2).mean() - noise.mean()), 1e-6)
    keep = between / (between + noise)
    return np.clip(overall + offset + keep * residual, 0.0, 1.0), error


def cost_percentile(mean: Floats, p95: Floats, *, share: float = 0.95) -> Floats:
    """The `share` quantile of cost over problems and draws, [C], from each problem's mean and 95th percentile [n, C].

    A problem's cost is taken as normal around its mean: nine equally likely points stand for it.
    """
    quantile: Floats = np.quantile(_draws(mean, p95).reshape(-1, mean.shape[1]), share, axis=0)
    return quantile


def share_within(mean: Floats, p95: Floats, limit: float) -> float:
    """The share of runs, over problems and draws as in `cost_percentile`, that cost at most `limit`; arguments [n]."""
    return float((_draws(mean[:, None], p95[:, None]) <= limit).mean())


_STEPS = np.array([-1.593, -0.967, -0.589, -0.282, 0.0, 0.282, 0.589, 0.967, 1.645])


def _draws(mean: Floats, p95: Floats) -> Floats:
    """[n, 9, C]"""
    spread = np.maximum(p95 - mean, 0.0) / 1.645
    points: Floats = mean[:, None, :] + spread[:, None, :] * _STEPS[None, :, None]
    return points


def rank_correlation(x: Floats, y: Floats) -> float | None:
    """Spearman's rho with ties averaged; None where one side is constant."""
    a, b = _ranks(x), _ranks(y)
    if a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def calibration_error(predicted: Floats, observed: Floats, *, bins: int = 10) -> tuple[float, list[dict[str, object]]]:
    """Debiased root-mean-square calibration error over equal-mass bins, and the bins.

    The squared gap of a bin is expected to be as large as its sampling variance even when calibration is perfect, so
    that variance is taken off (Kumar et al., arXiv 1909.10155).
    """
    groups = np.array_split(np.argsort(predicted, kind="stable"), max(1, min(bins, len(predicted) // 10)))
    total, rows = 0.0, []
    for g in groups:
        p, y, n = float(predicted[g].mean()), observed[g], len(g)
        error = _standard_error(y - predicted[g])
        total += n * ((p - float(y.mean())) ** 2 - error**2)
        margin = 1.96 * _standard_error(y)
        ci = [max(0.0, float(y.mean()) - margin), min(1.0, float(y.mean()) + margin)]
        rows.append({"predicted": p, "true": float(y.mean()), "n": n, "ci": ci})
    return math.sqrt(max(total / len(predicted), 0.0)), rows


def _standard_error(values: Floats) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf


def _ranks(x: Floats) -> Floats:
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts - 1) / 2)[inverse]
    return ranks
