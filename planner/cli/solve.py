"""`planner solve`: one prompt, or a file of prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from planner.cli.app import AsJson, PolicyOption, Quiet, load_planner, plan_lines, warn
from planner.cli.output import console, human_count, print_json, progress_bar
from planner.errors import InputError

__all__ = ["register"]

_FILES = (".jsonl", ".jsonl.gz", ".json", ".parquet")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog='Examples: `planner solve "What is 12 + 30 - 7?" --budget 8x`; '
        "`planner solve prompts.jsonl --total-budget 4000x -o runs/answers.jsonl`"
    )(solve)


def solve(
    prompt: Annotated[
        str, typer.Argument(help="The prompt, or a file of prompts (.jsonl, .jsonl.gz, .json, .parquet).")
    ],
    budget: Annotated[
        str | None, typer.Option("--budget", "-b", help="Hard cap for one prompt. Default: `8x`, without a total.")
    ] = None,
    total_budget: Annotated[
        str | None, typer.Option("--total-budget", "-t", help="Hard cap for all prompts of a file together.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Results of a file (JSONL). Default: runs/FILE.answers.jsonl.")
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", "-e", help="Engine, or `POLICY_MODEL=ENGINE`; repeat. Default: the laboratory's."),
    ] = None,
    verifier: Annotated[str | None, typer.Option("--verifier", help="`lab:NAME` or `transformers:FOLDER`.")] = None,
    policy: PolicyOption = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Choose a plan and run it on its engine; never spends more than the budget. A file resumes where it stopped."""
    from planner.models.shipped import load_verifier
    from planner.policy.equipment import named_engines

    if budget is not None and total_budget is not None:
        raise InputError("give one of the two", field="--total-budget", expected="--budget or --total-budget")
    planner = load_planner(policy)
    equipment: dict[str, Any] = {
        "engine": named_engines(planner.document["plans"], engine) if engine else None,
        "verifier": load_verifier(verifier) if verifier else None,
    }
    source = Path(prompt) if prompt.endswith(_FILES) else None
    if source is None:
        if total_budget is not None or output is not None:
            raise InputError("is for a file of prompts", field="--total-budget" if total_budget else "--output")
        _one(planner.solve(prompt, budget or "8x", **equipment), as_json)
        return
    from planner.batch import solve_file

    out = output or Path("runs") / f"{source.name.partition('.')[0]}.answers.jsonl"
    per_prompt = None if total_budget is not None else budget or "8x"
    with progress_bar("solve", quiet=quiet or as_json) as advance:
        report = solve_file(
            planner, source, out, budget=per_prompt, total_budget=total_budget, progress=advance, **equipment
        )
    if as_json:
        print_json(report.to_dict())
        return
    spent = "unknown FLOPs" if report.spent_flops is None else human_count(report.spent_flops, "FLOPs")
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(report.outcomes.items()))
    console.print(
        f"{report.prompts} prompts ({report.resumed} from before): {outcomes}; {spent} spent, "
        f"expected accuracy {report.expected_accuracy:.3f} -> [bold]{out}[/]"
    )


def _one(solution: Any, as_json: bool) -> None:
    if as_json:
        print_json(solution.to_dict())
        return
    console.print(plan_lines(solution.plan))
    console.print(solution.text, markup=False)
    console.print(
        f"[bold]{solution.answer}[/] ({solution.outcome}; {human_count(solution.cost.total_flops, 'FLOPs')} and "
        f"{solution.seconds:.2g} s spent)"
    )
    warn(solution.plan)
