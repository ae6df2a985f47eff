"""From step scores to one answer: shared by live strategies and replay, so that they cannot drift apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from planner.core import Answer, Candidate, Completion, Outcome
from planner.tasks.answers import canonical, extract_answer
from planner.tasks.votes import majority

__all__ = [
    "AGGREGATIONS",
    "ODDS_EDGE",
    "SELECTIONS",
    "Aggregation",
    "Selection",
    "aggregate",
    "answer_with",
    "candidate",
    "conclude",
    "make_candidate",
    "odds",
    "select",
]

Aggregation: TypeAlias = Literal["min", "last", "mean", "prod"]
Selection: TypeAlias = Literal["max", "vote"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)
SELECTIONS: tuple[Selection, ...] = get_args(Selection)
Rule: TypeAlias = Selection | Literal["odds"]
ODDS_EDGE = 1e-4
"""Scores nearer than this to 0 or 1 count as this near: no single score may decide every vote."""


def aggregate(scores: Sequence[float], how: Aggregation) -> float:
    """One number from step scores, shape (steps,); NaN where there are none."""
    if not scores:
        return math.nan
    match how:
        case "min":
            return min(scores)
        case "last":
            return scores[-1]
        case "mean":
            return math.fsum(scores) / len(scores)
        case "prod":
            return math.prod(scores)


def odds(score: float) -> float:
    """score / (1 - score), for a score in [0, 1]."""
    bounded = min(max(score, ODDS_EDGE), 1 - ODDS_EDGE)
    return bounded / (1 - bounded)


def make_candidate(
    text: str,
    *,
    ended: bool,
    scores: tuple[float, ...] | None = None,
    mean_logprob: float | None = None,
    generated_tokens: int | None = None,
) -> Candidate:
    """A candidate from its text: finished if it `ended` with the end token or holds a final answer."""
    answer = extract_answer(text)
    key = None if answer is None else canonical(answer)
    return Candidate(
        text=text,
        answer=answer,
        key=key,
        finished=ended or answer is not None,
        scores=scores,
        mean_logprob=mean_logprob,
        generated_tokens=generated_tokens,
    )


def candidate(completion: Completion) -> Candidate:
    """A candidate from one whole completion."""
    return make_candidate(
        completion.text,
        ended=completion.finish == "end",
        mean_logprob=completion.mean_logprob,
        generated_tokens=completion.generated_tokens,
    )


def select(candidates: Sequence[Candidate], aggregation: Aggregation, selection: Rule) -> Candidate | None:
    """The chosen candidate, None if there is none; ties go to the first seen.

    An unfinished candidate is never chosen over a finished one, nor an unscored over a scored one. `max` takes the
    highest aggregated score. `vote` sums aggregated scores (1 each where nothing is scored) by canonical answer and
    takes the winner's best-scored candidate; the answerless never vote, and where all are, the choice is as `max`.
    `odds` sums the scores' odds instead, which is an answer's votes times its mean odds: as in Bayes' rule, its share
    of the votes being the prior and the odds of a score, read as a probability, the evidence.
    """
    pool = [c for c in candidates if c.finished] or list(candidates)
    pool = [c for c in pool if c.scores] or pool
    if not pool:
        return None
    weights = [aggregate(c.scores, aggregation) if c.scores else 1.0 for c in pool]
    best = max(range(len(pool)), key=weights.__getitem__)
    if selection != "max" or not pool[0].scores:
        by_odds = selection == "odds" and pool[0].scores
        winner = majority([c.key for c in pool], [odds(w) for w in weights] if by_odds else weights)
        voters = [i for i, c in enumerate(pool) if c.key == winner and winner is not None]
        best = max(voters, key=weights.__getitem__, default=best)
    return pool[best]


def conclude(
    candidates: Sequence[Candidate], aggregation: Aggregation, selection: Rule, *, out_of_budget: bool = False
) -> Answer:
    """The answer a strategy returns: the selected candidate, and how it ended."""
    return answer_with(select(candidates, aggregation, selection), candidates, out_of_budget=out_of_budget)


def answer_with(chosen: Candidate | None, candidates: Sequence[Candidate], *, out_of_budget: bool = False) -> Answer:
    """The answer that `chosen` gives among all `candidates`."""
    finished = chosen is not None and chosen.finished
    outcome = Outcome.OUT_OF_BUDGET if out_of_budget else Outcome.FINISHED if finished else Outcome.TRUNCATED
    return Answer(
        answer=chosen.answer if chosen else None,
        text=chosen.text if chosen else "",
        outcome=outcome,
        candidates=tuple(candidates),
    )
