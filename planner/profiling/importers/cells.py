"""Format `cells` (openai/grade-school-math's example solutions): JSONL, a problem a line, and in it one object for each
(model, strategy) cell: `{"question", "ground_truth", CELL: {"is_correct", "solution"}, ...}`.

Each cell becomes a policy model of one sample a problem, so that the bank offers the choice among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from planner.errors import InputError
from planner.profiling.importers.records import Located, first_record, json_lines, stem
from planner.tasks.answers import extract_answer, gold_answer

__all__ = ["read", "recognises"]


def recognises(path: Path) -> bool:
    return path.name.endswith((".jsonl", ".jsonl.gz")) and len(_cells(first_record(path))) > 1


def read(path: Path, notes: list[str]) -> Iterator[Located]:
    for number, (where, record) in enumerate(json_lines(path, notes)):
        found = _cells(record)
        if not found:
            raise InputError("no cell", where=where, expected='fields like "small_greedy": {"is_correct": true}')
        gold = record.get("ground_truth", record.get("answer"))
        rest = {name: value for name, value in record.items() if name not in (*found, "ground_truth", "answer")}
        for name, cell in found.items():
            text = cell.get("solution")
            sample = {n: v for n, v in cell.items() if n not in ("is_correct", "solution")}
            sample |= {"text": text, "correct": cell["is_correct"], "answer": _answer(text)}
            yield where, {
                "position_id": f"{stem(path)}/{number}", **rest, "gold": gold, "policy": name, "strategy": None,
                "samples": [sample],
            }  # fmt: skip


def _cells(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: value for name, value in record.items() if isinstance(value, dict) and "is_correct" in value}


def _answer(text: Any) -> str | None:
    """The boxed answer, or what stands on a last line `A: 42`; nothing else is guessed."""
    if not isinstance(text, str):
        return None
    found = gold_answer(text)
    return extract_answer(text) or (found if found != text.strip() else None)
