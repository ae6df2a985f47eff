"""`planner import`: a bank from outputs that somebody already has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from planner.cli.app import AsJson
from planner.cli.output import console, print_json
from planner.errors import InputError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="import", epilog="Example: `planner import samples.jsonl.gz --format samples -o runs/mine`")(
        import_
    )


def import_(
    files: Annotated[list[Path], typer.Argument(help="Recorded outputs: files, or a folder of them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Bank folder to write.")],
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="samples, search-and-learn, compute-optimal-tts, inspect-ai, lm-eval, qwen-math or cells. "
            "Default: what each file is recognised as.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="JSONL with `problem_id` (or `unique_id`) and `prompt`, joined by id or text."),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--config",
            help="The policy model's config.json, for FLOPs; of several models: `MODEL=CONFIG` for each.",
        ),
    ] = None,
    verifier_config: Annotated[
        Path | None,
        typer.Option("--verifier-config", help="The verifier's config.json, to price its reading in FLOPs."),
    ] = None,
    policy_model: Annotated[str | None, typer.Option("--policy-model", help="Name, where the file has none.")] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Of the samples, where the file does not say.")
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option("--strategy", help="What wrote the file: `samples` (independent), beam_search, dvts, ..."),
    ] = None,
    hyperparameters: Annotated[
        str | None, typer.Option("--hyperparameters", help='Of that strategy, as JSON: `{"n": 4, "expansions": 4}`.')
    ] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option("--cost", help="`MODEL=UNITS`: what one sample of a policy model costs, one for each model."),
    ] = None,
    allow_damaged: Annotated[
        bool, typer.Option("--allow-damaged", help="Import what is found damaged as it stands, flagged.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a bank from samples and runs that somebody already has."""
    from planner.profiling.importers import import_bank

    report = import_bank(
        files, output, format=format, prompts=prompts, config=_configs(config or []), verifier_config=verifier_config,
        policy=policy_model, temperature=temperature, strategy=strategy, hyperparameters=_object(hyperparameters),
        costs=_prices(cost or []), allow_damaged=allow_damaged,
    )  # fmt: skip
    if as_json:
        print_json(report.to_dict())
        return
    what = f"{report.problems} problems, {report.samples} samples, {report.runs} runs"
    console.print(f"{what} of {', '.join(report.policy_models)} ({', '.join(report.formats)}) -> [bold]{output}[/]")
    for warning in report.warnings:
        console.print(f"[yellow]note[/] {warning}", soft_wrap=True)
    console.print(f"Next: planner fit {output} -o runs/policy")


def _object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", field="--hyperparameters", value=text) from error
    if not isinstance(found, dict):
        raise InputError("not an object", field="--hyperparameters", value=text, expected='{"n": 4}')
    return found


def _configs(given: list[str]) -> str | dict[str, str] | None:
    if len(given) == 1 and ("=" not in given[0] or Path(given[0]).exists()):
        return given[0]
    parts = [text.partition("=") for text in given]
    for text, (name, _, path) in zip(given, parts, strict=True):
        if not name or not path:
            raise InputError("not a model's config", field="--config", value=text, expected="MODEL=CONFIG")
    return {name: path for name, _, path in parts} or None


def _prices(given: list[str]) -> dict[str, float]:
    prices: dict[str, float] = {}
    for text in given:
        name, mark, value = text.rpartition("=")
        try:
            prices[name] = float(value)
        except ValueError:
            mark = ""
        if not mark or not name:
            raise InputError("not a price", field="--cost", value=text, expected="MODEL=UNITS, as in small=1")
    return prices
