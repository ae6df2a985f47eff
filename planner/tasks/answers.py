r"""From a model's text to an answer, from an answer to the form that votes are counted over, and from two to a verdict.

Answers stand in the last `\boxed{}`, or after the last `####`; what a reasoning model thinks is no answer. Nearly all
comparisons are settled by `canonical` alone; math-verify (slow to import) is asked only where two answers look
different and might still be equal.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import TypeAlias

__all__ = ["THINKING", "Checker", "canonical", "check", "extract_answer", "gold_answer"]

Checker: TypeAlias = Callable[[str, str], bool]
"""(answer, gold) -> whether the answer is right."""

THINKING = ("<think>", "</think>")
"""Between these a text thinks; engines write every reasoning model's delimiters so."""

_LONGEST = 300  # characters; what is longer is compared as text
_SECONDS = 3


def extract_answer(text: str) -> str | None:
    r"""The final answer in a text: the last balanced `\boxed{...}`, else the line after the last `####`, else None.

    Only what follows the thinking counts; a text that still thinks has no answer.
    """
    text = _said(text)
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed.strip() or None
    _, mark, rest = text.rpartition("####")
    return (rest.strip().partition("\n")[0].strip() or None) if mark else None


def gold_answer(gold: str) -> str:
    r"""The answer in a gold column: MATH solutions (`\boxed{}`), GSM8K (`... #### 42`, or a last line `A: 42`), else
    the text itself (AIME's `025`)."""
    found = extract_answer(gold)
    if found is not None:
        return found
    last = re.search(r"\n\s*A:\s*(.+)\Z", gold.strip())
    return (last[1] if last else gold).strip()


def _said(text: str) -> str:
    _, closed, after = text.rpartition(THINKING[1])
    return (after if closed else text).partition(THINKING[0])[0]


def _last_boxed(text: str) -> str | None:
    if "boxed" not in text:  # a search asks this of every step, and the pattern takes ten times as long
        return None
    for start in reversed([m.end() for m in re.finditer(r"\\f?boxed\s*\{", text)]):
        depth = 1
        for at in range(start, len(text)):
            if text[at] in "{}" and text[at - 1] != "\\":
                depth += 1 if text[at] == "{" else -1
                if not depth:
                    return text[start:at]
    return None


_REMOVED = re.compile(
    r"\\(?:left|right|big|Big|bigl|bigr|displaystyle|mathrm|mathbf|bm)(?![a-zA-Z])"  # size and face
    r"|\\[!,;: ]|~|\\\$|\$|\\\(|\\\)|\\\[|\\\]"  # spaces and delimiters
    r"|\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree|°|\\?%"  # degrees and per cent: the question asks for them
)
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mbox|mathrm)\s*\{([^{}]*)\}")
_UNIT = re.compile(r"(?<=[0-9}])\s*\\(?:text|mbox|mathrm)\s*\{[^{}]*\}(?:\^\{?\d\}?)?\s*$")
_ASSIGNED = re.compile(r"^[a-z]\s*(?:=|\\in(?![a-z]))\s*(?=\S)", re.IGNORECASE)
_SHORT_FRACTION = re.compile(r"\\frac\s*(\d)\s*(\d)")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\d)")
_FRACTION = re.compile(r"^([-+]?)\\frac\{([-+]?\d+)\}\{([-+]?\d+)\}$")
_THOUSANDS = re.compile(r"^[-+]?\d{1,3}(?:,(?:\\!)?\d{3})+(?:\.\d+)?$")
_NUMBER = re.compile(r"^[-+]?(?:\d+(?:\.\d*)?|\.\d+)$")
_RATIO = re.compile(r"^([-+]?\d+)/(\d+)$")
_PLAIN = re.compile(r"^-?\d+(?:/\d+)?$")


def canonical(answer: str) -> str:
    r"""The form that equal answers share: "1,234" -> "1234", "025" -> "25", "\$5.0" -> "5", "0.5" and "\frac12" ->
    "1/2"; anything else without LaTeX's decoration and spaces, in lower case. Takes microseconds."""
    text = answer.strip()
    number = _number(text)
    if number is not None:
        return number
    text = (
        text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("−", "-").replace("{,}", ",").rstrip(".")
    )
    text = _TEXT.sub(r"\1", _UNIT.sub("", text))
    text = _REMOVED.sub("", text)
    text = _ASSIGNED.sub("", text.strip())
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text))
    text = re.sub(r"\s+", "", text).lower()
    return _number(text) or text


def _number(text: str) -> str | None:
    """A rational number in lowest terms, None for anything else."""
    if len(text) > _LONGEST:
        return None
    if _THOUSANDS.match(text):
        text = text.replace("\\!", "").replace(",", "")
    if _NUMBER.match(text):
        return str(Fraction(text))
    if found := _FRACTION.match(text):
        sign = -1 if found[1] == "-" else 1
        return None if int(found[3]) == 0 else str(sign * Fraction(int(found[2]), int(found[3])))
    if (found := _RATIO.match(text)) and int(found[2]):
        return str(Fraction(int(found[1]), int(found[2])))
    return None


def check(answer: str, gold: str) -> bool:
    """Whether an answer equals the gold answer (which may be a whole gold solution, see `gold_answer`)."""
    gold = gold_answer(gold)
    left, right = canonical(answer), canonical(gold)
    if left == right:
        return bool(left)
    if _PLAIN.match(left) and _PLAIN.match(right) and "%" not in answer + gold:
        return False
    if not _may_be_equal(left, right):
        return False
    return _math_equal(answer, gold)


def _may_be_equal(left: str, right: str) -> bool:
    """Words are compared as text: as mathematics they are products of letters, and anagrams are equal. Towers of powers
    and factorials are kept from sympy, which would evaluate them."""
    if not left or not right or max(len(left), len(right)) > _LONGEST:
        return False
    if any(re.fullmatch(r"[^\W\d_]{3,}", side) for side in (left, right)):
        return False
    return not any(re.search(r"\^\{[^{}]*\^|\^\d+\^|\d{3,}!|\^\{?\d{5,}", side) for side in (left, right))


@lru_cache(maxsize=65_536)
def _math_equal(answer: str, gold: str) -> bool:
    """Ask math-verify. Its timeouts are signals, which only the main thread may set: elsewhere it runs without."""
    from math_verify import grader, parse, parser, verify

    seconds = _SECONDS if threading.current_thread() is threading.main_thread() else None
    # It warns, once a module, that it runs without a timeout; that is chosen here and need not be said.
    parser.TIMEOUT_WARNING_SHOWN = grader.TIMEOUT_WARNING_SHOWN = True
    target, found = (parse(f"${_bare(text)}$", parsing_timeout=seconds) for text in (gold, answer))
    return bool(target and found and verify(target, found, timeout_seconds=seconds))


def _bare(text: str) -> str:
    return text.strip().strip("$").strip()
