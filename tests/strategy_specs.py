"""A small specification of every registered strategy, those registered later too."""

from __future__ import annotations

from dataclasses import fields

from planner.strategies import REGISTRY, Strategy, from_dict

# By field, since a field's name means the same in every strategy; what is not named here keeps its default.
SMALL = {
    "n": 4, "max_n": 6, "batch": 2, "expansions": 2, "max_steps": 24, "max_step_tokens": 48, "lookahead_steps": 1,
    "chains": 2, "revisions": 1, "second": "dvts", "second_n": 4,
}  # fmt: skip


def small_spec(name: str) -> Strategy:
    known = {f.name for f in fields(REGISTRY[name])}
    return from_dict({"strategy": name, "hyperparameters": {k: v for k, v in SMALL.items() if k in known}})
