"""From outcomes to a policy: which plans it holds, what each gives in each bucket, and the table of cells.

Everything here sees only the problems it is given, so that cross-validation can repeat all of it on each training part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from planner.policy.choose import TIE, PlanTable
from planner.policy.masks import unfit
from planner.policy.search import front, search
from planner.policy.space import Space, mask
from planner.policy.statistics import cost_percentile, paired_p_value, shrink
from planner.profiling.outcomes import Outcomes

if TYPE_CHECKING:
    from planner.policy.predictor import DifficultyPredictor

__all__ = [
    "BUCKET_EDGES",
    "Fitted",
    "accuracy_cell",
    "bucket_of",
    "budget_grid",
    "by_problem",
    "fit_plans",
    "masked_plans",
    "plan_documents",
    "plan_table",
    "table_document",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BUCKET_EDGES: Mapping[str, tuple[float, float]] = {"hard": (0.0, 0.1), "medium": (0.1, 0.5), "easy": (0.5, 1.0)}
"""Pass@1 of the reference model, [low, high), the last one closed (Liu et al., arXiv 2502.06703)."""

_MOST_PLANS = 40
_SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What was learned from some problems. C configurations, B buckets in the order of BUCKET_EDGES.

    `plans` are configuration indices, by rising cost. `raw` and `shrunk` accuracy, `error` (standard error of raw) and
    `p95` are [B, C]; `parts` [3, B, C] is prefill, decode, verifier. Costs of buckets are those of a prompt of cost
    scale 1; the `overall_*` are over all problems as they are. `p95` is such that, averaged over a foretold
    distribution and times the foretold scale, it is not exceeded by 95 % of runs; `known_p95` [B, C] is what suffices
    where the bucket is known. `counts` [B] are problems; `values` holds each bucket's outcomes [problems, C] for paired
    tests.
    """

    plans: tuple[int, ...]
    raw: Floats
    shrunk: Floats
    error: Floats
    parts: Floats
    p95: Floats
    known_p95: Floats
    overall: Floats
    overall_error: Floats
    overall_parts: Floats
    overall_p95: Floats
    counts: Floats
    values: tuple[Floats, ...]

    @property
    def cost(self) -> Floats:
        """[B, C]"""
        total: Floats = np.nansum(self.parts, axis=0)
        return total

    @property
    def overall_cost(self) -> Floats:
        total: Floats = np.nansum(self.overall_parts, axis=0)
        return total

    def best_fixed(self, budget: float, allowed: NDArray[np.bool_] | None = None) -> int | None:
        """The configuration that is best over all problems among those whose 95th percentile fits; cheaper on ties."""
        fits = (self.overall_p95 <= budget) & (True if allowed is None else allowed)
        members = np.flatnonzero(fits)
        if not len(members):
            return None
        return int(min(members, key=lambda i: (-round(float(self.overall[i]), 9), self.overall_cost[i])))

    def cell(self, bucket: int, budget: float) -> dict[str, Any] | None:
        """The plan for one bucket and budget, None where none fits.

        The cheapest plan near the best shrunk accuracy; the best fixed plan instead where the gain over it is not
        significant (paired over the bucket's problems).
        """
        plans = np.array(self.plans)
        fits = plans[self.p95[bucket, plans] <= budget]
        if not len(fits):
            return None
        value = self.shrunk[bucket, fits]
        near = fits[value >= value.max() - TIE]
        chosen = int(near[np.argmin(self.cost[bucket, near])])
        # The best over all problems among the plans that fit in this bucket: what one would do not knowing the bucket.
        fixed = int(fits[np.argmax(self.overall[fits])])
        fallback = chosen != fixed and self._p_value(bucket, chosen, fixed) > _SIGNIFICANT
        if fallback:
            chosen = fixed
        others = fits[fits != chosen]
        runner = int(others[np.argmax(self.shrunk[bucket, others])]) if len(others) else None
        return {
            "configuration": chosen,
            "fallback": fallback,
            "runner_up": runner,
            "gap": None if runner is None else float(self.shrunk[bucket, chosen] - self.shrunk[bucket, runner]),
            "gap_p": None if runner is None else self._p_value(bucket, chosen, runner),
        }

    def named_from(self) -> dict[int, float]:
        """Each plan's smallest budget at which it is some bucket's plan (of a typical prompt) or the best fixed one (of
        all problems as they are); without those that never are. What fits changes only at the plans' own 95th
        percentiles."""
        plans = np.array(self.plans)
        allowed = np.zeros(len(self.overall), dtype=bool)
        allowed[plans] = True
        found: dict[int, float] = {}
        for bucket in range(len(self.p95)):
            best = -np.inf
            for budget in np.unique(self.p95[bucket, plans]).tolist():
                cell = self.cell(bucket, budget)
                assert cell is not None
                i = cell["configuration"]
                if self.shrunk[bucket, i] >= best - TIE:
                    found[i] = min(found.get(i, np.inf), budget)
                    best = float(self.shrunk[bucket, i])
        for budget in np.unique(self.overall_p95[plans]).tolist():
            fixed = self.best_fixed(budget, allowed)
            assert fixed is not None
            found[fixed] = min(found.get(fixed, np.inf), budget)
        return found

    def _p_value(self, bucket: int, better: int, other: int) -> float:
        values = self.values[bucket]
        return paired_p_value(values[:, better] - values[:, other])


