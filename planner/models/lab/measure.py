"""Figures from answers and scores alone: Pass@1, buckets, AUC within problems, best-of-N against majority."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["auc", "auc_within", "best_of_n_and_majority", "buckets"]

Floats = NDArray[np.float64]


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Share of (right, wrong) pairs that the scores order rightly; a tie counts half."""
    ordered = np.sort(np.asarray(negative))
    right = np.asarray(positive)
    below = np.searchsorted(ordered, right, "left") + np.searchsorted(ordered, right, "right")
    return float(below.mean() / 2 / len(ordered))


def auc_within(scores: Sequence[Sequence[float]], right: Sequence[Sequence[bool]]) -> tuple[float, float, int]:
    """(mean, standard error, problems) of the AUC within each problem that has right and wrong answers."""
    values = [
        auc(
            [s for s, ok in zip(row, marks, strict=True) if ok], [s for s, ok in zip(row, marks, strict=True) if not ok]
        )
        for row, marks in zip(scores, right, strict=True)
        if any(marks) and not all(marks)
    ]
    if not values:
        return float("nan"), float("nan"), 0
    return float(np.mean(values)), float(np.std(values) / np.sqrt(len(values))), len(values)


def buckets(pass_at_1: Floats) -> dict[str, float]:
    """Shares of problems in METHODS' absolute buckets."""
    return {
        "easy": float((pass_at_1 >= 0.5).mean()),
        "medium": float(((pass_at_1 >= 0.1) & (pass_at_1 < 0.5)).mean()),
        "hard": float((pass_at_1 < 0.1).mean()),
    }


def best_of_n_and_majority(
    answers: Sequence[Sequence[str | None]],
    right: Sequence[Sequence[bool]],
    scores: dict[str, Sequence[Sequence[float]]],
    budgets: Sequence[int],
    *,
    orders: int = 40,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy of majority and, by each rule of `scores`, of plain and weighted best-of-n over random subsets.

    Every rule sees the same subsets. `gain` is the paired difference to majority at the largest budget with a 95 %
    interval that resamples problems. A sample without an answer never votes and is chosen only where all are such.
    """
    names = ["majority"] + [f"{kind}:{rule}" for rule in scores for kind in ("best", "weighted")]
    solved = {name: np.zeros((len(budgets), len(answers))) for name in names}
    rng = np.random.default_rng(seed)
    for problem, (given, marks) in enumerate(zip(answers, right, strict=True)):
        for _ in range(orders):
            order = rng.permutation(len(given))
            for place, budget in enumerate(budgets):
                drawn = [i for i in order[:budget] if given[i] is not None]
                if not drawn:
                    continue
                correct = {given[i]: marks[i] for i in drawn}
                votes = Counter(given[i] for i in drawn)
                solved["majority"][place, problem] += correct[votes.most_common(1)[0][0]]
                for rule, table in scores.items():
                    row = table[problem]
                    solved[f"best:{rule}"][place, problem] += marks[max(drawn, key=lambda i: row[i])]
                    weights: dict[str | None, float] = {}
                    for i in drawn:
                        weights[given[i]] = weights.get(given[i], 0.0) + row[i]
                    solved[f"weighted:{rule}"][place, problem] += correct[max(weights, key=lambda a: weights[a])]
    for name in names:
        solved[name] /= orders
    picks = rng.integers(0, len(answers), (2000, len(answers)))
    gains = {}
    for name in names[1:]:
        difference = solved[name][-1] - solved["majority"][-1]
        low, high = np.quantile(difference[picks].mean(1), [0.025, 0.975])
        gains[name] = {"mean": float(difference.mean()), "low": float(low), "high": float(high)}
    return {
        "n": list(budgets),
        "accuracy": {name: [float(v) for v in table.mean(1)] for name, table in solved.items()},
        "gain_over_majority": gains,
    }
