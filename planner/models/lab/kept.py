"""What a measurement has already drawn and scored, kept in files, so that an interrupted one goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from planner.core import stable_hash

__all__ = ["Kept"]


class Kept:
    """JSON values by what they were made from: weights, settings and problems. `folder` None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def value(self, name: str, made_from: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """The value kept under `name` if it was made from the same, else `make()`, which is then kept.

        A file that cannot be read as JSON (a process killed long ago) is made anew.
        """
        if self._folder is None:
            return make()
        path = self._folder / f"{name}-{stable_hash(*made_from)[:16]}.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            pass
        value = make()
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(value), encoding="utf-8")
        os.replace(partial, path)
        return value
