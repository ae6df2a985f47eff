"""Answers are found in texts, made canonical, compared and voted on."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.tasks.answers import canonical, check, extract_answer, gold_answer
from planner.tasks.votes import majority


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{\frac{1}{2}} and finally \boxed{x^{2}+1}.", "x^{2}+1"),
        (r"first \boxed{7}, then cut \boxed{8", "7"),
        (r"set \boxed{\{1,2\}}", r"\{1,2\}"),
        ("12 - 3 = 9\n#### 9", "9"),
        ("#### 1\n#### 72\nthanks", "72"),
        (r"#### 3 but \boxed{4}", "4"),
        ("####", None),
        (r"\boxed{ }", None),
        ("no answer at all", None),
    ],
)
def test_extract(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("1,234", "1234"), ("025", "25"), ("$5", "5.0"), (r"\$1,000.50", "1000.5"), ("0.5", r"\frac12"), ("-0.0", "0"),
        (r"\dfrac{3}{4}", "6/8"), (r"-\frac{1}{2}", "-.5"), ("10,\\!000", "10000"), ("90^\\circ", "90"), ("50\\%", "50"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"), (r"\text{(C)}", "(c)"), ("x = 5", "5"), ("42.", "42"), ("1{,}000", "1000"),
        (r"15\text{ cm}^2", "15"), (r"\text{Evelyn}", "evelyn"), ("\\sqrt2", r"\sqrt{2}"),
    ],
)  # fmt: skip
def test_equal_canonical(left: str, right: str) -> None:
    assert canonical(left) == canonical(right)
    assert check(left, right)


@pytest.mark.parametrize(
    ("left", "right"),
    [("1,2", "12"), ("(1,2)", "12"), ("1", "-1"), ("1/2", "2"), ("5", "50"), ("x", "y"), ("1/0", "0"), ("0.33", "1/3")],
)
def test_different_canonical(left: str, right: str) -> None:
    assert canonical(left) != canonical(right)
    assert not check(left, right)


@given(st.integers(-(10**12), 10**12))
def test_numbers_are_their_own_form(value: int) -> None:
    assert canonical(str(value)) == canonical(f"{value:,}") == canonical(f"${value}.00$") == str(value)


@given(st.text(max_size=40))
def test_canonical_takes_anything_and_extraction_too(text: str) -> None:
    assert isinstance(canonical(text), str)
    assert extract_answer(text) is None or extract_answer(text)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"We have $r = 3$, therefore \boxed{\left( 3, \frac{\pi}{2} \right)}.", r"(3, \frac{\pi}{2})"),
        ("She makes 9 * 2 = $<<9*2=18>>18.\n#### 18", "18"),
        ("She makes 9 * 2 = $<<9*2=18>>18 every day.\nA: 18", "$18"),
        ("025", "25"),
        ("1,250", "1250"),
    ],
)
def test_golds_of_math_gsm8k_and_aime(gold: str, answer: str) -> None:
    assert check(answer, gold)
    assert not check("7", gold)
    assert gold_answer(gold_answer(gold)) == gold_answer(gold)


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", True),
        ("2x+1", "1+2x", True),
        ("y^2 + x^2", "x^2 + y^2", True),
        ("b^2a^2", "a^2b^2", True),
        ("9^9^9^9", "9", False),
        (r"\{1, 2\}", r"\{2, 1\}", True),
        ("x^2", "x^3", False),
        ("stale", "least", False),
        ("10^{10^{10}}", "5", False),
        ("", "5", False),
    ],
)
def test_mathematics_decides_what_text_cannot(answer: str, gold: str, right: bool) -> None:
    assert check(answer, gold) is right
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(check(answer + " ", gold)))
    thread.start()
    thread.join()
    assert found == [right]


def test_plain_answers_need_no_math_verify() -> None:
    code = (
        "import sys; from planner.tasks.answers import check\n"
        "assert check('1,250','1250') and not check('3','4') and 'math_verify' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_votes() -> None:
    assert majority(["a", "b", "b", None, None, None]) == "b"
    assert majority(["b", "a", "a", "b"]) == "b"
    assert majority([None, None]) is None
    assert majority([]) is None
    assert majority(["a", "b", "a"], [0.2, 0.9, 0.3]) == "b"
    assert majority(["a", "b"], [0.0, 0.0]) == "a"
    assert majority(["a", "b", "a", "b", "a"], [0.1, 0.3, 0.2, 0.3, 0.3]) == "a"
