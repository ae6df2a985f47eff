"""What a strategy is, the rules of its fields, and its JSON form."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Protocol, runtime_checkable

from planner.core import Answer, Problem
from planner.effects import Flow
from planner.errors import InputError
from planner.strategies.scoring import AGGREGATIONS, SELECTIONS

__all__ = ["Strategy", "build", "require", "to_dict", "validate"]


@runtime_checkable
class Strategy(Protocol):
    """A frozen, keyword-only dataclass of hyperparameters that can be run on a problem.

    `needs_verifier`: it asks for scores. `replayable`: its results follow from recorded independent samples.
    `policy_model` None means the run's default one. `solve` catches nothing but OutOfBudget, and always returns.
    """

    name: ClassVar[str]
    needs_verifier: ClassVar[bool]
    replayable: ClassVar[bool]

    @property
    def policy_model(self) -> str | None: ...

    def solve(self, problem: Problem) -> Flow[Answer]: ...


@dataclass(frozen=True, slots=True)
class _Rule:
    expected: str
    holds: Callable[[Any], bool]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_COUNT = _Rule("a whole number >= 1", lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 1)

# A field's name means the same in every strategy, so its rule is given once.
_RULES = {
    **dict.fromkeys(("n", "max_n", "batch", "expansions", "max_steps", "max_step_tokens"), _COUNT),
    "temperature": _Rule("a number >= 0", lambda v: _is_number(v) and v >= 0),
    "top_p": _Rule("a number in (0, 1]", lambda v: _is_number(v) and 0 < v <= 1),
    "threshold": _Rule("a number in (0.5, 1)", lambda v: _is_number(v) and 0.5 < v < 1),
    "aggregation": _Rule(" or ".join(AGGREGATIONS), lambda v: v in AGGREGATIONS),
    "selection": _Rule(" or ".join(SELECTIONS), lambda v: v in SELECTIONS),
    "policy_model": _Rule("a model's name or None", lambda v: v is None or (isinstance(v, str) and v != "")),
}


def require(spec: Strategy, holds: bool, field: str, message: str, expected: str) -> None:
    """Raise InputError about one field of a specification unless `holds`."""
    if not holds:
        raise InputError(message, where=spec.name, field=field, value=getattr(spec, field), expected=expected)


def validate(spec: Any) -> None:
    """Check each field against its rule; raises InputError naming strategy, field, value and rule."""
    values = {f.name: getattr(spec, f.name) for f in fields(spec)}
    for name, value in values.items():
        require(spec, _RULES[name].holds(value), name, "not allowed", _RULES[name].expected)
    draws = values.get("n", values.get("max_n", 1))
    if draws > 1 and "temperature" in values:
        require(spec, values["temperature"] > 0, "temperature", f"{draws} equal answers would be drawn", "a number > 0")
    if "expansions" in values:
        rule = f"a multiple of expansions = {values['expansions']}"
        require(spec, draws % values["expansions"] == 0, "n", "cannot be shared out", rule)


def to_dict(spec: Strategy) -> dict[str, Any]:
    """`{"strategy": name, "hyperparameters": {...}}`; `policy_model` is left out where it is None."""
    values = {f.name: getattr(spec, f.name) for f in fields(spec)}  # type: ignore[arg-type]
    return {
        "strategy": spec.name,
        "hyperparameters": {k: v for k, v in values.items() if k != "policy_model" or v is not None},
    }


def build(data: Mapping[str, Any], registry: Mapping[str, type[Strategy]]) -> Strategy:
    """Inverse of `to_dict`. Raises InputError for an unknown strategy, unknown or missing fields, and bad values."""
    name, values = data.get("strategy"), data.get("hyperparameters", {})
    if not isinstance(name, str) or name not in registry:
        raise InputError("unknown strategy", field="strategy", value=name, expected=", ".join(registry))
    if not isinstance(values, Mapping):
        raise InputError("not a mapping", where=name, field="hyperparameters", value=values, expected="names to values")
    known = {f.name: f for f in fields(registry[name])}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise InputError(f"unknown: {', '.join(unknown)}", where=name, expected=f"only {', '.join(known)}")
    missing = [f.name for f in known.values() if f.default is MISSING and f.name not in values]
    if missing:
        raise InputError(f"missing: {', '.join(missing)}", where=name, expected=f"of {', '.join(known)}")
    return registry[name](**values)
