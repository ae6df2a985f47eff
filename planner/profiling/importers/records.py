"""What a format module yields, and how files are read for it.

A record is one problem's samples as the format `samples` writes them (see `planner.profiling.importers.samples`),
whatever format it came from. Two fields are added where the source tells: `position_id`, an id made of the place in the
file for problems without one, and `strategy` (None: independent samples), which formats that do not say leave out.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from planner.errors import InputError
from planner.tasks.files import parse_line, read_lines

__all__ = ["Located", "document", "first_record", "json_lines", "stem"]

Located: TypeAlias = tuple[str, dict[str, Any]]
"""Where a record stands, for messages, and the record."""


def json_lines(path: Path, notes: list[str]) -> Iterator[Located]:
    """Each line's object. A last line that is cut off is left out and noted; anywhere else that is damage.

    Raises InputError naming file and line, and for an empty file.
    """
    breaks: list[str] = []
    lines = list(read_lines(path, damaged=breaks.append))
    for number, (where, text) in enumerate(lines, 1):
        try:
            record = parse_line(text, where)
        except InputError as error:
            # A writer that was stopped leaves a last line without its end.
            if number < len(lines) or text.endswith("\n") or number == 1:
                raise
            notes.append(f"the last line is cut off and was left out: {error}")
            continue
        yield where, record
    notes += breaks
    if not lines:
        raise InputError("the file is empty", where=str(path), expected="one problem a line")


def document(path: Path) -> Any:
    """What a .json or .json.gz file holds. Raises InputError where it cannot be read."""
    try:
        raw = path.read_bytes()
        return json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot be read: {error}", where=str(path), hint="Copy it again") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"not JSON: {error}", where=str(path), hint="If it breaks off, copy it again") from error


def first_record(path: Path) -> dict[str, Any]:
    """The first line's object; {} where there is none or it is no object."""
    for _, text in read_lines(path, damaged=lambda _: None):
        try:
            found = json.loads(text)
        except json.JSONDecodeError:
            return {}
        return found if isinstance(found, dict) else {}
    return {}


def stem(path: Path) -> str:
    """A file's name without what says its kind."""
    name = path.name.removesuffix(".gz")
    for suffix in (".jsonl", ".summaries.json", ".json", ".tar", ".tgz", ".eval"):
        name = name.removesuffix(suffix)
    return name
