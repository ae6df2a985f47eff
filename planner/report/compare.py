"""Two policies side by side: what each would do, what each reaches at equal cost, and in what they differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planner.errors import InputError
from planner.report.answers import budget_views
from planner.report.build import summary_of
from planner.report.document import BudgetView, Cell, ComparisonDocument, Figure, Panel, Point, Section, Series, Table
from planner.report.equal_cost import Side, at_equal_cost, to_reach
from planner.report.numbers import cost, known, multiple, percent, span
from planner.report.pairing import Paired, pair_up
from planner.report.source import Source, read_source

__all__ = ["build_comparison"]

_KEYS = (("policy", "best_fixed"), ("second_policy", "second_best_fixed"))


def build_comparison(first: str | Path, second: str | Path) -> ComparisonDocument:
    """The comparison of two policy folders.

    Raises PolicyError where a folder cannot be used, InputError where their costs are in different units.
    """
    sources = (read_source(first), read_source(second))
    units = [s.unit for s in sources]
    if units[0] != units[1]:
        raise InputError(
            "two units cannot be compared", where=f"{first} and {second}", field="unit", value=units,
            expected="both flops, or both tokens", hint="Import or profile both with their models' config.json",
        )  # fmt: skip
    names = _names(sources, (Path(first), Path(second)))
    a, b = (_side(name, source) for name, source in zip(names, sources, strict=True))
    unit = units[0]
    paired = pair_up(sources[0].evaluation, sources[1].evaluation)
    compared = at_equal_cost(a, b, unit, paired)
    sections = [
        Section(section_id="compute", title="Accuracy against compute", figures=_curves(a, b, unit), tables=compared),
        Section(section_id="reach", title="What an accuracy costs", tables=to_reach(a, b, unit)),
        Section(section_id="plans", title="What each would do", figures=_buckets(a, b, unit), tables=(_plans(a, b),)),
        Section(section_id="differences", title="In what they differ", tables=(_facts(a, b),)),
    ]
    return ComparisonDocument(
        names=names,
        summaries=(summary_of(a.source), summary_of(b.source)),
        unit=unit,
        headline=_headline(a, b, compared, paired),
        sections=tuple(s for s in sections if s.figures or s.tables),
        warnings=_warnings(a, b, paired),
    )


def _names(sources: tuple[Source, Source], folders: tuple[Path, Path]) -> tuple[str, str]:
    first, second = (str(s.policy.get("name") or f.name) for s, f in zip(sources, folders, strict=True))
    if first == second:
        first, second = (f"{n} ({f.resolve().name})" for n, f in zip((first, second), folders, strict=True))
    return (first, second) if first != second else (f"{first}, first", f"{second}, second")


def _side(name: str, source: Source) -> Side:
    curves: dict[str, tuple[Point, ...]] = {}
    for method in ("policy", "best_fixed"):
        marks = []
        for entry in source.evaluation.get("budgets") or []:
            found = (entry.get("methods") or {}).get(method) or {}
            x, y = known(found.get("cost")), known(found.get("accuracy"))
            if x is not None and y is not None and x > 0:
                low, high = (known(v) for v in (found.get("ci") or [None, None]))
                tip = f"{name}\n{percent(y)} ({span(low, high)})\n{cost(x, source.unit)}"
                marks.append(Point(x=x, y=y, low=low, high=high, tip=tip))
        if marks:
            curves[method] = tuple(sorted(marks, key=lambda p: (p.x, p.y)))
    return Side(name=name, source=source, views=budget_views(source), curves=curves)


def _curves(a: Side, b: Side, unit: str) -> tuple[Figure, ...]:
    series = [
        Series(
            name=side.name if method == "policy" else f"{side.name}, best fixed", key=key, points=side.curves[method]
        )
        for side, keys in zip((a, b), _KEYS, strict=True)
        for method, key in zip(("policy", "best_fixed"), keys, strict=True)
        if method in side.curves
    ]
    if not series:
        return ()
    ends = [
        f"{s.name} goes from {percent(s.points[0].y)} to {percent(s.points[-1].y)} "
        f"between {cost(s.points[0].x, unit)} and {cost(s.points[-1].x, unit)}"
        for s in series
        if s.key in ("policy", "second_policy")
    ]
    return (
        Figure(
            figure_id="both-curves",
            kind="lines",
            title="Held-out accuracy against mean cost, with 95% bands",
            says=f"{'; '.join(ends)}.",
            panels=(Panel(title="", series=tuple(series)),),
            x_label=f"mean {'FLOPs' if unit == 'flops' else unit} for one prompt, logarithmic",
            y_label="accuracy",
            extra={"legend": True},
        ),
    )


def _buckets(a: Side, b: Side, unit: str) -> tuple[Figure, ...]:
    panels = []
    for bucket in (n for n in a.source.buckets if n in b.source.buckets):
        series = []
        for side, (key, _) in zip((a, b), _KEYS, strict=True):
            cells = [action for view in side.views for action in view.actions if action["bucket"] == bucket]
            marks = {
                (c["cost"], c["accuracy"]): Point(
                    x=c["cost"], y=c["accuracy"], low=c["low"], high=c["high"],
                    tip=f"{side.name}: {c['plan']}\n{percent(c['accuracy'])} ({span(c['low'], c['high'])})"
                    f"\n{c['cost_text']}",
                )
                for c in cells
                if c["cost"] and c["accuracy"] is not None
            }  # fmt: skip
            if marks:
                series.append(Series(name=side.name, key=key, points=tuple(marks[m] for m in sorted(marks))))
        if len(series) == 2:
            panels.append(Panel(title=bucket.capitalize(), series=tuple(series)))
    if not panels:
        return ()
    ahead = []
    for panel in panels:
        tops = [max(p.y for p in s.points) for s in panel.series]
        ahead.append(f"{panel.title.lower()} {percent(tops[0])} against {percent(tops[1])}")
    return (
        Figure(
            figure_id="both-buckets",
            kind="lines",
            title="The table's plans by difficulty",
            says=f"At most, {a.name} against {b.name}: {'; '.join(ahead)}. The plans were chosen from these numbers, "
            "so they flatter both a little; each panel has its own vertical scale.",
            panels=tuple(panels),
            x_label=f"mean {'FLOPs' if unit == 'flops' else unit} for one prompt, logarithmic",
            y_label="accuracy",
            extra={"legend": True},
        ),
    )


def _pairs(a: Side, b: Side) -> list[tuple[BudgetView, BudgetView]]:
    """Views at the same multiple of each one's greedy cost; where there is none, at the nearest budget."""
    if shared := [
        (v, w)
        for v in a.views
        for w in b.views
        if v.multiple and w.multiple and abs(v.multiple / w.multiple - 1) < 1e-3
    ]:
        return shared
    return [(v, min(b.views, key=lambda w: abs(math.log(w.budget / v.budget)))) for v in a.views]


