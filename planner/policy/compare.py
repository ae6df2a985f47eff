"""From held-out outcomes to evaluation.json: means with intervals, paired differences, efficiency gains, the
predictor's figures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.core import stable_hash
from planner.policy.choose import FITS
from planner.policy.cost_scale import relative_log_cost
from planner.policy.evaluate import BASELINES, METHODS, HeldOut, Track
from planner.policy.statistics import (
    Resamples,
    calibration_error,
    detectable_difference,
    percentile_interval,
    rank_correlation,
    share_within,
)
from planner.policy.table import BUCKET_EDGES, bucket_of
from planner.profiling.outcomes import Outcomes

__all__ = [
    "budget_comparisons",
    "by_problem",
    "cost_figures",
    "curves",
    "efficiency",
    "gap_closed",
    "part_costs",
    "predictor_figures",
]

Floats = NDArray[np.float64]

_PREDICTOR_RESAMPLES = 200
_LEVELS = (4, 16, 64)
"""The N of a baseline whose own accuracies are the levels at which costs are compared, named beforehand."""


def budget_comparisons(held: HeldOut, outcomes: Outcomes, resamples: Resamples) -> list[dict[str, Any]]:
    """The `budgets` of evaluation.json: each method, and the policy's paired difference from it, at each of the
    table's budgets; `oracle_difficulty_gain` is what knowing each bucket gains over the best fixed strategy."""
    entries = []
    for s in range(0, len(held.budgets), 2):
        methods = {name: _method(held.tracks[name], s, held.budgets[s], outcomes, resamples) for name in METHODS}
        policy = outcomes.by_problem(held.tracks["policy"].accuracy[:, s])
        differences = {}
        for name, entry in methods.items():
            if name == "policy" or entry is None:
                continue
            differences[name] = _paired(policy - outcomes.by_problem(held.tracks[name].accuracy[:, s]), resamples)
        known = [methods["policy_oracle_difficulty"], methods["best_fixed"]]
        gain = None
        if all(known):
            one, two = (held.tracks[name].accuracy[:, s] for name in ("policy_oracle_difficulty", "best_fixed"))
            gain = _paired(outcomes.by_problem(one - two), resamples)
        multiple = held.budgets[s] / outcomes.reference_cost
        entries.append(
            {
                "budget": held.budgets[s],
                "multiple": multiple,
                "unit": outcomes.unit,
                "methods": methods,
                "differences": differences,
                "oracle_difficulty_gain": gain,
            }
        )
    return entries


def _paired(difference: Floats, resamples: Resamples) -> dict[str, Any]:
    return {
        "difference": float(difference.mean()), "ci": list(resamples.interval(difference)),
        "detectable": detectable_difference(difference),
    }  # fmt: skip


def by_problem(held: HeldOut, outcomes: Outcomes) -> dict[str, Any]:
    """The policy's held-out accuracy on each problem at each of the table's budgets, so that two policies can be
    compared on the same problems.

    `problems` are keys of id and prompt, and `thousandths` has a text for each budget with a number for each problem:
    texts, because a line for each number would be most of the file.
    """
    keys = [stable_hash(*pair)[:10] for pair in zip(outcomes.problem_ids, outcomes.prompts, strict=True)]
    rows = []
    for s in range(0, len(held.budgets), 2):
        values = outcomes.by_problem(held.tracks["policy"].accuracy[:, s])
        rows.append(" ".join(f"{1000 * v:.0f}" for v in values.tolist()))
    return {"problems": " ".join(keys), "budgets": held.budgets[::2], "thousandths": rows}


def _method(
    track: Track, setting: int, budget: float, outcomes: Outcomes, resamples: Resamples
) -> dict[str, Any] | None:
    accuracy = outcomes.by_problem(track.accuracy[:, setting])
    if np.isnan(accuracy).any():
        return None
    prefill, decode, verifier = (float(p) for p in track.parts[:, :, setting].mean(axis=1))
    top = track.plans[setting].most_common(2)
    share = top[0][1] / track.plans[setting].total()
    rows, chosen = np.arange(len(track.chosen)), track.chosen[:, setting]
    plan = top[0][0] if len(top) == 1 else f"{len(track.plans[setting])} plans, most often {top[0][0]} ({share:.0%})"
    return {
        "accuracy": float(accuracy.mean()),
        "ci": [min(max(bound, 0.0), 1.0) for bound in resamples.interval(accuracy)],
        "cost": float(track.cost[:, setting].mean()),
        "cost_parts": {
            "prefill": prefill, "decode": decode, "verifier": None if np.isnan(verifier) else verifier, "probe": 0.0,
        },
        "within_budget": share_within(track.cost[:, setting], outcomes.cost_p95[rows, chosen], budget * FITS),
        "plan": plan,
    }  # fmt: skip


