"""`planner search`: race live strategies under a cap on what is generated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from planner.cli.app import AsJson, Quiet
from planner.cli.output import console, human_count, human_seconds, print_json, progress_bar

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: `planner search profiling/recipes/lab-demo.toml -o runs/lab --auto light --dry-run`")(
        search
    )


def search(
    recipe: Annotated[Path, typer.Argument(help="Run recipe (TOML); its [[runs]] are the live strategies.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Bank folder. Default: runs/RECIPE.")] = None,
    auto: Annotated[
        str, typer.Option("--auto", help="`light`, `medium` or `heavy`: 3, 10 or 30 % of running everything.")
    ] = "light",
    storage: Annotated[
        str | None,
        typer.Option("--storage", help="Where Optuna keeps the studies: `sqlite:///FILE`, `postgresql://...`, "
                     "`journal:FILE`. Default: in memory."),
    ] = None,
    trials: Annotated[int, typer.Option(min=10, help="Optuna trials over what can be replayed.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the race and the trials.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate the spend only.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Find the front of accuracy against cost without running everything on every problem; runs stay in the bank."""
    from planner.policy.live_search import search_recipe

    bank = output or Path("runs") / recipe.stem
    with progress_bar("search", quiet=quiet or as_json) as advance:
        report = search_recipe(
            recipe, bank, auto=auto, storage=storage, trials=trials, seed=seed, dry_run=dry_run, progress=advance
        )
    if as_json:
        print_json(report.to_dict())
        return
    e = report.estimate
    console.print(
        f"{e.configurations} live configurations on {e.problems} problems would generate "
        f"[bold]{human_count(e.exhaustive_tokens)}[/] tokens; `{auto}` caps that at "
        f"[bold]{human_count(e.cap_tokens)}[/], beside {human_count(e.sample_tokens)} for samples "
        f"(about {human_seconds(e.seconds)})."
    )
    if dry_run:
        return
    from rich.table import Table

    table = Table("accuracy", "mean cost", "configuration")
    for point in report.front:
        table.add_row(f"{point.accuracy:.3f}", human_count(point.cost), point.configuration.label)
    console.print(table)
    console.print(
        f"Generated {human_count(report.generated_tokens)} tokens for live runs; {report.tried} configurations tried; "
        f"the bank is [bold]{bank}[/]. Next: planner fit {bank} -o runs/policy"
    )
