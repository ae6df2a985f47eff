"""Verifier-guided search that spends on paths in proportion to their scores: REBASE and particle filtering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from planner.core import Answer, Problem
from planner.effects import Flow
from planner.strategies.allotment import resample, share_out
from planner.strategies.paths import StepSearch
from planner.strategies.scoring import Selection, conclude
from planner.strategies.step_search import step_search

__all__ = ["ParticleFiltering", "Rebase"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebase(StepSearch):
    """n steps a round (less the finished paths) shared out by softmax(score / balance_temperature).

    Wu et al. (arXiv 2408.00724). Stops once n paths have finished or nothing is left to go on with.
    `merge_duplicates`: equal paths are scored once and get one share.
    """

    name: ClassVar[str] = "rebase"

    balance_temperature: float = 0.1
    selection: Selection = "vote"
    merge_duplicates: bool = False

    def solve(self, problem: Problem) -> Flow[Answer]:
        allot = share_out(self.n, self.balance_temperature)
        found, short = yield from step_search(
            problem, self, allot, width=self.n, merge_duplicates=self.merge_duplicates
        )
        return conclude(found, self.aggregation, self.selection, out_of_budget=short)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticleFiltering(StepSearch):
    """n partial answers, resampled each step with weights softmax(logit(score) / resampling_temperature).

    Puri et al. (arXiv 2502.01618). Finished particles stay in the resampling; it stops when all n are finished. The
    resampling's random numbers come from the prompt alone, so a run can be repeated.
    """

    name: ClassVar[str] = "particle_filtering"

    resampling_temperature: float = 1.0

    def solve(self, problem: Problem) -> Flow[Answer]:
        allot = resample(self.n, self.resampling_temperature, problem.prompt)
        found, short = yield from step_search(problem, self, allot, width=self.n)
        return conclude(found, self.aggregation, self.selection, out_of_budget=short)
