"""Strategies over independent whole answers: greedy, majority voting, best-of-N."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from planner.core import Answer, Candidate, Completion, Problem, Sampling, split_steps
from planner.effects import Flow, sample, score
from planner.errors import OutOfBudget
from planner.strategies.base import validate
from planner.strategies.scoring import Aggregation, Selection, candidate, conclude

__all__ = ["BestOfN", "Greedy", "Majority", "draw"]


def draw(
    problem: Problem, count: int, *, temperature: float, top_p: float, policy_model: str | None, first_index: int = 0
) -> Flow[tuple[list[Candidate], bool]]:
    """Draw whole answers from streams `first_index` onward; the flag tells that the budget cut some short.

    Requests are the same for every strategy, so that banks and live runs share their samples' keys.
    """
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=problem.max_tokens)
    prefixes = [""] * count
    try:
        reply: Sequence[Completion] = yield from sample(
            problem, prefixes, sampling, first_index=first_index, policy_model=policy_model
        )
    except OutOfBudget:
        return [], True
    short = any(completion.finish == "budget" for completion in reply)
    # A request refused outright left no text and is no candidate.
    return [candidate(c) for c in reply if c.finish != "budget" or c.generated_tokens], short


@dataclass(frozen=True, slots=True, kw_only=True)
class Greedy:
    """One answer at temperature 0."""

    name: ClassVar[str] = "greedy"
    needs_verifier: ClassVar[bool] = False
    replayable: ClassVar[bool] = True

    policy_model: str | None = None

    def __post_init__(self) -> None:
        validate(self)

    def solve(self, problem: Problem) -> Flow[Answer]:
        found, short = yield from draw(problem, 1, temperature=0.0, top_p=1.0, policy_model=self.policy_model)
        return conclude(found, "last", "vote", out_of_budget=short)


@dataclass(frozen=True, slots=True, kw_only=True)
class Majority:
    """The most frequent canonical answer of n samples (self-consistency)."""

    name: ClassVar[str] = "majority"
    needs_verifier: ClassVar[bool] = False
    replayable: ClassVar[bool] = True

    n: int
    temperature: float = 0.8
    top_p: float = 1.0
    policy_model: str | None = None

    def __post_init__(self) -> None:
        validate(self)

    def solve(self, problem: Problem) -> Flow[Answer]:
        found, short = yield from draw(
            problem, self.n, temperature=self.temperature, top_p=self.top_p, policy_model=self.policy_model
        )
        return conclude(found, "last", "vote", out_of_budget=short)


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfN:
    """n samples, the finished ones scored; the best one (max), or the answer with the largest sum of scores (vote)."""

    name: ClassVar[str] = "best_of_n"
    needs_verifier: ClassVar[bool] = True
    replayable: ClassVar[bool] = True

    n: int
    temperature: float = 0.8
    top_p: float = 1.0
    aggregation: Aggregation = "last"
    selection: Selection = "vote"
    policy_model: str | None = None

    def __post_init__(self) -> None:
        validate(self)

    def solve(self, problem: Problem) -> Flow[Answer]:
        found, short = yield from draw(
            problem, self.n, temperature=self.temperature, top_p=self.top_p, policy_model=self.policy_model
        )
        # An unfinished candidate is never selected over a finished one: its scores would be paid for nothing.
        steps = {i: split_steps(c.text, problem.step_separator) for i, c in enumerate(found) if c.finished}
        steps = {i: s for i, s in steps.items() if s}
        try:
            scored = (yield from score(problem, list(steps.values()))) if steps else ()
        except OutOfBudget:
            scored, short = (), True
        for i, reply in zip(steps, scored, strict=False):
            found[i] = replace(found[i], scores=reply.scores)
        return conclude(found, self.aggregation, self.selection, out_of_budget=short)
