"""Records and problems from local files: .jsonl, .jsonl.gz, .json and .parquet."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from planner.core import JSON, Problem
from planner.errors import InputError
from planner.tasks.answers import gold_answer

__all__ = ["PROMPTS", "SUFFIXES", "first_of", "parse_line", "problems_from_file", "read_lines", "read_records"]

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
PROMPTS = ("prompt", "problem", "question")
GOLDS = ("answer", "gold", "solution", "ground_truth")
IDS = ("problem_id", "unique_id", "id")
GROUPS = ("group", "subject", "source")
_HINT = "Name the columns as above, or rename them"


def read_records(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """(where, record) of each row; `where` names file and line (or row) for messages.

    Raises InputError for a missing or empty file, another suffix, and the first line that is no JSON object.
    """
    path = Path(path)
    _require_file(path)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        records = [(where, parse_line(text, where)) for where, text in read_lines(path)]
    elif path.suffix == ".json":
        records = _json_records(path)
    elif path.suffix == ".parquet":
        records = _parquet_records(path)
    else:
        raise InputError("unknown kind of file", where=str(path), expected=" or ".join(SUFFIXES))
    if not records:
        raise InputError("the file is empty", where=str(path), expected="at least one problem")
    return records


def read_lines(path: Path, *, damaged: Callable[[str], None] | None = None) -> Iterator[tuple[str, str]]:
    """(where, text) of each line that is not blank. A .gz that breaks off raises InputError, or is told to `damaged`
    after the last whole line."""
    _require_file(path)
    number = 0
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        while True:
            number += 1
            where = f"{path}, line {number}"
            try:
                raw = file.readline()
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                if damaged is None:
                    raise InputError(f"cannot be decompressed: {error}", where=where, hint="Copy it again") from error
                damaged(f"{where}: the file breaks off here ({error}); what follows is lost")
                return
            if not raw:
                return
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(f"not UTF-8 text ({error.reason})", where=where) from error
            if text.strip():
                yield where, text


def parse_line(text: str, where: str) -> dict[str, Any]:
    """The JSON object on a line; raises InputError naming the place."""
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"not JSON: {error.msg} at column {error.colno}", where=where, expected="one object"
        ) from error
    if not isinstance(record, dict):
        raise InputError("not a JSON object", where=where, value=str(record)[:40], expected='{"prompt": ..., ...}')
    return record


def first_of(record: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, Any] | None:
    """The first of `names` that has a value, with that value."""
    return next(((name, record[name]) for name in names if record.get(name) is not None), None)


def problems_from_file(
    path: str | Path, *, max_tokens: int = 2048, step_separator: str = "\n\n", need_gold: bool = True
) -> list[Problem]:
    """The problems of a file, in its order. Columns: prompt (or problem, question), answer (or gold, solution),
    problem_id (or unique_id, id; else the row's number), group (or subject, source). Others are kept in `extra`.

    Raises InputError naming file, line and field, where one is missing, empty or of another type, or an id repeats.
    """
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for number, (where, record) in enumerate(read_records(path)):
        prompt = _text(record, PROMPTS, where, required=True)
        gold = _text(record, GOLDS, where, required=need_gold)
        name = _text(record, IDS, where, required=False)
        group = _text(record, GROUPS, where, required=False)
        problem_id = name[1] if name else f"{_stem(Path(path))}/{number}"
        if problem_id in seen:
            raise InputError(
                f"the id stands at {seen[problem_id]} already", where=where, field=name[0] if name else "problem_id",
                value=problem_id, expected="a different id for each problem",
            )  # fmt: skip
        seen[problem_id] = where
        assert prompt is not None
        used = {found[0] for found in (prompt, gold, name, group) if found}
        extra: dict[str, JSON] = {k: v for k, v in record.items() if k not in used}
        problems.append(
            Problem(
                problem_id=problem_id, prompt=prompt[1], gold=gold_answer(gold[1]) if gold else None,
                group=group[1] if group else None, max_tokens=max_tokens, step_separator=step_separator, extra=extra,
            )
        )  # fmt: skip
    return problems


def _text(record: Mapping[str, Any], names: tuple[str, ...], where: str, *, required: bool) -> tuple[str, str] | None:
    found = first_of(record, names)
    if found is None or (isinstance(found[1], str) and not found[1].strip()):
        if not required:
            return None
        present = [n for n in names if n in record]
        if present:
            raise InputError("no value", where=where, field=present[0], expected="a text that is not empty")
        raise InputError(
            f"missing; the columns are {', '.join(record) or 'none'}", where=where, field=names[0],
            expected=" or ".join(names), hint=_HINT,
        )  # fmt: skip
    name, value = found
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError("of another type", where=where, field=name, value=value, expected="a text or a number")
    return name, str(value)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise InputError("no such file", where=str(path), expected=" or ".join(SUFFIXES))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0]


def _json_records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8") or "[]")
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not JSON: {error}", where=str(path), expected="a list of objects") from error
    if not isinstance(data, list) or not all(isinstance(record, dict) for record in data):
        raise InputError("not a list of objects", where=str(path), expected='[{"prompt": ..., "answer": ...}, ...]')
    return [(f"{path}, entry {i}", record) for i, record in enumerate(data, 1)]


def _parquet_records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"cannot be read as Parquet: {error}", where=str(path), hint="Write the file again") from error
    return [(f"{path}, row {i}", row) for i, row in enumerate(rows, 1)]
