"""Wrong solutions on demand: the family's own program runs on a tape that errs once and carries the error on."""

from __future__ import annotations

import random
import re

from planner.models.lab.steps import Attempt
from planner.tasks.lab import WorkedProblem
from planner.tasks.lab_programs import Astray, Tape, compute, solve_on

__all__ = ["KINDS", "corrupt"]

KINDS = ("slip", "slip", "slip", "copy", "copy", "operation", "skip", "stop", "answer")
"""Arithmetic slip, number copied wrongly, wrong operation, step left out, answer given too early or copied wrongly."""


class _Stop(Exception):
    def __init__(self, value: int) -> None:
        self.value = value


class _ErringTape(Tape):
    """Errs at the `at`-th step (0 is the first) in the way `kind` says."""

    def __init__(self, at: int, kind: str, numbers: list[int], rng: random.Random) -> None:
        super().__init__()
        self._at, self._kind, self._numbers, self._rng, self._count = at, kind, numbers, rng, 0

    def calculate(self, left: int, operator: str, right: int, *, label: str = "") -> int:
        if not self._now():
            try:
                result = compute(left, operator, right)
            except Astray:  # after an error a division may no longer come out even
                result = round(left / right) if right else 0
        elif self._kind == "slip":
            result = _other(compute(left, operator, right), self._rng)
        elif self._kind == "copy":
            if self._rng.random() < 0.5:
                left = self._miscopied(left)
            else:
                right = self._miscopied(right)
            result = self._roughly(left, operator, right)
        elif self._kind == "operation":
            operator = self._rng.choice([other for other in "+-*" if other != operator])
            result = compute(left, operator, right)
        elif self._kind == "skip":
            return left
        else:
            raise _Stop(left)
        self.write(f"{label}{left} {operator} {right} = {result}", result)
        return result

    def remainder(self, larger: int, smaller: int) -> int:
        quotient, result = divmod(larger, smaller)
        if self._now():
            if self._kind == "skip":
                return result
            if self._kind == "stop":
                raise _Stop(smaller)
            if self._kind == "copy":
                smaller = max(1, abs(self._miscopied(smaller)))
                quotient, result = divmod(larger, smaller)
            elif self._kind == "operation" and quotient:
                quotient = max(0, quotient + self._rng.choice((-1, 1)))
                result = abs(larger - quotient * smaller)
            else:
                result = abs(_other(result, self._rng))
        self.write(f"{larger} - {quotient} * {smaller} = {result}", result)
        return result

    def _now(self) -> bool:
        self._count += 1
        return self._count - 1 == self._at

    def _miscopied(self, number: int) -> int:
        if self._numbers and self._rng.random() < 0.4:
            return self._rng.choice(self._numbers)
        return _other(number, self._rng)

    @staticmethod
    def _roughly(left: int, operator: str, right: int) -> int:
        if operator == "/":
            return round(left / right) if right else 0
        return compute(left, operator, right)


def _other(number: int, rng: random.Random) -> int:
    """A number that a careless calculator could write instead."""
    digits = list(str(abs(number)))
    way = rng.random()
    place = rng.randrange(len(digits))
    if way < 0.45:  # one digit off by a little, as a lost carry does
        return number + rng.choice((-1, 1, -1, 1, -2, 2)) * int(10 ** rng.randrange(len(digits)))
    if way < 0.75:
        digits[place] = rng.choice([d for d in "0123456789" if d != digits[place]])
    elif way < 0.83 and len(digits) > 1:
        other = rng.randrange(len(digits))
        digits[place], digits[other] = digits[other], digits[place]
    elif way < 0.88 and len(digits) > 1:
        del digits[place]
    elif way < 0.92:
        digits.insert(place, rng.choice("0123456789"))
    elif way < 0.96:
        return -number
    else:
        return number + rng.choice((-10, 10, -9, 9, -11, 11))
    value = int("".join(digits))
    return -value if number < 0 else value


def _other_answer(answer: str, rng: random.Random) -> str:
    """One of its numbers changed; a time of day has two or three."""
    parts = answer.split(":")
    place = rng.randrange(len(parts))
    width = len(parts[place])
    parts[place] = f"{_other(int(parts[place]), rng):0{width if len(parts) > 1 else 1}d}"
    return ":".join(parts)


def corrupt(problem: WorkedProblem, rng: random.Random) -> Attempt | None:
    """A solution with one error at a random step, the rest consistent with it; None if it came out right."""
    kind = rng.choice(KINDS)
    numbers = [int(n) for n in re.findall(r"-?\d+", "\n".join((problem.question, *problem.steps)))]
    at = rng.randrange(len(problem.steps) - 1)
    if kind == "answer":
        wrong = _other_answer(problem.answer, rng) if rng.random() < 0.6 else str(rng.choice(numbers))
        steps = [*problem.steps[:-1], f"#### {wrong}"]
    else:
        tape = _ErringTape(at, kind, numbers, rng)
        try:
            solve_on(tape, problem.family, problem.question)
        except _Stop as stop:
            tape.steps.append(f"#### {stop.value}")
        except Astray:
            return None
        steps = tape.steps
    attempt = Attempt(problem, tuple(steps))
    return None if attempt.right else attempt
