"""What is trained, in which order and for how long: the one place that says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from planner.models.lab.progress import Limit

__all__ = ["RECIPES", "PolicyRecipe", "Recipe", "Stage", "VerifierRecipe", "recipe_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRecipe:
    """A policy model, trained from random weights on worked solutions."""

    name: str
    limit: Limit
    seed: int = 1

    def scaled(self, scale: float) -> PolicyRecipe:
        """The same for `scale` times as long."""
        return PolicyRecipe(name=self.name, limit=self.limit.times(scale), seed=self.seed)

    def to_dict(self) -> dict[str, Any]:
        """What a card says of it."""
        return {"start": "random weights", **_limit(self.limit)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of a verifier's run, up to `limit` counted from the run's start; `sampled` and `corrupted` are the
    problems of a round (see `planner.models.lab.prm_data.round_of_attempts`)."""

    limit: Limit
    sampled: int
    corrupted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierRecipe:
    """A process reward model, started from the policy model `start`; `writers` write the attempts it learns from."""

    name: str
    start: str
    writers: tuple[str, ...]
    stages: tuple[Stage, ...]
    seed: int = 1

    def scaled(self, scale: float) -> VerifierRecipe:
        """The same for `scale` times as long."""
        stages = tuple(
            Stage(limit=stage.limit.times(scale), sampled=stage.sampled, corrupted=stage.corrupted)
            for stage in self.stages
        )
        return VerifierRecipe(name=self.name, start=self.start, writers=self.writers, stages=stages, seed=self.seed)

    def to_dict(self) -> dict[str, Any]:
        """What a card says of it."""
        stages: list[dict[str, Any]] = [
            {**_limit(stage.limit), "sampled_problems": stage.sampled, "corrupted_problems": stage.corrupted}
            for stage in self.stages
        ]
        return {"start": self.start, "writers": list(self.writers), "stages": stages}


Recipe: TypeAlias = PolicyRecipe | VerifierRecipe

RECIPES: tuple[Recipe, ...] = (
    PolicyRecipe(name="lab-small", limit=Limit(minutes=18)),
    PolicyRecipe(name="lab-medium", limit=Limit(minutes=42)),
    PolicyRecipe(name="lab-large", limit=Limit(minutes=60)),
    VerifierRecipe(
        name="lab-prm",
        start="lab-medium",
        writers=("lab-small", "lab-medium"),
        stages=(
            Stage(limit=Limit(minutes=48), sampled=384, corrupted=768),
            Stage(limit=Limit(minutes=92), sampled=512, corrupted=256),
        ),
    ),
)
"""Minutes are those of one thread of an ordinary processor; another machine sees more or fewer tokens in them."""


def recipe_of(name: str) -> Recipe | None:
    """The recipe of this name, None for a model of somebody else's."""
    return next((recipe for recipe in RECIPES if recipe.name == name), None)


def _limit(limit: Limit) -> dict[str, float]:
    """The finite ones of minutes and tokens."""
    both = {"minutes": limit.minutes, "tokens": limit.tokens}
    return {name: value for name, value in both.items() if value != float("inf")}
