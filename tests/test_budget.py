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
    "bad", ["", "flops", "-1", -1, 0, "0 flops", math.nan, math.inf, "nan", "1e999", "3 ms", "2 kusd", "5G", "2 apples", True, None, [1]]
)  # fmt: skip
def test_what_is_no_budget_says_so(bad):
    with pytest.raises(BudgetError):
        Budget.parse(bad)


def test_the_error_names_the_value_and_what_was_expected():
    with pytest.raises(BudgetError, match=r"apples.*2 GFLOPs"):
        Budget.parse("2 apples")


@given(st.floats(1e-300, 1e300), st.sampled_from(["flops", "tokens", "usd", "seconds", "x"]))
def test_what_is_printed_is_read_back(amount, unit):
    budget = Budget(amount, unit)
    assert Budget.parse(str(budget)) == budget


def test_conversions():
    assert Budget.parse("8x").to_flops(reference_flops=10.0) == 80
    assert Budget.parse("4k tokens").to_flops(flops_per_token=2.0) == 8000
    assert Budget.parse("2 usd").to_flops(usd_per_token=0.5, flops_per_token=3.0) == 12
    assert Budget.parse("2 s").to_flops(seconds_per_token=0.5, flops_per_token=3.0) == 12
    assert Budget.parse("12").to_flops() == 12
    assert Budget.parse("12").to_tokens(flops_per_token=3.0) == 4
    assert Budget.parse("2x").to_tokens(reference_tokens=50) == 100


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("8x", "reference_flops"),
        ("4 tokens", "flops_per_token"),
        ("1 usd", "usd_per_token"),
        ("1 s", "seconds_per_token"),
    ],
)
def test_a_conversion_says_what_is_missing(text, missing):
    with pytest.raises(BudgetError, match=missing):
        Budget.parse(text).to_flops()
