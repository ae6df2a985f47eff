"""A small model that thinks longer against a larger one's single answer, at equal total FLOPs (METHODS section 4).

With R inference tokens for each token of training, a model with M times fewer parameters may spend
k = M + 3 (M - 1) / R times its own single-sample inference. What it spends them on is chosen on other problems than
those that report it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.policy.difficulty import make_folds
from planner.policy.statistics import Resamples, shrink
from planner.policy.table import BUCKET_EDGES, bucket_of
from planner.profiling.outcomes import Outcomes

__all__ = ["RATIOS", "allowance", "size_comparisons"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RATIOS = (0.16, 0.79, 22.0)
"""R as in Snell et al.: rarely asked, as much as trained, asked very often."""


def allowance(times: float, ratio: float) -> float:
    """How many times its own single-sample inference a model may spend that is `times` smaller, at R = `ratio`."""
    return times + 3 * (times - 1) / ratio


def size_comparisons(
    outcomes: Outcomes, parameters: Mapping[str, float], resamples: Resamples, *,
    ratios: Sequence[float | None] = RATIOS, folds: int = 5, seed: int = 0,
) -> list[dict[str, Any]]:  # fmt: skip
    """For each pair of policy models (the smaller against the next larger and against the largest), each R and each
    bucket ("all" too): both accuracies on held-out problems and their paired difference with a 95 % interval.

    `parameters` names each policy model's; models without are left out. Policy models of one size are one model asked
    in several ways (by effort, by a verifier's pick): its plans. An R of None asks at equal cost of the answers alone,
    as a price list has it. The larger model gives its single answer: greedy, or one sample.
    """
    singles = {m: i for m in parameters if (i := _single(outcomes, m)) is not None}
    single_cost = {m: float(outcomes.cost[:, i].mean()) for m, i in singles.items()}
    families: dict[float, list[str]] = {}
    for model in sorted(singles, key=lambda m: (parameters[m], single_cost[m])):
        families.setdefault(parameters[model], []).append(model)
    order = list(families.values())
    pairs = [
        (a, b) for at, a in enumerate(order) for b in order[at + 1 : at + 2] + order[max(at + 2, len(order) - 1) :]
    ]
    fold = make_folds(len(outcomes.problem_ids), folds, seed=seed)[outcomes.problem_index]
    rows = len(outcomes.problem_index)
    bucket = bucket_of(outcomes.difficulty.get(outcomes.reference_model, np.full(rows, np.nan)))
    found = []
    for smaller, (large, *_) in pairs:
        small = smaller[0]
        times, own, rival = parameters[large] / parameters[small], single_cost[small], single_cost[large]
        for ratio in ratios:
            k = rival / own if ratio is None else allowance(times, ratio)
            chosen = _choose(outcomes, smaller, k * own, fold, bucket)
            for b, name in ((-1, "all"), *enumerate(BUCKET_EDGES)):
                mine = np.ones(rows, bool) if b < 0 else bucket == b
                if len(np.unique(outcomes.problem_index[mine])) < 2:
                    continue
                entry = _compared(outcomes, chosen, singles[small], singles[large], mine, resamples)
                found.append(
                    {"small": small, "large": large, "times": times, "r": ratio, "allowed": k, "bucket": name} | entry
                )
    return found


def _single(outcomes: Outcomes, model: str) -> int | None:
    """The model's cheapest configuration of a single sample, greedy where it has one."""
    mine = [i for i, c in enumerate(outcomes.configurations) if c.policy_model == model and c.samples == 1]
    mine = [i for i in mine if outcomes.configurations[i].verifier is None] or mine
    greedy = [i for i in mine if outcomes.configurations[i].strategy == "greedy"]
    return min(greedy or mine, key=lambda i: float(outcomes.cost[:, i].mean()), default=None)


def _choose(outcomes: Outcomes, models: Sequence[str], most: float, fold: Ints, bucket: Ints) -> Ints:
    """The models' best configuration for each row among those whose mean cost is at most `most`, by the other folds'
    rows of its bucket, shrunk toward all of them; [R]."""
    mine = np.array([i for i, c in enumerate(outcomes.configurations) if c.policy_model in models])
    cost = outcomes.cost[:, mine].mean(axis=0)
    fits = mine[cost <= most * (1 + 1e-9)]
    if not len(fits):
        fits = mine[[int(cost.argmin())]]
    fits = fits[np.argsort(outcomes.cost[:, fits].mean(axis=0), kind="stable")]  # ties go to the cheaper
    chosen = np.empty(len(fold), np.int64)
    value, copies = outcomes.accuracy[:, fits], len(outcomes.problem_index) // len(outcomes.problem_ids)
    for f in range(int(fold.max()) + 1):
        overall = value[fold != f].mean(axis=0)
        for b in np.unique(bucket[fold == f]).tolist():
            seen = value[(fold != f) & (bucket == b)]
            estimate, _ = shrink(seen, np.full(len(seen), 1 / copies), overall)
            chosen[(fold == f) & (bucket == b)] = fits[int(estimate.argmax())]
    return chosen


def _compared(
    outcomes: Outcomes, chosen: Ints, own: int, rival: int, mine: NDArray[np.bool_], resamples: Resamples
) -> dict[str, Any]:
    rows = np.flatnonzero(mine)
    small, large = outcomes.accuracy[rows, chosen[rows]], outcomes.accuracy[rows, rival]
    problems = len(outcomes.problem_ids)
    sums, counts = np.zeros(problems), np.zeros(problems)
    np.add.at(sums, outcomes.problem_index[rows], small - large)
    np.add.at(counts, outcomes.problem_index[rows], 1.0)
    plans = Counter(outcomes.configurations[i].label for i in chosen[rows].tolist())
    return {
        "problems": int((counts > 0).sum()),
        "small_accuracy": float(small.mean()), "large_accuracy": float(large.mean()),
        "difference": float((small - large).mean()), "ci": list(resamples.ratio_interval(sums, counts)),
        "spent": float(outcomes.cost[rows, chosen[rows]].mean() / outcomes.cost[rows, own].mean()),
        "plan": plans.most_common(1)[0][0],
    }  # fmt: skip
