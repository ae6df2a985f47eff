"""Arbitrated majority replayed: what the verifier decides among the first k samples of each order, and what it reads.

What k samples show depends neither on a vote's threshold nor on who is read: all rules share one `Arbitration` of k.
"""

from __future__ import annotations

import math
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
    """The first k samples along R orders of P problems.

    `slots` [R, P, k] are samples, `codes` their answers (-1: no vote), `standing` their answers' rank by votes and
    `nth` how many samples gave the same answer before. `ranked` [R, P, answers] are answers by votes (equal ones by who
    comes first), with their `votes` and `first`, the place where they come first.
    """

    draws: Draws
    slots: Ints
    codes: Ints
    standing: Ints
    nth: Ints
    ranked: Ints
    votes: Ints
    first: Ints

    @classmethod
    def of(cls, draws: Draws, orders: Orders, k: int) -> Arbitration:
        """Count the first k samples along `orders`."""
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
        ranked = np.argsort(first - votes * (k + 1), axis=2)  # who has no votes stands last
        standing = np.take_along_axis(np.argsort(ranked, axis=2), codes.clip(0), axis=2)
        votes, first = (np.take_along_axis(values, ranked, axis=2) for values in (votes, first))
        return cls(draws, slots, codes, standing, nth, ranked, votes, first)

    def read(self, answers: int, readings: int) -> Bools:
        """Which samples `strategies.arbitration.ArbitratedMajority` reads, [R, P, k]: `readings` of each of the leading
        `answers`, where two or more have votes."""
        contested = (self.votes > 0).sum(axis=2) > 1
        chosen: Bools = (
            (self.codes >= 0) & (self.standing < answers) & (self.nth < readings) & contested[:, :, None]
        )  # fmt: skip
        return chosen

    def spent(self, read: Bools, scoring: Floats, once: Floats) -> Floats:
        """What reading costs, [R, P], at `scoring` [P, n] a sample and `once` [P] a prompt."""
        each = scoring[np.arange(len(scoring))[None, :, None], self.slots]
        cost: Floats = np.where(read, each, 0.0).sum(axis=2) + np.where(read.any(axis=2), once, 0.0)
        return cost

    def value(self, read: Bools, aggregation: str) -> Floats:
        """Correctness of the answer that is chosen, [R, P]; NaN where nothing that is read has a score."""
        repeats, rows, width = self.votes.shape
        score = self.draws.scores[aggregation][np.arange(rows)[None, :, None], self.slots]
        where, which, place = np.nonzero(read & ~np.isnan(score))
        if not len(where):
            return np.full((repeats, rows), np.nan)
        rank = self.standing[where, which, place]
        shape = (repeats, rows, int(rank.max()) + 1)
        cell = (where * rows + which) * shape[2] + rank
        odds = weights_of(score[where, which, place], "odds")
        size = np.bincount(cell, minlength=math.prod(shape)).reshape(shape)
        total = np.bincount(cell, weights=odds, minlength=math.prod(shape)).reshape(shape)
        worth = np.where(size > 0, self.votes[:, :, : shape[2]] * total / np.maximum(size, 1), -np.inf)
        best = worth.max(axis=2, keepdims=True)
        first = np.where(worth == best, self.first[:, :, : shape[2]], self.slots.shape[2] + 1).argmin(axis=2)
        chosen = np.take_along_axis(self.ranked, first[:, :, None], axis=2)[:, :, 0]
        right = right_answers(self.draws, width)[np.arange(rows)[None], chosen]
        return np.where(np.isfinite(best[:, :, 0]), right, np.nan)
