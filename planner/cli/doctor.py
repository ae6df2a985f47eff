"""`planner doctor`: tries an engine and a verifier out before a long run depends on them."""

from __future__ import annotations

from typing import Annotated

import typer

from planner.cli.output import console, print_json

__all__ = ["doctor", "register"]

_COLOURS = {"ok": "green", "note": "yellow", "broken": "red"}


def register(app: typer.Typer) -> None:
    """Add the command to `planner`."""
    app.command(epilog="Example: `planner doctor --engine lab:lab-small --verifier lab:lab-prm`")(doctor)


def doctor(
    engine: Annotated[
        str, typer.Option("--engine", "-e", help="`lab:NAME`, `transformers:FOLDER`, or a server's URL.")
    ],
    verifier: Annotated[
        str | None, typer.Option("--verifier", help="`lab:NAME`, `transformers:FOLDER?card=CARD`, `judge:CARD:ENGINE`.")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="What to try it on. Default: a short sum.")] = None,
    step_separator: Annotated[
        str | None, typer.Option("--step-separator", help="What ends a step. Default: what the model seems to use.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")] = False,
) -> None:
    """Reach, identify, sample, score, measure; then say which strategies will work. Exit code 1 if any is broken."""
    from planner.models.shipped import load_engine, load_verifier
    from planner.runtime.checkup import PROMPT, check_up

    separator = None if step_separator is None else step_separator.encode().decode("unicode_escape")
    found = check_up(
        engine, verifier, load_engine=load_engine, load_verifier=load_verifier, prompt=prompt or PROMPT,
        step_separator=separator,
    )  # fmt: skip
    if as_json:
        print_json(found.to_dict())
        raise typer.Exit(int(found.broken))
    for check in found.checks:
        colour = _COLOURS[check.state]
        console.print(f"[{colour}]{check.state:>6}[/] {check.name}: ", end="")
        console.print(check.says, markup=False, soft_wrap=True)
    for name, value in found.measures.items():
        shown = f"{value:.0%}" if name.endswith("share") else f"{value:.3g}"
        console.print(f"       {name.replace('_', ' ')}: [bold]{shown}[/]")
    works = [row.name for row in found.strategies if row.works]
    if works:
        console.print(f"[bold]will work[/]: {', '.join(works)}")
    for row in found.strategies:
        if not row.works:
            console.print(f"[bold]will not[/]: {row.name}: " if row.works is False else f"{row.name}: ", end="")
            console.print(row.why, markup=False, soft_wrap=True)
    raise typer.Exit(int(found.broken))
