"""Published tasks by name: from a folder of the user's, else from the Hub (published.toml says what they are)."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from planner.errors import CapabilityError, InputError
from planner.tasks.files import SUFFIXES

__all__ = ["PublishedTask", "find_task", "published_tasks", "task_file"]

_TABLE = Path(__file__).with_name("published.toml")
_FOLDER = "PLANNER_DATA"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTask:
    """`count` problems; `prompt_tokens` is about what one takes."""

    name: str
    repo: str
    config: str
    split: str
    count: int
    prompt_tokens: int
    source: str


@lru_cache(maxsize=1)
def published_tasks() -> Mapping[str, PublishedTask]:
    """All of them by name."""
    rows = tomllib.loads(_TABLE.read_text(encoding="utf-8"))["tasks"]
    return {row["name"]: PublishedTask(**row) for row in rows}


def find_task(name: str) -> PublishedTask | None:
    """The task of this name, in any case; None where there is no such."""
    return {task.name.lower(): task for task in published_tasks().values()}.get(name.lower())


def task_file(task: PublishedTask) -> Path:
    """A local file of the task's problems: NAME.jsonl (or another known suffix) in the folder that PLANNER_DATA names,
    else the Hub's, which is fetched once and kept in its cache.

    Raises InputError where it can be had from neither, CapabilityError without the package huggingface_hub.
    """
    folder = os.environ.get(_FOLDER)
    for suffix in SUFFIXES if folder else ():
        path = Path(folder or "") / f"{task.name}{suffix}"
        if path.is_file():
            return path
    hint = f"Put {task.name}.jsonl into a folder and name that folder in {_FOLDER}, or name a file as the task"
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError as error:
        raise CapabilityError(
            f"the Hub needs the package {error.name}", field="task", value=task.name,
            hint=f"pip install huggingface_hub. Or: {hint}",
        ) from error  # fmt: skip
    try:
        return Path(
            hf_hub_download(
                task.repo, f"{task.config}/{task.split}/0000.parquet", repo_type="dataset",
                revision="refs/convert/parquet",
            )
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be fetched from the Hub ({type(error).__name__}: {str(error)[:160]})", where=task.repo,
            field="task", value=task.name, hint=hint,
        ) from error  # fmt: skip
