"""From the trees' log-odds to a probability that can be believed, for prompts like the profiled ones and for others.

A prompt of a template that was profiled and one of a template that was not are two cases: trees that learned a template
are right to be sure of it and wrong to be sure of another. So there are two maps: `fit_near` on predictions whose fold
held out problems, `fit_far` on those whose fold held out whole groups (templates, sources).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from planner.policy.predictor import Calibration

__all__ = ["fit_far", "fit_near", "log_loss", "prefers_isotonic", "splits"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_EPSILON = 1e-3
_ISOTONIC_PROBLEMS = 500
_STRENGTHS = (0.3, 3.0, 10.0, 30.0, 100.0, 300.0, 1e4)


def fit_near(raw: Floats, label: Floats, weight: Floats, isotonic: bool) -> Calibration:
    """Success shares `label` [P] from log-odds out of fold `raw` [P]."""
    if isotonic:
        from sklearn.isotonic import IsotonicRegression

        fitted = IsotonicRegression(y_min=_EPSILON, y_max=1 - _EPSILON, out_of_bounds="clip")
        fitted.fit(raw, label, sample_weight=weight)
        return Calibration(knots=(fitted.X_thresholds_.astype(np.float64), fitted.y_thresholds_.astype(np.float64)))
    # A weak prior at slope 1 holds Platt's map together on few problems.
    intercept, slope = _platt(raw, label, weight, (0.0, 1.0), (0.1, 2.0))
    return Calibration(intercept=intercept, slope=slope)


def prefers_isotonic(raw: Floats, label: Floats, weight: Floats, fold: Ints) -> bool:
    """Whether isotonic knots tell held-out problems better than Platt's line."""
    if len(raw) < _ISOTONIC_PROBLEMS:
        return False
    loss = [0.0, 0.0]
    for isotonic in (False, True):
        held = np.empty(len(raw))
        for train, test in splits(fold):
            held[test] = fit_near(raw[train], label[train], weight[train], isotonic)(raw[test])
        loss[isotonic] = log_loss(held, label, weight)
    return loss[True] < loss[False]


def fit_far(raw: Floats, label: Floats, weight: Floats, group: Ints) -> tuple[Calibration, Floats]:
    """A line drawn to the base rate as much as helps a group that is left out once more, and its predictions [P] of
    those left out; `raw` [P] are log-odds of held-out groups, `group` [P]."""
    rate = float(np.clip(np.average(label, weights=weight), _EPSILON, 1 - _EPSILON))
    prior = (float(np.log(rate / (1 - rate))), 0.0)
    best, loss, kept = 0.0, float("inf"), raw
    for strength in _STRENGTHS:
        held = np.empty(len(raw))
        for train, test in splits(group):
            line = Calibration(*_platt(raw[train], label[train], weight[train], prior, (strength, strength)))
            held[test] = line(raw[test])
        if (found := log_loss(held, label, weight)) < loss:
            best, loss, kept = strength, found, held
    return Calibration(*_platt(raw, label, weight, prior, (best, best))), kept


def _platt(
    raw: Floats, label: Floats, weight: Floats, prior: tuple[float, float], strength: tuple[float, float]
) -> tuple[float, float]:
    """Intercept and slope (never below 0) of a logistic regression by Newton's method, drawn to `prior`."""
    design = np.stack((np.ones_like(raw), raw), axis=1)
    center, pull = np.array(prior), np.diag(strength)
    beta = center.copy()
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        gradient = design.T @ (weight * (p - label)) + pull @ (beta - center)
        curvature = (design * (weight * p * (1 - p))[:, None]).T @ design + pull
        step = np.linalg.solve(curvature, gradient)
        beta = beta - step
        if np.abs(step).max() < 1e-9:
            break
    return float(beta[0]), float(max(beta[1], 0.0))


def splits(fold: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Training and test problems of each fold."""
    for f in range(int(fold.max()) + 1):
        yield np.flatnonzero(fold != f), np.flatnonzero(fold == f)


def log_loss(p: Floats, label: Floats, weight: Floats) -> float:
    """Of predictions against success shares, a sample."""
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return float(np.average(-(label * np.log(p) + (1 - label) * np.log(1 - p)), weights=weight))
