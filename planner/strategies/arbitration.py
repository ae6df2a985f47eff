"""A vote that the verifier is asked about only where it stays undecided, and then about a few of its samples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from planner.core import Answer, Candidate, Problem
from planner.effects import Flow
from planner.strategies.base import validate
from planner.strategies.sampling import score_finished
from planner.strategies.scoring import Aggregation, aggregate, answer_with, conclude, odds
from planner.strategies.stopping import AdaptiveMajority

__all__ = ["ArbitratedMajority"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArbitratedMajority:
    """Adaptive majority whose undecided votes a verifier decides, from `readings` samples of each leading answer.

    Samples are drawn as by `AdaptiveMajority` (its Beta criterion). Where the vote is decided, or given up, the leader
    is the answer and nothing is read. Where `max_n` samples leave it open, the verifier reads the first `readings`
    samples of each of the `answers` with the most votes, and the answer with the largest number of votes times mean
    odds of its scores is taken, which estimates what `OddsVote` sums up from a few of its terms. So it reads answers *
    readings samples at most, where best-of-N reads all.
    """

    name: ClassVar[str] = "arbitrated_majority"
    needs_verifier: ClassVar[bool] = True
    replayable: ClassVar[bool] = True

    max_n: int
    threshold: float = 0.95
    batch: int = 2
    answers: int = 2
    readings: int = 1
    give_up_tokens: int | None = None
    min_n: int | None = None
    temperature: float = 0.8
    top_p: float = 1.0
    aggregation: Aggregation = "last"
    policy_model: str | None = None

    def __post_init__(self) -> None:
        validate(self)
        _ = self.vote  # its own rules

    @property
    def vote(self) -> AdaptiveMajority:
        """The vote that comes first."""
        return AdaptiveMajority(
            max_n=self.max_n, threshold=self.threshold, batch=self.batch, give_up_tokens=self.give_up_tokens,
            min_n=self.min_n, temperature=self.temperature, top_p=self.top_p, policy_model=self.policy_model,
        )  # fmt: skip

    def read(self, found: Sequence[Candidate]) -> list[int]:
        """Places of the samples to be read; none where fewer than two answers have votes."""
        votes = Counter(c.key for c in found if c.key is not None)
        leading = [key for key, _ in votes.most_common(self.answers)]  # equal counts: the first seen
        if len(leading) < 2:
            return []
        places = {key: [i for i, c in enumerate(found) if c.key == key] for key in leading}
        return sorted(i for found_at in places.values() for i in found_at[: self.readings])

    def choose(self, found: Sequence[Candidate], read: Sequence[int]) -> Candidate | None:
        """The best-scored sample of the chosen answer; None where none of those to be read has scores."""
        votes = Counter(c.key for c in found if c.key is not None)
        scores: dict[str, dict[int, float]] = {}
        for i in read:
            key, steps = found[i].key, found[i].scores
            if key is not None and steps:
                scores.setdefault(key, {})[i] = aggregate(steps, self.aggregation)

        def worth(key: str) -> float:
            return votes[key] * math.fsum(map(odds, scores[key].values())) / len(scores[key])

        if not scores:
            return None
        chosen = scores[max(scores, key=worth)]
        return found[max(chosen, key=chosen.__getitem__)]

    def solve(self, problem: Problem) -> Flow[Answer]:
        vote = self.vote
        found, short = yield from vote.draw(problem)
        read = [] if short or vote.ends(found) else self.read(found)
        if not read:
            return conclude(found, "last", "vote", out_of_budget=short)
        scored, short = yield from score_finished(problem, [found[i] for i in read])
        for i, candidate in zip(read, scored, strict=True):
            found[i] = candidate
        chosen = self.choose(found, read)
        if chosen is None:  # the budget did not pay for a reading: the vote stands
            return conclude(found, "last", "vote", out_of_budget=short)
        return answer_with(chosen, found, out_of_budget=short)