def _plans(a: Side, b: Side) -> Table:
    buckets = tuple(dict.fromkeys((*a.source.buckets, *b.source.buckets)))
    rows, same, total = [], 0, 0
    for pair in _pairs(a, b):
        chosen = [{action["bucket"]: action for action in view.actions} for view in pair]
        for bucket in buckets:
            if all(bucket in c and c[bucket]["accuracy"] is not None for c in chosen):
                total += 1
                same += chosen[0][bucket]["plan"] == chosen[1][bucket]["plan"]
        for side, view, actions in zip((a, b), pair, chosen, strict=True):
            price = cost(view.budget, side.source.unit)
            head = f"{multiple(view.multiple)}, {price}" if view.multiple else price
            cells = [_plan_cell(actions.get(bucket)) for bucket in buckets]
            rows.append((Cell(text=side.name, value=view.budget, note=head), *cells))
    return Table(
        table_id="both-plans",
        kind="map",
        title="The same effort: each at the same multiple of its own greedy cost",
        says=f"In {same} of {total} cells both would run the same kind of plan.",
        columns=("Policy and budget", *(n.capitalize() for n in buckets)),
        rows=tuple(rows),
    )


def _plan_cell(action: Mapping[str, Any] | None) -> Cell:
    if action is None:
        return Cell(text="no such bucket", tone="muted")
    note = " · ".join(filter(None, (percent(action["accuracy"]), action["policy_model"])))
    return Cell(
        text=action["plan"],
        value=action["accuracy"],
        key=action["key"],
        note=note,
        tone="fallback" if action["fallback"] else "",
    )


