"""Exact labels for the steps of any attempt, and how attempts look to the process reward model.

Input: `<bos><user>QUESTION<assistant>STEP1<step>STEP2<step>...#### ANSWER<step>`, where `<step>` stands for the line
break that policy models write. P(+) of a step is the softmax over the logits of `<+>` and `<->` at its `<step>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from planner.models.lab.tokenizer import STEP, prompt_text
from planner.tasks.lab import STEP_SEPARATOR, WorkedProblem

__all__ = [
    "UNLABELLED",
    "Attempt",
    "Encoded",
    "answer_of",
    "attempt_of",
    "encode_attempts",
    "encode_steps",
    "label_steps",
]

UNLABELLED = -100
"""What torch's cross-entropy ignores."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Steps towards a problem's answer; `finished` if they end in a final answer."""

    problem: WorkedProblem
    steps: tuple[str, ...]

    @property
    def answer(self) -> str | None:
        return answer_of(self.steps)

    @property
    def right(self) -> bool:
        return self.answer == self.problem.answer


def answer_of(steps: Sequence[str]) -> str | None:
    """The final answer, None without one."""
    return steps[-1].removeprefix("#### ").strip() if steps and steps[-1].startswith("#### ") else None


def attempt_of(problem: WorkedProblem, text: str) -> Attempt:
    """An attempt from a policy model's text; blank steps are dropped."""
    return Attempt(problem, tuple(step for step in text.split(STEP_SEPARATOR) if step.strip()))


def label_steps(attempt: Attempt) -> list[int]:
    """1 while the steps are the worked ones, 0 from the first other one on.

    Where the answer is right all the same, the way may be right too: those steps stay unlabelled.
    """
    astray = UNLABELLED if attempt.right else 0
    worked, labels = attempt.problem.steps, []
    on_the_way = True
    for number, step in enumerate(attempt.steps):
        on_the_way = on_the_way and number < len(worked) and step == worked[number]
        labels.append(1 if on_the_way else astray)
    return labels


@dataclass(frozen=True, slots=True)
class Encoded:
    """`ids` with, for each position, a step's label (only at its `<step>`) and a token's label.

    A token's label is 1 while the tokens so far are those of the worked steps, 0 at the first other one and none after
    it: it says where exactly an attempt goes wrong.
    """

    ids: list[int]
    step_labels: list[int]
    token_labels: list[int]


def encode_steps(prompt: Sequence[int], steps: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """(ids, positions of the `<step>` tags) of a prompt and its steps."""
    ids, places = list(prompt), []
    for step in steps:
        ids.extend(step)
        places.append(len(ids))
        ids.append(STEP)
    return ids, places


def encode_attempts(tokenizer: PreTrainedTokenizerFast, attempts: Sequence[Attempt]) -> list[Encoded]:
    """Attempts with their labels, ready for training."""
    prompts = tokenizer([prompt_text(a.problem.question) for a in attempts])["input_ids"]
    wanted = {step for a in attempts for step in (*a.steps, *a.problem.steps)}
    ordered = sorted(wanted)
    tokens: dict[str, list[int]] = dict(zip(ordered, tokenizer(ordered)["input_ids"], strict=True))
    return [_encode(a, prompt, tokens) for a, prompt in zip(attempts, prompts, strict=True)]


def _encode(attempt: Attempt, prompt: list[int], tokens: dict[str, list[int]]) -> Encoded:
    ids, places = encode_steps(prompt, [tokens[step] for step in attempt.steps])
    step_labels = [UNLABELLED] * len(ids)
    token_labels = [UNLABELLED] * len(ids)
    astray = UNLABELLED if attempt.right else 0
    before = 1
    for number, (place, label) in enumerate(zip(places, label_steps(attempt), strict=True)):
        step_labels[place] = label
        own = tokens[attempt.steps[number]]
        worked = tokens[attempt.problem.steps[number]] if number < len(attempt.problem.steps) else []
        if before != 1:
            continue
        for offset, token in enumerate(own):
            same = offset < len(worked) and worked[offset] == token
            token_labels[place - len(own) + offset] = 1 if same else astray
            if not same:
                break
        before = label
    return Encoded(ids, step_labels, token_labels)