def gap_closed(budgets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Share of the way from the best fixed strategy to the per-problem oracle that the policy goes, at each budget."""
    rows = []
    for entry in budgets:
        policy, fixed, oracle = (entry["methods"][m] for m in ("policy", "best_fixed", "oracle"))
        if policy and fixed and oracle and oracle["accuracy"] > fixed["accuracy"]:
            gap = oracle["accuracy"] - fixed["accuracy"]
            rows.append({"budget": entry["budget"], "value": (policy["accuracy"] - fixed["accuracy"]) / gap})
    return rows


def efficiency(held: HeldOut, outcomes: Outcomes, resamples: Resamples) -> dict[str, Any]:
    """Baseline's mean cost at its own N = 4, 16, 64 over the policy's mean cost at the same held-out accuracy.

    `cheapest` asks for the accuracy of best-of-N (of majority where there is no verifier) and takes the cheapest
    baseline that reaches it. Interpolated linearly on log-cost along each curve's running best. `lower_bound`: the
    policy is there at its smallest budget already (or, for `cheapest`, no baseline gets there). Null: the policy never
    gets there. Intervals resample problems; resamples in which the policy never gets there count as 0.
    """
    policy = _curve(held.tracks["policy"], outcomes, resamples)
    base = {name: _curve(track, outcomes, resamples) for name, track in held.at_n.items()}
    result: dict[str, Any] = {}
    for name in (*BASELINES, "cheapest"):
        leader = name if name != "cheapest" else "best_of_n" if not np.isnan(base["best_of_n"][0]).all() else "majority"
        rivals = [name] if name != "cheapest" else list(BASELINES)
        entries = []
        for n in _LEVELS:
            if n not in held.levels or np.isnan(base[leader][0][0, (s := held.levels.index(n))]):
                continue
            values = [_gain(policy, [base[r] for r in rivals] if name == "cheapest" else None, base[leader], s, b)
                      for b in range(len(policy[0]))]  # fmt: skip
            value, bound = values[0]
            draws = np.array([0.0 if v is None else v for v, _ in values[1:]])
            ci = list(percentile_interval(draws))
            level = float(base[leader][0][0, s])
            entries.append(
                {
                    "n": n,
                    "value": value,
                    "factor": value,
                    "ci": ci if value is not None else [0.0, ci[1]],
                    "at_accuracy": level,
                    "accuracy": level,
                    "lower_bound": bound,
                }
            )
        result[name] = entries or None
    return result


def _curve(track: Track, outcomes: Outcomes, resamples: Resamples) -> tuple[Floats, Floats]:
    """Accuracy and cost of each setting, [1 + B, S]: over all problems, then in each resample."""
    found = []
    for values in (track.accuracy, track.cost):
        by = outcomes.by_problem(values)
        found.append(np.concatenate((by.mean(axis=0)[None], resamples.means(by))))
    return found[0], found[1]


def _gain(
    policy: tuple[Floats, Floats],
    rivals: list[tuple[Floats, Floats]] | None,
    leader: tuple[Floats, Floats],
    s: int,
    b: int,
) -> tuple[float | None, bool]:
    target, cost = float(leader[0][b, s]), float(leader[1][b, s])
    mine, bound = _cost_at(policy[0][b], policy[1][b], target)
    if rivals is not None:
        costs = [c for r in rivals if (c := _cost_at(r[0][b], r[1][b], target)[0]) is not None]
        cost = min(costs) if costs else cost
    return (None, False) if mine is None else (cost / mine, bound)


def _cost_at(accuracy: Floats, cost: Floats, target: float) -> tuple[float | None, bool]:
    """Cost at which the curve's running best reaches the target; the flag: already at its cheapest point."""
    known = ~np.isnan(accuracy)
    order = np.argsort(cost[known], kind="stable")
    a, c = np.maximum.accumulate(accuracy[known][order]), cost[known][order]
    there = np.flatnonzero(a >= target - 1e-12)
    if not len(there):
        return None, False
    i = int(there[0])
    if i == 0:
        return float(c[0]), True
    share = (target - a[i - 1]) / (a[i] - a[i - 1])
    return float(np.exp(np.log(c[i - 1]) + share * (np.log(c[i]) - np.log(c[i - 1])))), False


def predictor_figures(held: HeldOut, outcomes: Outcomes) -> dict[str, Any]:
    """How well prompts told success on held-out problems: log loss a sample against the base rate (`log_loss_gain_ci`
    is the paired difference's), rank correlation, calibration; intervals resample problems."""
    known = (outcomes.trials > 0) & ~np.isnan(held.predicted)
    true, p, base = outcomes.pass_at_1[known], held.predicted[known], held.base[known]

    error, bins = calibration_error(p, true)
    draws = np.random.default_rng(0).integers(0, len(p), (_PREDICTOR_RESAMPLES, len(p)))
    again = [(calibration_error(p[d], true[d])[0], rank_correlation(p[d], true[d])) for d in draws]
    gain = _losses(base, true) - _losses(p, true)
    names = list(BUCKET_EDGES)
    guess = held.distribution[known].argmax(axis=1)
    confusion = {a: dict.fromkeys(names, 0) for a in names}
    for t, g in zip(bucket_of(true), guess, strict=True):
        confusion[names[t]][names[g]] += 1
    ids = np.array(outcomes.problem_ids)[known]
    scatter = [
        {"predicted": float(a), "true": float(b), "problem_id": str(i)} for a, b, i in zip(p, true, ids, strict=True)
    ]
    return {
        "bins": bins, "scatter": scatter, "log_loss": float(_losses(p, true).mean()),
        "base_log_loss": float(_losses(base, true).mean()),
        "log_loss_gain_ci": list(percentile_interval(gain[draws].mean(axis=1))),
        "spearman": rank_correlation(p, true), "spearman_ci": _interval([rank for _, rank in again]),
        "calibration_error": error, "calibration_error_ci": _interval([e for e, _ in again]), "confusion": confusion,
    }  # fmt: skip


def cost_figures(held: HeldOut, outcomes: Outcomes) -> dict[str, Any] | None:
    """How well prompts told what an answer costs, on held-out problems: rank correlation, explained share of the
    variance of log-cost, and a sample's 95th-percentile cost over its mean as it is and per unit of scale. None where
    all prompts were taken as typical."""
    costs = outcomes.sample_costs
    if not costs.shape[1] or (held.scale == 1).all():
        return None
    cost, scale = np.exp(relative_log_cost(costs)), held.scale
    error = np.log(cost) - np.log(scale)
    return {
        "spearman": rank_correlation(scale, cost), "explained": float(1 - error.var() / np.log(cost).var()),
        **{name: float(np.quantile(values, 0.95) / values.mean())
           for name, values in (("p95_over_mean", cost), ("p95_over_mean_scaled", cost / scale))},
    }  # fmt: skip


def _losses(q: Floats, true: Floats) -> Floats:
    """Log loss of predictions against success shares, of each problem."""
    q = np.clip(q, 1e-4, 1 - 1e-4)
    losses: Floats = -(true * np.log(q) + (1 - true) * np.log(1 - q))
    return losses


def _interval(draws: list[float | None]) -> list[float] | None:
    """None where a resample has none, as the rank correlation of constant predictions."""
    known = [d for d in draws if d is not None]
    return list(percentile_interval(np.array(known))) if known and len(known) == len(draws) else None


def curves(outcomes: Outcomes, resamples: Resamples) -> list[dict[str, Any]]:
    """Accuracy against N for each strategy and policy model, overall and by bucket, with its best other hyperparameters
    (best mean over N on these problems; a description, not a held-out figure)."""
    families: dict[tuple[str, str], dict[tuple[Any, ...], list[int]]] = {}
    for i, c in enumerate(outcomes.configurations):
        rest = tuple(sorted((k, v) for k, v in c.hyperparameters.items() if k not in ("n", "max_n", "chains")))
        families.setdefault((c.strategy, c.policy_model), {}).setdefault(rest, []).append(i)
    bucket = bucket_of(outcomes.difficulty.get(outcomes.reference_model, np.full(len(outcomes.problem_index), np.nan)))
    result = []
    for (strategy, model), members in sorted(families.items()):
        size = max(len(m) for m in members.values())
        longest = [m for m in members.values() if len(m) == size]
        best = max(longest, key=lambda m: float(outcomes.accuracy[:, m].mean()))
        points = [
            _point(outcomes, resamples, i, bucket)
            for i in sorted(best, key=lambda i: outcomes.configurations[i].samples)
        ]
        result.append({"label": strategy, "strategy": strategy, "policy_model": model, "points": points})
    return result


def _point(outcomes: Outcomes, resamples: Resamples, i: int, bucket: NDArray[np.int64]) -> dict[str, Any]:
    values, cost = outcomes.accuracy[:, i], outcomes.cost[:, i]
    buckets = {}
    for b, name in enumerate(BUCKET_EDGES):
        mine = bucket == b
        problems = len(np.unique(outcomes.problem_index[mine]))
        if problems < 2:
            continue
        mean = float(values[mine].mean())
        margin = 1.96 * float(values[mine].std(ddof=1)) / problems**0.5
        ci = [max(0.0, mean - margin), min(1.0, mean + margin)]
        buckets[name] = {"accuracy": mean, "ci": ci, "cost": float(cost[mine].mean()), "n": problems}
    return {
        "n": outcomes.configurations[i].samples,
        "cost": float(cost.mean()),
        "accuracy": float(values.mean()),
        "ci": list(resamples.interval(outcomes.by_problem(values))),
        "buckets": buckets,
        "plan": outcomes.configurations[i].label,
        "hyperparameters": dict(outcomes.configurations[i].hyperparameters),
        "verifier": outcomes.configurations[i].verifier,
        "parts": [float(x[:, i].mean()) for x in (outcomes.prefill, outcomes.decode, outcomes.verifier)],
    }


def part_costs(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each curve's cost by part at its largest N up to 16."""
    rows = []
    for curve in found:
        inside = [p for p in curve["points"] if p["n"] <= 16]
        if not inside:
            continue
        prefill, decode, verifier = inside[-1]["parts"]
        label = inside[-1]["plan"]
        rows.append({"label": label, "strategy": curve["strategy"], "prefill": prefill, "decode": decode,
                     "verifier": None if np.isnan(verifier) else verifier})  # fmt: skip
    return rows
