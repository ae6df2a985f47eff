"""The tables' columns, and one Parquet file of a table: read with checks, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.errors import BankError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["COLUMNS", "KEYS", "extra_text", "read_part", "replace_file", "to_frame", "write_part"]

KEYS: Mapping[str, str] = {"problems": "problem_id", "samples": "key", "runs": "key"}

# Kinds: text, int, float, bool, floats; "!" where a value must be known.
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "problems": {
        "problem_id": "text!", "prompt": "text", "gold": "text", "group": "text", "split": "text!", "extra": "text",
    },
    "samples": {
        "key": "text!", "problem_id": "text!", "policy_model": "text!", "temperature": "float", "top_p": "float",
        "max_tokens": "int", "index": "int!", "seed": "int", "text": "text", "answer": "text", "answer_key": "text",
        "correct": "bool", "finish": "text", "finished": "bool!", "prompt_tokens": "int", "generated_tokens": "int",
        "mean_logprob": "float", "verifier": "text", "scores": "floats", "verifier_tokens": "int", "role": "text!",
        "extra": "text",
    },
    "runs": {
        "key": "text!", "problem_id": "text!", "policy_model": "text!", "verifier": "text", "strategy": "text!",
        "hyperparameters": "text!", "repeat": "int!", "answer": "text", "answer_key": "text", "correct": "bool",
        "outcome": "text!", "text": "text", "requests": "int", "prompt_tokens": "int", "cached_tokens": "int",
        "generated_tokens": "int", "scored_tokens": "int", "computed_prompt_tokens": "int",
        "computed_scored_tokens": "int", "rounds": "int", "prefill_flops": "float", "decode_flops": "float",
        "verifier_flops": "float", "scoring_rounds": "int", "decode_steps": "int",
    },
}  # fmt: skip

_LATER = frozenset({"scoring_rounds", "decode_steps"})
"""Columns that stand last and that the first banks lack: there they are read as unknown."""


def _schema(table: str) -> pa.Schema:
    import pyarrow as pa

    kinds = {
        "text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(),
        "floats": pa.list_(pa.float64()),
    }  # fmt: skip
    return pa.schema(
        [pa.field(n, kinds[kind.rstrip("!")], nullable=not kind.endswith("!")) for n, kind in COLUMNS[table].items()]
    )


def extra_text(extra: Mapping[str, Any]) -> str | None:
    """Fields that have no column of their own, as JSON; None where there are none."""
    return json.dumps(extra, ensure_ascii=False, sort_keys=True) if extra else None


def read_part(path: Path, table: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A part's rows. Raises BankError naming the file where it is damaged or has other columns; changes nothing."""
    import pyarrow as pa
    from pyarrow import parquet

    hint = "Nothing was changed. Move this file away: `planner profile` makes again what it held; or restore a copy"
    try:
        read = parquet.read_table(path, columns=columns, partitioning=None, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise BankError(f"damaged Parquet file ({error})", where=str(path), hint=hint) from error
    schema = _schema(table)
    if columns is None and read.schema.names == [name for name in schema.names if name not in _LATER]:
        for name in (name for name in schema.names if name in _LATER):
            read = read.append_column(schema.field(name), pa.nulls(len(read), schema.field(name).type))
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    if read.schema.names != wanted.names or read.schema.types != wanted.types:
        raise BankError(
            "its columns are not those of a bank", where=str(path), expected=", ".join(wanted.names), hint=hint
        )
    return read.cast(wanted)


def write_part(rows: Sequence[Mapping[str, Any]], table: str, path: Path) -> None:
    """Write rows (a column that is left out is null). Raises BankError for a value of another type or a missing one."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema(table)
    if unknown := {name for row in rows for name in row} - set(schema.names):
        raise BankError(
            "no such column", where=table, field=", ".join(sorted(unknown)), expected=", ".join(schema.names)
        )
    for name, kind in COLUMNS[table].items():
        if kind.endswith("!") and any(row.get(name) is None for row in rows):
            raise BankError("a value is missing", where=table, field=name)
    try:
        written = pa.Table.from_pylist(list(rows), schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise BankError(f"a value is of another type ({error})", where=table) from error
    replace_file(path, lambda place: parquet.write_table(written, place, compression="zstd", write_page_checksum=True))


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Write to a temporary file beside `path`, flush to disk and rename: a kill leaves the old or the new file."""
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    write(temporary)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def to_frame(tables: Sequence[pa.Table], table: str) -> pd.DataFrame:
    """One DataFrame: whole numbers and truth values nullable (Int64, boolean), unknown floats and texts NaN."""
    import pandas as pd
    import pyarrow as pa

    whole = pa.concat_tables([_schema(table).empty_table(), *tables])
    kinds = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    frame: pd.DataFrame = whole.to_pandas(types_mapper=kinds.get)
    return frame.astype({n: "bool" for n, kind in COLUMNS[table].items() if kind == "bool!"})
