"""The formats by name, and which one a file is of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from planner.errors import InputError
from planner.profiling.importers import (
    cells,
    compute_optimal_tts,
    inspect_ai,
    lm_eval,
    qwen_math,
    samples,
    search_and_learn,
)
from planner.profiling.importers.records import Located, json_lines

__all__ = ["FORMATS", "Format", "detect"]


@dataclass(frozen=True, slots=True)
class Format:
    """`recognises` looks at a file's name and its first record; `read` yields its records and notes what it lost."""

    recognises: Callable[[Path], bool]
    read: Callable[[Path, list[str]], Iterator[Located]]


FORMATS: Mapping[str, Format] = {
    "samples": Format(samples.recognises, samples.read),
    "search-and-learn": Format(search_and_learn.recognises, search_and_learn.read),
    "compute-optimal-tts": Format(compute_optimal_tts.recognises, compute_optimal_tts.read),
    "inspect-ai": Format(inspect_ai.recognises, inspect_ai.read),
    "lm-eval": Format(lm_eval.recognises, lm_eval.read),
    "qwen-math": Format(qwen_math.recognises, qwen_math.read),
    "cells": Format(cells.recognises, cells.read),
}


def detect(path: Path) -> str:
    """The one format that recognises a file. Raises InputError where none does, or several."""
    if not path.exists():
        raise InputError("no such file", where=str(path))
    found = [name for name, each in FORMATS.items() if each.recognises(path)]
    if not found and path.name.endswith((".jsonl", ".jsonl.gz")):
        next(json_lines(path, []))  # an empty file or a line that is no JSON says so itself
    if len(found) != 1:
        what = f"could be {' or '.join(found)}" if found else "its format is not recognised"
        raise InputError(what, where=str(path), expected=", ".join(FORMATS), hint="Say which with --format")
    return found[0]
