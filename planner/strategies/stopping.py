"""Adaptive stopping: draw until the leading answer is unlikely to be overtaken."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from planner.core import Answer, Candidate, Problem
from planner.effects import Flow
from planner.strategies.base import validate
from planner.strategies.sampling import draw
from planner.strategies.scoring import conclude

__all__ = ["AdaptiveMajority", "leading_probability"]


def leading_probability(first: int, second: int) -> float:
    """P(p1 > p2) for the two leading answers' counts, other answers and a uniform prior aside.

    Aggarwal et al., Adaptive-Consistency (arXiv 2305.11860), the Beta criterion: the share p1 / (p1 + p2) has posterior
    Beta(first + 1, second + 1). At whole numbers its mass above 1/2 is a binomial tail, so it is exact.
    """
    trials = first + second + 1
    return sum(math.comb(trials, k) for k in range(first + 1)) / (1 << trials)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveMajority:
    """Majority voting, `batch` samples at a time until the leader's probability passes `threshold`."""

    name: ClassVar[str] = "adaptive_majority"
    needs_verifier: ClassVar[bool] = False
    replayable: ClassVar[bool] = True

    max_n: int
    threshold: float = 0.95
    batch: int = 2
    temperature: float = 0.8
    top_p: float = 1.0
    policy_model: str | None = None

    def __post_init__(self) -> None:
        validate(self)

    def stops(self, counts: Counter[str]) -> bool:
        """Whether these votes (canonical answer to count) are enough; without votes they never are."""
        ranked = [count for _, count in counts.most_common(2)]
        if not ranked:
            return False
        return leading_probability(ranked[0], ranked[1] if len(ranked) > 1 else 0) > self.threshold

    def solve(self, problem: Problem) -> Flow[Answer]:
        found: list[Candidate] = []
        short, drawn = False, 0
        while drawn < self.max_n and not short and not self.stops(Counter(c.key for c in found if c.key is not None)):
            count = min(self.batch, self.max_n - drawn)
            more, short = yield from draw(
                problem,
                count,
                temperature=self.temperature,
                top_p=self.top_p,
                policy_model=self.policy_model,
                first_index=drawn,
            )
            found += more
            drawn += count
        return conclude(found, "last", "vote", out_of_budget=short)
