"""A measurement's samples in our own format: what was drawn once becomes a bank."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from planner.models.lab.steps import Attempt
from planner.models.lab.tokenizer import prompt_text
from planner.tasks.lab import STEP_SEPARATOR

__all__ = ["write_samples"]


def write_samples(
    path: Path,
    policy: str,
    groups: Sequence[Sequence[Attempt]],
    tokenizer: PreTrainedTokenizerFast,
    *,
    temperature: float,
    verifier: str | None = None,
    scores: Sequence[Sequence[float]] = (),
) -> None:
    """Write `groups` (one of attempts for each problem) as gzipped JSONL of the format `samples`, a problem a line.

    `scores` are the step scores of all attempts in turn. Tokens count the end that a finished answer writes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    marks = iter(scores)
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        for group in groups:
            problem = group[0].problem
            record: dict[str, Any] = {
                "problem_id": problem.problem_id,
                "prompt": problem.question,
                "gold": problem.answer,
                "group": problem.family,
                "policy": policy,
                "temperature": temperature,
                "prompt_tokens": len(tokenizer(prompt_text(problem.question))["input_ids"]),
                **({} if verifier is None else {"verifier": verifier}),
                "samples": list(_samples(group, tokenizer, None if verifier is None else marks)),
            }
            for sample in record["samples"]:
                if "scores" in sample:  # the question, the answer, and a tag behind each step
                    sample["verifier_tokens"] = record["prompt_tokens"] + sample["tokens"] + len(sample["scores"])
            lines.write(json.dumps(record) + "\n")


def _samples(
    group: Sequence[Attempt], tokenizer: PreTrainedTokenizerFast, marks: Iterator[Sequence[float]] | None
) -> Iterator[Mapping[str, Any]]:
    texts = [STEP_SEPARATOR.join(attempt.steps) for attempt in group]
    for attempt, text, ids in zip(group, texts, tokenizer(texts)["input_ids"], strict=True):
        sample: dict[str, Any] = {
            "text": text,
            "answer": attempt.answer,
            "correct": attempt.right,
            "tokens": len(ids) + (attempt.answer is not None),
        }
        if marks is not None:
            scores = list(next(marks))
            sample |= {"scores": scores} if scores else {}
        yield sample
