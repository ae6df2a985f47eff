"""Adaptive best-of-N and confidence votes along given orders of recorded samples: where they stop, what they give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.profiling.replay import Draws, Orders, right_answers

__all__ = ["confident_votes", "expected_gains", "improving_stops"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def expected_gains(scores: Floats) -> Floats:
    """`strategies.improvement.expected_gain` of the first k scores for every k, [..., n] -> [..., n]; NaN scores are
    none, and without any the gain is infinite."""
    from scipy.special import erfc

    known = ~np.isnan(scores)
    held = np.where(known, scores, 0.0)
    count = np.cumsum(known, axis=-1)
    n = np.maximum(count, 1)
    mean = np.cumsum(held, axis=-1) / n
    best = np.maximum.accumulate(np.where(known, scores, -np.inf), axis=-1)
    spread = np.maximum(np.cumsum(held**2, axis=-1) - n * mean**2, 0.0)
    squares = spread + n / (n + 1) * (mean - 0.5) ** 2
    centre, variance = (0.5 + n * mean) / (n + 1), (1 / 12 + squares) / (n + 1)
    deviation = np.sqrt(variance * (1 + 1 / (n + 1)))

    def above(level: Floats) -> Floats:
        z = (level - centre) / deviation
        found: Floats = deviation * (np.exp(-z * z / 2) / np.sqrt(2 * np.pi) - z * erfc(z / np.sqrt(2)) / 2)
        return found

    gain = np.maximum(0.0, above(np.where(count > 0, best, 0.0)) - above(np.ones_like(best)))
    return np.where(count > 0, gain, np.inf)


def improving_stops(draws: Draws, orders: Orders, fields: Mapping[str, Any]) -> Ints:
    """Samples that `AdaptiveBestOfN` of these hyperparameters draws, [R, P]."""
    most, batch = int(fields["max_n"]), int(fields.get("batch", 2))
    scores = np.where(draws.present & draws.finished, draws.scores[str(fields.get("aggregation", "last"))], np.nan)
    gains = expected_gains(orders.take(scores)[:, :, :most].astype(np.float64))
    return _first(gains[:, :, batch - 1 :: batch] < float(fields.get("min_gain", 0.02)), batch, most)


def confident_votes(draws: Draws, orders: Orders, logprobs: Floats, fields: Mapping[str, Any]) -> tuple[Ints, Floats]:
    """(samples drawn, correctness of the answer) of `ConfidenceVote` of these hyperparameters, [R, P] each; `logprobs`
    [P, n], NaN unknown: where all of those drawn are, votes count 1."""
    most, threshold = int(fields["n"]), fields.get("threshold")
    batch = most if threshold is None else int(fields.get("batch", 4))
    quantile, weighted = float(fields.get("quantile", 0.0)), bool(fields.get("weighted", True))
    code = orders.take(np.where(draws.present & draws.finished, draws.codes, -1))[:, :, :most].astype(np.int64)
    finished = orders.take(draws.present & draws.finished)[:, :, :most].astype(bool)
    sure = orders.take(np.where(draws.present, logprobs, np.nan))[:, :, :most].astype(np.float64)
    right = right_answers(draws, int(draws.codes.max(initial=0)) + 1)
    counts = [*range(batch, most, batch), most]
    looks = [_vote(code[:, :, :k], finished[:, :, :k], sure[:, :, :k], right, quantile, weighted) for k in counts]
    ends = np.stack([share > (np.inf if threshold is None else float(threshold)) for _, share in looks], axis=2)
    ends[:, :, -1] = True
    place = ends.argmax(axis=2)
    value = np.take_along_axis(np.stack([value for value, _ in looks], axis=2), place[:, :, None], axis=2)[:, :, 0]
    return np.array(counts)[place], value


def _vote(
    code: Ints, finished: Bools, sure: Floats, right: Floats, quantile: float, weighted: bool
) -> tuple[Floats, Floats]:
    """(correctness of the leader, its share of the weight) among these samples, [R, P] each."""
    repeats, rows, k = code.shape
    known = finished & ~np.isnan(sure)
    told = known.any(axis=2, keepdims=True)
    # The least confident share of those whose confidence is known does not vote.
    rank = np.argsort(np.argsort(np.where(known, -sure, np.inf), axis=2, kind="stable"), axis=2)
    size = known.sum(axis=2, keepdims=True)
    voting = np.where(told, known & (rank < size - np.floor(quantile * size)), finished)
    weight = np.where(voting, np.where(told & weighted, np.exp(np.nan_to_num(sure)), 1.0), 0.0)
    width = right.shape[1]
    cell = (np.arange(repeats * rows).reshape(repeats, rows, 1) * width + code)[code >= 0]
    held = np.bincount(cell, weights=weight[code >= 0], minlength=repeats * rows * width).reshape(repeats, rows, width)
    first = np.full(held.shape, k).ravel()
    np.minimum.at(first, cell, np.broadcast_to(np.arange(k), code.shape)[code >= 0])
    best = held.max(axis=2, keepdims=True)
    leader = np.where(held == best, first.reshape(held.shape), k + 1).argmin(axis=2)
    value = np.where(best[:, :, 0] > 0, right[np.arange(rows)[None], leader], 0.0)
    total = weight.sum(axis=2)
    return value, best[:, :, 0] / np.where(total > 0, total, 1.0)


def _first(ends: Bools, batch: int, most: int) -> Ints:
    if not ends.shape[2]:
        return np.full(ends.shape[:2], most)
    found: Ints = np.where(ends.any(axis=2), np.minimum((ends.argmax(axis=2) + 1) * batch, most), most)
    return found
