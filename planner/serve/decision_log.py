"""The decision log: one JSON line for each decision and each piece of feedback, in files that rotate.

A decision's line has its features, plan, propensity, cost and outcome; prompt and answer only if the operator asks.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

__all__ = ["LOG_VERSION", "DecisionLog"]

LOG_VERSION = 1


class DecisionLog:
    """Appends to `path`; beyond `max_bytes` it becomes `path.1`, the one before `path.2`, up to `files` in all.

    Any thread may write. Raises OSError where the file cannot be written.
    """

    def __init__(self, path: Path, *, max_bytes: int, files: int) -> None:
        self.path, self.max_bytes, self.files = path, max_bytes, files
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; a reader never sees half a line that is not the last."""
        line = json.dumps({"version": LOG_VERSION, **record}, ensure_ascii=False, allow_nan=False) + "\n"
        with self._lock:
            if self._file.tell() and self._file.tell() + len(line.encode()) > self.max_bytes:
                self._rotate()
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        self._numbered(self.files - 1).unlink(missing_ok=True)
        for number in range(self.files - 2, 0, -1):
            if self._numbered(number).exists():
                self._numbered(number).replace(self._numbered(number + 1))
        if self.files > 1:
            self.path.replace(self._numbered(1))
        else:
            self.path.unlink()
        self._file = self.path.open("a", encoding="utf-8")

    def _numbered(self, number: int) -> Path:
        return self.path if number <= 0 else self.path.with_name(f"{self.path.name}.{number}")
