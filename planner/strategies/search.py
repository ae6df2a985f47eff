"""Verifier-guided search that keeps the best paths: beam search, diverse verifier tree search (DVTS) and lookahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from planner.core import Answer, Problem
from planner.effects import Flow
from planner.strategies.allotment import keep_best
from planner.strategies.paths import StepSearch
from planner.strategies.scoring import conclude
from planner.strategies.step_search import step_search

__all__ = ["DVTS", "BeamSearch", "Lookahead"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearch(StepSearch):
    """n first steps; the best n / expansions paths are kept, and expansions next steps drawn for each.

    Snell et al. (arXiv 2408.03314). Stops once n paths have finished or all kept paths have. `merge_duplicates`: equal
    paths are scored and ranked once.
    """

    name: ClassVar[str] = "beam_search"

    expansions: int = 4
    merge_duplicates: bool = False

    def solve(self, problem: Problem) -> Flow[Answer]:
        allot = keep_best(self.n // self.expansions, self.expansions)
        found, short = yield from step_search(
            problem, self, allot, width=self.n, merge_duplicates=self.merge_duplicates
        )
        return conclude(found, self.aggregation, self.selection, out_of_budget=short)


@dataclass(frozen=True, slots=True, kw_only=True)
class DVTS(StepSearch):
    """n / expansions independent subtrees, each a greedy search of expansions candidates a step.

    Beeching, Tunstall and Rush, "Scaling test-time compute with open models" (2024). `merge_duplicates`: equal paths of
    one subtree are scored and ranked once.
    """

    name: ClassVar[str] = "dvts"

    expansions: int = 4
    merge_duplicates: bool = False

    def solve(self, problem: Problem) -> Flow[Answer]:
        found, short = yield from step_search(
            problem,
            self,
            keep_best(1, self.expansions),
            width=self.expansions,
            groups=self.n // self.expansions,
            merge_duplicates=self.merge_duplicates,
        )
        return conclude(found, self.aggregation, self.selection, out_of_budget=short)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookahead(StepSearch):
    """Beam search that ranks a path by where lookahead_steps further greedy steps lead.

    Snell et al. (arXiv 2408.03314). The further steps serve ranking only and are drawn afresh when the path goes on, so
    a round costs up to n * (lookahead_steps + 1) steps. `merge_duplicates` as in beam search.
    """

    name: ClassVar[str] = "lookahead"

    expansions: int = 4
    lookahead_steps: int = 1
    merge_duplicates: bool = False

    def solve(self, problem: Problem) -> Flow[Answer]:
        allot = keep_best(self.n // self.expansions, self.expansions)
        found, short = yield from step_search(
            problem,
            self,
            allot,
            width=self.n,
            lookahead_steps=self.lookahead_steps,
            merge_duplicates=self.merge_duplicates,
        )
        return conclude(found, self.aggregation, self.selection, out_of_budget=short)
