"""What a policy's plans need to be run: engines by policy model, and a verifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import CapabilityError, InputError
from planner.models.shipped import load_engine

if TYPE_CHECKING:
    from planner.models.protocols import Engine, Verifier

__all__ = ["models_of", "name_engine", "named_engines", "require_runnable", "runnable"]

_Plan = Mapping[str, Any]  # of policy.json


def models_of(plan: _Plan) -> tuple[str, ...]:
    """The policy models that a plan may ask: its own, and the one that its second stage names."""
    second = plan["hyperparameters"].get("second_policy_model")
    return tuple(dict.fromkeys(str(name) for name in (plan["policy_model"], second) if name is not None))


def runnable(plans: Sequence[_Plan], engines: Mapping[str, Engine], verifier: Verifier | None) -> NDArray[np.bool_]:
    """Which of the plans can run on these engines, shape [C]."""
    given = [all(model in engines for model in models_of(plan)) for plan in plans]
    scored = [plan["verifier"] is None or verifier is not None for plan in plans]
    return np.array(given, dtype=np.bool_) & np.array(scored, dtype=np.bool_)


def require_runnable(
    plans: Sequence[_Plan], engines: Mapping[str, Engine], verifier: Verifier | None
) -> NDArray[np.bool_]:
    """`runnable`. Raises CapabilityError where none is, naming the engines that would do, or the missing verifier."""
    found = runnable(plans, engines, verifier)
    if found.any():
        return found
    asked = [models_of(plan) for plan in plans]
    if any(all(model in engines for model in models) for models in asked):
        names = sorted({str(plan["verifier"]) for plan in plans if plan["verifier"]})
        raise CapabilityError(
            "every plan of this policy that these engines can run needs a verifier", field="verifier",
            expected=" or ".join(names), hint="Give the one that the policy was fitted on",
        )  # fmt: skip
    raise CapabilityError(
        "no plan of this policy can run on it", field="engine", value=sorted(engines),
        expected=" or ".join(sorted({" with ".join(models) for models in asked})),
        hint="A policy holds for its own policy models: profile and fit yours",
    )  # fmt: skip


def name_engine(plans: Sequence[_Plan], name: str) -> str:
    """The policy model that an engine called `name` stands for: where the plans begin with one model only and know none
    of that name, it is that one."""
    known = {model for plan in plans for model in models_of(plan)}
    first = {str(plan["policy_model"]) for plan in plans}
    return name if name in known or len(first) > 1 else first.pop()


def named_engines(plans: Sequence[_Plan], texts: Sequence[str]) -> dict[str, Engine]:
    """Load engines given as `ENGINE` or `POLICY_MODEL=ENGINE`, by policy model.

    Raises InputError where two are for one, and what `load_engine` raises.
    """
    models = {model for plan in plans for model in models_of(plan)}
    found: dict[str, Engine] = {}
    for text in texts:
        name, equals, spec = text.partition("=")
        # A URL may hold an equals sign of its own; a policy model's name stands before it or does not.
        if not equals or name not in models:
            name, spec = "", text
        engine = load_engine(spec)
        name = name or name_engine(plans, engine.info.name)
        if name in found:
            raise InputError("named twice", field="engine", value=name, hint="Give `POLICY_MODEL=ENGINE` for each")
        found[name] = engine
    return found
