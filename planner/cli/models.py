"""`planner models`: the published models whose cost is known without their config."""

from __future__ import annotations

from typing import Annotated

import typer

from planner.cli.output import console, human_count, print_json

__all__ = ["models", "register"]


def register(app: typer.Typer) -> None:
    """Add the command to `planner`."""
    app.command(epilog="Example: `planner models --json`")(models)


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """List published models with their sizes and the FLOPs of one generated token; a recipe names them as `model`."""
    from planner.models.published import CONTEXTS, describe_models

    rows = describe_models()
    if as_json:
        print_json(rows)
        return
    from rich.table import Column, Table

    table = Table(
        Column("model", no_wrap=True), "parameters",
        *(Column(f"at {tokens:,}", justify="right") for tokens in CONTEXTS),
        caption="parameters, and FLOPs of one generated token at so many tokens of context",
    )  # fmt: skip
    for row in rows:
        size, active = human_count(row["parameters"]), human_count(row["active_parameters"])
        costs = [row["flops_per_token"].get(str(tokens)) for tokens in CONTEXTS]
        table.add_row(
            row["name"], size if size == active else f"{size}, {active} active",
            *("-" if cost is None else human_count(cost) for cost in costs),
        )  # fmt: skip
    console.print(table)
