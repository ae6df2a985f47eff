"""`planner latency`: time a bank's engines, so that budgets and plans in seconds mean something."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from planner.cli.output import console, print_json, status

__all__ = ["latency", "register"]


def register(app: typer.Typer) -> None:
    """Add the command to `planner`."""
    app.command(epilog="Example: `planner latency runs/lab-demo`")(latency)


def latency(
    bank: Annotated[Path, typer.Argument(help="Bank folder that `planner profile` made.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """Time a bank's engines and verifier anew, on this machine; `planner fit` then gives plans their seconds."""
    from planner.profiling.run import time_bank

    measured = time_bank(bank)
    if as_json:
        print_json(measured)
        return
    from rich.table import Table

    table = Table(
        "model", "call", "input token", "step of", "median error", "slow",
        caption="milliseconds; error and slow: measured against predicted seconds of the calls held out of the fit",
    )  # fmt: skip
    for name, entry in [*measured["engines"].items(), ("verifier", measured["verifier"])]:
        if entry is not None:
            table.add_row(name, *_figures(entry))
    console.print(table)
    status.print(f"Next: planner fit {bank} -o runs/policy")


def _figures(entry: dict[str, Any]) -> list[str]:
    steps = zip(entry["rows"], entry["step_seconds"], strict=True)
    return [
        f"{1e3 * entry['call_seconds']:.3g}",
        f"{1e3 * entry['token_seconds']:.3g}",
        ", ".join(f"{rows}: {1e3 * seconds:.3g}" for rows, seconds in steps) or "-",
        f"{entry['median_relative_error']:.1%}",
        f"{entry['slowdown'][-1]:.2f}x",
    ]
