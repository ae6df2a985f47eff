"""One grammar for budgets, in Python, on the command line and over HTTP.

`2e9 flops`, `2 GFLOPs` (1 GFLOPs is 1e9 FLOPs), `4k tokens`, `0.002 usd`, `3 s`, `8x`; a bare number means FLOPs.
`2 GFLOPs and 3 s` sets both caps, of which one is in seconds.
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
_EXPECTED = "a number, or `2 GFLOPs`, `4000 tokens`, `0.002 usd`, `3 s`, `8x`, `8x and 3 s`"
_AND = re.compile(r"\sand\s", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Budget:
    """A hard cap for one prompt, verifier and probe included. `x` is in mean greedy answers of the reference model.

    `and_seconds` is a second cap, in wall-clock seconds, beside an amount in another unit. Raises BudgetError for an
    amount that is not a positive finite number, for an unknown unit, and for seconds given twice.
    """

    amount: float
    unit: Unit = "flops"
    and_seconds: float | None = None

    def __post_init__(self) -> None:
        for value in (self.amount, self.and_seconds) if self.and_seconds is not None else (self.amount,):
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            # Compared first: a whole number beyond all floats cannot be asked whether it is finite.
            if not is_number or not 0 < value <= _MOST or not math.isfinite(value):
                raise BudgetError("not a budget", field="budget", value=value, expected="a positive number")
        if self.unit not in get_args(Unit):
            raise BudgetError("unknown unit", field="unit", value=self.unit, expected=" or ".join(get_args(Unit)))
        if self.unit == "seconds" and self.and_seconds is not None:
            raise BudgetError("seconds are given twice", field="and_seconds", value=self.and_seconds)

    @classmethod
    def parse(cls, value: str | float | Budget) -> Budget:
        """Read a budget; raises BudgetError naming what was given and what was expected."""
        if isinstance(value, Budget):
            return value
        if not isinstance(value, str):
            return cls(value)
        return _read(value)

    @property
    def seconds(self) -> float | None:
        """The cap on wall-clock seconds, None where there is none."""
        return self.amount if self.unit == "seconds" else self.and_seconds

    def __str__(self) -> str:
        amount = f"{self.amount!r}{'' if self.unit == 'x' else ' '}{self.unit}"
        return amount if self.and_seconds is None else f"{amount} and {self.and_seconds!r} seconds"

    def to_flops(
        self,
        *,
        reference_flops: float | None = None,
        flops_per_token: float | None = None,
        usd_per_token: float | None = None,
    ) -> float:
        """The cap in FLOPs, infinite for one in seconds alone: time is no amount of work.

        `reference_flops`: mean FLOPs of one greedy answer of the reference model (what `1x` is). Raises BudgetError
        telling which of the given rates is missing.
        """
        if self.unit == "flops":
            return self.amount
        if self.unit == "x":
            return self.amount * self._need("reference_flops", reference_flops, "the reference model's greedy cost")
        if self.unit == "seconds":
            return math.inf
        tokens = self.to_tokens(usd_per_token=usd_per_token)
        return tokens * self._need("flops_per_token", flops_per_token, "the policy model's FLOPs for one token")

    def to_tokens(
        self,
        *,
        reference_tokens: float | None = None,
        flops_per_token: float | None = None,
        usd_per_token: float | None = None,
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
                return math.inf

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
    caps = [_read_one(text, value) for text in _AND.split(value)]
    if len(caps) == 1:
        return caps[0]
    timed = [cap for cap in caps if cap.unit == "seconds"]
    others = [cap for cap in caps if cap.unit != "seconds"]
    if len(timed) != 1 or len(others) != 1:
        raise BudgetError(
            "two caps are one in seconds and one in another unit", field="budget", value=value, expected=_EXPECTED
        )
    return Budget(others[0].amount, others[0].unit, timed[0].amount)


def _read_one(text: str, value: str) -> Budget:
    match = _NUMBER.fullmatch(text)
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
