"""`planner verifiers`: the published process reward models whose format is shipped as a card."""

from __future__ import annotations

from typing import Annotated

import typer

from planner.cli.output import console, print_json

__all__ = ["register", "verifiers"]


def register(app: typer.Typer) -> None:
    """Add the command to `planner`."""
    app.command(epilog="Example: `planner verifiers --json`")(verifiers)


def verifiers(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """List the process reward models that a shipped card fits; use one as `transformers:FOLDER?card=CARD`."""
    from planner.models.cards import published_cards

    cards = published_cards()
    if as_json:
        print_json([{"card": name, **card.to_dict()} for name, card in cards.items()])
        return
    from rich.table import Column, Table

    table = Table("card", "read-out", Column("models", overflow="fold"))
    for name, card in cards.items():
        read_out = f"head {', '.join(card.head)}" if card.head else f"{card.positive!r} against {card.negative!r}"
        table.add_row(name, f"{read_out} at {card.tag!r}", "\n".join(card.models))
    console.print(table)