def bucket_of(difficulty: Floats) -> Ints:
    """Index of each Pass@1's bucket, -1 where it is unknown."""
    lows = [low for low, _ in BUCKET_EDGES.values()]
    found: Ints = np.where(np.isnan(difficulty), -1, np.searchsorted(lows, difficulty, side="right") - 1)
    return found


def budget_grid(outcomes: Outcomes) -> list[float]:
    """Multiples 1, 2, 4, ... of the reference cost, from the first that any plan fits to the one that fits every
    plan."""
    p95 = cost_percentile(outcomes.cost, outcomes.cost_p95)
    # A little room, so that the cheapest plan fits on every training part too.
    low = max(0, math.ceil(math.log2(max(1.1 * float(p95.min()) / outcomes.reference_cost, 1.0)) - 1e-9))
    high = max(low, math.ceil(math.log2(float(p95.max()) / outcomes.reference_cost) - 1e-9))
    return [2.0**i for i in range(low, high + 1)]


def fit_plans(
    outcomes: Outcomes, problems: Ints, budgets: list[float], *, trials: int, seed: int, verifier: str | None,
    predictor: DifficultyPredictor | None = None,
) -> Fitted:  # fmt: skip
    """Search each bucket's front on these problems (indices), measure every configuration there, and keep at most 40
    plans. What `predictor`, fitted on the same problems, foretold of each without it decides what a plan must be
    expected to cost (None: nothing is foretold)."""
    rows = np.flatnonzero(np.isin(outcomes.problem_index, problems))
    accuracy, cost, p95 = outcomes.accuracy[rows], outcomes.cost[rows], outcomes.cost_p95[rows]
    parts = np.stack([outcomes.prefill[rows], outcomes.decode[rows], outcomes.verifier[rows]])
    per_scale = 1 / _foretold(outcomes, problems, None if predictor is None else predictor.oof_scale_, 1.0)[rows, None]
    bucket = bucket_of(outcomes.difficulty.get(outcomes.reference_model, np.full(len(outcomes.problem_index), np.nan)))[
        rows
    ]
    copies = len(outcomes.problem_index) // len(outcomes.problem_ids)
    overall = accuracy.mean(axis=0)
    raw, shrunk, error, bucket_p95, counts, values = [], [], [], [], [], []
    bucket_parts = []
    for b in range(len(BUCKET_EDGES)):
        mine = bucket == b
        enough = mine.any()
        weight = np.full(int(mine.sum()), 1.0 / copies)
        estimate, standard_error = (
            shrink(accuracy[mine], weight, overall) if enough else shrink(accuracy[:0], np.zeros(0), overall)
        )
        raw.append(accuracy[mine].mean(axis=0) if enough else overall)
        shrunk.append(estimate)
        error.append(standard_error)
        these = mine if enough else np.ones(len(mine), dtype=bool)
        relative = per_scale[these]
        bucket_p95.append(cost_percentile(cost[these] * relative, p95[these] * relative))
        bucket_parts.append((parts[:, these] * relative).mean(axis=1))
        counts.append(float(weight.sum()))
        values.append(by_problem(accuracy[mine], outcomes.problem_index[rows][mine]))
    known_p95 = np.stack(bucket_p95)
    shares = np.array(counts) / sum(counts) if sum(counts) else np.full(len(counts), 1 / len(counts))
    told = None if predictor is None else predictor.oof_distribution(BUCKET_EDGES)
    foretold = _foretold(outcomes, problems, told, shares)[rows] @ known_p95 / per_scale
    # A mixture's 95th percentile is not the mixture of its parts', and predictions err: what 95 % of runs keep within.
    ratios = (np.divide(x, foretold, out=np.ones_like(x), where=foretold > 0) for x in (cost, p95))
    margin = cost_percentile(*ratios)
    fitted = Fitted(
        plans=(), raw=np.stack(raw), shrunk=np.stack(shrunk), error=np.stack(error),
        parts=np.stack(bucket_parts, axis=1),
        p95=known_p95 * margin, known_p95=known_p95,
        overall=overall, overall_parts=parts.mean(axis=1), overall_p95=cost_percentile(cost, p95),
        overall_error=by_problem(accuracy, outcomes.problem_index[rows]).std(axis=0) / max(len(problems), 1) ** 0.5,
        counts=np.array(counts), values=tuple(values),
    )  # fmt: skip
    usable = mask(outcomes.configurations, verifier=verifier)
    masked = masked_plans(outcomes, problems)
    return _with_plans(fitted, outcomes, budgets, trials, seed, [i for i in usable if i not in masked])


