"""A budget that cannot be overspent: the worst case is set aside before, and the unused part given back after.

Amounts are kept as whole FLOPs, which Python adds exactly; reservations and charges are rounded up, the budget down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.errors import BudgetError

__all__ = ["Ledger"]


@dataclass(slots=True)
class Ledger:
    """One flow's budget in FLOPs; None is no limit. The balance is what is neither spent nor reserved."""

    budget_flops: float | None = None
    spent_flops: int = 0
    reserved_flops: int = 0

    def __post_init__(self) -> None:
        if self.budget_flops is not None and not (math.isfinite(self.budget_flops) and self.budget_flops >= 0):
            raise BudgetError("not a budget", field="budget_flops", value=self.budget_flops, expected="a number >= 0")

    @property
    def limited(self) -> bool:
        return self.budget_flops is not None

    @property
    def balance_flops(self) -> int | None:
        """What may still be reserved, never negative; None where there is no limit."""
        if self.budget_flops is None:
            return None
        return math.floor(self.budget_flops) - self.spent_flops - self.reserved_flops

    def reserve(self, worst_flops: float) -> int | None:
        """Set aside the worst case of a request. None, and nothing changed, where the balance does not cover it."""
        if self.budget_flops is None:
            return 0
        amount, balance = math.ceil(worst_flops), self.balance_flops
        if amount < 0:
            raise ValueError(f"a reservation of {amount} FLOPs")
        if balance is None or amount > balance:
            return None
        self.reserved_flops += amount
        return amount

    def settle(self, reserved_flops: int, spent_flops: float) -> None:
        """Charge what a request really cost and give back the rest of its reservation.

        Raises ValueError for a charge above its reservation: the reservation was then no worst case.
        """
        if self.budget_flops is None:
            return
        charge = math.ceil(spent_flops)
        if not 0 <= charge <= reserved_flops <= self.reserved_flops:
            raise ValueError(f"{charge} FLOPs charged against {reserved_flops} reserved of {self.reserved_flops}")
        self.reserved_flops -= reserved_flops
        self.spent_flops += charge
