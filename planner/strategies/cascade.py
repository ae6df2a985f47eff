"""A first stage of samples whose agreement decides what is spent on top."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar, Literal

from planner.core import Answer, Candidate, Outcome, Problem
from planner.effects import Flow
from planner.strategies.base import require, validate
from planner.strategies.sampling import draw, score_finished
from planner.strategies.scoring import Aggregation, Selection, answer_with, conclude, select
from planner.strategies.search import DVTS, BeamSearch

__all__ = ["Cascade"]

_SEARCHES: dict[str, type[BeamSearch] | type[DVTS]] = {"beam_search": BeamSearch, "dvts": DVTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """n samples; stop where they agree, draw more where they nearly do, else a second stage.

    Agreement is the leading answer's share of the n samples. From `threshold` on its vote stands; from `escalate_below`
    on more samples are drawn, up to max_n, and all vote; below it `second` (majority, best_of_n, beam_search or dvts)
    runs with `second_n` and `second_policy_model` (None: the same model, whose first samples then count in best_of_n).
    The first stage's vote is the answer where the second stage finishes none.
    """

    name: ClassVar[str] = "cascade"
    replayable: ClassVar[bool] = False

    n: int
    max_n: int
    second: Literal["majority", "best_of_n", "beam_search", "dvts"]
    second_n: int
    second_policy_model: str | None = None
    threshold: float = 0.75
    escalate_below: float = 0.5
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
        require(self, self.n >= 2, "n", "one sample always agrees with itself", "a whole number >= 2")
        require(self, self.max_n >= self.n, "max_n", "below the first stage", f"at least n = {self.n}")
        rule = f"at most threshold = {self.threshold}"
        require(self, self.escalate_below <= self.threshold, "escalate_below", "above where it stops", rule)
        rule = f"a multiple of expansions = {self.expansions}"
        shared = self.second not in _SEARCHES or self.second_n % self.expansions == 0
        require(self, shared, "second_n", "cannot be shared out", rule)
        other = self.second != "majority" or self.second_policy_model not in (None, self.policy_model)
        require(self, other, "second_policy_model", "more samples of one model are what max_n is for", "another model")

    @property
    def needs_verifier(self) -> bool:
        return self.second != "majority"

    def solve(self, problem: Problem) -> Flow[Answer]:
        found, short = yield from self._draw(problem, self.n)
        votes = Counter(c.key for c in found if c.key is not None)
        agreement = max(votes.values(), default=0) / self.n
        if short or agreement >= self.threshold:
            return conclude(found, "last", "vote", out_of_budget=short)
        if agreement >= self.escalate_below:
            if self.max_n > self.n:
                more, short = yield from self._draw(problem, self.max_n - self.n, first_index=self.n)
                found += more
            return conclude(found, "last", "vote", out_of_budget=short)
        pooled = self.second == "best_of_n" and self.second_policy_model is None
        later, short = yield from self._escalate(problem, found if pooled else [])
        chosen = select(later, self.aggregation, self.selection)
        everyone = later if pooled else [*found, *later]
        if chosen is None or not chosen.finished:
            chosen = select(everyone, "last", "vote")
        return answer_with(chosen, everyone, out_of_budget=short)

    def _escalate(self, problem: Problem, pool: list[Candidate]) -> Flow[tuple[list[Candidate], bool]]:
        """The second stage's candidates, `pool` among them, and whether the budget ended it."""
        if self.second in _SEARCHES:
            search = _SEARCHES[self.second](
                n=self.second_n,
                expansions=self.expansions,
                max_steps=self.max_steps,
                max_step_tokens=self.max_step_tokens,
                temperature=self.temperature,
                top_p=self.top_p,
                aggregation=self.aggregation,
                selection=self.selection,
                policy_model=self.second_policy_model or self.policy_model,
            )
            answer = yield from search.solve(problem)
            return list(answer.candidates), answer.outcome is Outcome.OUT_OF_BUDGET
        # Other streams than the first stage's, in case both models are one.
        more, short = yield from self._draw(
            problem, self.second_n, first_index=self.n, policy_model=self.second_policy_model
        )
        pool = [*pool, *more]
        if self.second == "best_of_n":
            pool, unscored = yield from score_finished(problem, pool)
            short = short or unscored
        return pool, short

    def _draw(
        self, problem: Problem, count: int, *, first_index: int = 0, policy_model: str | None = None
    ) -> Flow[tuple[list[Candidate], bool]]:
        return draw(
            problem,
            count,
            temperature=self.temperature,
            top_p=self.top_p,
            policy_model=policy_model or self.policy_model,
            first_index=first_index,
        )
