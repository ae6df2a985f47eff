"""How each family is worked: a small program that reads its question and writes one operation a line on a `Tape`.

Because a wrong tape (`planner.models.lab.corrupt`) can run the same program, wrong solutions stay consistent with their
first mistake.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from functools import lru_cache

__all__ = ["PROGRAMS", "Astray", "Tape", "between", "compute", "solve_on"]

_LARGEST = 999_999
_MOST_STEPS = 24


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
    first, *rest = re.findall(r"-?\d+|[-+](?= )", between(question, "problem: ", " ="))
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
    left, right = (int(n) for n in between(question, "multiplication: ", ".").split(" * "))
    digits = [int(d) * 10**place for place, d in enumerate(reversed(str(right))) if d != "0"]
    total = tape.calculate(left, "*", digits[0] if digits else 0)
    for digit in digits[1:]:
        total = tape.calculate(total, "+", tape.calculate(left, "*", digit))
    return total


def _gcd(question: str, tape: Tape) -> int:
    larger, smaller = sorted((int(n) for n in between(question, "numbers: ", ".").split(", ")), reverse=True)
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
    for item in between(question, "if you have ", "?").split(", "):
        count, name = item.split(" ", 1)
        animal = name if count == "1" else name.removesuffix("s")
        part = tape.calculate(int(count), "*", legs[animal], label=f"{animal}: ")
        total = part if total is None else tape.calculate(total, "+", part)
    assert total is not None
    return total


def _time_intervals(question: str, tape: Tape) -> str:
    """The smallest unit first, as in written subtraction; a unit below zero borrows 60 from the next."""
    start, end = ([int(part) for part in time.split(":")] for time in re.findall(r"\d\d(?::\d\d)+", question))
    parts: list[str] = []
    borrowed = False
    for late, early in zip(reversed(end), reversed(start), strict=True):
        value = tape.calculate(late, "-", early)
        if borrowed:
            value = tape.calculate(value, "-", 1)
        borrowed = value < 0 and len(parts) < len(end) - 1
        if borrowed:
            value = tape.calculate(value, "+", 60)
        parts.append(f"{value:02d}")
    return ":".join(reversed(parts))


@lru_cache(maxsize=1)
def _legs() -> dict[str, int]:
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    return dict(ANIMALS)


def between(text: str, start: str, end: str) -> str:
    """What stands between the first `start` and the `end` that follows."""
    return text.split(start, 1)[1].split(end, 1)[0]


PROGRAMS: Mapping[str, Callable[[str, Tape], int | str]] = {
    "chain_sum": _chain_sum,
    "basic_arithmetic": _basic_arithmetic,
    "products": _products,
    "gcd": _gcd,
    "simple_equations": _simple_equations,
    "leg_counting": _leg_counting,
    "time_intervals": _time_intervals,
}
"""A family's program writes its steps and returns its answer."""


def solve_on(tape: Tape, family: str, question: str) -> str:
    """Work the question on `tape`, write the last line and return the answer there."""
    answer = str(PROGRAMS[family](question, tape))
    tape.steps.append(f"#### {answer}")
    return answer
