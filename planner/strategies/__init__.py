"""Strategies: frozen specifications whose `solve` is a generator of effects. REGISTRY names them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from planner.strategies.base import Strategy, build, to_dict
from planner.strategies.sampling import BestOfN, Greedy, Majority
from planner.strategies.search import DVTS, BeamSearch
from planner.strategies.stopping import AdaptiveMajority

__all__ = [
    "DVTS",
    "REGISTRY",
    "AdaptiveMajority",
    "BeamSearch",
    "BestOfN",
    "Greedy",
    "Majority",
    "Strategy",
    "describe",
    "from_dict",
    "to_dict",
]

REGISTRY: dict[str, type[Strategy]] = {
    "greedy": Greedy,
    "majority": Majority,
    "best_of_n": BestOfN,
    "beam_search": BeamSearch,
    "dvts": DVTS,
    "adaptive_majority": AdaptiveMajority,
}


def from_dict(data: Mapping[str, Any]) -> Strategy:
    """The strategy that `to_dict` described; raises InputError naming what is unknown, missing or not allowed."""
    return build(data, REGISTRY)


def describe() -> list[dict[str, Any]]:
    """For each strategy its name, hyperparameters with defaults ("required" where there is none), needs and summary."""
    return [
        {
            "name": name,
            "summary": (strategy.__doc__ or "").partition("\n")[0],
            "hyperparameters": {
                f.name: "required" if f.default is MISSING else f.default
                for f in fields(strategy)  # type: ignore[arg-type]
            },
            "needs": ["verifier"] if strategy.needs_verifier else [],
        }
        for name, strategy in REGISTRY.items()
    ]
