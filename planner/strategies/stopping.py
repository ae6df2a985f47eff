"""Adaptive stopping of a vote: draw until the leading answer is unlikely to be overtaken, or success is hopeless."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np

from planner.core import Answer, Candidate, Problem
from planner.effects import Flow
from planner.strategies.base import require, validate
from planner.strategies.sampling import draw_until
from planner.strategies.scoring import conclude

__all__ = ["AdaptiveMajority", "leading_probability", "plurality_probability"]


def leading_probability(first: int, second: int) -> float:
    """P(p1 > p2) for the two leading answers' counts, other answers and a uniform prior aside.

    Aggarwal et al., Adaptive-Consistency (arXiv 2305.11860), the Beta criterion: the share p1 / (p1 + p2) has posterior
    Beta(first + 1, second + 1). At whole numbers its mass above 1/2 is a binomial tail, so it is exact.
    """
    trials = first + second + 1
    return sum(math.comb(trials, k) for k in range(first + 1)) / (1 << trials)


@lru_cache(maxsize=65536)
def plurality_probability(counts: tuple[int, ...]) -> float:
    """P(p1 > every other p) for the counts of all answers seen, the leading one first; a single one is held against one
    answer not seen.

    Aggarwal et al., the Dirichlet criterion: p has posterior Dirichlet(counts + 1). As shares of independent
    Gamma(count + 1) variables, P is the integral of the first one's density times the others' distribution functions,
    taken here by Gauss-Legendre quadrature (error under 1e-9 up to a thousand votes). Two answers give
    `leading_probability`.
    """
    first, others = counts[0], counts[1:] or (0,)
    spread = 12 * math.sqrt(first + 1) + 40
    low, high = max(0.0, first - spread), first + spread
    nodes, weights = _quadrature()
    x = low + (high - low) * (nodes + 1) / 2
    # log of x^k / k! for k = 0 .. the largest other count; cumulated sums give the distribution functions.
    ks = np.arange(max(others) + 1)
    log_factorial = np.array([math.lgamma(k + 1) for k in ks])
    below = np.cumsum(np.exp(ks[:, None] * np.log(x) - x - log_factorial[:, None]), axis=0)
    density = np.exp(first * np.log(x) - x - math.lgamma(first + 1))
    values = density * np.prod([1.0 - below[count] for count in others], axis=0)
    return float((high - low) / 2 * (weights @ values))


@lru_cache(maxsize=1)
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(200)
    return nodes, weights


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveMajority:
    """Majority voting, `batch` samples at a time until the leader's probability passes `threshold`.

    `posterior`: beta holds the leader against the runner-up, dirichlet against all answers seen. `give_up_tokens`
    (None: never): it also ends once the answers' mean length exceeds this, since a vote spends most on the prompts
    whose answers ramble, and wins least there. The leader is the answer then too. Nothing ends it before `min_n`
    samples (None: one batch).
    """

    name: ClassVar[str] = "adaptive_majority"
    needs_verifier: ClassVar[bool] = False
    replayable: ClassVar[bool] = True

    max_n: int
    threshold: float = 0.95
    batch: int = 2
    posterior: Literal["beta", "dirichlet"] = "beta"
    give_up_tokens: int | None = None
    min_n: int | None = None
    temperature: float = 0.8
    top_p: float = 1.0
    policy_model: str | None = None

    def __post_init__(self) -> None:
        validate(self)
        most = self.min_n is None or self.min_n <= self.max_n
        require(self, most, "min_n", "above the most it draws", f"at most max_n = {self.max_n}")

    def stops(self, counts: Counter[str]) -> bool:
        """Whether these votes (canonical answer to count) are enough; without votes they never are."""
        ranked = tuple(sorted(counts.values(), reverse=True))
        # The leader is never surer of all others than of the runner-up: the cheap test comes first.
        if not ranked or leading_probability(ranked[0], ranked[1] if len(ranked) > 1 else 0) <= self.threshold:
            return False
        return self.posterior == "beta" or plurality_probability(ranked) > self.threshold

    def gives_up(self, lengths: Sequence[int]) -> bool:
        """Whether answers of these lengths, in tokens, are too long to go on."""
        limit = self.give_up_tokens
        return limit is not None and sum(lengths) > limit * len(lengths)

    def ends(self, found: Sequence[Candidate]) -> bool:
        """Whether these samples decide the vote, or show that it is hopeless."""
        if len(found) < (self.min_n or 0):
            return False
        lengths = [c.generated_tokens for c in found if c.generated_tokens is not None]
        return self.gives_up(lengths) or self.stops(Counter(c.key for c in found if c.key is not None))

    def draw(self, problem: Problem) -> Flow[tuple[list[Candidate], bool]]:
        """The samples of the vote, and whether the budget ended it."""
        return draw_until(
            problem,
            self.ends,
            limit=self.max_n,
            batch=self.batch,
            temperature=self.temperature,
            top_p=self.top_p,
            policy_model=self.policy_model,
        )

    def solve(self, problem: Problem) -> Flow[Answer]:
        found, short = yield from self.draw(problem)
        return conclude(found, "last", "vote", out_of_budget=short)
