"""What a model is known to get wrong, counted over measured attempts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from planner.models.lab.steps import Attempt, answer_of
from planner.tasks.lab import STEP_SEPARATOR
from planner.tasks.lab_programs import Astray, compute

__all__ = ["KINDS", "first_mistake", "policy_mistakes", "verifier_mistakes"]

KINDS = {
    "arithmetic": "a line whose result is not what its own numbers give",
    "wrong line": "a line that is true but not the one due: another operation, number or order",
    "early answer": "a final answer where a line of work was due",
    "wrong answer line": "right lines, then another final answer than the last line's result",
    "no answer": "right lines, then no final answer",
    "unreadable": "a line that is neither an operation nor an answer",
}
"""Kinds of first mistakes; what each one means."""

# `57 + 87 = 144`, `cow: 3 * 4 = 12`, `1071 - 2 * 462 = 147`
_LINE = re.compile(r"(?:[a-z ]+: )?(-?\d+) ([-+*/]) (-?\d+)(?: \* (-?\d+))? = (-?\d+)")


def first_mistake(attempt: Attempt) -> str:
    """The kind (a key of `KINDS`) of a wrong attempt's first step that differs from the worked ones."""
    worked = attempt.problem.steps
    for number, step in enumerate(attempt.steps):
        if number < len(worked) and step == worked[number]:
            continue
        if answer_of([step]) is not None:
            return "wrong answer line" if number >= len(worked) - 1 else "early answer"
        true = _is_true(step)
        return "unreadable" if true is None else "wrong line" if true else "arithmetic"
    return "no answer"


def _is_true(step: str) -> bool | None:
    """Whether a line's result is what its numbers give; None if it is not an operation."""
    found = _LINE.fullmatch(step)
    if found is None:
        return None
    left, operator, right, factor, result = found.groups()
    try:
        return compute(int(left), operator, int(right) * int(factor or 1)) == int(result)
    except Astray:  # an inexact division
        return False


def policy_mistakes(groups: Sequence[Sequence[Attempt]]) -> list[dict[str, Any]]:
    """The kinds of first mistakes among wrong attempts, most frequent first, each with its share and an example."""
    wrong = [attempt for group in groups for attempt in group if not attempt.right]
    kinds = [first_mistake(attempt) for attempt in wrong]
    return [
        {
            "mistake": KINDS[kind],
            "share_of_wrong_answers": count / len(wrong),
            "example": _example(wrong[kinds.index(kind)]),
        }
        for kind, count in Counter(kinds).most_common()
    ]


def verifier_mistakes(groups: Sequence[Sequence[Attempt]], scores: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """How often a verifier is wrong about these attempts (one aggregated score each), with an example."""
    pairs = [
        (attempt, score)
        for group, row in zip(groups, scores, strict=True)
        for attempt, score in zip(group, row, strict=True)
    ]
    wrong = [(attempt, score) for attempt, score in pairs if not attempt.right]
    right = [score for attempt, score in pairs if attempt.right]
    misled = [
        not group[int(np.argmax(row))].right
        for group, row in zip(groups, scores, strict=True)
        if len({attempt.right for attempt in group}) == 2
    ]
    mistakes: list[dict[str, Any]] = []
    if wrong:
        attempt, score = max(wrong, key=lambda pair: pair[1])
        mistakes.append(
            {
                "mistake": "a wrong answer scored .5 or more",
                "share_of_wrong_answers": float(np.mean([score >= 0.5 for _, score in wrong])),
                "example": {**_example(attempt), "score": round(score, 4)},
            }
        )
    if right:
        mistakes.append(
            {
                "mistake": "a right answer scored below .5",
                "share_of_right_answers": float(np.mean([score < 0.5 for score in right])),
            }
        )
    if misled:
        mistakes.append(
            {
                "mistake": "of attempts of which some are right and some wrong, the best score went to a wrong one",
                "share_of_problems": float(np.mean(misled)),
            }
        )
    return mistakes


def _example(attempt: Attempt) -> dict[str, str]:
    return {
        "question": attempt.problem.question,
        "written": STEP_SEPARATOR.join(attempt.steps),
        "worked": attempt.problem.solution,
    }
