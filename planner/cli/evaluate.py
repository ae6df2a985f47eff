"""`planner evaluate`: what a policy is worth on problems it has not seen, against the baselines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.app import AsJson
from planner.cli.output import console, print_json

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["register"]

_NAMES = {
    "policy_oracle_difficulty": "policy, difficulty known", "policy": "policy", "best_fixed": "best fixed strategy",
    "best_of_n": "best-of-N", "majority": "majority", "adaptive": "adaptive majority", "oracle": "per-problem oracle",
    "cheapest": "cheapest of the three",
}  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: `planner evaluate models/lab/policy --json`")(evaluate)


def evaluate(
    policy: Annotated[Path, typer.Argument(help="Policy folder.")],
    bank: Annotated[
        Path | None,
        typer.Option("--bank", help="Bank of other problems. Default: the cross-validation that fitting measured."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of replay and bootstrap.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Accuracy and cost at each budget of the policy, the best fixed strategy, the baselines and the oracle."""
    from planner.policy.folder import read_policy
    from planner.policy.held_out import evaluate_on, evaluation_of

    document = read_policy(policy)
    if bank is None:
        found = evaluation_of(document)
    else:
        from planner.policy.predictor import DifficultyPredictor
        from planner.profiling.bank import Bank

        found = evaluate_on(document, DifficultyPredictor.load(policy / "predictor"), Bank.open(bank), seed=seed)
    if as_json:
        print_json(found)
        return
    _show(found)


def _show(found: dict[str, Any]) -> None:
    where = f"bank {found['bank']}" if found["bank"] else f"{found['folds']}-fold nested cross-validation"
    console.print(f"[bold]{found['policy']}[/] on {found['problems']} problems, {where}")
    console.print(_methods(found))
    gains = _gains(found["efficiency_gain"])
    if gains is not None:
        console.print(gains)
    if found["gap_closed"]:
        shares = ", ".join(f"{row['value']:+.0%}" for row in found["gap_closed"])
        console.print(f"Gap from best fixed to oracle that is closed, by budget: {shares}")
    predictor = found["predictor"]
    if predictor:
        rank = "unknown" if predictor["spearman"] is None else f"{predictor['spearman']:.2f}"
        console.print(
            f"Predictor: log loss {predictor['log_loss']:.3f} a sample (base rate {predictor['base_log_loss']:.3f}), "
            f"rank correlation {rank}, calibration error {predictor['calibration_error']:.3f}"
        )
        for by in ("by_problem", "by_group"):
            if predictor.get(by):
                console.print(_ways(predictor[by], by.removeprefix("by_")))
    if found.get("probe"):
        console.print(f"Probe: {found['probe']['note']}", soft_wrap=True)
    for name, why in found["missing"].items():
        console.print(f"[dim]- {name}: {why}[/]")
    for note in found["notes"]:
        console.print(f"[yellow]note[/] {note}", soft_wrap=True)


def _methods(found: dict[str, Any]) -> Table:
    from rich.table import Table

    from planner.policy.plan import amount_text

    table = Table("budget", "method", "accuracy", "95 %", "mean cost")
    for entry in found["budgets"]:
        table.add_section()
        head = amount_text(entry["budget"], found["unit"])
        for name, method in entry["methods"].items():
            if method is None:
                table.add_row(head, _NAMES[name], "-", "", "-", style="dim")
            else:
                low, high = method["ci"]
                over = "> " if method["cost_parts"]["verifier"] is None else ""
                cost = over + amount_text(method["cost"], found["unit"])
                cells = (head, _NAMES[name], f"{method['accuracy']:.3f}", f"{low:.3f}-{high:.3f}", cost)
                table.add_row(*cells, style="bold" if name == "policy" else "")
            head = ""
    return table


def _ways(report: dict[str, Any], unit: str) -> Table:
    """How well each way foretells success on held-out problems or groups."""
    from rich.table import Table

    table = Table(f"told by, {unit}s held out", "log loss", "against base rate", "rank", "calibration error")
    for way, f in report.items():
        rank = "-" if f["spearman"] is None else f"{f['spearman']:.2f}"
        low, high = f["difference_ci"]
        error = "{:.3f} ({:.3f}-{:.3f})".format(f["calibration_error"], *f["calibration_error_ci"])
        difference = f"{f['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
        table.add_row(way.replace("_", " "), f"{f['log_loss']:.3f}", difference, rank, error)
    return table


def _gains(gains: dict[str, Any]) -> Table | None:
    from rich.table import Table

    table = Table("against", "at its N", "accuracy", "compute of it / of the policy")
    for name, entries in gains.items():
        for entry in entries or []:
            low, high = entry["ci"]
            bound = "at least " if entry["lower_bound"] else ""
            value = "never reached" if entry["value"] is None else f"{bound}{entry['value']:.2f} ({low:.2f}-{high:.2f})"
            table.add_row(_NAMES[name], str(entry["n"]), f"{entry['at_accuracy']:.3f}", value)
    return table if table.row_count else None
