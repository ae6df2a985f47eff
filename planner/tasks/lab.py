"""The laboratory's problems: reasoning-gym questions with exactly derived worked steps.

A question's split follows from a hash of its content, so no two splits can share a question, however many are drawn.
Whole templates (a question's wording and structure without its numbers) are held out likewise: no model is trained, and
nothing is profiled, on a question of the split `held_out_templates`.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from planner.errors import InputError
from planner.tasks.lab_programs import PROGRAMS, Astray, Tape, between, solve_on

__all__ = [
    "FAMILIES",
    "REVISION_TEMPLATE",
    "SPLITS",
    "STEP_SEPARATOR",
    "TEMPLATED",
    "WorkedProblem",
    "template_of",
    "training_stream",
    "worked_problems",
]

STEP_SEPARATOR = "\n"
REVISION_TEMPLATE = "{prompt}\nTried before:\n{attempts}\nNow right:"
"""How the laboratory's models are trained to be shown earlier attempts, which may be wrong."""

SPLITS = ("train", "profile", "held_out", "held_out_templates")
FAMILIES: tuple[str, ...] = tuple(PROGRAMS)
TEMPLATED = ("chain_sum", "basic_arithmetic", "simple_equations", "leg_counting", "time_intervals")
"""Families with many templates; of the others every question has the same one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkedProblem:
    """A question with its only accepted way of working. The last step is `#### ANSWER`."""

    problem_id: str
    family: str
    question: str
    steps: tuple[str, ...]
    answer: str

    @property
    def solution(self) -> str:
        """The steps as a policy model should write them."""
        return STEP_SEPARATOR.join(self.steps)


# Each family in grades, from what every policy model solves to what none does. Training draws them evenly.
_GRADES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "chain_sum": [
        {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 2},
        {"min_terms": 2, "max_terms": 4, "min_digits": 2, "max_digits": 3},
        {"min_terms": 4, "max_terms": 6, "min_digits": 3, "max_digits": 4},
    ],
    "basic_arithmetic": [
        {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1, "allow_negation": False},
        {"min_terms": 3, "max_terms": 5, "min_digits": 1, "max_digits": 1, "allow_negation": False},
        {"min_terms": 2, "max_terms": 3, "min_digits": 2, "max_digits": 2, "allow_negation": False},
        {"min_terms": 4, "max_terms": 5, "min_digits": 1, "max_digits": 2, "allow_negation": False},
    ],
    "products": [
        {"min_digits": 1, "max_digits": 2},
        {"min_digits": 2, "max_digits": 2},
        {"min_digits": 2, "max_digits": 3},
    ],
    "gcd": [{"max_value": 60}, {"max_value": 200}, {"max_value": 1000}],
    "simple_equations": [
        {"min_terms": 2, "max_terms": 2, "max_value": 12},
        {"min_terms": 2, "max_terms": 3, "max_value": 30},
        {"min_terms": 2, "max_terms": 4, "max_value": 60},
    ],
    "leg_counting": [
        {"min_animals": 2, "max_animals": 3, "max_instances": 9},
        {"min_animals": 3, "max_animals": 4, "max_instances": 15},
        {"min_animals": 5, "max_animals": 7, "max_instances": 15},
    ],
    "time_intervals": [
        {"task_types": ["time"], "max_time_difference_seconds": 7200},
        {"task_types": ["time"]},
        {"task_types": ["time_seconds"]},
    ],
}

# What profiling and the held-out split draw once more: the last grade, or one that training never shows.
_HARDEST: Mapping[str, Mapping[str, Any]] = {
    **{family: grades[-1] for family, grades in _GRADES.items()},
    "leg_counting": {"min_animals": 4, "max_animals": 7, "max_instances": 40},
}


@lru_cache(maxsize=1)
def _datasets() -> dict[str, list[Any]]:
    """reasoning-gym's generators by family and grade, the extra one last; an item depends on its index alone."""
    import reasoning_gym

    return {
        family: [reasoning_gym.create_dataset(family, size=1, seed=0, **grade) for grade in [*grades, _HARDEST[family]]]
        for family, grades in _GRADES.items()
    }


