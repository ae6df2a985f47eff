"""Adaptive majority replayed for many rules at once: the vote along each order is counted once, and rules only look.

All that the Beta rule asks is how the leader stands against the runner-up after each sample; a rule is then a first
place along that path, and a smaller `max_n` only cuts it off earlier.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.profiling.replay import Draws, Estimate, Orders
from planner.strategies.stopping import leading_probability

__all__ = ["StopRule", "VotePaths"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRule:
    """The fields of `AdaptiveMajority` (posterior beta) without `max_n`."""

    threshold: float
    batch: int = 2
    give_up_tokens: int | None = None
    min_n: int | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """As hyperparameters; what is off is not named."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class VotePaths:
    """Votes after each of n samples along R random orders of P problems' samples.

    `value` [n, R, P]: correctness of the leading answer (ties share); `sure` [n, R, P]: probability that it stays
    ahead of the runner-up, 0 without votes; `length` [n, R, P]: tokens drawn; `counts` [P]: recorded samples, 0 where
    not all answers are labelled.
    """

    value: NDArray[np.float32]
    sure: NDArray[np.float32]
    length: Floats
    counts: Ints

    @classmethod
    def of(cls, draws: Draws, orders: Orders, tokens: Floats, *, depth: int | None = None) -> VotePaths:
        """Count along `orders` the first `depth` samples (None: all); `tokens` [P, n] are the samples' lengths."""
        index = orders.index
        repeats, rows, n = index.shape
        depth = n if depth is None else min(n, depth)
        table = np.array(
            [[leading_probability(a, b) if 0 < a >= b else 0.0 for b in range(depth + 1)] for a in range(depth + 1)]
        )
        width = int(draws.codes.max(initial=0)) + 1
        total, problem = np.zeros(repeats * rows * width, np.int16), np.arange(rows)
        base = np.arange(repeats * rows).reshape(repeats, rows) * width
        voters = draws.present & draws.finished & (draws.codes >= 0)
        first, second = (np.zeros((repeats, rows), np.int16) for _ in range(2))
        tied, right = np.ones((repeats, rows)), np.zeros((repeats, rows))
        value, sure = (np.empty((depth, repeats, rows), np.float32) for _ in range(2))
        in_order = (problem[:, None] * n + index).transpose(2, 0, 1)
        codes = draws.codes.clip(0)
        for place in range(depth):
            slot = np.ascontiguousarray(in_order[place])
            votes, correct = voters.take(slot), draws.correct.take(slot)
            where = base + codes.take(slot)
            count = total.take(where) + votes
            total[where] = count
            leads, ties = votes & (count > first), votes & (count == first)
            # Votes rise by one, so whoever takes the lead was level before, and is in `second` as such.
            second = np.where(votes & ~leads, np.maximum(second, count), second)
            tied = np.where(leads, 1.0, tied + ties)
            right = np.where(leads, correct, right + ties * correct)
            first = np.where(leads, count, first)
            value[place], sure[place] = right / tied, table[first, second]
        drawn = np.where(draws.present, tokens, 0.0).take(in_order[:depth])
        # An unlabelled answer leaves its problem unknown, as in `replay_votes`.
        unknown = (voters & np.isnan(draws.correct)).any(axis=1)
        return cls(value, sure, np.cumsum(drawn, axis=0), np.where(unknown, 0, draws.counts))

    def stops(self, rule: StopRule) -> Ints:
        """Samples after which the rule ends, [R, P]; n + 1 where it does not."""
        n = len(self.value)
        looked = np.arange(rule.batch, n + 1, rule.batch) - 1
        looked = looked[looked + 1 >= (rule.min_n or 0)]
        if not len(looked):
            return np.full(self.value.shape[1:], n + 1)
        ends = self.sure[looked] > rule.threshold
        if rule.give_up_tokens is not None:
            ends |= self.length[looked] > rule.give_up_tokens * (looked[:, None, None] + 1)
        found: Ints = np.where(ends.any(axis=0), looked[ends.argmax(axis=0)] + 1, n + 1)
        return found

    def replay(self, rule: StopRule, sizes: Sequence[int]) -> Iterator[tuple[Estimate, Ints]]:
        """For each `max_n` in `sizes` the accuracy [P, 1] (NaN where a problem has fewer samples) and the samples
        drawn, [R, P]."""
        stops, (_, repeats, rows) = self.stops(rule), self.value.shape
        at = np.ogrid[:repeats, :rows]
        for max_n in sizes:
            drawn = np.minimum(stops, min(max_n, len(self.value)))
            value = self.value[drawn - 1, at[0], at[1]].astype(np.float64)
            enough = (self.counts >= max_n)[:, None]
            error = value.std(axis=0, ddof=1)[:, None] / np.sqrt(repeats) if repeats > 1 else np.nan
            mean = value.mean(axis=0)[:, None]
            yield (
                Estimate(accuracy=np.where(enough, mean, np.nan), standard_error=np.where(enough, error, np.nan)),
                drawn,
            )
