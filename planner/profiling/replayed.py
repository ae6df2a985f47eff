"""The configurations that one model's samples at one temperature can replay, as columns of the outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.profiling.columns import Z95, Columns, Configuration, masked_mean
from planner.profiling.recorded import Recorded
from planner.profiling.replay import best_of_k, draw_orders, replay_votes
from planner.profiling.voting_columns import Voting
from planner.strategies.scoring import AGGREGATIONS, SELECTIONS

__all__ = ["add_replayed", "halves_of"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def _grid(n: int) -> list[int]:
    return sorted({n, *(2**i for i in range(n.bit_length()) if 2**i <= n)})


_BETWEEN = (3, 6, 12)
"""Sizes of votes beside the powers of two: a small budget is often too small for twice as many."""


def halves_of(recorded: Recorded, seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two disjoint random halves of each problem's samples, [P, n]; the same for every caller."""
    present = recorded.draws.present
    rng = np.random.default_rng([seed, abs(hash(float(recorded.temperature or 0.0))) % 2**31])
    place = np.argsort(np.argsort(rng.random(present.shape) + ~present, axis=1), axis=1)
    first = present & (place < (recorded.draws.counts // 2)[:, None])
    return first, present & ~first


def add_replayed(
    columns: Columns, recorded: Recorded, subsets: int, seed: int, halves: int | None, notes: list[str],
    also: Sequence[Configuration] = (),
) -> None:  # fmt: skip
    """Add what these samples can replay: a grid of sizes and rules, and `also` configurations of other sizes and rules
    (a policy's, whose lengths of giving up come from the bank that it was fitted on)."""
    counts = recorded.draws.counts
    if counts.min() == 0:
        notes.append(
            f"samples of {recorded.policy_model} at {recorded.temperature} do not cover all problems: left out"
        )
        return
    n = int(np.quantile(counts, 0.25, method="lower"))
    if counts.min() < counts.max():
        notes.append("problems have different numbers of samples; beyond a problem's own number its last value is kept")
    views = [recorded] if halves is None else [recorded.part(half) for half in halves_of(recorded, halves)][::-1]
    # The view whose difficulty comes from the first half scores the second one, hence the reverse order above.
    split = halves is not None and counts.min() >= 2
    half = n // 2 if split else n

    def on_rows(ks: list[int], estimate: Callable[[Recorded, list[int]], Floats]) -> Floats:
        """Accuracy [rows, K]: within half the samples from the views, beyond it with the gain seen in all samples."""
        whole = _carried(estimate(recorded, ks)) if not split or ks[-1] > half else None
        if not split:
            assert whole is not None
            return np.concatenate([whole] * len(views))
        inside = [k for k in ks if k <= half]
        rows = np.concatenate([_carried(estimate(view, inside)) for view in views])
        if whole is None:
            return rows
        gain = np.tile(whole[:, len(inside) :] - whole[:, [len(inside) - 1]], (len(views), 1))
        return np.concatenate((rows, rows[:, [-1]] + gain), axis=1)

    settings: dict[str, Any] = {}
    if recorded.temperature is not None:
        settings["temperature"] = float(recorded.temperature)
    else:
        notes.append(
            f"the temperature of {recorded.policy_model}'s samples is unknown: plans run at the strategies' default"
        )
    if recorded.top_p is not None:
        settings["top_p"] = float(recorded.top_p)
    if recorded.temperature == 0:
        accuracy = on_rows([1], lambda r, ks: _mean_correct(r)[:, None])
        greedy = Configuration(strategy="greedy", hyperparameters={}, policy_model=recorded.policy_model)
        columns.add(greedy, accuracy[:, 0], _price(recorded, 1))
        return
    mine = [c for c in also if c.policy_model == recorded.policy_model and _sampled_as(c, settings)]
    sizes = {c.samples for c in mine if c.strategy in ("majority", "best_of_n", "odds_vote") and c.samples <= n}
    judged = sorted({*_grid(n), *sizes, *([half] if split else [])})
    ks = sorted({*judged, *(k for k in _BETWEEN if k <= n)})
    orders = {id(r): draw_orders(r.draws, subsets, seed) for r in [recorded, *views]}
    if recorded.votes:
        accuracy = on_rows(ks, lambda r, ks: replay_votes(r.draws, orders[id(r)], ks).accuracy)
    else:
        accuracy, ks = on_rows([1], lambda r, ks: _mean_correct(r)[:, None]), [1]
    for column, k in enumerate(ks):
        columns.add(
            Configuration(
                strategy="majority", hyperparameters={"n": k, **settings}, policy_model=recorded.policy_model
            ),
            accuracy[:, column], _price(recorded, k),
        )  # fmt: skip
    if not recorded.votes:
        return
    if half >= 4:  # from too few samples a half says nothing of stopping
        voting = Voting(columns, recorded, settings, orders, on_rows)
        voting.add(ks, judged, [c for c in mine if c.samples <= n], half)
    ks = [k for k in judged if k > 1]
    for aggregation in AGGREGATIONS if recorded.draws.scores else ():
        for selection in (*SELECTIONS, "odds"):
            accuracy = on_rows(
                ks,
                lambda r, ks, a=aggregation, s=selection: (  # type: ignore[misc]
                    best_of_k(r.draws, a, ks) if s == "max" else replay_votes(r.draws, orders[id(r)], ks, a, s).accuracy
                ),
            )
            chosen = {**settings, "aggregation": aggregation}
            if selection != "odds":
                chosen["selection"] = selection
            for column, k in enumerate(ks):
                named = Configuration(
                    strategy="odds_vote" if selection == "odds" else "best_of_n", hyperparameters={"n": k, **chosen},
                    policy_model=recorded.policy_model, verifier=recorded.verifier,
                )  # fmt: skip
                columns.add(named, accuracy[:, column], _price(recorded, k, verified=True))


def _sampled_as(configuration: Configuration, settings: Mapping[str, Any]) -> bool:
    fields = configuration.hyperparameters
    return all(fields.get(name) == settings.get(name) for name in ("temperature", "top_p"))


def _carried(accuracy: Floats) -> Floats:
    """Where a problem has fewer samples than k, its value at its own number (columns stand in order of k)."""
    for column in range(1, accuracy.shape[1]):
        gap = np.isnan(accuracy[:, column])
        accuracy[gap, column] = accuracy[gap, column - 1]
    return accuracy


def _price(recorded: Recorded, k: int, *, verified: bool = False) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean prefill, decode, verifier and the 95th percentile of the total for k samples, each [P]."""
    present, sizes = recorded.draws.present, recorded.draws.counts
    once, each = recorded.prefill, recorded.decode
    verifier = np.zeros_like(once)
    if verified:
        verifier = recorded.scoring_prompt + k * masked_mean(recorded.scoring, present, sizes)
        once, each = once + np.nan_to_num(recorded.scoring_prompt), each + np.nan_to_num(recorded.scoring)
    mean = masked_mean(each, present, sizes)
    spread = np.sqrt(masked_mean((each - mean[:, None]) ** 2, present, sizes) * sizes / np.maximum(sizes - 1, 1))
    largest = np.where(present, each, 0.0).max(axis=1)
    # k fresh draws, near normal in sum; never above k times the longest one seen.
    p95 = once + np.minimum(k * mean + Z95 * np.sqrt(k) * spread, k * largest)
    return recorded.prefill, k * masked_mean(recorded.decode, present, sizes), verifier, p95


def _mean_correct(recorded: Recorded) -> Floats:
    return masked_mean(recorded.draws.correct, recorded.draws.present, recorded.draws.counts)