def _digest(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest(), "big")


def template_of(family: str, question: str) -> str:
    """The question without its numbers; without its variable's name too, where it has one."""
    template = re.sub(r"\d+", "#", question)
    return re.sub(r"\b[a-z]\b", "x", template) if family == "simple_equations" else template


def _split_of(family: str, question: str) -> str:
    """A tenth of the templates is held out whole; of the other questions 80 % train, 10 % profile, 10 % held out."""
    if family in TEMPLATED:
        template = template_of(family, question)
        # Sums of up to three terms have too few templates to lose one.
        common = family == "chain_sum" and template.count("#") < 4
        if not common and _digest("template", family, template) % 10 == 0:
            return "held_out_templates"
    content = question
    if family == "simple_equations":  # the same equation with another letter or wording is the same question
        content = re.sub(r"[a-z]", "x", question.rsplit(": ", 1)[1])
    elif family == "gcd":
        content = ",".join(sorted(between(question, "numbers: ", ".").split(", ")))
    place = _digest("split", family, content) % 10
    return "profile" if place == 0 else "held_out" if place == 1 else "train"


def _candidates(split: str, family: str, seed: int) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Endless (question, steps, answer) of the split, in an order that depends on the arguments alone."""
    grades = _datasets()[family]
    if split == "train":
        grades = grades[:-1]
    elif split == "held_out_templates" and family not in TEMPLATED:
        raise InputError(
            "the family has one template only", field="families", value=family, expected=", ".join(TEMPLATED)
        )
    number = 0
    while True:
        index = _digest(split, family, seed, number) >> 1
        number += 1
        item = grades[index % len(grades)][index]
        question = item["question"].strip()
        if _split_of(family, question) != split:
            continue
        tape = Tape()
        try:
            answer = solve_on(tape, family, question)
        except Astray:
            continue
        # An expression without an operation has nothing to work, and gold is reasoning-gym's, not ours.
        if len(tape.steps) > 1 and answer == item["answer"]:
            yield question, tuple(tape.steps), answer


def worked_problems(
    split: str, count: int, *, families: Sequence[str] | None = None, seed: int = 0
) -> list[WorkedProblem]:
    """`count` different problems of `split`, families taking turns; the first n of a larger count are the same.

    Without `families` all that the split has take part. Raises InputError for what there is not.
    """
    if split not in SPLITS:
        raise InputError("no such split", field="split", value=split, expected=", ".join(SPLITS))
    if families is None:
        families = TEMPLATED if split == "held_out_templates" else FAMILIES
    unknown = [family for family in families if family not in FAMILIES]
    if unknown or not families:
        raise InputError("no such family", field="families", value=unknown, expected=", ".join(FAMILIES))
    if count < 0:
        raise InputError("cannot be negative", field="count", value=count)
    streams = [_candidates(split, family, seed) for family in families]
    name = split if seed == 0 else f"{split}.{seed}"
    problems: list[WorkedProblem] = []
    seen: set[str] = set()
    while len(problems) < count:
        family = families[len(problems) % len(families)]
        question, steps, answer = next(
            found for found in streams[len(problems) % len(families)] if found[0] not in seen
        )
        seen.add(question)
        problem_id = f"lab/{name}/{family}/{len(problems) // len(families)}"
        problems.append(
            WorkedProblem(problem_id=problem_id, family=family, question=question, steps=steps, answer=answer)
        )
    return problems


def training_stream(seed: int) -> Iterator[WorkedProblem]:
    """Endless training problems in random family order; other seeds give other problems."""
    streams = {family: _candidates("train", family, seed) for family in FAMILIES}
    rng = random.Random(seed)
    number = 0
    while True:
        family = rng.choice(FAMILIES)
        question, steps, answer = next(streams[family])
        yield WorkedProblem(
            problem_id=f"lab/train.{seed}/{number}", family=family, question=question, steps=steps, answer=answer
        )
        number += 1
