"""`planner lab`: train and measure the laboratory."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from planner.cli.output import console, print_json, progress_bar, status
from planner.errors import CapabilityError, InputError

__all__ = ["app"]

app = typer.Typer(help="The laboratory: small policy models and a verifier of our own.", no_args_is_help=True)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


@app.command(epilog="Example: `planner lab train --output runs/lab`")
def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where checkpoints and models go.")] = Path("runs/lab"),
    threads: Annotated[int, typer.Option(min=1, help="torch threads.")] = 1,
    scale: Annotated[float, typer.Option(help="Train this many times as long as the recipes say.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train the laboratory again, from nothing, as its cards say; resumes where it stopped."""
    _need_torch()
    from transformers.utils import logging

    from planner.models.lab.train import train_laboratory

    logging.disable_progress_bar()  # transformers draws one for every file that it writes
    with progress_bar("train", quiet=quiet) as advance:

        def show(done: int, total: int, line: str) -> None:
            advance(done, total, line.split(" ", 1)[0])
            if not quiet:
                status.print(line, markup=False, soft_wrap=True)

        models = train_laboratory(output, threads=threads, scale=scale, progress=show)
    if as_json:
        print_json({"models": str(models)})
        return
    console.print(f"trained models are in [bold]{models}[/]")
    console.print(f"Next: planner lab evaluate --folder {models} --write-cards")


@app.command(epilog="Example: `planner lab evaluate --problems 480 --samples 16`")
def evaluate(
    problems: Annotated[int, typer.Option(min=10, help="Held-out problems.")] = 480,
    samples: Annotated[int, typer.Option(min=2, help="Samples of each problem.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Which held-out problems, and which samples.")] = 0,
    folder: Annotated[Path | None, typer.Option(help="A folder of models. Default: the shipped ones.")] = None,
    write_cards: Annotated[
        bool, typer.Option("--write-cards", help="Put the figures into the models' cards instead of comparing.")
    ] = False,
    keep: Annotated[
        Path | None, typer.Option(help="Keep what was drawn and scored here; an interrupted run goes on from it.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write samples and step scores here, a folder a verifier, for `planner import`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Quiet = False,
) -> None:
    """Measure Pass@1, buckets and the verifier's AUC anew, then compare with the models' cards.

    Ends with exit code 1, naming the figure, where a card is more than three standard errors off.
    """
    _need_torch()
    from planner.models.lab.card import compare_with_cards, write_measured
    from planner.models.lab.evaluate import evaluate_laboratory
    from planner.models.shipped import shipped

    home = folder or shipped("models", "lab")
    with progress_bar("measure", quiet=quiet or as_json) as advance:
        result = evaluate_laboratory(
            home, problems=problems, samples=samples, seed=seed, keep=keep, record=record, progress=advance
        )
    if not as_json:
        _show(result)
    if write_cards:
        for path in write_measured(result, home):
            status.print(f"wrote {path}", soft_wrap=True)
        if as_json:
            print_json(result)
        return
    try:
        disagreements = compare_with_cards(result, home)
    except InputError:
        if as_json:
            print_json(result)
        raise
    if as_json:
        print_json({**result, "disagreements": disagreements})
    for disagreement in disagreements:
        status.print(f"[red]off[/] {disagreement}", soft_wrap=True)
    if disagreements:
        raise typer.Exit(1)
    status.print("The cards agree with what was measured.")


def _need_torch() -> None:
    missing = [name for name in ("torch", "transformers", "reasoning_gym") if find_spec(name) is None]
    if missing:
        raise CapabilityError(
            f"the laboratory needs the packages {', '.join(missing)}", hint="pip install 'compute-planner[local]'"
        )


def _show(result: Mapping[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    style: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1), "show_edge": False}
    console.print(
        f"{result['problems']} problems of the split {result['split']}, {result['samples']} samples each at "
        f"temperature {result['temperature']}; ± is one standard error\n"
    )
    policies = Table("policy model", title="Policy models", title_justify="left", **style)
    for column in ("parameters", "Pass@1", "easy", "medium", "hard", f"Pass@{result['samples']}"):
        policies.add_column(column, justify="right")
    families = Table("family", title="\nPass@1 by family", title_justify="left", **style)
    for figures in result["policies"]:
        errors, buckets = figures["standard_errors"], figures["buckets"]
        policies.add_row(
            figures["name"],
            f"{figures['parameters']:,}",
            _with_error(figures["pass_at_1"], errors["pass_at_1"]),
            *(f"{buckets[bucket]:.3f}" for bucket in ("easy", "medium", "hard")),
            f"{figures['pass_at_all']:.3f}",
        )
        families.add_column(figures["name"], justify="right")
    for family in result["policies"][0]["families"] if result["policies"] else ():
        families.add_row(
            family,
            *(
                _with_error(figures["families"][family], figures["standard_errors"]["families"][family])
                for figures in result["policies"]
            ),
        )
    console.print(policies)
    console.print(families)
    for figures in result["verifiers"]:
        rule, errors = figures["aggregation"], figures["standard_errors"]
        table = Table(
            title=f"\n{figures['name']}, {figures['parameters']:,} parameters: AUC",
            caption=f"Answers are scored by the {rule} of their step scores.",
            caption_justify="left",
            title_justify="left",
            **style,
        )
        choice = Table(
            title=f"\n{figures['name']} chooses among n: accuracy, and points over majority with their 95 % interval",
            title_justify="left",
            **style,
        )
        for one, columns in ((table, ("within problems", "pooled")), (choice, ("n", "majority", *_CHOICES))):
            one.add_column("policy", no_wrap=True)
            for column in columns:
                one.add_column(column, justify="right", no_wrap=True)
        falls: list[str] = []
        for policy, curves in figures["curves"].items():
            table.add_row(
                policy,
                *(_with_error(figures[f][policy], errors[f][policy]) for f in ("auc_within_problem", "auc_pooled")),
            )
            accuracy, gains = curves["accuracy"], curves["gain_over_majority"]
            for place, n in enumerate(curves["n"]):
                if n in (4, 16, 64):
                    choice.add_row(
                        policy,
                        str(n),
                        f"{accuracy['majority'][place]:.3f}",
                        *(
                            f"{accuracy[f'{kind}:{rule}'][place]:.3f}\n{_points(gains[f'{kind}:{rule}'][place])}"
                            for kind in _CHOICES
                        ),
                    )
            fall = curves["falls"][f"best:{rule}"]
            if fall["high"] < 0:
                falls.append(f"{policy}: the best one's accuracy falls from n = {fall['best_n']} on, {_points(fall)}")
        console.print(table)
        console.print(choice)
        for line in falls:
            console.print(line, markup=False)
    for between, title in (("between_buckets", "buckets"), ("between_policies", "policy models")):
        found = result["crossovers"][between]
        console.print(f"\nPairs of ways to answer whose order changes between {title} (99 % intervals): {len(found)}")
        for one in found[:3]:
            of = f"{one['policy']}: " if "policy" in one else ""
            sides = "; ".join(f"{one[side]['in']} {_points(one[side])}" for side in ("better", "worse"))
            console.print(f"  {of}{one['first']} against {one['second']}: {sides}", markup=False)


_CHOICES = ("best", "weighted")


def _points(interval: Mapping[str, float]) -> str:
    return f"{100 * interval['mean']:+.1f} [{100 * interval['low']:+.1f}, {100 * interval['high']:+.1f}]"


def _with_error(value: float | None, error: float | None) -> str:
    return "-" if value is None or error is None else f"{value:.3f} ± {error:.3f}"
