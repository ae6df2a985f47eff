"""`planner serve` and `planner drift`: running in production, and looking back at it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from planner.cli.app import AsJson, PolicyOption, load_planner
from planner.cli.output import console, print_json, status
from planner.errors import CapabilityError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: `planner serve --policy runs/policy --engine http://127.0.0.1:8000`")(serve)
    app.command(epilog="Example: `planner drift runs/decisions.jsonl --policy runs/policy`")(drift)


def serve(
    policy: PolicyOption = None,
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", "-e", help="Engine, or `POLICY_MODEL=ENGINE`; repeat. Default: the laboratory's."),
    ] = None,
    verifier: Annotated[str | None, typer.Option("--verifier", help="`lab:NAME` or `transformers:FOLDER`.")] = None,
    host: Annotated[str, typer.Option(help="Address; any but loopback needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port.")] = 8800,
    api_key: Annotated[
        str | None, typer.Option(envvar="PLANNER_API_KEY", help="Key that clients must send.", show_default=False)
    ] = None,
    max_budget: Annotated[str, typer.Option(help="The most that one request may ask for.")] = "256x",
    default_budget: Annotated[
        str | None, typer.Option(help="Plan requests that name no budget within this. Default: sample them plainly.")
    ] = None,
    allow_mismatch: Annotated[
        list[str] | None, typer.Option(help="Engine or verifier that may differ from the policy's; repeat.")
    ] = None,
    decision_log: Annotated[Path | None, typer.Option(help="JSONL file of decisions; rotates.")] = None,
    explore: Annotated[float, typer.Option(min=0, max=1, help="Share of plans drawn at random, for the log.")] = 0.0,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Keep prompts and answers in the log.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="One line for each decision on standard error.")] = False,
) -> None:
    """Answer HTTP as OpenAI's API does, each request planned within its budget."""
    try:
        from planner.serve.settings import Settings
        from planner.serve.start import make_gateway
        from planner.serve.start import serve as run_server
    except ModuleNotFoundError as error:
        raise CapabilityError(
            f"needs the package {error.name}", field="serve", hint="pip install 'compute-planner[serve]'"
        ) from error

    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    settings = Settings(
        host=host, port=port, api_key=api_key, max_budget=max_budget, default_budget=default_budget, explore=explore,
        decision_log=decision_log, log_prompts=log_prompts, allow_mismatch=tuple(allow_mismatch or ()),
    )  # fmt: skip
    gateway = make_gateway(policy, engine or (), verifier, settings)
    status.print(
        f"serving {', '.join(gateway.names)} at [bold]http://{host}:{port}/v1[/]; a budget goes with the model "
        "(`NAME@8x`), the header X-Planner-Budget or the body's `budget`"
    )
    run_server(gateway)


def drift(
    log: Annotated[Path, typer.Argument(help="Decision log; its rotated parts beside it are read too.")],
    policy: PolicyOption = None,
    as_json: AsJson = False,
) -> None:
    """Hold a decision log against the policy: prompts, difficulty, cost and success; which cells to profile again."""
    from planner.policy.drift import measure_drift

    report = measure_drift(log, load_planner(policy).chooser)
    if as_json:
        print_json(report.to_dict())
        return
    console.print(report.text(), markup=False)
