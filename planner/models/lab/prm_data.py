"""The process reward model's data: rounds of the policies' own attempts and of corrupted solutions, each seen once."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from planner.models.lab.corrupt import corrupt
from planner.models.lab.data import pad
from planner.models.lab.sampling import sample
from planner.models.lab.steps import UNLABELLED, Attempt, Encoded, attempt_of
from planner.models.lab.tokenizer import prompt_text
from planner.tasks.lab import WorkedProblem, training_stream

__all__ = ["CORRUPTED_PROBLEMS", "SAMPLED_PROBLEMS", "attempts_by", "prm_batches", "round_of_attempts"]

SAMPLED_PROBLEMS = 384
CORRUPTED_PROBLEMS = 768
EACH = 4
TEMPERATURES = (0.7, 1.2)
_ONE_SIDED = 0.25


def attempts_by(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[WorkedProblem],
    each: int,
    *,
    temperature: float | tuple[float, float],
    seed: int,
) -> list[list[Attempt]]:
    """`each` attempts of the policy model at every problem."""
    prompts = tokenizer([prompt_text(p.question) for p in problems])["input_ids"]
    sampled = sample(model, prompts, each, temperature=temperature, seed=seed)
    return [
        [attempt_of(problem, text) for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
        for problem, ids in zip(problems, sampled, strict=True)
    ]


def round_of_attempts(
    policies: Mapping[str, LlamaForCausalLM],
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    number: int,
    *,
    sampled: int = SAMPLED_PROBLEMS,
    corrupted: int = CORRUPTED_PROBLEMS,
) -> list[Attempt]:
    """Fresh attempts of one round: at `sampled` problems by one policy in turn, as many right as wrong ones a problem,
    and `corrupted` solutions beside the right ones.

    Of problems whose attempts are all right or all wrong few are kept: what they teach is how hard a problem is, and
    that does not tell its answers apart.
    """
    key = seed * 1_000_003 + number
    rng = random.Random(key)
    stream = training_stream(0x5C0DE + key)
    problems = list(islice(stream, sampled))
    model = policies[sorted(policies)[number % len(policies)]]
    attempts: list[Attempt] = []
    for group in attempts_by(model, tokenizer, problems, EACH, temperature=TEMPERATURES, seed=key):
        different = list(dict.fromkeys(a for a in group if a.steps))
        right = [a for a in different if a.right]
        wrong = [a for a in different if not a.right]
        each_side = min(len(right), len(wrong))
        attempts += right[:each_side] + wrong[:each_side]
        if not each_side and different and rng.random() < _ONE_SIDED:
            attempts.append(different[0])
    for problem in islice(stream, corrupted):
        wrong_one = corrupt(problem, rng)
        if wrong_one is not None:
            attempts += [wrong_one, Attempt(problem, problem.steps)]
    return attempts


def prm_batches(encoded: Sequence[Encoded], tokens: int, rng: random.Random) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches (ids, step labels, token labels), each (batch, time), of at most `tokens` padded tokens."""
    groups: list[list[Encoded]] = [[]]
    for one in sorted(encoded, key=lambda e: (len(e.ids), rng.random())):
        if groups[-1] and (len(groups[-1]) + 1) * len(one.ids) > tokens:
            groups.append([])
        groups[-1].append(one)
    rng.shuffle(groups)
    return [
        (
            pad([one.ids for one in group]),
            _labels([one.step_labels for one in group]),
            _labels([one.token_labels for one in group]),
        )
        for group in groups
    ]


def _labels(rows: Sequence[Sequence[int]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[UNLABELLED] * (width - len(row))] for row in rows])
