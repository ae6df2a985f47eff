"""Arbitrated majority replayed: what the verifier decides among the first k samples of each order, and what it reads.

Which samples are read depends on k alone, so all thresholds of a vote share one `Arbitration`; scores enter last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.profiling.replay import Draws, Orders, right_answers, weights_of
from planner.profiling.stopping import StopRule, VotePaths

__all__ = ["Arbitration", "undecided"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def undecided(paths: VotePaths, rule: StopRule, max_n: int) -> tuple[Ints, Bools]:
    """Samples drawn [R, P] (`max_n` at most) and where these leave the vote open [R, P]."""
    stops = paths.stops(rule)
    last = min(max_n, len(paths.sure)) - 1
    open_ = (stops > max_n) & (paths.sure[last] <= rule.threshold)  # it is looked at once more after the last sample
    if rule.give_up_tokens is not None:
        open_ &= paths.length[last] <= rule.give_up_tokens * (last + 1)
    return np.minimum(stops, last + 1), open_


@dataclass(frozen=True, slots=True)
class Arbitration:
    """The first k samples along R orders of P problems, of which the verifier reads some.

    `slots` [R, P, k] are samples, `codes` their answers (-1: no vote), `read` which are read; `votes` [R, P, answers]
    and `first` (the place where an answer comes first, k where it does not come).
    """

    draws: Draws
    slots: Ints
    codes: Ints
    read: Bools
    votes: Ints
    first: Ints

    @classmethod
    def of(cls, draws: Draws, orders: Orders, k: int, answers: int, readings: int) -> Arbitration:
        """As `strategies.arbitration.ArbitratedMajority` reads after k samples: `readings` of each of `answers`."""
        slots = orders.index[:, :, :k]
        repeats, rows, k = slots.shape
        problem = np.arange(rows)[None, :, None]
        voting = (draws.present & draws.finished & (draws.codes >= 0))[problem, slots]
        codes = np.where(voting, draws.codes[problem, slots], -1)
        width = int(draws.codes.max(initial=0)) + 1
        votes = np.zeros((repeats, rows, width), np.int64)
        first = np.full(votes.shape, k)
        nth = np.empty(codes.shape, np.int64)
        at = np.ogrid[:repeats, :rows]
        for place in range(k):
            code, cast = codes[:, :, place].clip(0), voting[:, :, place]
            before = votes[at[0], at[1], code]
            nth[:, :, place] = before
            first[at[0], at[1], code] = np.where(cast & (before == 0), place, first[at[0], at[1], code])
            votes[at[0], at[1], code] = before + cast
        # The most votes first, equal ones by who came first; who has none stands last.
        standing = np.argsort(np.argsort(first - votes * (k + 1), axis=2), axis=2)
        contested = (votes > 0).sum(axis=2) > 1
        leading = np.take_along_axis(standing, codes.clip(0), axis=2) < answers
        read = voting & leading & (nth < readings) & contested[:, :, None]
        return cls(draws, slots, codes, read, votes, first)

    def spent(self, scoring: Floats, once: Floats) -> Floats:
        """What reading costs, [R, P], at `scoring` [P, n] a sample and `once` [P] a prompt."""
        each = scoring[np.arange(len(scoring))[None, :, None], self.slots]
        cost: Floats = np.where(self.read, each, 0.0).sum(axis=2) + np.where(self.read.any(axis=2), once, 0.0)
        return cost

    def value(self, aggregation: str) -> Floats:
        """Correctness of the answer that is chosen, [R, P]; NaN where nothing that is read has a score."""
        rows, width = self.votes.shape[1:]
        score = self.draws.scores[aggregation][np.arange(rows)[None, :, None], self.slots]
        where, which, place = np.nonzero(self.read & ~np.isnan(score))
        cell = (where * rows + which) * width + self.codes[where, which, place]
        odds = weights_of(score[where, which, place], "odds")
        size = np.bincount(cell, minlength=self.votes.size).reshape(self.votes.shape)
        total = np.bincount(cell, weights=odds, minlength=self.votes.size).reshape(self.votes.shape)
        worth = np.where(size > 0, self.votes * total / np.maximum(size, 1), -np.inf)
        best = worth.max(axis=2, keepdims=True)
        chosen = np.where(worth == best, self.first, self.slots.shape[2] + 1).argmin(axis=2)
        right = right_answers(self.draws, width)[np.arange(rows)[None], chosen]
        return np.where(np.isfinite(best[:, :, 0]), right, np.nan)
