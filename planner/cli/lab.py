"""`planner lab`: train and measure the laboratory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from planner.cli.output import console, print_json

__all__ = ["app"]

app = typer.Typer(help="The laboratory: small policy models and a verifier of our own.", no_args_is_help=True)


@app.command(epilog="Example: `planner lab train --output runs/lab`")
def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where checkpoints and models go.")] = Path("runs/lab"),
    threads: Annotated[int, typer.Option(min=1, help="torch threads.")] = 1,
) -> None:
    """Train the laboratory again, from nothing, as its cards say; resumes where it stopped."""
    from planner.models.lab.train import train_laboratory

    train_laboratory(output, threads=threads)
    console.print(f"trained models are in [bold]{output}[/]")


@app.command(epilog="Example: `planner lab evaluate --problems 240 --samples 16`")
def evaluate(
    problems: Annotated[int, typer.Option(min=10, help="Held-out problems.")] = 240,
    samples: Annotated[int, typer.Option(min=2, help="Samples of each problem.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure Pass@1, buckets and the verifier's AUC anew; never reads the cards."""
    from planner.models.lab.evaluate import evaluate_laboratory

    result = evaluate_laboratory(problems=problems, samples=samples)
    print_json(result)
