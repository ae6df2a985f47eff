"""Figures from answers and scores alone: Pass@1, buckets, AUC within problems, best-of-N against majority.

Standard errors take problems as the unit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "auc",
    "auc_pooled",
    "auc_within",
    "aucs_within",
    "curves",
    "policy_figures",
    "solve_rates",
    "standard_error",
]

Floats = NDArray[np.float64]


def standard_error(values: Sequence[float] | Floats) -> float:
    """Standard error of the mean of values in [0, 1], with one imaginary value at either end: a mean of 0 or 1 over
    few problems is not certain."""
    padded = np.append(np.asarray(values, dtype=np.float64), [0.0, 1.0])
    return float(padded.std(ddof=1) / np.sqrt(len(padded)))


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Share of (right, wrong) pairs that the scores order rightly; a tie counts half."""
    return float(_placements(positive, negative).mean())


def aucs_within(scores: Sequence[Sequence[float]], right: Sequence[Sequence[bool]]) -> list[float | None]:
    """The AUC within each problem; None where its answers are all right or all wrong."""
    return [
        auc(*_parted(row, marks)) if any(marks) and not all(marks) else None
        for row, marks in zip(scores, right, strict=True)
    ]


def auc_within(aucs: Sequence[float | None]) -> tuple[float | None, float | None, int]:
    """(mean, standard error, problems) over the problems that have an AUC; None without such problems."""
    values = [value for value in aucs if value is not None]
    if not values:
        return None, None, 0
    return float(np.mean(values)), standard_error(values), len(values)


def auc_pooled(scores: Sequence[Sequence[float]], right: Sequence[Sequence[bool]]) -> tuple[float | None, float | None]:
    """(AUC over all answers to all problems, standard error); None where all are right or all are wrong.

    The error counts a problem's answers as one cluster (Obuchowski, Biometrics 53, 1997).
    """
    parted = [_parted(row, marks) for row, marks in zip(scores, right, strict=True)]
    positive = [score for rights, _ in parted for score in rights]
    negative = [score for _, wrongs in parted for score in wrongs]
    if not positive or not negative:
        return None, None
    above = _placements(positive, negative)
    below = 1 - _placements(negative, positive)
    value, pulls = float(above.mean()), []
    at_right = at_wrong = 0
    for rights, wrongs in parted:
        pull = (above[at_right : at_right + len(rights)] - value).sum() / len(positive)
        pull += (below[at_wrong : at_wrong + len(wrongs)] - value).sum() / len(negative)
        at_right, at_wrong = at_right + len(rights), at_wrong + len(wrongs)
        pulls.append(pull)
    clusters = len(parted)
    return value, float(np.sqrt(np.square(pulls).sum() * clusters / max(1, clusters - 1)))


def _parted(row: Sequence[float], marks: Sequence[bool]) -> tuple[list[float], list[float]]:
    """(scores of right answers, scores of wrong ones)."""
    pairs = list(zip(row, marks, strict=True))
    return [score for score, mark in pairs if mark], [score for score, mark in pairs if not mark]


def _placements(scores: Sequence[float], others: Sequence[float]) -> Floats:
    """For each score the share of `others` below it; ties count half."""
    ordered, values = np.sort(np.asarray(others)), np.asarray(scores)
    both = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(both / (2 * len(ordered)), dtype=np.float64)


def policy_figures(right: Sequence[int], samples: int, families: Sequence[str]) -> dict[str, Any]:
    """Pass@1, Pass@samples, METHODS' absolute buckets and families, with standard errors.

    `right` holds each problem's number of right answers among its `samples`, `families` each problem's family.
    """
    chances = np.asarray(right, dtype=np.float64) / samples
    easy, hard = chances >= 0.5, chances < 0.1
    buckets = {
        "easy": easy.astype(np.float64),
        "medium": (~easy & ~hard).astype(np.float64),
        "hard": hard.astype(np.float64),
    }
    of = np.asarray(families)
    by_family = {family: chances[of == family] for family in dict.fromkeys(families)}
    return {
        "pass_at_1": float(chances.mean()),
        "pass_at_all": float((chances > 0).mean()),
        "buckets": {name: float(inside.mean()) for name, inside in buckets.items()},
        "families": {family: float(values.mean()) for family, values in by_family.items()},
        "standard_errors": {
            "pass_at_1": standard_error(chances),
            "buckets": {name: standard_error(inside) for name, inside in buckets.items()},
            "families": {family: standard_error(values) for family, values in by_family.items()},
        },
    }


def solve_rates(
    answers: Sequence[Sequence[str | None]],
    right: Sequence[Sequence[bool]],
    scores: Mapping[str, Sequence[Sequence[float]]],
    budgets: Sequence[int],
    *,
    seed: int = 0,
) -> dict[str, Floats]:
    """Each problem's chance (budgets, problems) to be solved by majority and, with each rule of `scores`, by plain
    and weighted best-of-n, over random subsets of its samples.

    Every rule sees the same subsets. A sample without an answer never votes and is chosen only where all are such.
    """
    orders = max(8, 640 // len(answers[0]))
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
    return {name: table / orders for name, table in solved.items()}


def curves(solved: dict[str, Floats], budgets: Sequence[int], *, seed: int = 0) -> dict[str, Any]:
    """Mean accuracy at each of `budgets`, and each rule's paired difference to majority there with a 95 % interval
    that resamples problems; `solved` is what `solve_rates` gives.

    `falls` is, for each plain best-of-n, how far the largest budget lies below the best one, likewise; which one is the
    best is told, for each problem, by the other half of the problems, so that luck in choosing it does not count.
    """
    problems = solved["majority"].shape[1]
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, problems, (2000, problems))

    def interval(difference: Floats) -> dict[str, float]:
        low, high = np.quantile(difference[picks].mean(1), [0.025, 0.975])
        return {"mean": float(difference.mean()), "low": float(low), "high": float(high)}

    gains, falls = {}, {}
    for name, table in solved.items():
        if name == "majority":
            continue
        gains[name] = [interval(row) for row in table - solved["majority"]]
        if name.startswith("best:"):
            halves = [table[:, 1::2].mean(1).argmax(), table[:, ::2].mean(1).argmax()] if problems > 1 else [0]
            peaks = np.resize(halves, problems)
            fall = table[-1] - table[peaks, np.arange(problems)]
            falls[name] = {"best_n": budgets[int(table.mean(1).argmax())], **interval(fall)}
    return {
        "n": list(budgets),
        "accuracy": {name: [float(v) for v in table.mean(1)] for name, table in solved.items()},
        "gain_over_majority": gains,
        "falls": falls,
    }
