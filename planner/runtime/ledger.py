"""A budget that cannot be overspent: the worst case is set aside before, and the unused part given back after.

Amounts are kept as whole FLOPs, which Python adds exactly; reservations and charges are rounded up, the budget down.
Seconds pass for all requests of a flow alike, so their balance is what is left until a deadline and nothing is set
aside.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from planner.errors import BudgetError

__all__ = ["Clock", "Ledger"]

Clock = Callable[[], float]
"""Seconds since any fixed moment, as `time.monotonic`."""


@dataclass(slots=True)
class Ledger:
    """One flow's budget in FLOPs and in wall-clock seconds from now on; None is no limit.

    The balance in FLOPs is what is neither spent nor reserved, in seconds what is left until the deadline.
    """

    budget_flops: float | None = None
    budget_seconds: float | None = None
    clock: Clock = time.monotonic
    spent_flops: int = 0
    reserved_flops: int = 0
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        for name, value in (("budget_flops", self.budget_flops), ("budget_seconds", self.budget_seconds)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise BudgetError("not a budget", field=name, value=value, expected="a number >= 0")
        self._started = self.clock()

    @property
    def limited(self) -> bool:
        """Whether FLOPs are."""
        return self.budget_flops is not None

    @property
    def balance_flops(self) -> int | None:
        """What may still be reserved, never negative; None where there is no limit."""
        if self.budget_flops is None:
            return None
        return math.floor(self.budget_flops) - self.spent_flops - self.reserved_flops

    @property
    def spent_seconds(self) -> float:
        """Seconds since the ledger was opened."""
        return self.clock() - self._started

    @property
    def balance_seconds(self) -> float | None:
        """Seconds left, 0 after the deadline; None where there is no limit."""
        return None if self.budget_seconds is None else max(0.0, self.budget_seconds - self.spent_seconds)

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return self.budget_seconds is not None and self.spent_seconds > self.budget_seconds

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
