"""What a strategy is, the rules of its fields, and its JSON form."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Protocol, runtime_checkable

from planner.core import Answer, Problem
from planner.effects import Flow
from planner.errors import InputError
from planner.strategies.scoring import AGGREGATIONS, SELECTIONS

__all__ = ["Strategy", "build", "paths_in_flight", "require", "to_dict", "validate"]


@runtime_checkable
class Strategy(Protocol):
    """A frozen, keyword-only dataclass of hyperparameters that can be run on a problem.

    `needs_verifier`: it asks for scores; a property where that depends on its fields. `replayable`: its results follow
    from recorded independent samples. `policy_model` None means the run's default one. `solve` catches nothing but
    OutOfBudget, and always returns.
    """

    name: ClassVar[str]
    replayable: ClassVar[bool]

    @property
    def needs_verifier(self) -> bool: ...

    @property
    def policy_model(self) -> str | None: ...

    def solve(self, problem: Problem) -> Flow[Answer]: ...


@dataclass(frozen=True, slots=True)
class _Rule:
    expected: str
    holds: Callable[[Any], bool]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _choice(values: Sequence[str]) -> _Rule:
    return _Rule(" or ".join(values), lambda v: v in values)


def _at_least(least: int) -> _Rule:
    return _Rule(f"a whole number >= {least}", lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= least)


_COUNT = _at_least(1)
_POSITIVE = _Rule("a number > 0", lambda v: _is_number(v) and v > 0)
_MODEL = _Rule("a model's name or None", lambda v: isinstance(v, str) and v != "")
_COUNTS = (
    "n", "max_n", "batch", "expansions", "max_steps", "max_step_tokens", "lookahead_steps", "chains", "second_n",
    "min_n", "give_up_tokens", "readings",
)  # fmt: skip

# A field's name means the same in every strategy, so its rule is given once.
_RULES = {
    **dict.fromkeys(_COUNTS, _COUNT),
    **dict.fromkeys(("balance_temperature", "resampling_temperature"), _POSITIVE),
    **dict.fromkeys(("policy_model", "second_policy_model"), _MODEL),
    "answers": _at_least(2),
    "revisions": _at_least(0),
    "temperature": _Rule("a number >= 0", lambda v: _is_number(v) and v >= 0),
    "top_p": _Rule("a number in (0, 1]", lambda v: _is_number(v) and 0 < v <= 1),
    "threshold": _Rule("a number in (0.5, 1)", lambda v: _is_number(v) and 0.5 < v < 1),
    "escalate_below": _Rule("a number in [0, 1]", lambda v: _is_number(v) and 0 <= v <= 1),
    "quantile": _Rule("a number in [0, 1)", lambda v: _is_number(v) and 0 <= v < 1),
    "min_gain": _Rule("a number in (0, 1)", lambda v: _is_number(v) and 0 < v < 1),
    **dict.fromkeys(("merge_duplicates", "weighted"), _Rule("true or false", lambda v: isinstance(v, bool))),
    "aggregation": _choice(AGGREGATIONS),
    "selection": _choice(SELECTIONS),
    "posterior": _choice(("beta", "dirichlet")),
    "second": _choice(("majority", "best_of_n", "beam_search", "dvts")),
}


def require(spec: Strategy, holds: bool, field: str, message: str, expected: str) -> None:
    """Raise InputError about one field of a specification unless `holds`."""
    if not holds:
        raise InputError(message, where=spec.name, field=field, value=getattr(spec, field), expected=expected)


def validate(spec: Any) -> None:
    """Check each field against its rule; raises InputError naming strategy, field, value and rule.

    A field whose default is None may be None; fields of a user's own have no rule here.
    """
    values = {f.name: getattr(spec, f.name) for f in fields(spec)}
    for f in fields(spec):
        if f.name in _RULES and not (f.default is None and values[f.name] is None):
            require(spec, _RULES[f.name].holds(values[f.name]), f.name, "not allowed", _RULES[f.name].expected)
    draws = values.get("n", values.get("max_n", values.get("chains", 1)))
    if draws > 1 and "temperature" in values:
        require(spec, values["temperature"] > 0, "temperature", f"{draws} equal answers would be drawn", "a number > 0")
    if "expansions" in values and "second_n" not in values:
        rule = f"a multiple of expansions = {values['expansions']}"
        require(spec, draws % values["expansions"] == 0, "n", "cannot be shared out", rule)


def paths_in_flight(hyperparameters: Mapping[str, Any]) -> int:
    """Samples or paths that these hyperparameters draw at most in a first stage, the papers' N; 1 where they do not
    say."""
    chains = hyperparameters.get("chains", 1) * (hyperparameters.get("revisions", 0) + 1)
    return int(hyperparameters.get("n", hyperparameters.get("max_n", chains)))


def to_dict(spec: Strategy) -> dict[str, Any]:
    """`{"strategy": name, "hyperparameters": {...}}`.

    A switch that is off (None or False, its default) is left out, so that a new one leaves recorded keys as they were.
    """
    values = {f.name: (getattr(spec, f.name), f.default) for f in fields(spec)}  # type: ignore[arg-type]
    said = {k: v for k, (v, default) in values.items() if not (v is default and (v is None or v is False))}
    return {"strategy": spec.name, "hyperparameters": said}


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
