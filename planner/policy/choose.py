"""The choice itself: one plan for each prompt, from a distribution over difficulty and a policy's table. Pure numpy.

The evaluation calls the same function as `Planner.choose`, so what is reported is what is done.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import PolicyError

__all__ = ["FITS", "HOPELESS", "TIE", "VOTING", "Choice", "PlanTable", "choose_one", "choose_plans", "mean_over"]

TIE = 0.002
"""Expected accuracies closer than this are a tie, which goes to the cheapest plan."""
HOPELESS = 0.02
"""Where no plan is expected to be right more often than this, the cheapest plan is chosen."""
_CHUNK = 8192
FITS = 1 + 2e-8
"""A policy's numbers have nine digits: 4 x its reference cost must still be the budget that it calls 4x."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PlanTable:
    """A policy's C plans over B buckets and its R table rows as arrays, in the policy's unit for a prompt of cost scale
    1.

    `accuracy`, `low`, `high`, `cost`, `p95` are [C, B] (a bucket without measurement takes the plan's overall figure),
    as is `known_p95`, which suffices for those who know the bucket;
    `seconds` (mean) and `seconds_p99` are [C, B], NaN where unknown; `parts` [C, B, 3] is cost by policy model,
    verifier and probe; `budgets` [R] rises; `named_from` [C] is the budget from which on a plan is a candidate: the
    first at which it is a cell's plan, which stands where a gain was significant, or the best fixed one (NaN: never;
    without rows every plan is one at any budget). `cells` [R, B] is the plan of each cell, `fallback` [R, B]
    whether it is the best fixed one for want of significance; `best_fixed` [R], -1 unknown; `votes` [C] whether a plan
    counts votes over answers.
    """

    buckets: tuple[str, ...]
    accuracy: Floats
    low: Floats
    high: Floats
    cost: Floats
    parts: Floats
    p95: Floats
    known_p95: Floats
    seconds: Floats
    seconds_p99: Floats
    budgets: Floats
    named_from: Floats
    cells: NDArray[np.int64]
    fallback: NDArray[np.bool_]
    best_fixed: NDArray[np.int64]
    votes: NDArray[np.bool_]

    @cached_property
    def by_bucket(self) -> Floats:
        """[B, 3, C]: accuracy, cost and p95 of every plan in each bucket, side by side."""
        return np.ascontiguousarray(np.stack([self.accuracy, self.cost, self.p95]).transpose(2, 0, 1))

    @cached_property
    def _named(self) -> list[float]:
        named: list[float] = self.named_from.tolist()
        return named

    @cached_property
    def _steps(self) -> list[float]:
        steps: list[float] = self.budgets.tolist()
        return steps

    def row(self, budget: float) -> int:
        """The table's row for a budget: the last one within it, -1 when even the first is dearer."""
        return bisect_right(self._steps, budget * FITS) - 1

    @classmethod
    def from_document(cls, policy: Mapping[str, Any], *, where: str = "policy.json") -> PlanTable:
        """From the JSON of policy.json. Raises PolicyError naming what is missing or not a number."""
        try:
            return cls._read(policy)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise PolicyError(f"damaged ({error!r})", where=where, hint="Fit the policy again") from error

    @classmethod
    def _read(cls, policy: Mapping[str, Any]) -> PlanTable:
        buckets = tuple(policy["bucket_edges"])
        plans = policy["plans"]
        if not plans:
            raise ValueError("no plans")

        def column(kind: str, key: str, *, default: float = np.nan) -> Floats:
            rows = []
            for plan in plans:
                overall = (plan.get("overall") or {}).get(kind) or {}
                cells = [plan[kind].get(bucket) or {} for bucket in buckets]
                rows.append([_number(cell.get(key), _number(overall.get(key), default)) for cell in cells])
            return np.array(rows)

        accuracy, cost = column("accuracy", "value"), column("cost", "total")
        p95 = column("cost", "p95")
        p95 = np.where(np.isnan(p95), cost, p95)
        known_p95 = column("cost", "known_p95")
        if np.isnan(accuracy).any() or np.isnan(cost).any():
            raise ValueError("a plan without accuracy or cost in some bucket and overall")
        low, high = column("accuracy", "low"), column("accuracy", "high")
        table = sorted(policy["table"], key=lambda row: float(row["budget"]))
        cells = np.full((len(table), len(buckets)), -1)
        fallback = np.zeros(cells.shape, np.bool_)
        best_fixed = np.full(len(table), -1)
        budgets = np.array([float(row["budget"]) for row in table])
        named_from = np.full(len(plans), np.inf if len(table) else -np.inf)
        for r, row in enumerate(table):
            best_fixed[r] = -1 if row.get("best_fixed") is None else row["best_fixed"]
            for b, bucket in enumerate(buckets):
                cell = row["cells"].get(bucket) or {}
                cells[r, b] = best_fixed[r] if cell.get("plan") is None else cell["plan"]
                fallback[r, b] = bool(cell.get("fallback", False))
            named = np.array([*cells[r], best_fixed[r]])
            if named.max() >= len(plans):
                raise ValueError(f"row {r} of the table names plan {named.max()} of {len(plans)}")
            named = named[named >= 0]
            named_from[named] = np.minimum(named_from[named], budgets[r])
        # Between rows, as far as the policy tells.
        named_from = np.fmin(named_from, [_number(plan.get("named_from"), np.nan) for plan in plans])
        named_from[np.isposinf(named_from)] = np.nan  # within no budget, however large
        parts = np.stack([column("cost", key, default=0.0) for key in ("policy", "verifier", "probe")], axis=2)
        # Where only totals are known, all of it is the policy model's.
        parts[:, :, 0] = np.where(parts.sum(2) > 0, parts[:, :, 0], cost)
        return cls(
            buckets,
            accuracy,
            np.where(np.isnan(low), accuracy, low),
            np.where(np.isnan(high), accuracy, high),
            cost,
            parts,
            p95,
            np.where(np.isnan(known_p95), p95, known_p95),
            _seconds(plans, buckets, "mean"),
            _seconds(plans, buckets, "p99"),
            budgets,
            named_from,
            cells,
            fallback,
            best_fixed,
            np.array([_is_vote(plan) for plan in plans]),
        )


