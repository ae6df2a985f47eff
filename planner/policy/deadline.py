"""Which plans end within a budget in seconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.budget import Budget
from planner.errors import BudgetError
from planner.policy.choose import FITS, PlanTable, mean_over

__all__ = ["in_time", "refuse_slow", "seconds_text"]

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def in_time(table: PlanTable, distribution: Floats, budget: Budget | None) -> Mask | None:
    """[P, C]: whether a plan's 99th percentile of seconds, averaged over each prompt's distribution [P, B], is within
    the budget's; never where it is unknown. None where seconds are not limited.

    Raises BudgetError where the policy knows the seconds of no plan.
    """
    if budget is None or budget.seconds is None:
        return None
    if np.isnan(table.seconds_p99).all():
        raise BudgetError(
            "this policy knows no seconds: its engines were not timed", field="budget", value=str(budget),
            hint="Time them with `planner latency BANK` (or `planner profile` again), then `planner fit` again",
        )  # fmt: skip
    fits: Mask = mean_over(distribution, table.seconds_p99) <= budget.seconds * FITS
    return fits


def refuse_slow(
    table: PlanTable, names: tuple[str, ...], weights: Floats, allowed: Mask | None, budget: Budget
) -> None:
    """Raise BudgetError where none of the `allowed` plans [C] ends in time for a prompt's distribution [B]."""
    p99 = mean_over(weights[None], table.seconds_p99)[0]
    p99 = np.where(np.isnan(p99) | (False if allowed is None else ~allowed), np.inf, p99)
    quickest = int(p99.argmin())
    if budget.seconds is None or p99[quickest] <= budget.seconds * FITS:
        return
    if np.isinf(p99[quickest]):
        raise BudgetError("the seconds of no plan that can run here are known", field="budget", value=str(budget))
    raise BudgetError(
        f"no plan ends in time: the quickest, {names[quickest]}, needs {seconds_text(float(p99[quickest]))} "
        "(99th percentile)",
        field="budget",
        value=str(budget),
        hint=f"Give at least {p99[quickest]:.3g} s",
    )


def seconds_text(seconds: float) -> str:
    """0.0213 as `0.021 s`."""
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
