"""What every command shares: where it prints, its progress bars, and how an error leaves the process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Advance", "console", "human_count", "human_seconds", "print_json", "progress_bar", "status"]

console = Console(stderr=False, highlight=False)
status = Console(stderr=True, highlight=False)
"""Progress, notes and errors go to standard error, so that standard output can be piped."""

Advance = Callable[[int, int, str], None]
"""Called with (done, total, description)."""


def print_json(document: object) -> None:
    """One JSON document on standard output."""
    print(json.dumps(document, indent=2, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    to_dict = getattr(value, "to_dict", None)
    if callable(to_dict):
        return to_dict()
    return str(value)


@contextmanager
def progress_bar(title: str, *, quiet: bool = False) -> Iterator[Advance]:
    """A bar with time left on standard error; yields the function that moves it."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=status,
        disable=quiet,
    ) as bar:
        task = bar.add_task(title, total=None)

        def advance(done: int, total: int, description: str) -> None:
            bar.update(
                task, completed=done, total=total, description=f"{title}: {description}" if description else title
            )

        yield advance


def human_count(value: float, unit: str = "") -> str:
    """1234567 as `1.23M`; FLOPs as GFLOPs and so on."""
    for limit, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{' ' if unit else ''}{letter}{unit}"
    return f"{value:.3g}{' ' if unit else ''}{unit}"


def human_seconds(seconds: float) -> str:
    """93.4 as `1 min 33 s`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
