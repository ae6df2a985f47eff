"""What is trained, in which order and for how long: the one place that says so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from planner.models.lab.progress import Limit
from planner.models.lab.shapes import SHAPES

__all__ = ["RECIPES", "VERIFIERS", "PolicyRecipe", "PolicyStage", "Recipe", "Stage", "VerifierRecipe", "recipe_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStage:
    """A part of a policy model's run, up to `limit` counted from the run's start; `revised` is the share of problems
    that show earlier attempts."""

    limit: Limit
    revised: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRecipe:
    """A policy model, trained on worked solutions."""

    name: str
    stages: tuple[PolicyStage, ...]
    seed: int = 1

    def scaled(self, scale: float) -> PolicyRecipe:
        """The same for `scale` times as long."""
        return replace(self, stages=tuple(replace(s, limit=s.limit.times(scale)) for s in self.stages))

    def to_dict(self) -> dict[str, Any]:
        """What a card says of it."""
        smaller = SHAPES[self.name].grown_from
        start = (
            "random weights" if smaller is None else f"{smaller}, widened and deepened without changing what it does"
        )
        return {"start": start, "stages": [{**_limit(s.limit), "revised_share": s.revised} for s in self.stages]}


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
    learning_rate: float
    seed: int = 1

    def scaled(self, scale: float) -> VerifierRecipe:
        """The same for `scale` times as long."""
        return replace(self, stages=tuple(replace(s, limit=s.limit.times(scale)) for s in self.stages))

    def to_dict(self) -> dict[str, Any]:
        """What a card says of it."""
        stages: list[dict[str, Any]] = [
            {**_limit(stage.limit), "sampled_problems": stage.sampled, "corrupted_problems": stage.corrupted}
            for stage in self.stages
        ]
        return {"start": self.start, "writers": list(self.writers), "stages": stages}


Recipe: TypeAlias = PolicyRecipe | VerifierRecipe

_ALL = ("lab-small", "lab-medium", "lab-large")

RECIPES: tuple[Recipe, ...] = (
    PolicyRecipe(
        name="lab-small",
        stages=(
            PolicyStage(limit=Limit(tokens=9e6), revised=0.1),
            PolicyStage(limit=Limit(tokens=12e6), revised=0.35),
            PolicyStage(limit=Limit(tokens=20e6), revised=0.2),
        ),
    ),
    PolicyRecipe(
        name="lab-medium",
        stages=(
            PolicyStage(limit=Limit(tokens=14.7e6), revised=0.1),
            PolicyStage(limit=Limit(tokens=20e6), revised=0.35),
        ),
    ),
    PolicyRecipe(name="lab-large", stages=(PolicyStage(limit=Limit(tokens=5.5e6), revised=0.3),)),
    VerifierRecipe(
        name="lab-prm-small",
        start="lab-small",
        writers=("lab-small", "lab-medium"),
        stages=(Stage(limit=Limit(tokens=2e6), sampled=384, corrupted=384),),
        learning_rate=3e-4,
    ),
    VerifierRecipe(
        name="lab-prm",
        start="lab-large",
        writers=_ALL,
        stages=(
            Stage(limit=Limit(tokens=5e6), sampled=384, corrupted=384),
            Stage(limit=Limit(tokens=12e6), sampled=384, corrupted=384),
        ),
        learning_rate=2e-4,
    ),
)
"""Minutes are those of one thread of an ordinary processor; another machine sees more or fewer tokens in them."""

VERIFIERS: tuple[str, ...] = tuple(recipe.name for recipe in RECIPES if isinstance(recipe, VerifierRecipe))


def recipe_of(name: str) -> Recipe | None:
    """The recipe of this name, None for a model of somebody else's."""
    return next((recipe for recipe in RECIPES if recipe.name == name), None)


def _limit(limit: Limit) -> dict[str, float]:
    """The finite ones of minutes and tokens."""
    both = {"minutes": limit.minutes, "tokens": limit.tokens}
    return {name: value for name, value in both.items() if value != float("inf")}
