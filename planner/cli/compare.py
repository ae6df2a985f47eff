"""`planner compare`: a small model with search, or a larger one's single answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.app import AsJson
from planner.cli.output import console, human_count, print_json
from planner.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["register"]

_ACCOUNTS = {
    "architecture": "FLOPs by the models' configs", "2nd": "FLOPs as 2 x parameters x tokens",
    "usd": "USD by the price list", "units": "units given by hand",
}  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: `planner compare runs/demo/bank --prices prices.toml`")(compare)


def compare(
    bank: Annotated[Path, typer.Argument(help="Bank with two or more policy models.")],
    ratio: Annotated[
        list[float] | None,
        typer.Option(
            "--ratio", "-r", help="R, inference to pre-training tokens; may be repeated. Default: 0.16, 0.79, 22."
        ),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--parameters", help="`MODEL=8e9`: a policy model's or the verifier's, where the bank knows none."
        ),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(
            "--prices", help="Price list (TOML): [models.NAME] input, output; [verifiers.NAME] input; in USD."
        ),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="The small model's plan is chosen on the other folds.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of replay, folds and bootstrap.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Is a small model with search worth one k times larger? By difficulty, in FLOPs (two accounts) and in USD."""
    from planner.policy.accounts import compare_accounts, read_prices
    from planner.policy.sizes import RATIOS
    from planner.profiling.bank import Bank

    if ratio and min(ratio) <= 0:
        raise InputError("not a ratio", field="--ratio", value=min(ratio), expected="a number above 0")
    found = compare_accounts(
        Bank.open(bank), parameters=_sizes(parameters or []), prices=read_prices(prices) if prices else None,
        ratios=ratio or RATIOS, folds=folds, seed=seed,
    )  # fmt: skip
    if as_json:
        print_json(found)
        return
    _show(found)


def _sizes(given: list[str]) -> dict[str, float]:
    sizes: dict[str, float] = {}
    for text in given:
        name, mark, value = text.rpartition("=")
        try:
            sizes[name] = float(value)
        except ValueError:
            mark = ""
        if not mark or not name or not 0 < sizes[name] < float("inf"):
            raise InputError("not a size", field="--parameters", value=text, expected="MODEL=8e9")
    return sizes


def _show(found: dict[str, Any]) -> None:
    for model in found["models"]:
        size = "unknown size" if model["parameters"] is None else f"{human_count(model['parameters'])} parameters"
        costs = ", ".join(_amount(cost, account) for account, cost in model["single_answer"].items())
        console.print(f"[bold]{model['name']}[/]: {size}; a single answer costs {costs or 'an unknown amount'}")
    for account in dict.fromkeys(row["account"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["account"] == account]
        for pair in dict.fromkeys((row["small"], row["large"]) for row in rows):
            mine = [row for row in rows if (row["small"], row["large"]) == pair]
            console.print(_table(mine, f"{pair[0]} with search against one answer of {pair[1]}, {_ACCOUNTS[account]}"))
            for sentence in _sentences(mine):
                console.print(sentence, soft_wrap=True)
    console.print(
        "The small model's plan is the best within what it may spend, chosen for each difficulty on other problems; "
        "R is the tokens generated in use for each token of training, `price`: equal cost of the answers alone.",
        soft_wrap=True,
    )
    for name, why in found["missing"].items():
        console.print(f"[dim]- {name}: {why}[/]", soft_wrap=True)
    for note in found["notes"]:
        console.print(f"[yellow]note[/] {note}", soft_wrap=True)


def _table(rows: list[dict[str, Any]], title: str) -> Table:
    """A line for each R and each way of counting the verifier; a star where the 95 % interval excludes 0."""
    from rich.box import SIMPLE
    from rich.table import Column, Table

    buckets = list(dict.fromkeys(row["bucket"] for row in rows))
    counts = ", ".join(f"{row['problems']} {row['bucket']}" for row in rows[: len(buckets)])
    heads = ("R", "verifier", "may\nspend", "\nspends", "small", "large", *buckets)
    table = Table(
        *(Column(head, no_wrap=True) for head in heads), title=title, title_justify="left", box=SIMPLE,
        padding=(0, 1, 0, 0), pad_edge=False,
        caption=f"in %; {', '.join(buckets)}: small - large in points, on {counts} problems; *: 0 lies outside 95 %",
        caption_justify="left",
    )  # fmt: skip
    lines: dict[tuple[Any, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["r"], row["verifier"]), {})[row["bucket"]] = row
    for (ratio, verifier), line in lines.items():
        every = line["all"]
        table.add_row(
            _ratio(ratio), verifier, f"{every['allowed']:.3g}x", f"{every['spent']:.3g}x",
            f"{100 * every['small_accuracy']:.1f}", f"{100 * every['large_accuracy']:.1f}",
            *(_difference(line[name]) if name in line else "-" for name in buckets),
        )  # fmt: skip
    return table


def _difference(row: dict[str, Any]) -> str:
    return f"{100 * row['difference']:+.1f}{'*' if _verdict(*row['ci']) != '-' else ''}"


def _sentences(rows: list[dict[str, Any]]) -> list[str]:
    """One for each R over all problems: what to do, by the costs that count the verifier where they are known."""
    said = []
    counted = [row for row in rows if row["verifier"] != "left out"] or rows
    for row in (row for row in counted if row["bucket"] == "all"):
        low, high = row["ci"]
        what = {"small": f"{row['small']} with search is better", "large": f"{row['large']} is better"}.get(
            _verdict(low, high), f"no difference to {row['small']} with search is shown"
        )
        at = "at equal cost of the answers" if row["r"] is None else f"at R = {row['r']:g}"
        said.append(
            f"{at}: {what} ({100 * row['difference']:+.1f} points, {100 * low:+.1f} to {100 * high:+.1f}); "
            f"the search is most often {row['plan']}"
        )
    return said


def _ratio(value: float | None) -> str:
    return "price" if value is None else f"{value:g}"


def _verdict(low: float, high: float) -> str:
    return "small" if low > 0 else "large" if high < 0 else "-"


def _amount(cost: float, account: str) -> str:
    if account == "usd":
        return f"{cost:.3g} USD"
    if account == "units":
        return f"{cost:.4g} units"
    return f"{human_count(cost, 'FLOPs')} ({account})"
