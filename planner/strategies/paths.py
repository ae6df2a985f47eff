"""The partial answers that a search over steps works on, and the fields that all such searches have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from planner.core import Completion, Problem, split_steps
from planner.strategies.base import validate
from planner.strategies.scoring import Aggregation, Selection, aggregate
from planner.tasks.answers import extract_answer

__all__ = ["SearchPath", "StepSearch"]


@dataclass(frozen=True, slots=True)
class SearchPath:
    """A partial answer. `dead`: it ran into a token limit, and can neither go on nor be chosen over a finished one.

    `scores` are its own steps'; `outlook` are those that it is ranked by: the same, or further ones of a lookahead.
    """

    text: str = ""
    steps: tuple[str, ...] = ()
    tokens: int = 0
    scores: tuple[float, ...] = ()
    outlook: tuple[float, ...] = ()
    finished: bool = False
    dead: bool = False

    def extended(self, completion: Completion, problem: Problem) -> SearchPath:
        text, tokens = self.text + completion.text, self.tokens + completion.generated_tokens
        steps = split_steps(text, problem.step_separator)
        finished = completion.finish == "end" or extract_answer(text) is not None
        dead = not finished and (completion.finish in ("length", "budget") or tokens >= problem.max_tokens)
        # A blank step adds nothing to be scored: the path keeps its scores.
        scores, outlook = (self.scores, self.outlook) if steps == self.steps else ((), ())
        return SearchPath(text, steps, tokens, scores, outlook, finished, dead)

    def scored(self, scores: tuple[float, ...]) -> SearchPath:
        """The same with the scores of its own steps, or of those and further ones."""
        own = scores[: len(self.steps)]
        return SearchPath(self.text, self.steps, self.tokens, own, scores, self.finished, self.dead)

    def value(self, aggregation: Aggregation) -> float:
        """What it is ranked by; an unscored path stands behind all others."""
        return aggregate(self.outlook, aggregation) if self.outlook else -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSearch:
    """Fields of every search over steps: n paths in flight, at most `max_steps` deep, each step and each whole answer
    within its token limit; `aggregation` ranks paths and `selection` chooses among the finished ones."""

    needs_verifier: ClassVar[bool] = True
    replayable: ClassVar[bool] = False

    n: int
    max_steps: int = 40
    max_step_tokens: int = 2048
    temperature: float = 0.8
    top_p: float = 1.0
    aggregation: Aggregation = "last"
    selection: Selection = "max"
    policy_model: str | None = None

    def __post_init__(self) -> None:
        validate(self)
