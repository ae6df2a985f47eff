"""Format `samples`, our own: JSONL (or .jsonl.gz), one problem a line,

    {"problem_id", "prompt"?, "gold"?, "group"?, "policy"?, "temperature"?, "top_p"?, "prompt_tokens"?, "verifier"?,
     "samples": [{"text"?, "answer"?, "key"?, "correct"?, "tokens"?, "scores"?, "finish"?}, ...], ...}

A field that is left out is unknown, never 0; fields of other names are kept as `extra`. Numbers of samples may differ.
`scores` is one number a step; a single one may be called `prm_last` or `reward`; `chars` tells a text's length where
there is no text. With `strategy`, `hyperparameters` and perhaps `tokens` (of the whole run) the samples are the paths
of one run of that strategy.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from planner.profiling.importers.records import Located, first_record, json_lines

__all__ = ["read", "recognises"]


def recognises(path: Path) -> bool:
    return path.name.endswith((".jsonl", ".jsonl.gz")) and isinstance(first_record(path).get("samples"), list)


def read(path: Path, notes: list[str]) -> Iterator[Located]:
    return json_lines(path, notes)
