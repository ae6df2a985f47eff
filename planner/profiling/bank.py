"""A bank: problems, samples and runs in Parquet parts, with a manifest.

A folder of `manifest.json` and `problems/`, `samples/`, `runs/`, each with `part-*.parquet`. A part is written to a
temporary file, flushed to disk and renamed, so that a kill leaves either the whole part or none of it. Parts are never
changed afterwards. Unknown is null, never 0.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.errors import BankError
from planner.profiling.parts import COLUMNS, KEYS, read_part, replace_file, to_frame, write_part

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SCHEMA_VERSION", "Bank", "packages"]

SCHEMA_VERSION = 1
_DEFAULTS: Mapping[str, Any] = {
    "policy_models": {}, "verifier": None, "task": {}, "seeds": {}, "packages": {}, "recipe": None, "source": "profile",
    "notes": [], "flags": [],
}  # fmt: skip


class Bank:
    """Recorded samples and runs on disk; `manifest` says who made them. `planner.profiling.parts` lists the columns."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self._frames: dict[str, pd.DataFrame] = {}
        self._keys: dict[str, set[str]] = {}

    @classmethod
    def create(cls, path: str | Path, manifest: Mapping[str, Any]) -> Bank:
        """A new, empty bank; missing fields of the manifest get their empty value.

        Raises BankError where the folder holds a bank or anything else already.
        """
        path = Path(path)
        files = [p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".tmp-")]
        if files or path.is_file():
            what = "holds a bank already" if (path / "manifest.json").exists() else "is not an empty folder"
            raise BankError(what, where=str(path), hint="Name another folder, or move this one away")
        for table in COLUMNS:
            (path / table).mkdir(parents=True, exist_ok=True)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        bank = cls(path, {"schema_version": SCHEMA_VERSION, "created": created, **_DEFAULTS, **manifest})
        bank._write_manifest()
        return bank

    @classmethod
    def open(cls, path: str | Path) -> Bank:
        """Raises BankError where there is no bank, its manifest is damaged, or its schema version is another."""
        path = Path(path)
        where = path / "manifest.json"
        if not where.is_file():
            raise BankError("there is no bank here", where=str(path), expected="a folder with manifest.json")
        try:
            manifest = json.loads(where.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise BankError(f"damaged: {error}", where=str(where), hint="Restore it from a copy") from error
        version = manifest.get("schema_version") if isinstance(manifest, dict) else None
        if version != SCHEMA_VERSION:
            raise BankError(
                "written by another version of compute-planner", where=str(where), field="schema_version",
                value=version, expected=str(SCHEMA_VERSION), hint="Use that version, or profile into a new folder",
            )  # fmt: skip
        return cls(path, {**_DEFAULTS, **manifest})

    @property
    def problems(self) -> pd.DataFrame:
        """One row a problem."""
        return self._frame("problems")

    @property
    def samples(self) -> pd.DataFrame:
        """One row an independent answer; role "difficulty" buckets a problem, role "score" is what is evaluated."""
        return self._frame("samples")

    @property
    def runs(self) -> pd.DataFrame:
        """One row a live run of a strategy on a problem."""
        return self._frame("runs")

    def to_pandas(self) -> dict[str, pd.DataFrame]:
        """All three tables by name."""
        return {table: self._frame(table) for table in COLUMNS}

    def append_problems(self, rows: Sequence[Mapping[str, Any]], *, part: str | None = None) -> int:
        return self._append("problems", rows, part)

    def append_samples(self, rows: Sequence[Mapping[str, Any]], *, part: str | None = None) -> int:
        return self._append("samples", rows, part)

    def append_runs(self, rows: Sequence[Mapping[str, Any]], *, part: str | None = None) -> int:
        """Add rows whose key is not there yet, as one part; returns how many. A part's name may be given once only."""
        return self._append("runs", rows, part)

    def parts(self, table: str) -> set[str]:
        """The names of a table's parts."""
        return {path.stem.removeprefix("part-") for path in self._files(table)}

    def keys(self, table: str) -> frozenset[str]:
        """The keys that a table holds."""
        return frozenset(self._known(table))

    def digest(self) -> str:
        """Changes with any byte of any part (the manifest aside)."""
        found = hashlib.blake2b(digest_size=16)
        for file in (file for table in COLUMNS for file in self._files(table)):
            found.update(f"{file.parent.name}/{file.name}\n".encode())
            found.update(file.read_bytes())
        return found.hexdigest()

    def update_manifest(self, changes: Mapping[str, Any]) -> None:
        """Change fields of the manifest, at once or not at all; the file is left alone where nothing changes."""
        changed = json.loads(json.dumps({**self.manifest, **changes}))
        if changed != self.manifest:
            self.manifest = changed
            self._write_manifest()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the bank for writing. The system drops a killed process's lock, so none is ever left behind.

        Raises BankError where another process holds it.
        """
        with (self.path / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise BankError(
                    f"process {file.read().strip() or 'unknown'} is writing to this bank", where=str(self.path),
                    hint="Wait for it, or write to another folder",
                ) from None  # fmt: skip
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            for left in self.path.rglob(".tmp-*"):
                left.unlink(missing_ok=True)
            yield

    def _append(self, table: str, rows: Sequence[Mapping[str, Any]], part: str | None) -> int:
        name, known = KEYS[table], self._known(table)
        fresh: dict[str, Mapping[str, Any]] = {}
        for row in rows:
            if row[name] not in known:
                fresh.setdefault(row[name], row)
        if not fresh and part is None:
            return 0
        target = self.path / table / f"part-{part or self._next_part(table)}.parquet"
        if target.exists():
            raise BankError("this part is there already", where=str(target))
        write_part(list(fresh.values()), table, target)
        known.update(fresh)
        self._frames.pop(table, None)
        return len(fresh)

    def _next_part(self, table: str) -> str:
        return f"{1 + max((int(p) for p in self.parts(table) if p.isdigit()), default=-1):06d}"

    def _files(self, table: str) -> list[Path]:
        return sorted((self.path / table).glob("part-*.parquet"))

    def _known(self, table: str) -> set[str]:
        if table not in self._keys:
            self._keys[table] = {
                key for file in self._files(table) for key in read_part(file, table, [KEYS[table]])[0].to_pylist()
            }
        return self._keys[table]

    def _frame(self, table: str) -> pd.DataFrame:
        if table not in self._frames:
            self._frames[table] = to_frame([read_part(file, table) for file in self._files(table)], table)
        return self._frames[table]

    def _write_manifest(self) -> None:
        text = json.dumps(self.manifest, indent=1, ensure_ascii=False)
        replace_file(self.path / "manifest.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))


def packages() -> dict[str, str]:
    """Versions of what a bank's content may depend on, where installed."""
    found = {"python": platform.python_version()}
    for name in (
        "compute-planner",
        "torch",
        "transformers",
        "tokenizers",
        "reasoning-gym",
        "math-verify",
        "numpy",
        "pyarrow",
    ):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
