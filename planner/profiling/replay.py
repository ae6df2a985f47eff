"""Accuracy and cost of parallel strategies from recorded samples, at every k, without generating (METHODS section 5).

Everything is [P, n]: P problems, n sample slots (fewer recorded samples leave slots that are not `present`). Selection
by score and pass@k are exact. Votes and stopping rules are averaged over random orders of the samples, the same orders
for every configuration (common random numbers), and come with the standard error of that average.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from planner.strategies.stopping import leading_probability, plurality_probability

__all__ = ["Draws", "Estimate", "Orders", "best_of_k", "draw_orders", "pass_at_k", "replay_adaptive", "replay_votes"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Recorded samples, each array [P, n].

    `correct`: 1.0 or 0.0. `codes`: canonical answer as a number >= 0 that is unique within its problem, -1 where the
    sample has no answer (it never votes). `scores`: one aggregated verifier score for each aggregation, NaN where
    unscored.
    """

    present: Bools
    correct: Floats
    codes: Ints
    finished: Bools
    scores: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def counts(self) -> Ints:
        """Recorded samples of each problem, [P]."""
        counts: Ints = self.present.sum(axis=1)
        return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Expected correctness [P, K] for K values of k and its Monte-Carlo standard error (0 where exact); NaN where k
    > n."""

    accuracy: Floats
    standard_error: Floats


def pass_at_k(correct: Ints, counts: Ints, ks: Sequence[int]) -> Floats:
    """1 - C(n-c, k) / C(n, k) (Chen et al., arXiv 2107.03374), [P, K], from c = `correct` of n = `counts`, both [P]."""
    log_factorial = _log_factorials(int(counts.max(initial=0)))
    n, c, k = counts[:, None], correct[:, None], np.asarray(ks)[None, :]
    misses = np.exp(_log_choose(log_factorial, n - c, k) - _log_choose(log_factorial, n, k))
    return np.where(k > n, np.nan, 1.0 - np.where(k > n - c, 0.0, misses))


def best_of_k(draws: Draws, aggregation: str, ks: Sequence[int]) -> Floats:
    """Expected correctness of the best-scored of k samples, [P, K], exact.

    In order of score the i-th best of n is selected with probability C(n-i, k-1) / C(n, k); tied scores share. An
    unfinished sample stands behind every finished one and an unscored one behind every scored one, as in
    `strategies.scoring.select`.
    """
    score = np.where(np.isnan(draws.scores[aggregation]), -np.inf, draws.scores[aggregation])
    rank = np.lexsort((-score, ~draws.finished, ~draws.present), axis=-1)
    s, f, p, y = (np.take_along_axis(a, rank, 1) for a in (score, draws.finished, draws.present, draws.correct))
    rows, n = s.shape
    fresh = np.ones((rows, n), dtype=bool)
    fresh[:, 1:] = (s[:, 1:] != s[:, :-1]) | (f[:, 1:] != f[:, :-1]) | (p[:, 1:] != p[:, :-1])
    tie = np.cumsum(fresh.ravel()) - 1
    value = np.where(p, y, 0.0).ravel()
    shared = (np.bincount(tie, weights=value) / np.bincount(tie))[tie].reshape(rows, n)
    log_factorial = _log_factorials(n)
    counts, place = draws.counts[:, None], np.arange(1, n + 1)[None, :]
    result = np.full((rows, len(ks)), np.nan)
    for column, k in enumerate(ks):
        worse = counts - place
        possible = p & (worse >= k - 1) & (counts >= k)
        log_p = _log_choose(log_factorial, worse, k - 1) - _log_choose(log_factorial, counts, k)
        chance = np.where(possible, np.exp(np.where(possible, log_p, 0.0)), 0.0)
        enough = draws.counts >= k
        result[enough, column] = (chance * shared).sum(axis=1)[enough]
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """R random orders of each problem's samples, as sample slots [R, P, n]; slots that are not present come last."""

    index: Ints

    def take(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """`values` [P, n] in each order, [R, P, n]."""
        return np.take_along_axis(np.broadcast_to(values, self.index.shape), self.index, axis=2)


def draw_orders(draws: Draws, count: int, seed: int) -> Orders:
    """`count` random orders for every problem."""
    key = np.random.default_rng(seed).random((count, *draws.present.shape))
    key[:, ~draws.present] += 1.0
    return Orders(index=np.argsort(key, axis=2))


def replay_votes(draws: Draws, orders: Orders, ks: Sequence[int], aggregation: str | None = None) -> Estimate:
    """Majority vote (`aggregation` None) or the vote weighted by that aggregation's scores, among k samples.

    No votes means no answer, which is not correct. Equal tallies share (ties in random order).
    """
    weights = None if aggregation is None else draws.scores[aggregation]
    tally = _Tally(draws, orders, weights)
    columns = {k: i for i, k in enumerate(ks)}
    shape = (draws.present.shape[0], len(ks))
    accuracy, error = np.full(shape, np.nan), np.full(shape, np.nan)
    for position in range(min(max(ks, default=0), draws.present.shape[1])):
        tally.add(position)
        if (column := columns.get(position + 1)) is not None:
            enough = draws.counts >= position + 1
            value = tally.value()
            accuracy[enough, column] = value.mean(axis=0)[enough]
            error[enough, column] = _error(value)[enough]
    if 1 in columns:  # one vote decides: exact
        held = draws.counts >= 1
        right = np.where(tally.votes, draws.correct, 0.0).sum(axis=1)
        accuracy[held, columns[1]] = (right / np.maximum(draws.counts, 1))[held]
        error[held, columns[1]] = 0.0
    return Estimate(accuracy=accuracy, standard_error=error)


def replay_adaptive(
    draws: Draws, orders: Orders, rules: Sequence[tuple[int, float, int]], *, posterior: str = "beta"
) -> list[tuple[Estimate, Ints]]:
    """Adaptive majority for each rule (max_n, threshold, batch): accuracy [P, 1] and the samples drawn, [R, P].

    The stopping test is `strategies.stopping.leading_probability`, looked up for every pair of counts; with `posterior`
    "dirichlet" `plurality_probability` has to agree. Problems with fewer than max_n samples get NaN.
    """
    rows, n = draws.present.shape
    depth = min(n, max((rule[0] for rule in rules), default=0))
    leading = np.array(
        [[leading_probability(a, b) if a >= b else 0.0 for b in range(depth + 1)] for a in range(depth + 1)]
    )
    leading[0, :] = 0.0  # without votes it never stops
    tally = _Tally(draws, orders, None, runner_up=True)
    size = (len(rules), orders.index.shape[0], rows)
    stopped, drawn = np.zeros(size, dtype=bool), np.zeros(size, dtype=np.int64)
    value = np.zeros(size)
    same = {threshold: [i for i, rule in enumerate(rules) if rule[1] == threshold] for _, threshold, _ in rules}
    for position in range(depth):
        tally.add(position)
        now, sure = tally.value(), leading[tally.best.astype(np.int64).clip(0), tally.second]
        safe: dict[float, Bools] = {}
        for r, (max_n, threshold, batch) in enumerate(rules):
            count = position + 1
            if count > max_n or (count % batch and count != max_n):
                continue
            if threshold not in safe:
                safe[threshold] = sure > threshold
                if posterior == "dirichlet":
                    # Looked up only where a rule of this threshold still draws.
                    asked = safe[threshold] & ~np.all([stopped[i] for i in same[threshold]], axis=0)
                    asked[asked] = [plurality_probability(c) > threshold for c in tally.counts(asked)]
                    safe[threshold] = asked
            ends = ~stopped[r] & (safe[threshold] | (count == max_n))
            value[r][ends], drawn[r][ends] = now[ends], count
            stopped[r] |= ends
    results = []
    for r, (max_n, _, _) in enumerate(rules):
        enough = draws.counts >= max_n
        accuracy = np.where(enough, value[r].mean(axis=0), np.nan)[:, None]
        error = np.where(enough, _error(value[r]), np.nan)[:, None]
        results.append((Estimate(accuracy=accuracy, standard_error=error), drawn[r]))
    return results


class _Tally:
    """Running votes of R x P elections, one sample a step.

    Weights are not negative, so the largest tally changes only to the answer just voted for: the leader's tally, how
    many answers tie with it and how many of those are correct are kept without looking at other answers.
    """

    def __init__(self, draws: Draws, orders: Orders, weights: Floats | None, *, runner_up: bool = False) -> None:
        repeats, rows, _ = orders.index.shape
        width = int(draws.codes.max(initial=0)) + 1
        votes = draws.present & (draws.codes >= 0) & draws.finished
        if weights is not None:
            votes &= ~np.isnan(weights)
        self._orders, self._runner_up = orders, runner_up
        self.votes, self._codes, self._correct = votes, draws.codes.clip(0), draws.correct
        self._weights = None if weights is None else np.nan_to_num(weights)
        self._rows = np.arange(rows)
        self._base = np.arange(repeats * rows).reshape(repeats, rows) * width
        self._total = np.zeros(repeats * rows * width)
        self.best = np.full((repeats, rows), -1.0)
        self.second = np.zeros((repeats, rows), dtype=np.int64)
        self._tied, self._right = np.ones((repeats, rows)), np.zeros((repeats, rows))

    def add(self, position: int) -> None:
        slot = self._orders.index[:, :, position]
        votes = self.votes[self._rows, slot]
        where = self._base + self._codes[self._rows, slot]
        total = self._total[where] + (1.0 if self._weights is None else self._weights[self._rows, slot])
        total = np.where(votes, total, self._total[where])
        self._total[where] = total
        correct = self._correct[self._rows, slot]
        # Sums in another order differ in the last digits; they are ties all the same.
        tie = votes & (np.abs(total - self.best) <= 1e-12 * np.abs(total))
        leads = votes & ~tie & (total > self.best)
        if self._runner_up:
            # Votes count 1 here, so whoever takes the lead was level with the leader before, and noted then.
            behind = votes & ~leads & (total > self.second)
            self.second = np.where(behind, total, self.second).astype(np.int64)
        self._tied = np.where(leads, 1.0, self._tied + tie)
        self._right = np.where(leads, correct, self._right + tie * correct)
        self.best = np.where(leads, total, self.best)

    def counts(self, where: Bools) -> Iterator[tuple[int, ...]]:
        """Votes for each answer seen, the most first, in the chosen elections [R, P] (unweighted votes)."""
        ranked = np.sort(self._total.reshape(*where.shape, -1)[where].astype(np.int64), axis=1)[:, ::-1]
        for row, seen in zip(ranked.tolist(), (ranked > 0).sum(axis=1).tolist(), strict=True):
            yield tuple(row[:seen])

    def value(self) -> Floats:
        """Correctness of the leading answer, [R, P]; tied answers share."""
        result: Floats = self._right / self._tied
        return result


def _error(value: Floats) -> Floats:
    repeats = value.shape[0]
    error: Floats = value.std(axis=0, ddof=1) / np.sqrt(repeats) if repeats > 1 else np.full(value.shape[1], np.nan)
    return error


def _log_factorials(n: int) -> Floats:
    table: Floats = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    return table


def _log_choose(log_factorial: Floats, n: NDArray[np.int64], k: NDArray[np.int64] | int) -> Floats:
    """log C(n, k); meaningless (but finite) where k > n or n < 0, which callers mask."""
    top = len(log_factorial) - 1
    a, b, c = np.clip(n, 0, top), np.clip(k, 0, top), np.clip(n - k, 0, top)
    result: Floats = log_factorial[a] - log_factorial[b] - log_factorial[c]
    return result
