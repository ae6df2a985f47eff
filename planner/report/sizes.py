"""A small policy model that thinks longer against a larger one's single answer, at equal total FLOPs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from planner.report.answers import verdict
from planner.report.document import Cell, Figure, Panel, Point, Section, Series, Table
from planner.report.numbers import interval, known, multiple, percent, points
from planner.report.palette import label_name
from planner.report.source import Source

__all__ = ["size_section"]


def size_section(source: Source, missing: dict[str, str]) -> Section | None:
    """The section, or None with the reason in `missing`."""
    entries = source.evaluation.get("sizes") or []
    if not entries:
        models = source.policy.get("policy_models") or {}
        sized = [m for m, d in models.items() if known((d or {}).get("parameters"))]
        if not source.evaluation:
            return None
        if len(models) < 2:
            why = "One policy model was measured: there is no larger one to compare it with."
        elif len(sized) < 2:
            why = "The policy models' parameters are unknown: import them with their config.json."
        elif "sizes" not in source.evaluation:
            why = "evaluation.json was written before sizes were compared: fit the policy again."
        else:
            why = "No two policy models of different size have a single answer on record."
        missing["sizes"] = why
        return None
    widest = max(entries, key=lambda e: e["times"])
    pair = (widest["small"], widest["large"])
    return Section(
        section_id="sizes",
        title="A small model that thinks longer, or a larger one",
        says=(
            "At equal total compute, training included, a model with M times fewer parameters may spend "
            "M\u00a0+\u00a03(M\u00a0−\u00a01)/R times its own single answer on each prompt, where R is the number of "
            "tokens generated in use for each token of training. A model that is asked rarely (small R) leaves the "
            "small one much to spend.",
        ),
        figures=(_figure(source, [e for e in entries if (e["small"], e["large"]) == pair]),),
        tables=(_table(source, entries),),
    )


def _figure(source: Source, entries: Sequence[Mapping[str, Any]]) -> Figure:
    small, large, times = (entries[0][n] for n in ("small", "large", "times"))
    panels = []
    told: dict[str, dict[str, list[str]]] = {"good": {}, "bad": {}}
    for bucket in ("all", *source.buckets):
        marks = []
        for e in (e for e in entries if e["bucket"] == bucket):
            low, high = (known(v) for v in e["ci"])
            tip = (
                f"R = {e['r']:g}\n{small} {percent(e['small_accuracy'])}, {large} {percent(e['large_accuracy'])}\n"
                f"{interval(e['difference'], low, high)} points\n"
                f"allowed {multiple(e['allowed'])}, spends {multiple(e['spent'])}\n"
                f"mostly {label_name(str(e['plan']))}"
            )
            marks.append(Point(x=e["r"], y=e["difference"], low=low, high=high, tip=tip))
            tone = verdict(low, high)[1]
            if tone in told:
                told[tone].setdefault(bucket, []).append(f"{e['r']:g}")
        if marks:
            name = "All problems" if bucket == "all" else bucket.capitalize()
            panels.append(
                Panel(title=name, series=(Series(name=f"{small} minus {large}", key="policy", points=tuple(marks)),))
            )
    said = [
        f"it is {word} on "
        + "; ".join(f"{'all' if b == 'all' else b} problems at R = {', '.join(rs)}" for b, rs in told[tone].items())
        for word, tone in (("better", "good"), ("worse", "bad"))
        if told[tone]
    ] or ["no difference is shown anywhere"]
    return Figure(
        figure_id="size-differences",
        kind="whiskers",
        title=f"{small} thinking longer, minus one answer of {large}",
        says=f"{large} has {times:.1f} times the parameters of {small}. With what equal compute leaves it, "
        f"{', and '.join(said)} (95% intervals, paired on problems). Each panel has its own vertical scale.",
        panels=tuple(panels),
        x_label="R, tokens in use for each token of training",
        y_label="small minus large, points",
        x_scale="points",
    )


def _table(source: Source, entries: Sequence[Mapping[str, Any]]) -> Table:
    rows, tones = [], []
    for small, large, ratio in dict.fromkeys((e["small"], e["large"], e["r"]) for e in entries):
        mine = {e["bucket"]: e for e in entries if (e["small"], e["large"], e["r"]) == (small, large, ratio)}
        total = mine.get("all") or next(iter(mine.values()))
        row = [
            Cell(text=f"{small} against {large}", note=f"{total['times']:.1f} times larger"),
            Cell(text=f"{ratio:g}", value=ratio),
            Cell(text=multiple(total["allowed"]), value=total["allowed"], note=f"spends {multiple(total['spent'])}"),
        ]
        for bucket in ("all", *source.buckets):
            e = mine.get(bucket)
            if e is None:
                row.append(Cell(text="", tone="muted"))
                continue
            tone = verdict(*e["ci"])[1]
            tones.append(tone)
            note = f"{points(e['ci'][0])} to {points(e['ci'][1])}"
            row.append(Cell(text=points(e["difference"]), value=e["difference"], note=note, tone=tone))
        rows.append(tuple(row))
    return Table(
        table_id="sizes-table",
        title="Every pair: small minus large, percentage points",
        says=f"The small model is better in {tones.count('good')} of {len(tones)} comparisons and worse in "
        f"{tones.count('bad')}. Its plan was chosen on other problems than those that report it, among those whose "
        "mean cost is within what R allows.",
        columns=("Models", "R", "Allowed", "All", *(b.capitalize() for b in source.buckets)),
        rows=tuple(rows),
    )
