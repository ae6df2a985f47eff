"""`planner show`: the policy's table and its held-out evaluation in a terminal, narrow ones too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from planner.report.build import build_report
from planner.report.document import BudgetView, ReportDocument
from planner.report.numbers import cost, multiple, percent
from planner.report.palette import STYLES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["show"]

_TONES = {"good": "green", "bad": "red", "muted": "dim", "": ""}


def show(policy_path: str | Path, console: Console) -> None:
    """Print header, bucket x budget table, methods at the default budget and at the largest, warnings.

    Raises PolicyError where the folder cannot be used. Texts from the folder are never read as console markup.
    """
    from rich.text import Text

    document = build_report(policy_path)
    console.print(Text(document.name, style="bold"))
    console.print(Text(document.summary, style="dim"))
    console.print()
    console.print(_map(document, narrow=console.width < 90))
    if any(a["fallback"] for v in document.budgets for a in v.actions):
        console.print(Text("* falls back to the plan that is best over all problems", style="dim"))
    shown = dict.fromkeys((document.default_budget, len(document.budgets) - 1))
    for index in shown:
        view = document.budgets[index]
        if view.comparison is None:
            continue
        console.print()
        console.print(_methods(view, document, narrow=console.width < 90))
        console.print(Text(view.sure))
    if not any(v.comparison for v in document.budgets):
        console.print(Text("No held-out evaluation in this folder.", style="yellow"))
    if document.warnings:
        console.print()
        for warning in document.warnings:
            console.print(Text(f"! {warning}", style="yellow"))
    for name, why in document.missing.items():
        console.print(Text(f"- {name}: {why}", style="dim"))


def _map(document: ReportDocument, *, narrow: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("budget", justify="right")
    for bucket in document.buckets:
        table.add_column(Text(bucket), ratio=1)
    for view in document.budgets:
        head = Text(multiple(view.multiple) if view.multiple else cost(view.budget, document.unit))
        if view.multiple and not narrow:
            head.append(f"  {cost(view.budget, document.unit)}", style="dim")
        cells = [head]
        for a in view.actions:
            cell = Text(
                a["plan"] + ("*" if a["fallback"] else ""), style=STYLES[a["key"]].dark if not a["fallback"] else ""
            )
            if a["accuracy"] is not None:
                cell.append(("\n" if narrow else "  ") + percent(a["accuracy"]), style="default not bold")
            cells.append(cell)
        table.add_row(*cells)
    return table


def _methods(view: BudgetView, document: ReportDocument, *, narrow: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        show_edge=False,
        title=Text(f"Held out, at {view.label}"),
        title_justify="left",
        title_style="bold",
    )
    table.add_column("method")
    table.add_column("accuracy", justify="right")
    if not narrow:
        table.add_column("95%", justify="right")
        table.add_column("mean cost", justify="right")
    table.add_column("policy minus it", justify="right")
    assert view.comparison is not None
    for row in view.comparison.rows:
        name, accuracy, price, difference = row[:4]
        cells = [Text(name.text), Text(accuracy.text)]
        if not narrow:
            cells += [Text(accuracy.note, style="dim"), Text(price.text)]
        delta = Text(difference.text, style=_TONES[difference.tone])
        if difference.note:
            delta.append(("\n" if narrow else "  ") + difference.note, style="dim")
        table.add_row(*cells, delta)
    return table
