"""Features of prompts: stateless, the same alone and in a batch, sensible for any script."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import PolicyError
from planner.policy.features import COUNTS, MAX_CHARACTERS, FeatureSpec, extract
from planner.policy.open_ended import OPEN_ENDED, looks_open_ended
from planner.policy.wording import CUES


def counts(prompt: str) -> dict[str, float]:
    return dict(zip(COUNTS, extract([prompt]).matrix[0], strict=False))


def test_counts_of_an_arithmetic_prompt() -> None:
    c = counts("What is 12 + 30 - 7 * (4 + 105)?")
    assert (c["n_plus"], c["n_minus"], c["n_times"], c["n_open"], c["n_question"]) == (2, 1, 1, 1, 1)
    assert (c["number_count"], c["number_digits_max"], c["nesting_depth"], c["words"]) == (5, 3, 1, 2)
    assert c["number_log_max"] == pytest.approx(np.log10(106))
    assert c["number_log_first"] == pytest.approx(np.log10(13))
    assert c["cue_what"] == 1


def test_latex_commands_and_lines() -> None:
    c = counts("Find $\\frac{1}{2} + \\sqrt{9}$.\nThen stop.")
    assert (c["latex_commands"], c["n_dollar"], c["n_newline"], c["n_backslash"]) == (2, 2, 1, 2)


def test_chinese_has_words_numbers_and_cues() -> None:
    c = counts("小明有12个苹果，每天吃３个，几天吃完？")  # a full-width digit and full-width punctuation
    assert c["words"] == c["n_unspaced"] == 14
    assert (c["number_count"], c["n_comma"], c["n_question"], c["cue_how_many"]) == (2, 2, 1, 1)
    assert c["non_latin_share"] == 1


def test_a_prompt_without_numbers_says_so() -> None:
    c = counts("no digits here")
    assert c["number_count"] == 0
    assert c["number_log_max"] == -1


def test_numbers_do_not_enter_the_wording() -> None:
    a, b = extract(["What is 12 + 30?", "What is 57 + 98?"]).matrix[:, len(COUNTS) :]
    assert np.array_equal(a, b)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=6))
def test_a_row_depends_on_its_prompt_alone(prompts: list[str]) -> None:
    batch = extract(prompts)
    assert np.isfinite(batch.matrix).all()
    for i, prompt in enumerate(prompts):
        alone = extract([prompt])
        assert np.array_equal(batch.matrix[i], alone.matrix[0])
        assert np.array_equal(batch.trigrams[batch.owners == i], alone.trigrams)


def test_words_are_counted_as_str_count_does() -> None:
    rng = random.Random(0)
    words = [word for _, listed in CUES for word in listed] + [word for word in OPEN_ENDED if word.isascii()]
    parts = [*words, " per per ", "evaluatevaluate", "at ", "wha", "x", "7", " ", "\n"]
    prompts = ["".join(rng.choices(parts, k=rng.randint(0, 8))) for _ in range(400)]
    together = extract(prompts)
    first = COUNTS.index("cue_how_many")
    for row, prompt in enumerate(prompts):
        expected = [sum(prompt.count(word) for word in listed) for _, listed in CUES]
        worded = any(word in prompt for word in OPEN_ENDED if word.isascii())
        for found, at in ((together, row), (extract([prompt]), 0)):
            assert found.matrix[at, first : first + len(CUES)].tolist() == expected
            assert bool(found.open_worded[at]) is worded


def test_known_values_hold_on_every_machine() -> None:
    matrix = extract(["Compute 7 * 8.", "\ud800 lone surrogate, \U00020000 rare"]).matrix
    assert matrix[:, len(COUNTS) :].sum(1).tolist() == [13, 29]
    assert np.flatnonzero(extract(["Compute"]).matrix[0, len(COUNTS) :])[0] == 127


def test_a_huge_prompt_is_cut_and_its_length_kept() -> None:
    c = counts("7" * 1_000_000)
    assert c["characters"] == 1_000_000
    assert c["n_digit"] == MAX_CHARACTERS
    assert np.isfinite(list(c.values())).all()


def test_nothing_to_extract() -> None:
    assert extract([]).matrix.shape == (0, len(FeatureSpec().names))


def test_the_spec_is_refused_when_this_code_would_compute_others() -> None:
    spec = FeatureSpec(word_buckets=16, character_buckets=8)
    assert FeatureSpec.from_dict(spec.to_dict()) == spec
    assert extract(["a"], spec).matrix.shape == (1, len(spec.names))
    for change in ({"version": 99}, {"word_buckets": 0}, {"names": ["x"]}):
        with pytest.raises(PolicyError):
            FeatureSpec.from_dict(spec.to_dict() | change)


@pytest.mark.parametrize(
    ("prompt", "open_ended"),
    [
        ("Write a poem about spring.", True),
        ("写一首关于春天的诗", True),
        ("Explain how many apples 12 boxes of 30 hold.", False),
        ("What is 3 + 4?", False),
        ("Describe and find the roots of $x^2=4$.", False),
    ],
)
def test_open_ended(prompt: str, open_ended: bool) -> None:
    assert looks_open_ended(prompt) is open_ended