def _foretold(outcomes: Outcomes, problems: Ints, values: Floats | None, otherwise: Any) -> Floats:
    """`values` [len(problems), ...] of these problems on the rows of the outcomes, [R, ...]."""
    each = np.full((len(outcomes.problem_ids), *np.shape(otherwise)), otherwise, np.float64)
    if values is not None:
        each[problems] = values
    found: Floats = each[outcomes.problem_index]
    return found


def masked_plans(outcomes: Outcomes, problems: Ints) -> dict[int, str]:
    """Configurations that these problems (indices) show the verifier to be too noisy for, with the reason."""
    rows = np.isin(outcomes.problem_index, problems)
    accuracy = outcomes.accuracy[rows]
    unknown = np.full(len(outcomes.problem_index), np.nan)
    bucket = bucket_of(outcomes.difficulty.get(outcomes.reference_model, unknown))[rows]
    means = [accuracy[bucket == b].mean(axis=0) for b in range(len(BUCKET_EDGES)) if (bucket == b).any()]
    values = by_problem(accuracy, outcomes.problem_index[rows])
    return unfit(outcomes.configurations, values, outcomes.cost[rows].mean(axis=0), means)


def by_problem(values: Floats, problem: Ints) -> Floats:
    """Means over the rows of each problem, [problems, C]: tests must not count a halved problem twice."""
    if not len(values):
        return values
    _, place, counts = np.unique(problem, return_inverse=True, return_counts=True)
    total = np.zeros((len(counts), values.shape[1]))
    np.add.at(total, place, values)
    mean: Floats = total / counts[:, None]
    return mean


def _with_plans(
    fitted: Fitted, outcomes: Outcomes, budgets: list[float], trials: int, seed: int, members: list[int]
) -> Fitted:
    space = Space(outcomes.configurations, members)
    wanted: dict[int, None] = {}

    def want(members: list[int]) -> None:
        wanted.update(dict.fromkeys(members))

    strategy = np.array([c.strategy for c in outcomes.configurations])
    cheapest = int(np.argmin(fitted.overall_p95))
    want([cheapest, *np.flatnonzero(strategy == "greedy").tolist()])
    fronts = []
    for b in range(len(BUCKET_EDGES)):
        tried = search(space, fitted.shrunk[b], fitted.cost[b], trials=trials, seed=seed + b)
        fronts.append(front(tried, fitted.shrunk[b], fitted.p95[b]))
    fixed = [fitted.best_fixed(budget) for budget in budgets]
    # The best fixed one for every budget first, then the best of each bucket, then what is left of the fronts.
    want([i for i in fixed if i is not None])
    for budget in reversed(budgets):
        for b, members in enumerate(fronts):
            want([i for i in members if fitted.p95[b, i] <= budget][-1:])
    for name in ("majority", "best_of_n"):
        last = fitted.best_fixed(budgets[-1], strategy == name)
        want([] if last is None else [last])
    for step in range(max((len(m) for m in fronts), default=0)):
        for members in fronts:
            want(members[len(members) - 1 - step : len(members) - step])
    plans = sorted(list(wanted)[:_MOST_PLANS], key=lambda i: fitted.overall_cost[i])
    return replace(fitted, plans=tuple(plans))


