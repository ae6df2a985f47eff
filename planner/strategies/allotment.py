"""How a search shares out its next steps: which paths go on, and how many continuations each is given.

A rule takes a `Round` and returns one path for each slot of the next round, so a path that is given k continuations
comes k times. A finished path that is returned draws nothing and stands among the next round's paths as it is. Ties go
to the first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from planner.core import stable_hash
from planner.strategies.paths import SearchPath

__all__ = ["Allotment", "Round", "keep_best", "resample", "share_out", "shares", "systematic"]


@dataclass(frozen=True, slots=True)
class Round:
    """What one tree holds after a round: paths that are not dead, in order of their slots, and their values (-inf where
    unscored); how many paths have finished so far; and the round's number from 0."""

    paths: tuple[SearchPath, ...]
    values: tuple[float, ...]
    finished: int
    number: int


Allotment: TypeAlias = Callable[[Round], list[SearchPath]]


def keep_best(keep: int, expansions: int) -> Allotment:
    """`expansions` steps for each of the best `keep` paths that has not finished; none once keep * expansions have."""

    def allot(found: Round) -> list[SearchPath]:
        if found.finished >= keep * expansions:
            return []
        ranked = sorted(range(len(found.paths)), key=found.values.__getitem__, reverse=True)
        kept = [found.paths[i] for i in ranked[:keep]]
        return [path for path in kept if not path.finished for _ in range(expansions)]

    return allot


def share_out(n: int, temperature: float) -> Allotment:
    """n less the finished paths, among the others in proportion to softmax(value / temperature).

    Wu et al., REBASE (arXiv 2408.00724), which rounds each share; here the largest remainders are rounded up, so that
    exactly that many are drawn.
    """

    def allot(found: Round) -> list[SearchPath]:
        rows = [(p, v) for p, v in zip(found.paths, found.values, strict=True) if not p.finished]
        counts = shares(_softmax([v / temperature for _, v in rows]), n - found.finished)
        return [path for (path, _), count in zip(rows, counts, strict=True) for _ in range(count)]

    return allot


def resample(n: int, temperature: float, seed: str) -> Allotment:
    """n paths drawn with weights softmax(logit(value) / temperature), finished ones among them.

    Particle filtering (Puri et al., arXiv 2502.01618). The draw is systematic, which varies least around the weights;
    its one uniform number comes from a hash of `seed` and the round.
    """

    def allot(found: Round) -> list[SearchPath]:
        weights = _softmax([_logit(value) / temperature for value in found.values])
        start = int(stable_hash(seed, found.number)[:13], 16) / 16**13
        return [found.paths[i] for i in systematic(weights, n, start)]

    return allot


def shares(weights: Sequence[float], total: int) -> list[int]:
    """`total` units in proportion to weights that sum to 1: whole parts, then one each to the largest remainders."""
    if total <= 0 or not weights:
        return [0] * len(weights)
    exact = [weight * total for weight in weights]
    counts = [math.floor(x) for x in exact]
    # Rounding to 12 digits: weights that are equal but for their last bit tie.
    order = sorted(range(len(exact)), key=lambda i: round(counts[i] - exact[i], 12))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts


def systematic(weights: Sequence[float], n: int, start: float) -> list[int]:
    """n indices at the points (start + i) / n of the cumulated weights (sum 1), ascending; `start` in [0, 1)."""
    edges = list(itertools.accumulate(weights))
    last = max(i for i, weight in enumerate(weights) if weight > 0)
    chosen, at = list[int](), 0
    for i in range(n):
        while at < last and edges[at] <= (start + i) / n:
            at += 1
        chosen.append(at)
    return chosen


def _softmax(logits: Sequence[float]) -> list[float]:
    """Weights that sum to 1; -inf weighs nothing, unless all do: then they weigh the same."""
    top = max(logits, default=0.0)
    raw = [1.0 if top == -math.inf else math.exp(x - top) for x in logits]
    return [x / math.fsum(raw) for x in raw]


def _logit(value: float) -> float:
    """Of a score clipped into (0, 1); an unscored path stays at -inf."""
    if value == -math.inf:
        return value
    clipped = min(max(value, 1e-6), 1 - 1e-6)
    return math.log(clipped) - math.log1p(-clipped)
