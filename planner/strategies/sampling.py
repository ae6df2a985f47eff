"""Strategies over independent whole answers: greedy, majority voting, best-of-N."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from planner.core import Answer, Candidate, Completion, Problem, Sampling, split_steps
from planner.effects import Flow, sample, score
from planner.errors import OutOfBudget
from planner.strategies.base import validate
from planner.strategies.scoring import Aggregation, Rule, Selection, candidate, conclude

__all__ = ["BestOfN", "Greedy", "Majority", "OddsVote", "draw", "draw_until", "keep_paid", "score_finished"]


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
    return keep_paid(reply)


def keep_paid(reply: Sequence[Completion]) -> tuple[list[Candidate], bool]:
    """The candidates of a reply, and whether the budget cut some short; a request refused outright left none."""
    short = any(completion.finish == "budget" for completion in reply)
    return [candidate(c) for c in reply if c.finish != "budget" or c.generated_tokens], short


def score_finished(problem: Problem, found: Sequence[Candidate]) -> Flow[tuple[list[Candidate], bool]]:
    """The same candidates with scores for the finished ones; the flag tells that the budget did not pay for them.

    An unfinished candidate is never selected over a finished one: its scores would be paid for nothing.
    """
    rows = list(found)
    steps = {i: split_steps(c.text, problem.step_separator) for i, c in enumerate(rows) if c.finished and not c.scores}
    steps = {i: s for i, s in steps.items() if s}
    try:
        scored = (yield from score(problem, list(steps.values()))) if steps else ()
    except OutOfBudget:
        return rows, True
    for i, reply in zip(steps, scored, strict=True):
        rows[i] = replace(rows[i], scores=reply.scores)
    return rows, False


def draw_until(
    problem: Problem,
    stops: Callable[[list[Candidate]], bool],
    *,
    limit: int,
    batch: int,
    temperature: float,
    top_p: float,
    policy_model: str | None,
    scored: bool = False,
) -> Flow[tuple[list[Candidate], bool]]:
    """Draw `batch` answers at a time, at most `limit`, until `stops` holds for those drawn; with `scored` the finished
    ones are scored before it is asked. The flag tells that the budget ended it."""
    found, short, drawn = list[Candidate](), False, 0
    while drawn < limit and not short and not stops(found):
        count = min(batch, limit - drawn)
        more, short = yield from draw(
            problem, count, temperature=temperature, top_p=top_p, policy_model=policy_model, first_index=drawn
        )
        if scored:
            more, unscored = yield from score_finished(problem, more)
            short = short or unscored
        found += more
        drawn += count
    return found, short


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
        return _judged(self, problem, self.selection)


@dataclass(frozen=True, slots=True, kw_only=True)
class OddsVote:
    """n samples, the finished ones scored; the answer with the largest sum of its scores' odds, score / (1 - score).

    Weighted best-of-N with other weights. An answer's sum is its votes times its mean odds: as in Bayes' rule, its
    share of the votes being the prior and the odds of a score, read as a probability, the evidence. A score of .99
    counts eleven times as much as one of .9. With scores that are no probabilities it is measured like any other
    strategy.
    """

    name: ClassVar[str] = "odds_vote"
    needs_verifier: ClassVar[bool] = True
    replayable: ClassVar[bool] = True

    n: int
    temperature: float = 0.8
    top_p: float = 1.0
    aggregation: Aggregation = "last"
    policy_model: str | None = None

    def __post_init__(self) -> None:
        validate(self)

    def solve(self, problem: Problem) -> Flow[Answer]:
        return _judged(self, problem, "odds")


def _judged(spec: BestOfN | OddsVote, problem: Problem, rule: Rule) -> Flow[Answer]:
    found, short = yield from draw(
        problem, spec.n, temperature=spec.temperature, top_p=spec.top_p, policy_model=spec.policy_model
    )
    found, unscored = yield from score_finished(problem, found)
    return conclude(found, spec.aggregation, rule, out_of_budget=short or unscored)
