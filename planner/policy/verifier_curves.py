"""What a verifier's figures are drawn from: ROC, calibration and score against length, over all problems."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.policy.statistics import Resamples

__all__ = ["calibration_bins", "length_bins", "roc_points"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_GRID = np.concatenate(([0.0, 0.005, 0.01, 0.02, 0.03], np.linspace(0.05, 1.0, 20)))
"""Shares of wrong answers; close together where a pooled curve rises steeply."""
_BINS = 8
_LENGTH_EDGES = np.array([0.5, 0.7, 0.85, 0.95, 1.05, 1.2, 1.5, 2.0])
_FEWEST = 40
"""Answers below which bins would show noise."""


def roc_points(scores: Floats, correct: Floats, scored: Bools) -> dict[str, list[float]] | None:
    """Share of right answers accepted at each share of wrong ones: `within` problems (the mean of the ROC of each that
    has both; its area is the AUC within problems) and `pooled` over all answers. None where no problem has both.

    All arrays are [P, n].
    """
    right, wrong = scored & (correct > 0.5), scored & (correct <= 0.5)
    both = np.flatnonzero(right.any(axis=1) & wrong.any(axis=1))
    if not len(both):
        return None
    within = np.mean([_roc(scores[i, right[i]], scores[i, wrong[i]]) for i in both.tolist()], axis=0)
    pooled = _roc(scores[right], scores[wrong])
    return {name: [round(float(v), 4) for v in values]
            for name, values in (("wrong_accepted", _GRID), ("within", within), ("pooled", pooled))}  # fmt: skip


def _roc(right: Floats, wrong: Floats) -> Floats:
    """The ROC on the grid. Tied scores are accepted together, by a straight line, so that its area counts ties half."""
    cuts = np.unique(np.concatenate((right, wrong)))[::-1]
    x, y = (
        np.concatenate(([0.0], 1.0 - np.searchsorted(np.sort(values), cuts, side="left") / len(values)))
        for values in (wrong, right)
    )
    curve: Floats = np.interp(_GRID, x, y)
    return curve


def calibration_bins(scores: Floats, correct: Floats, keep: Bools, resamples: Resamples) -> list[dict[str, Any]] | None:
    """Mean score and share of right answers in bins of equally many answers; intervals resample problems. None where
    scores are no probabilities."""
    told = scores[keep]
    if len(told) < _FEWEST or told.min() < 0 or told.max() > 1:
        return None
    edges = np.unique(np.quantile(told, np.linspace(0, 1, _BINS + 1)[1:-1]))
    place = np.where(keep, np.searchsorted(edges, scores, side="right"), -1)
    found = []
    for b in np.unique(place[keep]).tolist():
        mine = keep & (place == b)
        count = mine.sum(axis=1).astype(np.float64)
        low, high = resamples.ratio_interval((mine & (correct > 0.5)).sum(axis=1).astype(np.float64), count)
        found.append(
            {"predicted": float(scores[mine].mean()), "true": float((correct[mine] > 0.5).mean()), "ci": [low, high],
             "n": int(mine.sum())}
        )  # fmt: skip
    return found


def length_bins(
    scores: Floats, correct: Floats, tokens: Floats, keep: Bools, resamples: Resamples
) -> dict[str, list[dict[str, Any]]] | None:
    """Mean score of right and of wrong answers against their length relative to the mean length of the problem's
    answers; None where lengths do not differ or too few answers have one."""
    known = keep & (tokens > 0)
    if known.sum() < _FEWEST:
        return None
    count = np.maximum(known.sum(axis=1), 1)
    mean = np.where(known, tokens, 0.0).sum(axis=1) / count
    relative = np.where(known, tokens / np.maximum(mean, 1e-9)[:, None], np.nan)
    if np.nanstd(relative) < 1e-6:
        return None
    place = np.where(known, np.searchsorted(_LENGTH_EDGES, relative), -1)
    found: dict[str, list[dict[str, Any]]] = {}
    for name, side in (("right", correct > 0.5), ("wrong", correct <= 0.5)):
        rows = []
        for b in np.unique(place[known]).tolist():
            mine = known & side & (place == b)
            if mine.sum() < _FEWEST // 4:
                continue
            low, high = resamples.ratio_interval(
                np.where(mine, scores, 0.0).sum(axis=1), mine.sum(axis=1).astype(np.float64)
            )
            rows.append(
                {"length": float(relative[mine].mean()), "score": float(scores[mine].mean()), "ci": [low, high],
                 "n": int(mine.sum())}
            )  # fmt: skip
        found[name] = rows
    return found if all(len(rows) > 1 for rows in found.values()) else None
