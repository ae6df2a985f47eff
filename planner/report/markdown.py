"""The document as Markdown, for a pull request or a wiki: the same sentences and tables, figures as tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from planner.report.document import BudgetView, ComparisonDocument, Figure, ReportDocument, Section, Table
from planner.report.numbers import UNKNOWN, cost, interval, percent, span

__all__ = ["to_markdown"]

_ACTIVE = re.compile(r"([\\`*_{}\[\]<>#|~!$])")


def _safe(text: str) -> str:
    """Text that no Markdown renderer turns into markup, a link, an image or a table cell."""
    text = _ACTIVE.sub(r"\\\1", text.replace("&", "&amp;")).replace("\\<", "&lt;").replace("\\>", "&gt;")
    text = text.replace("://", ":&#47;&#47;").replace("www.", "www&#46;").replace("@", "&#64;")
    return " ".join(text.split())


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(map(_safe, columns)) + " |", "|" + " --- |" * len(columns)]
    return [*lines, *("| " + " | ".join(map(_safe, row)) + " |" for row in rows), ""]


def _table(table: Table, heading: str = "###") -> list[str]:
    rows = []
    for row in table.rows:
        marks = {"chosen": " (chosen)", "fallback": " (fallback)"}
        rows.append([c.text + (f" · {c.note}" if c.note else "") + marks.get(c.tone, "") for c in row])
    return [f"{heading} {_safe(table.title)}", "", _safe(table.says), "", *_grid(table.columns, rows)]


def _figure(figure: Figure, unit: str) -> list[str]:
    lines = [f"### {_safe(figure.title)}", "", _safe(figure.says), ""]
    if figure.kind == "bars":
        return lines + _bars(figure.extra["bars"])
    rows = []
    for panel in figure.panels:
        for series in panel.series:
            for p in series.points:
                if figure.kind == "calibration":
                    if series.name == "bins":
                        rows.append([percent(p.x), percent(p.y), span(p.low, p.high)])
                    continue
                name = f"{panel.title}: {series.name}" if panel.title not in ("", series.name) else series.name
                if figure.kind == "whiskers":
                    rows.append([name, _x_text(figure, p.x, unit), interval(p.y, p.low, p.high)])
                elif figure.y_scale == "share":
                    rows.append([name, _x_text(figure, p.x, unit), percent(p.y), span(p.low, p.high)])
                else:
                    known = p.low is not None and p.high is not None
                    between = f"{p.low:.3g} to {p.high:.3g}" if known else UNKNOWN
                    rows.append([name, _x_text(figure, p.x, unit), f"{p.y:.3g}", between])
    x_label, y_label = (_first(label) for label in (figure.x_label, figure.y_label))
    columns = {
        "calibration": ("Predicted", "True", "95% interval"),
        "whiskers": ("Series", x_label, f"{figure.y_label[:1].upper()}{figure.y_label[1:]}"),
    }.get(figure.kind, ("Series", x_label, y_label, "95% interval"))
    return lines + (_grid(columns, rows) if rows else [])


def _bars(bars: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        [r["name"], r["text"], *(UNKNOWN if v is None else percent(v / r["total"]) for v in r["parts"].values())]
        for r in bars
    ]
    return _grid(["Configuration", "Mean cost", *bars[0]["parts"]], rows)


def _x_text(figure: Figure, x: float, unit: str) -> str:
    return {"cost": cost(x, unit), "share": percent(x)}.get(figure.x_scale, f"{x:.3g}")


def _first(label: str) -> str:
    """An axis label as a column's head, without its remarks."""
    head = label.split(",")[0]
    return head[:1].upper() + head[1:]


def _answer(view: BudgetView) -> list[str]:
    lines = [_safe(view.headline), ""]
    rows = [
        [
            a["bucket"],
            a["plan"] + (f" ({a['detail']})" if a["detail"] else ""),
            percent(a["accuracy"]),
            span(a["low"], a["high"]),
            a["cost_text"],
            a["note"],
        ]
        for a in view.actions
    ]
    lines += _grid(("Difficulty", "Do", "Expected accuracy", "95% interval", "Mean cost", "Remark"), rows)
    if view.versus:
        lines += [f"- Against {_safe(d['name'].lower())}: {d['text']}, {d['verdict']}." for d in view.versus] + [""]
    return lines + [text for t in (view.sure, view.doubling) if t for text in (_safe(t), "")]


def _elsewhere(document: ReportDocument) -> list[str]:
    """What the slider shows at the other budgets, in a line each."""
    lines = []
    for view in document.budgets:
        if view.index != document.default_budget:
            solved = f" Held out: {percent(view.held_out_accuracy)}." if view.held_out_accuracy is not None else ""
            lines.append(f"- {_safe(f'{view.headline}{solved} {view.doubling}')}")
    return ["### At other budgets", "", *lines, ""] if lines else []


def _section(section: Section, unit: str) -> list[str]:
    lines = [f"## {_safe(section.title)}", "", *(line for t in section.says for line in (_safe(t), ""))]
    for figure in section.figures:
        lines += _figure(figure, unit)
    for table in section.tables:
        lines += _table(table)
    return lines


def _comparison(document: ComparisonDocument) -> str:
    first, second = map(_safe, document.names)
    lines = [f"# {first} and {second}", ""]
    lines += [f"- {_safe(n)}: {_safe(s)}" for n, s in zip(document.names, document.summaries, strict=True)] + [""]
    lines += [line for t in document.headline for line in (_safe(t), "")]
    for section in document.sections:
        lines += _section(section, document.unit)
    lines += ["## Limits", "", *(f"- {_safe(w)}" for w in document.warnings), ""]
    return "\n".join(lines)


def to_markdown(document: ReportDocument | ComparisonDocument) -> str:
    """The whole report as Markdown; texts from outside are escaped."""
    if isinstance(document, ComparisonDocument):
        return _comparison(document)
    view = document.budgets[document.default_budget]
    lines = [f"# {_safe(document.name)}: strategy report", "", _safe(document.summary), "", "## What to do", ""]
    lines += _answer(view) + _table(view.strategies) + _elsewhere(document)
    for section in document.sections:
        lines += _section(section, document.unit)
        if section.section_id == "compute":
            for each in document.budgets:
                lines += _table(each.comparison) if each.comparison else []
        if section.section_id == "costs":
            for each in document.budgets:
                if each.cost_bars:
                    lines += [
                        f"### Spent of {_safe(each.label)}",
                        "",
                        _safe(each.cost_says),
                        "",
                        *_bars(each.cost_bars),
                    ]
    lines += ["## What was measured", "", *(f"- {_safe(k)}: {_safe(v)}" for k, v in document.measured)]
    if document.command:
        lines.append(f"- To reproduce: {_safe(document.command)}")
    lines += ["", "## Limits", "", *(f"- {_safe(w)}" for w in document.warnings or ("Fitting gave no warnings.",)), ""]
    if document.missing:
        lines += ["### Left out, and why", "", *(f"- {_safe(k)}: {_safe(v)}" for k, v in document.missing.items()), ""]
    return "\n".join(lines)
