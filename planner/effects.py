"""What a strategy may ask for, and how it is answered.

A strategy is a generator of effects. A driver (planner.runtime) performs each effect and sends the reply; it also
meters, so a strategy never counts. When the balance cannot pay for an effect at all, the driver throws
`OutOfBudget` at the yield; when it can pay for some requests of a `Generate` only, the others come back with
`finish="budget"` and an empty text.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from planner.core import Completion, GenerationRequest, Problem, Sampling, ScoreRequest, StepScores

__all__ = ["Effect", "Flow", "Generate", "Score", "sample", "score"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate:
    """Continue each request; the reply is a tuple of Completion in the same order. `policy_model` None: the default."""

    requests: tuple[GenerationRequest, ...]
    policy_model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Score each (partial) answer; the reply is a tuple of StepScores in the same order."""

    requests: tuple[ScoreRequest, ...]


Effect: TypeAlias = Generate | Score
Flow: TypeAlias = Generator[Effect, Any, T]


def sample(
    problem: Problem,
    prefixes: Sequence[str],
    sampling: Sampling,
    *,
    first_index: int = 0,
    policy_model: str | None = None,
) -> Flow[tuple[Completion, ...]]:
    """Ask for one continuation of each prefix; request i draws from stream `first_index + i`."""
    requests = tuple(
        GenerationRequest(prompt=problem.prompt, prefix=prefix, sampling=sampling, index=first_index + i)
        for i, prefix in enumerate(prefixes)
    )
    reply: tuple[Completion, ...] = yield Generate(requests=requests, policy_model=policy_model)
    return reply


def score(problem: Problem, answers: Sequence[tuple[str, ...]]) -> Flow[tuple[StepScores, ...]]:
    """Ask for the step scores of each answer, given as its steps; equal answers, common in a search, are asked once."""
    different = tuple(dict.fromkeys(answers))
    reply: tuple[StepScores, ...] = yield Score(
        requests=tuple(ScoreRequest(prompt=problem.prompt, steps=steps) for steps in different)
    )
    scored = dict(zip(different, reply, strict=True))
    return tuple(scored[steps] for steps in answers)
