"""Strategies: frozen specifications whose `solve` is a generator of effects. REGISTRY names them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from planner.strategies.arbitration import ArbitratedMajority
from planner.strategies.base import Strategy, build, paths_in_flight, to_dict
from planner.strategies.cascade import Cascade
from planner.strategies.confidence import ConfidenceVote
from planner.strategies.improvement import AdaptiveBestOfN
from planner.strategies.revision import Revision
from planner.strategies.sampling import BestOfN, Greedy, Majority, OddsVote
from planner.strategies.search import DVTS, BeamSearch, Lookahead
from planner.strategies.stopping import AdaptiveMajority
from planner.strategies.weighted_search import ParticleFiltering, Rebase

__all__ = [
    "DVTS",
    "REGISTRY",
    "AdaptiveBestOfN",
    "AdaptiveMajority",
    "ArbitratedMajority",
    "BeamSearch",
    "BestOfN",
    "Cascade",
    "ConfidenceVote",
    "Greedy",
    "Lookahead",
    "Majority",
    "OddsVote",
    "ParticleFiltering",
    "Rebase",
    "Revision",
    "Strategy",
    "describe",
    "from_dict",
    "paths_in_flight",
    "to_dict",
]

REGISTRY: dict[str, type[Strategy]] = {
    "greedy": Greedy,
    "majority": Majority,
    "best_of_n": BestOfN,
    "odds_vote": OddsVote,
    "beam_search": BeamSearch,
    "dvts": DVTS,
    "lookahead": Lookahead,
    "revision": Revision,
    "rebase": Rebase,
    "particle_filtering": ParticleFiltering,
    "adaptive_majority": AdaptiveMajority,
    "arbitrated_majority": ArbitratedMajority,
    "adaptive_best_of_n": AdaptiveBestOfN,
    "confidence_vote": ConfidenceVote,
    "cascade": Cascade,
}
"""All strategies by name. One of your own is registered with `REGISTRY[Mine.name] = Mine`."""


def from_dict(data: Mapping[str, Any]) -> Strategy:
    """The strategy that `to_dict` described; raises InputError naming what is unknown, missing or not allowed."""
    return build(data, REGISTRY)


def describe() -> list[dict[str, Any]]:
    """For each strategy its name, summary, hyperparameters with defaults ("required" where there is none), what it
    `needs` always and what it `may_need` by its hyperparameters."""
    return [
        {
            "name": name,
            "summary": (strategy.__doc__ or "").partition("\n")[0],
            "hyperparameters": {
                f.name: "required" if f.default is MISSING else f.default
                for f in fields(strategy)  # type: ignore[arg-type]
            },
            "needs": ["verifier"] if _needs(strategy) is True else [],
            "may_need": ["verifier"] if _needs(strategy) is None else [],
        }
        for name, strategy in REGISTRY.items()
    ]


def _needs(strategy: type[Strategy]) -> bool | None:
    """Whether the strategy asks a verifier; None where that depends on its hyperparameters (a property)."""
    value: object = vars(strategy).get("needs_verifier", getattr(strategy, "needs_verifier", False))
    return value if isinstance(value, bool) else None