def _facts(a: Side, b: Side) -> Table:
    rows = []
    for name, of in (
        ("Policy models", lambda s: ", ".join(map(str, s.policy.get("policy_models") or {})) or "unknown"),
        ("Verifier", lambda s: (s.policy.get("verifier") or {}).get("name") or "none"),
        ("Task", lambda s: (s.policy.get("task") or {}).get("name") or "unknown"),
        ("Held-out problems", lambda s: s.evaluation.get("problems") or "none"),
        ("1× is", lambda s: cost(s.policy.get("reference_cost"), s.unit)),
        ("Plans measured", lambda s: len(s.plans)),
        ("Shares", lambda s: ", ".join(f"{n} {percent(v)}" for n, v in s.shares.items()) or "unknown"),
        ("Bank", lambda s: (s.policy.get("provenance") or {}).get("bank_digest") or "unknown"),
    ):
        one, two = str(of(a.source)), str(of(b.source))
        rows.append((Cell(text=name), Cell(text=one), Cell(text=two), Cell(text="same" if one == two else "differs")))
    differs = [row[0].text.lower() for row in rows if row[3].text == "differs"]
    return Table(
        table_id="facts-table",
        title="What was measured",
        says=f"They differ in: {', '.join(differs)}." if differs else "Nothing listed here differs.",
        columns=("", a.name, b.name, ""),
        rows=tuple(rows),
    )


def _headline(a: Side, b: Side, compared: tuple[Table, ...], paired: Paired | None) -> tuple[str, ...]:
    said = []
    if compared:
        rows = compared[0].rows
        middle = rows[len(rows) // 2]
        said.append(
            f"At equal mean cost ({middle[0].text}) {a.name} solves {middle[1].text} of held-out problems and {b.name} "
            f"{middle[2].text}: {middle[3].text} points ({middle[3].note}), {middle[4].text}"
            + (f", paired on {paired.problems} problems." if paired is not None else ".")
        )
    else:
        said.append("Their held-out curves have no cost in common, so nothing can be said at equal cost.")
    tops = []
    for side in (a, b):
        if marks := side.curves.get("policy"):
            best = max(marks, key=lambda p: (p.y, -p.x))
            tops.append(f"{side.name} reaches at most {percent(best.y)}, at {cost(best.x, side.source.unit)}")
    if tops:
        said.append(f"{'; '.join(tops)}.")
    return tuple(said)


def _warnings(a: Side, b: Side, paired: Paired | None) -> tuple[str, ...]:
    one, two = a.source.policy, b.source.policy
    notes = [_sameness(one, two, paired)]
    if one.get("reference_model") != two.get("reference_model"):
        notes.append(
            "Difficulty is Pass@1 of another reference model on each side: a bucket's problems are not the same ones."
        )
    if one.get("bucket_edges") != two.get("bucket_edges"):
        notes.append("The edges of the difficulty buckets differ.")
    for side in (a, b):
        if not side.curves.get("policy"):
            notes.append(f"{side.name} has no held-out evaluation.")
        notes += [f"{side.name}: {w}" for w in side.source.policy.get("warnings") or []]
    return tuple(notes)


def _sameness(one: Mapping[str, Any], two: Mapping[str, Any], paired: Paired | None) -> str:
    """Whether the two were measured on the same problems, and what that does to their difference."""
    if paired is not None and paired.whole:
        return (
            "Both were measured on the same problems, and differences at equal cost are paired on them. Costs are "
            "taken as exact: the intervals resample problems' outcomes only."
        )
    if paired is not None:
        return (
            f"Only {paired.problems} problems were measured for both: differences at equal cost are those problems', "
            "at the mean cost over all of each one's own."
        )
    prints = [(p.get("fingerprints") or {}).get("task") for p in (one, two)]
    if prints[0] is not None and prints[0] == prints[1]:
        return (
            "Both have the same task, but a folder keeps no outcomes of single problems (fit it again): differences "
            "are not paired, and their intervals are too wide rather than too narrow."
        )
    return (
        "They were measured on different problems, or it is not known on which: part of a difference may be the "
        "problems' own."
    )
