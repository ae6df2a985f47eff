"""Voting by the policy model's own confidence: no verifier, only the log-probabilities of its tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from planner.core import Answer, Candidate, Problem
from planner.effects import Flow
from planner.strategies.base import validate
from planner.strategies.sampling import draw_until
from planner.strategies.scoring import answer_with, select

__all__ = ["ConfidenceVote"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceVote:
    """n samples whose votes weigh the geometric mean of their tokens' probabilities.

    After DeepConf (Fu et al., arXiv 2508.15260), with the mean over the whole answer. `quantile`: the least confident
    share of the finished samples does not vote. `weighted` False: the others' votes count 1 each. `threshold` (None:
    all n are drawn): samples come `batch` at a time until the leading answer holds more than that share of the votes.
    Where an engine gives no log-probabilities, all votes count 1.
    """

    name: ClassVar[str] = "confidence_vote"
    needs_verifier: ClassVar[bool] = False
    replayable: ClassVar[bool] = False

    n: int
    quantile: float = 0.0
    weighted: bool = True
    threshold: float | None = None
    batch: int = 4
    temperature: float = 0.8
    top_p: float = 1.0
    policy_model: str | None = None

    def __post_init__(self) -> None:
        validate(self)

    def voters(self, found: Sequence[Candidate]) -> list[tuple[int, float]]:
        """(place in `found`, weight) of each finished sample that votes; a sample of unknown confidence votes only
        where all are unknown."""
        finished = [(i, c.mean_logprob) for i, c in enumerate(found) if c.finished]
        known = [(i, logprob) for i, logprob in finished if logprob is not None]
        if not known:
            return [(i, 1.0) for i, _ in finished]
        ranked = sorted(known, key=lambda row: row[1], reverse=True)
        kept = sorted(ranked[: len(ranked) - math.floor(self.quantile * len(ranked))])
        return [(i, math.exp(logprob) if self.weighted else 1.0) for i, logprob in kept]

    def stops(self, found: Sequence[Candidate]) -> bool:
        """Whether one answer holds more than `threshold` of the votes' weight; the answerless are against it."""
        ballots: dict[str | None, list[float]] = {}
        for i, weight in self.voters(found):
            ballots.setdefault(found[i].key, []).append(weight)
        held = {key: math.fsum(weights) for key, weights in ballots.items()}
        leading = max((weight for key, weight in held.items() if key is not None), default=0.0)
        return self.threshold is not None and leading > self.threshold * math.fsum(held.values())

    def solve(self, problem: Problem) -> Flow[Answer]:
        found, short = yield from draw_until(
            problem,
            self.stops,
            limit=self.n,
            batch=self.n if self.threshold is None else self.batch,
            temperature=self.temperature,
            top_p=self.top_p,
            policy_model=self.policy_model,
        )
        # The choice among scored candidates, with confidence in the place of scores.
        voters = self.voters(found)
        weighed = [replace(found[i], scores=(weight,)) for i, weight in voters]
        chosen = select(weighed, "last", "vote") if voters else select(found, "last", "vote")
        return answer_with(chosen, found, out_of_budget=short)
