"""Accuracy and cost of parallel strategies from recorded samples, at every k, without generating (METHODS section 5).

Everything is [P, n]: P problems, n sample slots (fewer recorded samples leave slots that are not `present`). Selection
by score and pass@k are exact. Votes and stopping rules are averaged over random orders of the samples, the same orders
for every configuration (common random numbers), and come with the standard error of that average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from planner.profiling.elections import Ballots, Election, Orders, elections
from planner.strategies.scoring import ODDS_EDGE
from planner.strategies.stopping import leading_probability, plurality_probability

__all__ = [
    "Draws",
    "Estimate",
    "Orders",
    "best_of_k",
    "draw_orders",
    "pass_at_k",
    "replay_dirichlet",
    "replay_votes",
    "right_answers",
    "weights_of",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_STREAM = 0x0DE5


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
    result = np.full((rows, len(ks)), np.nan)
    log_factorial, k = _log_factorials(n), np.asarray(ks)
    for count in np.unique(draws.counts).tolist():  # how likely each place is selected depends on the count alone
        worse = (count - np.arange(1, count + 1))[:, None]
        log_p = _log_choose(log_factorial, worse, k - 1) - _log_choose(log_factorial, np.array(count), k)
        chance = np.where((worse >= k - 1) & (k <= count), np.exp(log_p), 0.0)
        mine = np.flatnonzero(draws.counts == count)
        result[mine] = np.where(k <= count, shared[mine, :count] @ chance, np.nan)
    return result


def draw_orders(draws: Draws, count: int, seed: int) -> Orders:
    """`count` random orders for every problem; every problem arranges its samples at random before them."""
    # A stream of its own: samples that somebody simulated with the same seed must not decide their own order.
    rng = np.random.default_rng([seed, _STREAM])
    key = rng.random(draws.present.shape) + ~draws.present
    n = draws.present.shape[1]
    return Orders(
        permutations=np.argsort(rng.random((count, n)), axis=1), places=np.argsort(key, axis=1), counts=draws.counts
    )


def weights_of(scores: Floats, selection: str) -> Floats:
    """What aggregated scores weigh in a vote by `selection`, as in `strategies.scoring.select`."""
    if selection != "odds":
        return scores
    bounded = np.clip(scores, ODDS_EDGE, 1 - ODDS_EDGE)
    odds: Floats = bounded / (1 - bounded)
    return odds


def replay_votes(
    draws: Draws, orders: Orders, ks: Sequence[int], aggregation: str | None = None, selection: str = "vote"
) -> Estimate:
    """Majority vote (`aggregation` None) or the vote weighted by that aggregation's scores or their odds (`selection`),
    among k samples.

    No votes means no answer, which is not correct. Equal tallies share (ties in random order). An unlabelled answer
    leaves its problem unknown (NaN).
    """
    ballots = _ballots(draws, None if aggregation is None else weights_of(draws.scores[aggregation], selection))
    depth = min(max(ks, default=0), draws.present.shape[1])
    total = np.zeros((2, draws.present.shape[0], depth + 1))  # of values and of their squares

    def hold(election: Election, steps: int) -> tuple[Ints, Floats]:
        mine = np.zeros((2, election.size[1], steps))
        for position in range(steps):
            election.step(position)
            win, _, tied, share = election.decide()
            mine[:, :, position] += np.add.reduce(win.view(np.uint8), axis=0, dtype=np.uint8)
            if len(tied):
                for power in (1, 2):
                    mine[power - 1, :, position] += np.bincount(tied, weights=share**power, minlength=election.size[1])
        return election.problems, mine

    for problems, mine in _in_threads(hold, elections(ballots, orders, depth=depth, hopeless=False)):
        total[:, problems, 1 : mine.shape[2] + 1] += mine
    repeats = len(orders.permutations)
    mean, square = total / repeats
    spread = np.sqrt(np.maximum(square - mean**2, 0.0) * repeats / max(repeats - 1, 1))
    error = spread / np.sqrt(repeats) if repeats > 1 else np.full_like(mean, np.nan)
    held = draws.counts >= 1
    if depth:  # one vote decides: exact
        right = np.where(~np.isnan(ballots.weights), draws.correct, 0.0).sum(axis=1)
        mean[held, 1], error[held, 1] = (right / np.maximum(draws.counts, 1))[held], 0.0
    unknown = _unlabelled(ballots)
    at = np.asarray(ks, np.int64)
    out = unknown[:, None] | (at > draws.counts[:, None])
    column = np.minimum(at, depth)
    return Estimate(
        accuracy=np.where(out, np.nan, mean[:, column]), standard_error=np.where(out, np.nan, error[:, column])
    )


def replay_dirichlet(
    draws: Draws, orders: Orders, rules: Sequence[tuple[int, float, int]]
) -> list[tuple[Estimate, Ints]]:
    """Adaptive majority with a Dirichlet posterior (for Beta see `planner.profiling.stopping`) for each rule (max_n,
    threshold, batch): accuracy [P, 1] and the samples drawn, [R, P]. Problems with fewer than max_n samples get NaN.

    `strategies.stopping.plurality_probability` is asked only where the leader passes against the runner-up alone
    (`leading_probability`, looked up for every pair of counts), which it cannot exceed.
    """
    rows, n = draws.present.shape
    depth = min(n, max((rule[0] for rule in rules), default=0))
    leading = np.array(
        [[leading_probability(a, b) if a >= b else 0.0 for b in range(depth + 1)] for a in range(depth + 1)]
    )
    leading[0, :] = 0.0  # without votes it never stops
    size = (len(rules), len(orders.permutations), rows)
    drawn, value = np.zeros(size, dtype=np.int64), np.zeros(size)
    ballots = _ballots(draws, None)
    for election, steps in elections(ballots, orders, depth=depth, hopeless=True):
        stopped = np.zeros((len(rules), *election.size), dtype=bool)
        at = slice(election.first, election.first + election.size[0])
        for count in range(1, steps + 1):
            election.step(count - 1)
            looking = [
                r for r, (most, _, batch) in enumerate(rules) if count <= most and not (count % batch and count != most)
            ]
            looking = [r for r in looking if not stopped[r].all()]
            if not looking:
                continue
            now, order, problem, share = election.decide()
            level = now.astype(np.float64)
            level[order, problem] = share
            safe = _stops(election, leading, {rules[r][1] for r in looking}, stopped, rules)
            for r in looking:
                ends = ~stopped[r] & (safe[rules[r][1]] | (count == rules[r][0]))
                where, which = np.nonzero(ends)
                value[r, election.first + where, election.problems[which]] = level[where, which]
                drawn[r, at][where, election.problems[which]] = count
                stopped[r] |= ends
    unknown = _unlabelled(ballots)
    results = []
    for r, (max_n, _, _) in enumerate(rules):
        enough = (draws.counts >= max_n) & ~unknown
        accuracy = np.where(enough, value[r].mean(axis=0), np.nan)[:, None]
        error = np.where(enough, _error(value[r]), np.nan)[:, None]
        results.append((Estimate(accuracy=accuracy, standard_error=error), drawn[r]))
    return results


def _stops(
    election: Election, leading: Floats, thresholds: set[float], stopped: Bools, rules: Sequence[tuple[int, float, int]]
) -> dict[float, Bools]:
    """Where each threshold is passed, [R, B]."""
    sure = leading[election.leaders()]
    safe = {threshold: sure > threshold for threshold in thresholds}
    for threshold, asked in safe.items():
        # Looked up only where a rule of this threshold still draws.
        asked &= ~np.all([stopped[i] for i, rule in enumerate(rules) if rule[1] == threshold], axis=0)
        asked[asked] = [plurality_probability(counts) > threshold for counts in election.counts(asked)]
    return safe


def right_answers(draws: Draws, width: int) -> Floats:
    """Share of each answer's samples that are correct, [P, width]."""
    voting = draws.present & (draws.codes >= 0)
    problem = np.nonzero(voting)[0]
    flat = problem * width + draws.codes[voting]
    size = np.bincount(flat, minlength=len(draws.codes) * width)
    good = np.bincount(flat, weights=draws.correct[voting], minlength=len(size))
    share: Floats = (good / np.maximum(size, 1)).reshape(len(draws.codes), width)
    return share


def _ballots(draws: Draws, weights: Floats | None) -> Ballots:
    voting = draws.present & (draws.codes >= 0) & draws.finished
    cast = np.ones(voting.shape) if weights is None else weights
    return Ballots(codes=draws.codes, weights=np.where(voting, cast, np.nan), correct=draws.correct)


def _unlabelled(ballots: Ballots) -> Bools:
    """Problems with a vote that nobody knows to be right or wrong, [P]."""
    unknown: Bools = np.any(~np.isnan(ballots.weights) & np.isnan(ballots.correct), axis=1)
    return unknown


def _in_threads(
    work: Callable[[Election, int], tuple[Ints, Floats]], chunks: Iterable[tuple[Election, int]]
) -> Iterable[tuple[Ints, Floats]]:
    """Chunks in as many threads as there are cores to use: numpy lets go of the interpreter in each of their steps."""
    from joblib import Parallel, cpu_count, delayed

    if (cores := cpu_count()) == 1:
        return (work(*chunk) for chunk in chunks)
    found: Iterable[tuple[Ints, Floats]] = Parallel(
        n_jobs=cores, prefer="threads", batch_size=1, return_as="generator"
    )(delayed(work)(*chunk) for chunk in chunks)
    return found


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
