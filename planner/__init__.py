"""Decides how much computation a language model should spend on each prompt, and how.

    import planner

    plan = planner.choose("What is 12 + 30 - 7?", "8x")       # which strategy, under this budget
    solution = planner.solve("What is 12 + 30 - 7?", "8x")    # and run it

Everything else is imported when it is first needed; `choose` needs numpy only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planner.api import Plan, Planner, Solution, choose, choose_many, load, solve
    from planner.budget import Budget
    from planner.errors import PlannerError

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Plan",
    "Planner",
    "PlannerError",
    "Solution",
    "__version__",
    "choose",
    "choose_many",
    "load",
    "solve",
]

_HOMES = {
    "Budget": "planner.budget",
    "PlannerError": "planner.errors",
    **dict.fromkeys(("Plan", "Planner", "Solution", "choose", "choose_many", "load", "solve"), "planner.api"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'planner' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
