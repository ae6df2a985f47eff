"""One grammar for budgets, in Python, on the command line and over HTTP.

`2e9 flops`, `2 GFLOPs` (1 GFLOPs is 1e9 FLOPs), `4k tokens`, `0.002 usd`, `3 s`, `8x`; a bare number means FLOPs.
"""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

from planner.errors import BudgetError

__all__ = ["Budget", "Unit"]

Unit: TypeAlias = Literal["flops", "tokens", "usd", "seconds", "x"]

_PREFIXES = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18}
_UNITS: dict[str, Unit] = {
    **dict.fromkeys(("", "flop", "flops"), "flops"),
    **dict.fromkeys(("token", "tokens"), "tokens"),
    **dict.fromkeys(("usd", "$"), "usd"),
    **dict.fromkeys(("s", "sec", "second", "seconds"), "seconds"),
    **dict.fromkeys(("x", "×"), "x"),
}
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*", re.DOTALL)
_MOST = sys.float_info.max
_EXPECTED = "a number, or `2 GFLOPs`, `4000 tokens`, `0.002 usd`, `3 s`, `8x`"


@dataclass(frozen=True, slots=True)
class Budget:
    """A hard cap for one prompt, verifier and probe included. `x` is in mean greedy answers of the reference model.

    Raises BudgetError for an amount that is not a positive finite number and for an unknown unit.
    """

    amount: float
    unit: Unit = "flops"

    def __post_init__(self) -> None:
        is_number = isinstance(self.amount, (int, float)) and not isinstance(self.amount, bool)
        # Compared first: a whole number beyond all floats cannot be asked whether it is finite.
        if not is_number or not 0 < self.amount <= _MOST or not math.isfinite(self.amount):
            raise BudgetError("not a budget", field="budget", value=self.amount, expected="a positive number")
        if self.unit not in get_args(Unit):
            raise BudgetError("unknown unit", field="unit", value=self.unit, expected=" or ".join(get_args(Unit)))

    @classmethod
    def parse(cls, value: str | float | Budget) -> Budget:
        """Read a budget; raises BudgetError naming what was given and what was expected."""
        if isinstance(value, Budget):
            return value
        if not isinstance(value, str):
            return cls(value)
        return _read(value)

    def __str__(self) -> str:
        return f"{self.amount!r}{'' if self.unit == 'x' else ' '}{self.unit}"

    def to_flops(
        self,
        *,
        reference_flops: float | None = None,
        flops_per_token: float | None = None,
        usd_per_token: float | None = None,
        seconds_per_token: float | None = None,
    ) -> float:
        """The cap in FLOPs. Raises BudgetError telling which of the given rates is missing.

        `reference_flops`: mean FLOPs of one greedy answer of the reference model (what `1x` is).
        """
        if self.unit == "flops":
            return self.amount
        if self.unit == "x":
            return self.amount * self._need("reference_flops", reference_flops, "the reference model's greedy cost")
        tokens = self.to_tokens(usd_per_token=usd_per_token, seconds_per_token=seconds_per_token)
        return tokens * self._need("flops_per_token", flops_per_token, "the policy model's FLOPs for one token")

    def to_tokens(
        self,
        *,
        reference_tokens: float | None = None,
        flops_per_token: float | None = None,
        usd_per_token: float | None = None,
        seconds_per_token: float | None = None,
    ) -> float:
        """The cap in tokens, for models whose FLOPs are unknown. Raises BudgetError as `to_flops` does."""
        match self.unit:
            case "tokens":
                return self.amount
            case "x":
                return self.amount * self._need("reference_tokens", reference_tokens, "the mean greedy tokens")
            case "flops":
                return self.amount / self._need("flops_per_token", flops_per_token, "the model's FLOPs for one token")
            case "usd":
                return self.amount / self._need("usd_per_token", usd_per_token, "a price for one token")
            case "seconds":
                return self.amount / self._need("seconds_per_token", seconds_per_token, "a measured latency per token")

    def _need(self, name: str, rate: float | None, what: str) -> float:
        if rate is None or not math.isfinite(rate) or rate <= 0:
            raise BudgetError(
                f"a budget in {self.unit} cannot be converted without {what}",
                where=str(self),
                field=name,
                expected="a positive number",
                hint="Give the budget in FLOPs, or provide it",
            )
        return rate


@lru_cache(maxsize=256)
def _read(value: str) -> Budget:
    match = _NUMBER.fullmatch(value)
    if match is None:
        raise BudgetError("cannot be read", field="budget", value=value, expected=_EXPECTED)
    factor, unit = _factor_and_unit(match[2])
    if unit is None:
        raise BudgetError(f"unknown unit {match[2]!r}", field="budget", value=value, expected=_EXPECTED)
    return Budget(float(match[1]) * factor, unit)


def _factor_and_unit(text: str) -> tuple[float, Unit | None]:
    """Split `GFLOPs` into 1e9 and `flops`; prefixes belong to FLOPs and tokens only (`ms` is not a mega-second)."""
    word = text.lower()
    if word in _UNITS:
        return 1.0, _UNITS[word]
    unit = _UNITS.get(word[1:].strip())
    if word[0] in _PREFIXES and word[1:].strip() and unit in ("flops", "tokens"):
        return _PREFIXES[word[0]], unit
    return 1.0, None
