"""Running votes of many problems under many random orders of their samples, one sample a step, in plain numpy.

All problems share the permutations, so that what a step adds is one row of a table for each order: problems stand side
by side in blocks, each answer's tally in a row of its own, and no tally is looked up or written back. Answers that only
one sample gives share a row, whose tally is the largest one seen (with how many tie for it).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ballots", "Election", "Orders", "elections"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_PROBLEMS = 128
_CELLS = 524_288  # 2 MB of tallies: enough that a step costs more than the calls that make it, and still in the cache
_ORDERS = 250  # wins of one chunk are counted in a byte
_SINGLES = 255  # and so are single answers that tie
_TIE = np.float32(2e-6)
"""Sums in another order differ in the last digits of float32; they are ties all the same."""
_NOBODY, _LEAST, _NOTHING = np.float32(1e-30), np.float32(1e-25), np.float32(1e-20)
"""Tally of an answer that nobody gave; weight of a vote that weighs 0; tallies below the last are all 0, and tie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """R random orders of each problem's samples: the same `permutations` [R, n] for all problems, each over the
    problem's own arrangement of its slots, `places` [P, n], of which the first `counts` [P] are present."""

    permutations: Ints
    places: Ints
    counts: Ints

    def of(self, count: int) -> Ints:
        """The permutations among a problem's first `count` places, [R, count]."""
        return self.permutations[self.permutations < count].reshape(len(self.permutations), count)

    @property
    def index(self) -> Ints:
        """Sample slots in each order, [R, P, n]; slots that are not present come last."""
        n = self.places.shape[1]
        found = np.broadcast_to(self.places, (len(self.permutations), *self.places.shape)).copy()
        for count in np.unique(self.counts).tolist():
            mine = np.flatnonzero(self.counts == count)
            order = np.concatenate((self.of(count), np.tile(np.arange(count, n), (len(self.permutations), 1))), axis=1)
            found[:, mine] = self.places[mine][:, order].transpose(1, 0, 2)
        return found

    def take(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """`values` [P, n] in each order, [R, P, n]."""
        index = self.index
        return np.take_along_axis(np.broadcast_to(values, index.shape), index, axis=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballots:
    """Who votes for what, each [P, n]: `codes` (answers as numbers from 0 in each problem), `weights` (0 or more), NaN
    where a sample does not vote, and `correct` 1.0 or 0.0. An answer is right when most of its samples are."""

    codes: Ints
    weights: Floats
    correct: Floats


class Election:
    """Some problems [B] under some orders [R], all with as many samples; `step(k)` adds the k-th sample (from 0).

    Tallies are float32 in units of each problem's largest weight.
    """

    def __init__(
        self, problems: Ints, first: int, orders: Ints, table: NDArray[np.float32], right: int, *, weightless: bool
    ) -> None:
        self.problems, self.first, self._weightless = problems, first, weightless
        self.size = (orders.shape[1], len(problems))
        self._slots, self._table = orders, table.reshape(len(table), -1)
        self._right_rows, rows = right, table.shape[1]
        shape = (orders.shape[1], rows, len(problems))
        self._added = np.empty(shape, np.float32)
        self._flat = self._added.reshape(shape[0], -1)
        self._tally = np.zeros(shape, np.float32)
        self._tally[:, -1] = _NOBODY
        self._singles = np.zeros(self.size, np.uint8)
        self._more, self._same = np.empty(self.size, np.bool_), np.empty(self.size, np.bool_)
        self._wrong, self._edge = np.empty(self.size, np.float32), np.empty(self.size, np.float32)
        self._right = np.empty(self.size, np.float32) if right != 1 else self._tally[:, 0]
        self._win, self._tie = np.empty(self.size, np.bool_), np.empty(self.size, np.bool_)

    def step(self, position: int) -> None:
        np.take(self._table, self._slots[position], axis=0, out=self._flat, mode="clip")
        tally, added = self._tally, self._added
        np.add(tally[:, :-1], added[:, :-1], out=tally[:, :-1])
        top, new, tied = tally[:, -1], added[:, -1], self._singles
        np.equal(new, top, out=self._same)
        np.greater(new, top, out=self._more)
        np.add(tied, self._same.view(np.uint8), out=tied)
        np.logical_not(self._more, out=self._same)
        np.multiply(tied, self._same.view(np.uint8), out=tied)
        np.add(tied, self._more.view(np.uint8), out=tied)
        np.maximum(top, new, out=top)

    def decide(self) -> tuple[Bools, Ints, Ints, Floats]:
        """Where a right answer leads alone, [R, B], and the elections it leads with others: order, problem and the
        share of the leaders that are right. Valid until the next step."""
        tally, first = self._tally, self._right_rows
        np.copyto(self._wrong, tally[:, -1])
        for row in range(first, tally.shape[1] - 1):
            np.maximum(self._wrong, tally[:, row], out=self._wrong)
        if first != 1:
            self._right.fill(0.0)
            for row in range(first):
                np.maximum(self._right, tally[:, row], out=self._right)
        np.multiply(self._wrong, 1 + _TIE, out=self._edge)
        np.greater(self._right, self._edge, out=self._win)
        np.multiply(self._wrong, 1 - _TIE, out=self._edge)
        np.greater_equal(self._right, self._edge, out=self._tie)
        if self._weightless:
            nothing = (self._right > _NOBODY) & (self._right < _NOTHING) & (self._wrong < _NOTHING)
            self._tie |= nothing
            self._win &= ~nothing
        np.greater(self._tie, self._win, out=self._tie)
        if not self._tie.any():
            nobody = np.empty(0, np.int64)
            return self._win, nobody, nobody, np.empty(0)
        order, problem = np.nonzero(self._tie)
        held, top = tally[order, :, problem], self._right[order, problem][:, None]
        near = np.abs(held / top - 1) <= 2 * _TIE
        if self._weightless:
            near |= (held > _NOBODY) & (held < _NOTHING) & (top < _NOTHING)
        right = near[:, :first].sum(axis=1)
        wrong = near[:, first:-1].sum(axis=1) + near[:, -1] * self._singles[order, problem]
        return self._win, order, problem, right / (right + wrong)

    def leaders(self) -> tuple[Ints, Ints]:
        """The two largest tallies where every vote counts 1, [R, B] each."""
        singles = np.minimum(self._singles, 2)
        best, second = (singles > 0).astype(np.float32), (singles > 1).astype(np.float32)
        for row in range(self._tally.shape[1] - 1):
            mine = self._tally[:, row]
            np.maximum(second, np.minimum(best, mine), out=second)
            np.maximum(best, mine, out=best)
        return best.astype(np.int64), second.astype(np.int64)

    def counts(self, where: Bools) -> Iterator[tuple[int, ...]]:
        """Votes for each answer seen, the most first, in the chosen elections (every vote counts 1)."""
        order, problem = np.nonzero(where)
        ranked = np.sort(self._tally[order, :-1, problem].astype(np.int64), axis=1)[:, ::-1]
        singles = self._singles[order, problem].tolist()
        for row, seen, ones in zip(ranked.tolist(), (ranked > 0).sum(axis=1).tolist(), singles, strict=True):
            yield (*row[:seen], *(1,) * ones)


def elections(ballots: Ballots, orders: Orders, *, depth: int, hopeless: bool) -> Iterator[tuple[Election, int]]:
    """Every problem under every order, in chunks that fit the cache, each with the steps it has (at most `depth`).

    Problems without a right answer are left out unless `hopeless`: no vote can be right there. Chunks are independent
    of one another, so threads may share them.
    """
    voting = ~np.isnan(ballots.weights)
    rows, right, others, weights = _rows(ballots, voting)
    weightless = bool((ballots.weights == 0).any())
    for count in np.unique(orders.counts).tolist():
        mine = np.flatnonzero((orders.counts == count) & ((right > 0) | hopeless))
        steps = min(count, depth)
        if not steps:
            continue
        mine = mine[np.lexsort((others[mine], right[mine]))]
        slots = np.ascontiguousarray(orders.of(count).T[:steps])
        for start in range(0, len(mine), _PROBLEMS):
            block = mine[start : start + _PROBLEMS]
            first, more = int(right[block].max()), int(others[block].max())
            table = _table(block, orders.places, rows, right, weights, (count, first, more))
            size = max(1, min(_ORDERS, _CELLS // table[0].size))
            for at in range(0, slots.shape[1], size):
                chunk = np.ascontiguousarray(slots[:, at : at + size])
                yield Election(block, at, chunk, table, first, weightless=weightless), steps


def _rows(ballots: Ballots, voting: Bools) -> tuple[Ints, Ints, Ints, NDArray[np.float32]]:
    """Each sample's row [P, n] (right answers from 0, wrong ones from the number of right ones, single wrong answers
    and samples without a vote -1), how many rows are right and wrong [P], and weights [P, n] as float32, 0 for none."""
    problems, width = len(voting), int(ballots.codes.max(initial=0)) + 1
    codes = ballots.codes.clip(0)
    flat = (np.arange(problems)[:, None] * width + codes)[voting]
    shape = (problems, width)
    size = np.bincount(flat, minlength=problems * width).reshape(shape)
    good = np.bincount(flat, weights=ballots.correct[voting], minlength=problems * width).reshape(shape)
    right = (size > 0) & (2 * good >= size)
    single = (size == 1) & ~right
    single &= np.cumsum(single, axis=1) <= _SINGLES
    wrong = (size > 0) & ~right & ~single
    row = np.where(right, np.cumsum(right, axis=1) - 1, right.sum(axis=1)[:, None] + np.cumsum(wrong, axis=1) - 1)
    row[single] = -1
    top = np.where(voting, ballots.weights, 0.0).max(axis=1, keepdims=True, initial=0.0)
    scaled = np.nan_to_num(ballots.weights) / np.where(top > 0, top, 1.0)
    weights = np.where(voting, np.maximum(scaled, _LEAST), 0.0).astype(np.float32)
    return np.take_along_axis(row, codes, axis=1), right.sum(axis=1), wrong.sum(axis=1), weights


def _table(
    block: Ints, places: Ints, rows: Ints, right: Ints, weights: NDArray[np.float32], shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """What each place adds to each row of each problem, [places, rows, B]; the block's problems have their wrong
    answers in the same rows."""
    count, first, more = shape
    table = np.zeros((count, first + more + 1, len(block)), np.float32)
    at = places[block, :count]
    row = np.take_along_axis(rows[block], at, axis=1)
    row = np.where(
        row < 0, first + more, np.where(row >= right[block][:, None], row + first - right[block][:, None], row)
    )
    table[np.arange(count)[None], row, np.arange(len(block))[:, None]] = np.take_along_axis(weights[block], at, axis=1)
    return table
