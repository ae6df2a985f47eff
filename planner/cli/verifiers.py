"""`planner verifiers`: the shipped cards, and the verifiers that need none."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from planner.cli.output import console, print_json

__all__ = ["register", "verifiers"]

_CARDLESS = (
    ("rule", "rule:MODULE:FUNCTION", "your function (prompt, answer) -> score; in a recipe, `task` is its checker"),
    ("tests", "tests:run_code=yes:FILE", "the share of the file's tests that the answer's code passes"),
    ("tests", "tests-by:run_code=yes:ENGINE", "the same, of tests that the engine writes"),
)


def register(app: typer.Typer) -> None:
    """Add the command to `planner`."""
    app.command(epilog="Example: `planner verifiers --json`")(verifiers)


def verifiers(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """List the verifiers: by shipped card (one of your own is a TOML file, named in its place), and those without."""
    rows = _rows()
    if as_json:
        print_json(rows)
        return
    from rich.table import Column, Table

    table = Table("card", "kind", "read-out", Column("models", overflow="fold"))
    for row in rows:
        table.add_row(row["card"] or "-", row["kind"], row["read_out"], "\n".join(row.get("models") or [row["use"]]))
    console.print(table)


def _rows() -> list[dict[str, Any]]:
    from planner.models.cards import Card, JudgeCard, OutcomeCard, shipped_cards

    def read_out(card: Card) -> str:
        if isinstance(card, JudgeCard):
            return f"P({card.positive})" if card.read == "probability" else f"a number from {card.low} to {card.high}"
        if isinstance(card, OutcomeCard):
            return f"head {', '.join(card.head)} at the last token"
        place = f"head {', '.join(card.head)}" if card.head else f"{card.positive!r} against {card.negative!r}"
        return f"{place} at {card.tag!r}"

    rows: list[dict[str, Any]] = []
    for name, card in shipped_cards().items():
        use = f"judge:{name}:ENGINE" if isinstance(card, JudgeCard) else f"transformers:FOLDER?card={name}"
        rows.append({"card": name, "kind": card.kind, "use": use, "read_out": read_out(card), **card.to_dict()})
    return rows + [{"card": None, "kind": kind, "use": use, "read_out": does} for kind, use, does in _CARDLESS]
