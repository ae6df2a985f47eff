"""Training data as token ids: chunks of fresh problems cut into batches of similar length.

A share of the problems is one of revising: the prompt shows earlier attempts, most of them with one error that carries
on, and what is to be written is the worked solution all the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from planner.models.lab.corrupt import corrupt
from planner.models.lab.tokenizer import EOS, PAD, prompt_text
from planner.tasks.lab import REVISION_TEMPLATE, STEP_SEPARATOR, WorkedProblem, training_stream

__all__ = ["CHUNK", "Batch", "batches_of", "chunk_of_problems", "encode_solved", "pad", "training_prompts"]

CHUNK = 2048
"""Problems drawn at a time; a run resumes at the start of a chunk."""

_ATTEMPTS = (0.5, 0.25, 0.15, 0.1)
"""Chances of one, two, three and four of them; strategies show four at most."""

_WRONG = 0.75
"""Chance that an earlier attempt is wrong; where it is right, it has to be kept."""


@dataclass(frozen=True, slots=True)
class Batch:
    """`ids` (batch, time), right-padded; `mask` (batch, time - 1) marks the predicted tokens that count."""

    ids: Tensor
    mask: Tensor


def chunk_of_problems(seed: int, chunk: int) -> list[WorkedProblem]:
    """The run's chunk-th problems; every chunk has a stream of its own, so that resuming needs no skipping."""
    return list(islice(training_stream(seed * 1_000_003 + chunk), CHUNK))


def training_prompts(problems: Sequence[WorkedProblem], revised: float, rng: random.Random) -> list[str]:
    """What each problem's solution is to be written after; a share of `revised` shows earlier attempts."""
    return [_revision(problem, rng) if rng.random() < revised else problem.question for problem in problems]


def _revision(problem: WorkedProblem, rng: random.Random) -> str:
    attempts: list[str] = []
    for _ in range(rng.choices((1, 2, 3, 4), _ATTEMPTS)[0]):
        wrong = corrupt(problem, rng) if rng.random() < _WRONG else None
        attempts.append(STEP_SEPARATOR.join(wrong.steps) if wrong else problem.solution)
    return REVISION_TEMPLATE.format(prompt=problem.question, attempts="\n\n".join(attempts))


def encode_solved(
    tokenizer: PreTrainedTokenizerFast, problems: Sequence[WorkedProblem], prompts: Sequence[str]
) -> list[tuple[list[int], int]]:
    """(ids, length of the prompt) of every problem with its worked solution."""
    prompts = tokenizer([prompt_text(prompt) for prompt in prompts])["input_ids"]
    solutions = tokenizer([p.solution for p in problems])["input_ids"]
    return [(a + b + [EOS], len(a)) for a, b in zip(prompts, solutions, strict=True)]


def batches_of(sequences: Sequence[tuple[list[int], int]], tokens: int, rng: random.Random) -> list[Batch]:
    """Batches of at most `tokens` padded tokens, sequences of like length together, in random order."""
    ordered = sorted(sequences, key=lambda sequence: (len(sequence[0]), rng.random()))
    groups: list[list[tuple[list[int], int]]] = [[]]
    for sequence in ordered:
        if groups[-1] and (len(groups[-1]) + 1) * len(sequence[0]) > tokens:
            groups.append([])
        groups[-1].append(sequence)
    rng.shuffle(groups)
    return [_batch(group) for group in groups]


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """(batch, time) of int64, right-padded."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[PAD] * (width - len(row))] for row in rows])


def _batch(group: Sequence[tuple[list[int], int]]) -> Batch:
    ids = pad([sequence for sequence, _ in group])
    position = torch.arange(1, ids.shape[1])
    start = torch.tensor([prompt for _, prompt in group])[:, None]
    end = torch.tensor([len(sequence) for sequence, _ in group])[:, None]
    return Batch(ids, (position >= start) & (position < end))
