import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.budget import Budget
from planner.errors import BudgetError


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("2e9 flops", 2e9, "flops"),
        ("2 GFLOPs", 2e9, "flops"),
        ("2gflops", 2e9, "flops"),
        ("1.5 TFLOPs", 1.5e12, "flops"),
        ("3 PFLOPs", 3e15, "flops"),
        ("1 EFLOPs", 1e18, "flops"),
        ("4000 tokens", 4000, "tokens"),
        ("4k tokens", 4000, "tokens"),
        (".5M tokens", 5e5, "tokens"),
        ("0.002 usd", 0.002, "usd"),
        ("3 s", 3, "seconds"),
        ("3 seconds", 3, "seconds"),
        ("8x", 8, "x"),
        ("8 x", 8, "x"),
        (" 12 ", 12, "flops"),
        (5e9, 5e9, "flops"),
        (7, 7, "flops"),
        (Budget(3, "x"), 3, "x"),
    ],
)
def test_grammar(text, amount, unit):
    assert Budget.parse(text) == Budget(amount, unit)


@pytest.mark.parametrize(
    "bad", ["", "flops", "-1", -1, 0, "0 flops", math.nan, math.inf, "nan", "1e999", "3 ms", "2 kusd", "5G", "2 apples", True, None, [1],
            "3 s and 4 s", "2e9 flops and 4k tokens", "2e9 flops and 3 s and 1x", "and 3 s", "3 s and", "2e9 flops and -3 s"]
)  # fmt: skip
def test_what_is_no_budget_says_so(bad):
    with pytest.raises(BudgetError):
        Budget.parse(bad)


def test_the_error_names_the_value_and_what_was_expected():
    with pytest.raises(BudgetError, match=r"apples.*2 GFLOPs"):
        Budget.parse("2 apples")


@given(
    st.floats(1e-300, 1e300), st.sampled_from(["flops", "tokens", "usd", "seconds", "x"]),
    st.none() | st.floats(1e-300, 1e300),
)  # fmt: skip
def test_what_is_printed_is_read_back(amount, unit, seconds):
    budget = Budget(amount, unit, None if unit == "seconds" else seconds)
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize("text", ["2 GFLOPs and 3 s", "3 s and 2e9 flops", "2e9  AND  3 sec"])
def test_two_caps(text):
    budget = Budget.parse(text)
    assert budget == Budget(2e9, "flops", 3)
    assert budget.seconds == 3
    assert budget.to_flops() == 2e9


def test_the_cap_on_seconds():
    assert Budget.parse("8x").seconds is None
    assert Budget.parse("8x and 3 s").seconds == 3
    assert Budget.parse("3 s").seconds == 3
    with pytest.raises(BudgetError, match="twice"):
        Budget(3, "seconds", 4)
    for bad in (0.0, -1.0, math.nan, True):
        with pytest.raises(BudgetError):
            Budget(1e9, "flops", bad)


def test_conversions():
    assert Budget.parse("8x").to_flops(reference_flops=10.0) == 80
    assert Budget.parse("4k tokens").to_flops(flops_per_token=2.0) == 8000
    assert Budget.parse("2 usd").to_flops(usd_per_token=0.5, flops_per_token=3.0) == 12
    # Time is no amount of work: alone it limits neither.
    assert Budget.parse("2 s").to_flops() == Budget.parse("2 s").to_tokens() == math.inf
    assert Budget.parse("12").to_flops() == 12
    assert Budget.parse("12").to_tokens(flops_per_token=3.0) == 4
    assert Budget.parse("2x").to_tokens(reference_tokens=50) == 100


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("8x", "reference_flops"),
        ("4 tokens", "flops_per_token"),
        ("1 usd", "usd_per_token"),
    ],
)
def test_a_conversion_says_what_is_missing(text, missing):
    with pytest.raises(BudgetError, match=missing):
        Budget.parse(text).to_flops()
