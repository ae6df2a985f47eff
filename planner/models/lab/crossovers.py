"""Where the order of two ways to answer changes: between difficulty buckets, and between policy models.

Half of a problem's samples say how difficult it is, the other half what the ways to answer get: the same samples for
both would favour whatever made a problem look easy or hard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from planner.models.lab.measure import Floats

__all__ = ["buckets_of", "crossovers"]

_FEWEST = 20
"""A bucket with fewer problems says nothing."""

_QUANTILES = (0.005, 0.995)
"""Intervals of 99 %, because many pairs are looked at."""


def buckets_of(right: Sequence[Sequence[bool]]) -> list[str]:
    """METHODS' absolute bucket of every problem, from these samples."""
    chances = [sum(marks) / len(marks) for marks in right]
    return ["easy" if chance >= 0.5 else "hard" if chance < 0.1 else "medium" for chance in chances]


def crossovers(
    solved: Mapping[str, Mapping[str, Floats]], buckets: Mapping[str, Sequence[str]], *, seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """Pairs whose order changes significantly: `between_buckets` of one policy model, and `between_policies`.

    `solved[policy][way]` (problems,) is each problem's chance to be solved that way, `buckets[policy]` its bucket. Each
    entry has `better` where the first is ahead and `worse` where it is behind, with the mean difference and its
    interval over resampled problems; the clearest ones come first.
    """
    rng = np.random.default_rng(seed)
    by_bucket: list[dict[str, Any]] = []
    by_policy: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for policy, ways in solved.items():
        of = np.asarray(buckets[policy])
        for first, second in combinations(ways, 2):
            difference = ways[first] - ways[second]
            by_policy.setdefault((first, second), {})[policy] = _interval(difference, rng)
            inside = {name: difference[of == name] for name in ("easy", "medium", "hard")}
            intervals = {name: _interval(d, rng) for name, d in inside.items() if len(d) >= _FEWEST}
            by_bucket += [{"policy": policy, **found} for found in _changes(first, second, intervals)]
    between = [found for pair, intervals in by_policy.items() for found in _changes(*pair, intervals)]
    return {"between_buckets": _clearest(by_bucket), "between_policies": _clearest(between)}


def _interval(difference: Floats, rng: np.random.Generator) -> dict[str, float]:
    means = difference[rng.integers(0, len(difference), (2000, len(difference)))].mean(1)
    low, high = np.quantile(means, _QUANTILES)
    return {"mean": float(difference.mean()), "low": float(low), "high": float(high)}


def _changes(first: str, second: str, intervals: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    ahead = {place: interval for place, interval in intervals.items() if interval["low"] > 0}
    behind = {place: interval for place, interval in intervals.items() if interval["high"] < 0}
    return [
        {"first": first, "second": second, "better": {"in": a, **ahead[a]}, "worse": {"in": b, **behind[b]}}
        for a in ahead
        for b in behind
    ]


def _clearest(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(found, key=lambda one: min(one["better"]["low"], -one["worse"]["high"]), reverse=True)
