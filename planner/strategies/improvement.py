"""Adaptive stopping of best-of-N: draw until a better score is no longer worth its price."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from planner.core import Answer, Candidate, Problem
from planner.effects import Flow
from planner.strategies.base import validate
from planner.strategies.sampling import draw_until
from planner.strategies.scoring import Aggregation, aggregate, conclude

__all__ = ["AdaptiveBestOfN", "expected_gain"]


def expected_gain(scores: Sequence[float]) -> float:
    """How much one more score in [0, 1] is expected to raise the best of `scores` (1 at most); shape (n,), n >= 1.

    Expected improvement under a normal predictive distribution, with the mean and variance of uniform scores as a prior
    worth one observation each (normal-inverse-chi-square); improvements stop at 1.
    """
    n, mean, best = len(scores), math.fsum(scores) / len(scores), max(scores)
    squares = math.fsum((score - mean) ** 2 for score in scores) + n / (n + 1) * (mean - 0.5) ** 2
    centre, variance = (0.5 + n * mean) / (n + 1), (1 / 12 + squares) / (n + 1)
    deviation = math.sqrt(variance * (1 + 1 / (n + 1)))

    def above(level: float) -> float:
        """E[max(0, score - level)]."""
        z = (level - centre) / deviation
        density, tail = math.exp(-z * z / 2) / math.sqrt(2 * math.pi), math.erfc(z / math.sqrt(2)) / 2
        return deviation * (density - z * tail)

    return max(0.0, above(best) - above(1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveBestOfN:
    """The best-scored sample, `batch` at a time until one more is expected to raise the best score by under `min_gain`.

    Stopping by expected improvement (see `expected_gain`); `min_gain` is one sample's price in units of score.
    """

    name: ClassVar[str] = "adaptive_best_of_n"
    needs_verifier: ClassVar[bool] = True
    replayable: ClassVar[bool] = False

    max_n: int
    min_gain: float = 0.02
    batch: int = 2
    temperature: float = 0.8
    top_p: float = 1.0
    aggregation: Aggregation = "last"
    policy_model: str | None = None

    def __post_init__(self) -> None:
        validate(self)

    def stops(self, found: Sequence[Candidate]) -> bool:
        """Whether the scored ones among these are good enough; without scores they never are."""
        scores = [aggregate(c.scores, self.aggregation) for c in found if c.scores]
        return bool(scores) and expected_gain(scores) < self.min_gain

    def solve(self, problem: Problem) -> Flow[Answer]:
        found, short = yield from draw_until(
            problem,
            self.stops,
            limit=self.max_n,
            batch=self.batch,
            temperature=self.temperature,
            top_p=self.top_p,
            policy_model=self.policy_model,
            scored=True,
        )
        return conclude(found, self.aggregation, "max", out_of_budget=short)
