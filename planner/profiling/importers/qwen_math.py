"""Format `qwen-math` (QwenLM/Qwen2.5-Math's evaluation): JSONL, a problem a line with lists `code` (the texts), `pred`
(their answers), `score` (whether each is right) and, from an outcome reward model, `pred_score`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from planner.errors import InputError
from planner.profiling.importers.records import Located, first_record, json_lines, stem

__all__ = ["read", "recognises"]

_FIELDS = {"code": "text", "pred": "answer", "score": "correct", "pred_score": "scores"}


def recognises(path: Path) -> bool:
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        return False
    record = first_record(path)
    return all(isinstance(record.get(name), list) for name in ("code", "pred", "score"))


def read(path: Path, notes: list[str]) -> Iterator[Located]:
    for number, (where, record) in enumerate(json_lines(path, notes)):
        columns = {name: record[name] for name in _FIELDS if record.get(name) is not None}
        for name, values in columns.items():
            if not isinstance(values, list) or len(values) != len(record["code"]):
                raise InputError("not one for each text of `code`", where=where, field=name, expected="a list")
        samples = [
            {_FIELDS[name]: values[i] for name, values in columns.items()} for i in range(len(record.get("code", ())))
        ]
        for sample in samples:
            sample["answer"] = sample.get("answer") or None  # "" is an answer that was not found
        # `response` repeats `code`, and `query` the question.
        rest = {name: value for name, value in record.items() if name not in (*_FIELDS, "response", "query", "gt")}
        gold = record.get("gt", record.get("answer"))
        place = f"{stem(path)}/{record.get('idx', number)}"
        yield where, {**rest, "position_id": place, "gold": gold, "strategy": None, "samples": samples}