def plan_documents(fitted: Fitted, outcomes: Outcomes) -> list[dict[str, Any]]:
    """The plans as policy.json has them; accuracies are the shrunk ones with 95 % intervals."""
    documents, named = [], fitted.named_from()
    for i in fitted.plans:
        c = outcomes.configurations[i]
        accuracy, cost = {}, {}
        for b, name in enumerate(BUCKET_EDGES):
            accuracy[name] = accuracy_cell(fitted.shrunk[b, i], fitted.error[b, i], fitted.counts[b])
            cost[name] = _cost(fitted.parts[:, b, i], fitted.p95[b, i]) | {"known_p95": float(fitted.known_p95[b, i])}
        documents.append(
            {
                "strategy": c.strategy,
                "hyperparameters": dict(c.hyperparameters),
                "policy_model": c.policy_model,
                "verifier": c.verifier,
                "named_from": named.get(i),
                "accuracy": accuracy,
                "cost": cost,
                "overall": {
                    "accuracy": accuracy_cell(fitted.overall[i], fitted.overall_error[i], fitted.counts.sum()),
                    "cost": _cost(fitted.overall_parts[:, i], fitted.overall_p95[i]),
                },
            }
        )
    return documents


def table_document(fitted: Fitted, budgets: list[float], reference_cost: float) -> list[dict[str, Any]]:
    """The table as policy.json has it: plan indices for each budget and bucket, accuracy never falling with budget."""
    place = {configuration: index for index, configuration in enumerate(fitted.plans)}
    rows: list[dict[str, Any]] = []
    before: dict[str, dict[str, Any]] = {}
    for budget in budgets:
        cells = {}
        for b, name in enumerate(BUCKET_EDGES):
            cell = fitted.cell(b, budget)
            if cell is None:
                continue
            i = cell.pop("configuration")
            level = accuracy_cell(fitted.shrunk[b, i], fitted.error[b, i], fitted.counts[b])
            runner = cell["runner_up"]
            entry = {
                "plan": place[i], **cell, "runner_up": None if runner is None else place[runner],
                "accuracy": level["value"], "low": level["low"], "high": level["high"],
                "cost": float(fitted.cost[b, i]),
            }  # fmt: skip
            # More budget never buys less: what fitted a smaller one fits this one.
            if name in before and entry["accuracy"] < before[name]["accuracy"] - TIE:
                entry = before[name]
            cells[name] = before[name] = entry
        plans = np.array(fitted.plans)
        allowed = np.zeros(len(fitted.overall), dtype=bool)
        allowed[plans] = True
        fixed = fitted.best_fixed(budget, allowed)
        rows.append(
            {"budget": budget, "multiple": budget / reference_cost, "cells": cells,
             "best_fixed": None if fixed is None else place[fixed]}
        )  # fmt: skip
    return rows


def plan_table(fitted: Fitted, outcomes: Outcomes, budgets: list[float]) -> PlanTable:
    """What `choose` would read of a policy with these plans and rows."""
    document = {
        "bucket_edges": {name: list(edges) for name, edges in BUCKET_EDGES.items()},
        "plans": plan_documents(fitted, outcomes),
        "table": table_document(fitted, budgets, outcomes.reference_cost),
    }
    return PlanTable.from_document(document)


def accuracy_cell(value: float, error: float, n: float) -> dict[str, Any]:
    """An accuracy as policy.json has it: with its 95 % interval and the number of problems."""
    low, high = max(0.0, value - 1.96 * error), min(1.0, value + 1.96 * error)
    return {"value": float(np.clip(value, 0, 1)), "low": float(low), "high": float(high), "n": round(float(n))}


def _cost(parts: Floats, p95: float) -> dict[str, Any]:
    prefill, decode, verifier = (float(x) for x in parts)
    known = None if math.isnan(verifier) else verifier
    return {
        "policy": prefill + decode,
        "verifier": known,
        "probe": 0.0,
        "total": prefill + decode + (known or 0.0),
        "p95": float(p95),
    }
