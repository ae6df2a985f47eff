"""The laboratory's problems: worked steps are true, splits are disjoint, and pieces of a sequence encode apart."""

from __future__ import annotations

import dataclasses
import re
from itertools import islice

import pytest

pytest.importorskip("reasoning_gym")

from planner.errors import InputError
from planner.tasks.lab import (
    FAMILIES,
    SPLITS,
    TEMPLATED,
    WorkedProblem,
    template_of,
    training_stream,
    worked_problems,
)

_LINE = re.compile(r"(?:[a-z ]+: )?(-?\d+(?: [-+*/] -?\d+)+) = (-?\d+)")


def _check(problem: WorkedProblem) -> None:
    *lines, last = problem.steps
    assert lines
    assert last == f"#### {problem.answer}"
    for line in lines:
        found = _LINE.fullmatch(line)
        assert found, line
        assert eval(found[1]) == int(found[2]), line  # noqa: S307 - digits and operators only, as the pattern says


@pytest.mark.parametrize("family", FAMILIES)
def test_every_worked_line_is_true(family: str) -> None:
    problems = worked_problems("train", 200, families=[family])
    assert len({p.question for p in problems}) == 200
    for problem in problems:
        assert problem.family == family
        _check(problem)


def test_splits_share_no_question_and_counts_are_prefixes() -> None:
    by_split = {split: worked_problems(split, 300) for split in SPLITS}
    questions = {split: {p.question for p in problems} for split, problems in by_split.items()}
    assert all(len(q) == 300 for q in questions.values())
    assert not questions["profile"] & questions["held_out"]
    streamed = {p.question for p in islice(training_stream(5), 2000)}
    assert not (streamed | questions["train"]) & (questions["profile"] | questions["held_out"])
    assert worked_problems("held_out", 60) == by_split["held_out"][:60]
    assert [p.family for p in by_split["profile"][:14]] == [*FAMILIES, *FAMILIES]
    assert by_split["held_out"][7].problem_id == f"lab/held_out/{FAMILIES[0]}/1"


def test_held_out_templates_are_in_no_other_split() -> None:
    held_out = worked_problems("held_out_templates", 300)
    assert {p.family for p in held_out} == set(TEMPLATED)
    kept = {template_of(p.family, p.question) for p in held_out}
    others = [*worked_problems("held_out", 700), *worked_problems("profile", 700), *islice(training_stream(6), 3000)]
    assert not kept & {template_of(p.family, p.question) for p in others if p.family in TEMPLATED}
    assert len({template_of(p.family, p.question) for p in held_out if p.family == "time_intervals"}) > 1
    with pytest.raises(InputError, match="one template only"):
        worked_problems("held_out_templates", 3, families=["gcd"])


def test_another_seed_gives_other_problems() -> None:
    assert worked_problems("profile", 12) != worked_problems("profile", 12, seed=1)
    assert next(training_stream(1)) == next(training_stream(1))


def test_bad_input_names_what_is_expected() -> None:
    with pytest.raises(InputError, match="held_out"):
        worked_problems("test", 3)
    with pytest.raises(InputError, match="gcd"):
        worked_problems("profile", 3, families=["algebra"])


def test_tokenizer_round_trip_and_concatenation() -> None:
    pytest.importorskip("torch")
    from planner.models.lab.tokenizer import ASSISTANT, VOCABULARY, prompt_text
    from planner.models.lab.train_policy import lab_tokenizer

    tokenizer = lab_tokenizer()
    assert len(tokenizer) == VOCABULARY
    newline = tokenizer.encode("\n")
    assert len(newline) == 1
    for problem in worked_problems("held_out", 120):
        prompt, text = prompt_text(problem.question), problem.solution
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.encode(prompt) + tokenizer.encode(text) == tokenizer.encode(prompt + text)
        assert tokenizer.encode(prompt)[-1] == ASSISTANT
        by_steps = [token for step in problem.steps for token in (*tokenizer.encode(step), *newline)]
        assert by_steps[:-1] == tokenizer.encode(text)
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": problem.question}], tokenize=False, add_generation_prompt=True
        )
        assert chat == prompt
    digits = tokenizer.encode("1234567890")
    assert len(digits) == 10


def test_one_problem_in_ten_is_one_of_revising() -> None:
    pytest.importorskip("torch")
    import random

    from planner.models.lab.data import encode_solved, training_prompts
    from planner.models.lab.tokenizer import prompt_text
    from planner.models.lab.train_policy import lab_tokenizer
    from planner.strategies.revision import revision_prompt
    from planner.tasks.task import load_task

    problems = list(islice(training_stream(3), 1000))
    prompts = training_prompts(problems, 0.1, random.Random(0))
    revising = [(p, text) for p, text in zip(problems, prompts, strict=True) if text != p.question]
    assert 60 < len(revising) < 140
    live = load_task("lab", count=1).problems[0]
    for problem, text in revising:
        shown = text.removeprefix(f"{problem.question}\nTried before:\n").removesuffix("\nNow right:").split("\n\n")
        assert 1 <= len(shown) <= 4
        assert all("#### " in attempt for attempt in shown)
        # What is trained on is what the strategy writes.
        assert revision_prompt(dataclasses.replace(live, prompt=problem.question), shown) == text
    assert 0.15 < sum(t.count(p.solution) > 0 for p, t in revising) / len(revising) < 0.6
    tokenizer = lab_tokenizer()
    (ids, prompt), *_ = encode_solved(tokenizer, [revising[0][0]], [revising[0][1]])
    assert ids[:prompt] == tokenizer.encode(prompt_text(revising[0][1]))
    assert tokenizer.decode(ids[prompt:-1]) == revising[0][0].solution


def test_labels_and_corruptions_are_exact() -> None:
    pytest.importorskip("torch")
    import random

    from planner.models.lab.corrupt import corrupt
    from planner.models.lab.steps import UNLABELLED, Attempt, encode_attempts, label_steps
    from planner.models.lab.tokenizer import STEP
    from planner.models.lab.train_policy import lab_tokenizer

    tokenizer, rng = lab_tokenizer(), random.Random(0)
    for problem in worked_problems("train", 240):
        assert label_steps(Attempt(problem, problem.steps)) == [1] * len(problem.steps)
        wrong = corrupt(problem, rng)
        if wrong is None:
            continue
        labels = label_steps(wrong)
        assert labels[-1] == 0
        first = labels.index(0)
        assert wrong.steps[:first] == problem.steps[:first]
        assert labels == [1] * first + [0] * (len(labels) - first)
        (encoded,) = encode_attempts(tokenizer, [wrong])
        tagged = [label for token, label in zip(encoded.ids, encoded.step_labels, strict=True) if token == STEP]
        assert tagged == labels
    other_way = Attempt(problem, ("0 + 0 = 0", *problem.steps))
    assert set(label_steps(other_way)) == {UNLABELLED}
