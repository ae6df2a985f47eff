"""The laboratory's problems: reasoning-gym questions with exactly derived worked steps.

A family is a small program that reads its question and writes one operation a line on a `Tape`. Because a wrong tape
(`planner.models.lab.corrupt`) can run the same program, wrong solutions stay consistent with their first mistake.

A question's split follows from a hash of its content, so no two splits can share a question, however many are drawn.
"""

from __future__ import annotations

import ast
import hashlib
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from planner.errors import InputError

__all__ = [
    "FAMILIES",
    "SPLITS",
    "STEP_SEPARATOR",
    "Tape",
    "WorkedProblem",
    "solve_on",
    "training_stream",
    "worked_problems",
]

STEP_SEPARATOR = "\n"
SPLITS = ("train", "profile", "held_out")
_LARGEST = 999_999
_MOST_STEPS = 24


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


class Tape:
    """Where a program writes its steps. `calculate` returns what it wrote, so a slip carries on."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def calculate(self, left: int, operator: str, right: int, *, label: str = "") -> int:
        """Write `label` and one operation; return its result."""
        result = compute(left, operator, right)
        self.write(f"{label}{left} {operator} {right} = {result}", result)
        return result

    def remainder(self, larger: int, smaller: int) -> int:
        """Write one line of Euclid's algorithm, with its quotient; return the remainder."""
        quotient, result = divmod(larger, smaller)
        self.write(f"{larger} - {quotient} * {smaller} = {result}", result)
        return result

    def write(self, step: str, result: int) -> None:
        """Append a step; a program that has gone astray is stopped by its size."""
        if len(self.steps) >= _MOST_STEPS or abs(result) > _LARGEST:
            raise Astray
        self.steps.append(step)


class Astray(Exception):
    """A program left the sizes that this laboratory works with; the problem is dropped."""


def compute(left: int, operator: str, right: int) -> int:
    """One exact integer operation; an inexact division is `Astray`."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    if right == 0 or left % right:
        raise Astray
    return left // right


def _chain_sum(question: str, tape: Tape) -> int:
    first, *rest = re.findall(r"-?\d+|[-+](?= )", _between(question, "problem: ", " ="))
    value = int(first)
    for operator, term in zip(rest[::2], rest[1::2], strict=True):
        value = tape.calculate(value, operator, int(term))
    return value


_OPERATORS: Mapping[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def _basic_arithmetic(question: str, tape: Tape) -> int:
    def value(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp):
            return tape.calculate(value(node.left), _OPERATORS[type(node.op)], value(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            return -value(node.operand)
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        raise Astray

    return value(ast.parse(question.removeprefix("Calculate ").removesuffix("."), mode="eval").body)


def _products(question: str, tape: Tape) -> int:
    left, right = (int(n) for n in _between(question, "multiplication: ", ".").split(" * "))
    digits = [int(d) * 10**place for place, d in enumerate(reversed(str(right))) if d != "0"]
    total = tape.calculate(left, "*", digits[0] if digits else 0)
    for digit in digits[1:]:
        total = tape.calculate(total, "+", tape.calculate(left, "*", digit))
    return total


def _gcd(question: str, tape: Tape) -> int:
    larger, smaller = sorted((int(n) for n in _between(question, "numbers: ", ".").split(", ")), reverse=True)
    while smaller:
        larger, smaller = smaller, tape.remainder(larger, smaller)
    return larger


_LINEAR = re.compile(
    r"(?:(?P<before>-?\d+) (?P<sign>[-+]) )?(?P<coefficient>-?\d*)\*?[a-z](?: (?P<op>[-+]) (?P<after>\d+))?$"
)


def _simple_equations(question: str, tape: Tape) -> int:
    left, right = question.rsplit(": ", 1)[1].split(" = ")
    found = _LINEAR.match(left)
    if found is None or (found["before"] and found["after"]):
        raise Astray
    coefficient = int({"": "1", "-": "-1"}.get(found["coefficient"], found["coefficient"]))
    value = int(right)
    if found["before"]:
        value = tape.calculate(value, "-", int(found["before"]))
        if found["sign"] == "-":
            coefficient = -coefficient
    elif found["after"]:
        value = tape.calculate(value, "-" if found["op"] == "+" else "+", int(found["after"]))
    return value if coefficient == 1 else tape.calculate(value, "/", coefficient)


def _leg_counting(question: str, tape: Tape) -> int:
    legs = _legs()
    total: int | None = None
    for item in _between(question, "if you have ", "?").split(", "):
        count, name = item.split(" ", 1)
        animal = name if count == "1" else name.removesuffix("s")
        part = tape.calculate(int(count), "*", legs[animal], label=f"{animal}: ")
        total = part if total is None else tape.calculate(total, "+", part)
    assert total is not None
    return total


@lru_cache(maxsize=1)
def _legs() -> dict[str, int]:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    return dict(ANIMALS)


def _between(text: str, start: str, end: str) -> str:
    return text.split(start, 1)[1].split(end, 1)[0]


_PROGRAMS: Mapping[str, Callable[[str, Tape], int]] = {
    "chain_sum": _chain_sum,
    "basic_arithmetic": _basic_arithmetic,
    "products": _products,
    "gcd": _gcd,
    "simple_equations": _simple_equations,
    "leg_counting": _leg_counting,
}
FAMILIES: tuple[str, ...] = tuple(_PROGRAMS)

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


def solve_on(tape: Tape, family: str, question: str) -> str:
    """Work the question on `tape`, write the last line and return the answer there."""
    answer = str(_PROGRAMS[family](question, tape))
    tape.steps.append(f"#### {answer}")
    return answer


def _digest(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest(), "big")


def _split_of(family: str, question: str) -> str:
    """80 % of all questions train, 10 % profile, 10 % held out."""
    content = question
    if family == "simple_equations":  # the same equation with another letter or wording is the same question
        content = re.sub(r"[a-z]", "x", question.rsplit(": ", 1)[1])
    elif family == "gcd":
        content = ",".join(sorted(_between(question, "numbers: ", ".").split(", ")))
    place = _digest("split", family, content) % 10
    return "profile" if place == 0 else "held_out" if place == 1 else "train"


def _candidates(split: str, family: str, seed: int) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Endless (question, steps, answer) of the split, in an order that depends on the arguments alone."""
    grades = _datasets()[family]
    if split == "train":
        grades = grades[:-1]
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
    split: str, count: int, *, families: Sequence[str] = FAMILIES, seed: int = 0
) -> list[WorkedProblem]:
    """`count` different problems of `split`, families taking turns; the first n of a larger count are the same."""
    if split not in SPLITS:
        raise InputError("no such split", field="split", value=split, expected=", ".join(SPLITS))
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
