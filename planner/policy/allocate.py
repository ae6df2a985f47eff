"""One total budget over many prompts (METHODS section 7): one price for all of them, on concave hulls.

Each prompt's plans form a concave staircase of (cost, expected accuracy). Taking its steps in the order of accuracy per
unit of cost, over all prompts together, is the same as finding the price at which the total is spent: every step
steeper than the price is taken. What is left then buys later steps that still fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.errors import BudgetError

__all__ = ["Allocation", "allocate"]

Floats = NDArray[np.float64]
_LEAST_GAIN = 1e-9


@dataclass(frozen=True, slots=True)
class Allocation:
    """`plan` [P]; `expected_accuracy` and `cost`, sums over the prompts; `price`, the accuracy that one unit of cost
    had to bring (0: there was enough for everything that helps)."""

    plan: NDArray[np.int64]
    expected_accuracy: float
    cost: float
    price: float


def allocate(accuracy: Floats, cost: Floats, total: float) -> Allocation:
    """Plans for P prompts from `accuracy` and `cost`, both [P, C], whose costs add up to at most `total`.

    A plan that a prompt may not use has infinite cost. On the concave hulls the result is the optimum up to the one
    step that no longer fits. Raises BudgetError where not even the cheapest plans fit.
    """
    rows = np.arange(len(cost))
    # The cheapest plan; among equally cheap ones the best.
    cheapest = np.lexsort((-accuracy, cost), axis=1)[:, 0]
    spent = float(cost[rows, cheapest].sum())
    if not np.isfinite(spent) or spent > total * (1 + 1e-9):
        raise BudgetError(
            "no plan fits every prompt", field="total_budget", value=total,
            hint=f"The cheapest plans need {spent:.4g} together",
        )  # fmt: skip
    owner, plan, extra, slope = _steps(accuracy, cost, cheapest)
    # Stable, so that one prompt's steps of equal slope stay in order.
    order = np.argsort(-slope, kind="stable")
    owner, plan, extra, slope = owner[order], plan[order], extra[order], slope[order]
    running = spent + np.cumsum(extra)
    taken = int(np.searchsorted(running, total, side="right"))
    chosen = cheapest.copy()
    chosen[owner[:taken]] = plan[:taken]  # a later step of the same prompt comes later, and is what stays
    price = float(slope[taken]) if taken < len(slope) else 0.0
    left = total - (float(running[taken - 1]) if taken else spent)
    blocked = np.zeros(len(cost), np.bool_)
    # Nothing smaller than the smallest remaining step can be bought, which ends the fill early.
    smallest = np.minimum.accumulate(extra[taken:][::-1])[::-1]
    for i in range(taken, len(extra)):
        if left < smallest[i - taken]:
            break
        if extra[i] <= left and not blocked[owner[i]]:
            chosen[owner[i]] = plan[i]
            left -= float(extra[i])
        else:
            blocked[owner[i]] = True
    return Allocation(chosen, float(accuracy[rows, chosen].sum()), float(cost[rows, chosen].sum()), price)


def _steps(
    accuracy: Floats, cost: Floats, start: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]:
    """The hull's steps of all prompts, each prompt's in order: whose, to which plan, extra cost, slope (falling)."""
    rows, at = np.arange(len(cost)), start
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]] = []
    while len(rows):
        here = cost[rows, at], accuracy[rows, at]
        extra = cost[rows] - here[0][:, None]
        gain = accuracy[rows] - here[1][:, None]
        usable = np.isfinite(extra) & (extra > 0) & (gain > _LEAST_GAIN)
        slope = np.where(usable, gain / np.where(usable, extra, 1.0), -np.inf)
        steepest = slope.max(axis=1)
        # Of equally steep steps the longest, which holds the others.
        nearly = slope >= steepest[:, None] * (1 - 1e-12)
        to = np.where(nearly & usable, extra, -np.inf).argmax(axis=1)
        on = np.isfinite(steepest)
        rows, to, extra, steepest = rows[on], to[on], extra[on], steepest[on]
        step = extra[np.arange(len(rows)), to]
        if len(rows):
            found.append((rows, to, step, steepest))
        at = to
    if not found:
        none = np.zeros(0, np.int64)
        return none, none, np.zeros(0), np.zeros(0)
    owner, plan, more, slopes = (np.concatenate([part[i] for part in found]) for i in range(4))
    return owner, plan, more, slopes
