"""Verifier-guided search over steps: beam search and diverse verifier tree search (DVTS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from planner.core import Answer, Problem
from planner.effects import Flow
from planner.strategies.base import validate
from planner.strategies.scoring import Aggregation, Selection, conclude
from planner.strategies.step_search import step_search

__all__ = ["DVTS", "BeamSearch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearch:
    """n first steps; the best n / expansions paths are kept, and expansions next steps drawn for each.

    Snell et al. (arXiv 2408.03314). Stops once n paths have finished or all kept paths have.
    """

    name: ClassVar[str] = "beam_search"
    needs_verifier: ClassVar[bool] = True
    replayable: ClassVar[bool] = False

    n: int
    expansions: int = 4
    max_steps: int = 40
    max_step_tokens: int = 2048
    temperature: float = 0.8
    top_p: float = 1.0
    aggregation: Aggregation = "last"
    selection: Selection = "max"
    policy_model: str | None = None

    def __post_init__(self) -> None:
        validate(self)

    def solve(self, problem: Problem) -> Flow[Answer]:
        found, short = yield from step_search(problem, self, groups=1, keep=self.n // self.expansions)
        return conclude(found, self.aggregation, self.selection, out_of_budget=short)


@dataclass(frozen=True, slots=True, kw_only=True)
class DVTS:
    """n / expansions independent subtrees, each a greedy search of expansions candidates a step.

    Beeching, Tunstall and Rush, "Scaling test-time compute with open models" (2024).
    """

    name: ClassVar[str] = "dvts"
    needs_verifier: ClassVar[bool] = True
    replayable: ClassVar[bool] = False

    n: int
    expansions: int = 4
    max_steps: int = 40
    max_step_tokens: int = 2048
    temperature: float = 0.8
    top_p: float = 1.0
    aggregation: Aggregation = "last"
    selection: Selection = "max"
    policy_model: str | None = None

    def __post_init__(self) -> None:
        validate(self)

    def solve(self, problem: Problem) -> Flow[Answer]:
        found, short = yield from step_search(problem, self, groups=self.n // self.expansions, keep=1)
        return conclude(found, self.aggregation, self.selection, out_of_budget=short)
