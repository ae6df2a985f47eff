"""Format `search-and-learn` (huggingface/search-and-learn): JSONL, a MATH problem a line with lists `completions`,
`completion_tokens` and `scores` (a list a completion).

Beam search writes 0 for every count of tokens (an upstream bug). What was chosen (`pred`, `pred_*@n`) and the
aggregated scores are kept as they are; which strategy wrote a file only its name tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from planner.errors import InputError
from planner.profiling.importers.records import Located, first_record, json_lines

__all__ = ["read", "recognises"]

_LISTS = ("completions", "completion_tokens", "scores", "agg_scores")


def recognises(path: Path) -> bool:
    return path.name.endswith((".jsonl", ".jsonl.gz")) and isinstance(first_record(path).get("completions"), list)


def read(path: Path, notes: list[str]) -> Iterator[Located]:
    for number, (where, record) in enumerate(json_lines(path, notes)):
        texts = record.get("completions")
        if not isinstance(texts, list):
            raise InputError("not a list", where=where, field="completions", value=texts, expected="a list of texts")
        columns = {name: record[name] for name in _LISTS[1:] if record.get(name) is not None}
        for name, values in columns.items():
            if not isinstance(values, list) or len(values) != len(texts):
                raise InputError(
                    "not one for each completion", where=where, field=name, expected=f"{len(texts)} values"
                )
        names = {"completion_tokens": "tokens", "scores": "scores", "agg_scores": "agg_score"}
        samples = [
            {"text": text, **{names[name]: values[i] for name, values in columns.items()}}
            for i, text in enumerate(texts)
        ]
        rest = {name: value for name, value in record.items() if name not in (*_LISTS, "answer")}
        yield where, {"position_id": str(number), **rest, "gold": record.get("answer"), "samples": samples}