def _seconds(plans: list[Mapping[str, Any]], buckets: tuple[str, ...], key: str) -> Floats:
    found = [plan.get("seconds") or {} for plan in plans]
    return np.array([[_number((entry.get(bucket) or {}).get(key), np.nan) for bucket in buckets] for entry in found])


VOTING = frozenset({"majority", "adaptive_majority", "arbitrated_majority", "odds_vote", "confidence_vote"})


def _is_vote(plan: Mapping[str, Any]) -> bool:
    return plan["strategy"] in VOTING or (plan.get("hyperparameters") or {}).get("selection") == "vote"


def _number(value: Any, default: float) -> float:
    return default if value is None else float(value)


@dataclass(frozen=True, slots=True)
class Choice:
    """For P prompts: `plan` [P] (-1 where none fits), its expected accuracy, mean and 95th-percentile cost [P] (NaN
    where none), and `hopeless` [P]."""

    plan: NDArray[np.int64]
    expected_accuracy: Floats
    expected_cost: Floats
    p95: Floats
    hopeless: NDArray[np.bool_]


def choose_plans(
    table: PlanTable,
    distribution: Floats,
    budget: float | Floats,
    *,
    allowed: NDArray[np.bool_] | None = None,
) -> Choice:
    """Choose for each row of `distribution` [P, B] under `budget` (one for all, or [P]; the policy's unit, over the
    prompt's cost scale).

    METHODS section 7: of the plans whose 95th-percentile cost, averaged over the distribution, is within the budget,
    the one with the highest expected accuracy; ties within `TIE` to the cheapest. Candidates are the plans that are
    named at budgets within this one, so that what was not significant while fitting is not chosen here by the
    back door; where none of those fits (a budget below the table), every plan is a candidate. `allowed` [C], or
    [P, C] for each prompt, leaves plans out.
    """
    prompts = len(distribution)
    budgets = np.broadcast_to(np.asarray(budget, np.float64), (prompts,))
    if prompts <= _CHUNK:
        return _choose(table, distribution, budgets, allowed)
    pieces = [
        _choose(table, distribution[i : i + _CHUNK], budgets[i : i + _CHUNK], _rows(allowed, i, i + _CHUNK))
        for i in range(0, prompts, _CHUNK)
    ]
    fields = ("plan", "expected_accuracy", "expected_cost", "p95", "hopeless")
    return Choice(*(np.concatenate([getattr(piece, name) for piece in pieces]) for name in fields))


def _rows(allowed: NDArray[np.bool_] | None, start: int, end: int) -> NDArray[np.bool_] | None:
    return allowed if allowed is None or allowed.ndim == 1 else allowed[start:end]


def choose_one(table: PlanTable, distribution: Floats, budget: float, allowed: NDArray[np.bool_] | None = None) -> int:
    """`choose_plans(...).plan` for a single prompt's distribution [B]: the same steps without arrays of prompts."""
    # Bucket after bucket, as `mean_over` adds them up.
    means = np.add.reduce(distribution[:, None, None] * table.by_bucket, axis=0)
    expected, cost, p95 = means.tolist()
    limit, named = budget * FITS, table._named
    fits = [i for i, needed in enumerate(p95) if needed <= limit and (allowed is None or allowed[i])]
    within = [i for i in fits if named[i] <= limit] or fits
    if not within:
        return -1
    best = max(expected[i] for i in within)
    floor = -1.0 if best < HOPELESS else best - TIE
    return min((i for i in within if expected[i] >= floor), key=cost.__getitem__)


def _choose(table: PlanTable, distribution: Floats, budgets: Floats, allowed: NDArray[np.bool_] | None) -> Choice:
    everything = np.arange(len(distribution))
    expected = mean_over(distribution, table.accuracy)
    cost, p95 = mean_over(distribution, table.cost), mean_over(distribution, table.p95)
    fits = p95 <= budgets[:, None] * FITS
    if allowed is not None:
        fits &= allowed
    named = fits & (table.named_from <= budgets[:, None] * FITS)
    fits = np.where(named.any(axis=1, keepdims=True), named, fits)
    best = np.where(fits, expected, -np.inf).max(1)
    hopeless = best < HOPELESS
    floor = np.where(hopeless, -1.0, best - TIE)
    pool = fits & (expected >= floor[:, None])
    plan = np.where(pool, cost, np.inf).argmin(1)
    none = np.isneginf(best)
    pick = everything, plan
    return Choice(
        np.where(none, -1, plan),
        np.where(none, np.nan, expected[pick]),
        np.where(none, np.nan, cost[pick]),
        np.where(none, np.nan, p95[pick]),
        hopeless & ~none,
    )


def mean_over(distribution: Floats, values: Floats) -> Floats:
    """[P, C]: `values` [C, B] averaged over each prompt's distribution.

    Not a matrix product: BLAS rounds a row otherwise alone than in a batch, and `choose_many` must give what `choose`
    gives.
    """
    total: Floats = distribution[:, 0, None] * values[:, 0]
    for b in range(1, values.shape[1]):
        total = total + distribution[:, b, None] * values[:, b]
    return total
