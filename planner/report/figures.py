"""Figures as data, each with a sentence computed from what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from planner.report.document import Figure, Panel, Point, Series
from planner.report.numbers import cost, interval, known, percent, points, span
from planner.report.palette import METHODS, label_name, method_name, strategy_name, style_key
from planner.report.source import Source

_PARTS = ("prefill", "decode", "verifier", "probe")

__all__ = ["against_compute", "budget_bars", "by_bucket", "calibration", "differences", "part_shares"]


def _point(x: Any, entry: Mapping[str, Any], name: str, unit: str, extra: str = "") -> Point | None:
    a, b = known(x), known(entry.get("accuracy"))
    if a is None or b is None or a <= 0:
        return None
    b = min(max(b, 0.0), 1.0)  # estimates from halved samples can lie a little outside
    pair = entry.get("ci") or [None, None]
    tip = f"{name}\n{percent(b)} ({span(pair[0], pair[1])})\n{cost(a, unit)}"
    return Point(x=a, y=b, low=known(pair[0]), high=known(pair[1]), tip=f"{tip}\n{extra}" if extra else tip)


def _axis(unit: str) -> str:
    return f"mean {'FLOPs' if unit == 'flops' else unit} for one prompt, logarithmic"


def against_compute(source: Source) -> Figure | None:
    """Held-out accuracy of every method against its realised mean cost."""
    entries = source.evaluation.get("budgets") or []
    series = []
    for method in METHODS:
        marks = []
        for entry in entries:
            m = (entry.get("methods") or {}).get(method)
            if m and (
                p := _point(m.get("cost"), m, method_name(method), source.unit, label_name(str(m.get("plan") or "")))
            ):
                marks.append(p)
        if marks:
            series.append(
                Series(name=method_name(method), key=style_key(method), points=tuple(sorted(marks, key=lambda p: p.x)))
            )
    if not series:
        return None
    mine = next((s for s in series if s.key == "policy"), series[0])
    first, last = mine.points[0], mine.points[-1]
    start, end = (f"{percent(p.y)} at {cost(p.x, source.unit)}" for p in (first, last))
    if len(mine.points) == 1:
        says = f"{mine.name}: {start}, the only budget measured."
    else:
        moved = f"{'a rise' if last.y >= first.y else 'a fall'} of {points(abs(last.y - first.y), sign=False)} points"
        rounded = f"{float(f'{last.x / first.x:.3g}'):,g}"
        says = f"{mine.name}: {start} and {end}, {moved} for {rounded} times the compute."
    tops = [
        (max(s.points, key=lambda p: p.y), s)
        for s in series
        if s.key not in {"policy", "oracle", "policy_oracle_difficulty"}
    ]
    if tops:
        peak, rival = max(tops, key=lambda pair: pair[0].y)
        where = f"{percent(peak.y)} at {cost(peak.x, source.unit)}"
        says += f" Of the methods that do not look at difficulty, {rival.name.lower()} reaches highest: {where}."
    return Figure(
        figure_id="against-compute",
        kind="lines",
        title="Accuracy against compute, held-out problems, with 95% bands",
        says=says,
        panels=(Panel(title="", series=tuple(series)),),
        x_label=_axis(source.unit),
        y_label="accuracy",
    )


def differences(source: Source) -> Figure | None:
    """Policy minus each rival at each budget, paired on problems."""
    panels, total, above, below = [], 0, 0, 0
    for method in ("best_fixed", "majority", "adaptive", "best_of_n"):
        marks = []
        for entry in source.evaluation.get("budgets") or []:
            d = (entry.get("differences") or {}).get(method)
            value, budget = known((d or {}).get("difference")), known(entry.get("budget"))
            if d is None or value is None or budget is None:
                continue
            low, high = (known(v) for v in (d.get("ci") or [None, None]))
            if low is not None and high is not None:
                total, above, below = total + 1, above + (low > 0), below + (high < 0)
            tip = f"Policy minus {method_name(method).lower()}\n{interval(value, low, high)} points"
            tip += f"\nbudget {cost(budget, source.unit)}"
            marks.append(Point(x=budget, y=value, low=low, high=high, tip=tip))
        if marks:
            panels.append(
                Panel(
                    title=method_name(method),
                    series=(Series(name=method_name(method), key=style_key(method), points=tuple(marks)),),
                )
            )
    if not panels:
        return None
    return Figure(
        figure_id="differences",
        kind="whiskers",
        title="Policy minus each method at each budget, paired on problems",
        says=f"Of {total} comparisons, the 95% interval lies above zero in {above} and below zero in {below}; "
        f"were there no difference at all, about {0.05 * total:.1f} would exclude zero by chance.",
        panels=tuple(panels),
        x_label=f"budget, {'FLOPs' if source.unit == 'flops' else source.unit} for one prompt, logarithmic",
        y_label="policy minus method, points",
    )


def _best_setting(curves: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    def mean(curve: Mapping[str, Any]) -> float:
        ys = [y for p in curve.get("points") or [] if (y := known(p.get("accuracy"))) is not None]
        return sum(ys) / len(ys) if ys else -1.0

    return max(curves, key=mean)


def by_bucket(source: Source) -> Figure | None:
    """Each strategy's accuracy against cost inside each difficulty bucket."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for curve in source.evaluation.get("curves") or []:
        groups.setdefault((str(curve.get("strategy")), str(curve.get("policy_model"))), []).append(curve)
    models = list(dict.fromkeys(m for _, m in groups))
    panels, tops = [], []
    for bucket in source.buckets:
        series, count = [], None
        for (strategy, model), curves in groups.items():
            curve = _best_setting(curves)
            marks = []
            for p in curve.get("points") or []:
                inside = (p.get("buckets") or {}).get(bucket) or {}
                name = strategy_name(strategy)
                price = inside.get("cost") if known(inside.get("cost")) is not None else p.get("cost")
                n = known(p.get("n"))
                mark = _point(price, inside, name, source.unit, f"N = {n:.0f}" if n is not None else "")
                count = count if count is not None else known(inside.get("n"))
                marks += [mark] if mark else []
            if marks:
                name = strategy_name(strategy) + (f", {model}" if len(models) > 1 else "")
                ordered = tuple(sorted(marks, key=lambda mark: mark.x))
                series.append(Series(name=name, key=style_key(strategy), points=ordered, marker=models.index(model)))
        if series:
            peak, top = max(((max(s.points, key=lambda p: p.y), s) for s in series), key=lambda pair: pair[0].y)
            tops.append(f"on {bucket} problems {top.name} at {cost(peak.x, source.unit)} ({percent(peak.y)})")
            panels.append(
                Panel(title=bucket.capitalize(), note=f"{count:.0f} problems" if count else "", series=tuple(series))
            )
    if not panels:
        return None
    says = f"The highest point is {'; '.join(tops)}. Each panel has its own vertical scale."
    says += " Each strategy is drawn in the setting with the highest mean over its curve on these same problems,"
    says += " which flatters it a little."
    return Figure(
        figure_id="by-bucket",
        kind="lines",
        title="Each strategy by difficulty",
        says=says,
        panels=tuple(panels),
        x_label=_axis(source.unit),
        y_label="accuracy",
        extra={"legend": True},
    )


def calibration(source: Source) -> Figure | None:
    """Predicted against true Pass@1: problems as dots, equal-mass bins as marks with intervals."""
    d = source.evaluation.get("difficulty") or {}
    dots = []
    for p in d.get("scatter") or []:
        x, y = known(p.get("predicted")), known(p.get("true"))
        if x is not None and y is not None:
            dots.append(
                Point(x=x, y=y, tip=f"{p.get('problem_id', 'problem')}\npredicted {percent(x)}, true {percent(y)}")
            )
    bins = []
    for b in d.get("bins") or []:
        x, y = known(b.get("predicted")), known(b.get("true"))
        if x is None or y is None:
            continue
        pair, n = b.get("ci") or [None, None], known(b.get("n"))
        tip = f"{n:.0f} problems\n" if n is not None else ""
        tip += f"predicted {percent(x)}, true {percent(y)} ({span(pair[0], pair[1])})"
        bins.append(Point(x=x, y=y, low=known(pair[0]), high=known(pair[1]), tip=tip))
    if not dots and not bins:
        return None
    says = []
    loss, base, rho, error = (known(d.get(k)) for k in ("log_loss", "base_log_loss", "spearman", "calibration_error"))
    if loss is not None and base is not None:
        better = "better than" if loss < base else "no better than"
        says.append(f"Log loss {loss:.3f} against {base:.3f} for the base rate: {better} guessing the mean.")
    if rho is not None:
        says.append(f"Rank correlation with true difficulty {rho:.2f}.".replace("-", "−"))
    if error is not None:
        says.append(f"Calibration error {points(error, sign=False)} points.")
    series = (
        Series(name="problems", key="other", points=tuple(dots)),
        Series(name="bins", key="policy", points=tuple(bins)),
    )
    return Figure(
        figure_id="calibration",
        kind="calibration",
        title="Predicted against true chance of one correct sample",
        says=" ".join(says) or "Dots on the diagonal are predicted perfectly.",
        panels=(Panel(title="", series=series),),
        x_label="predicted Pass@1",
        y_label="true Pass@1",
    )


def part_shares(source: Source) -> tuple[list[dict[str, Any]], str]:
    """Cost parts of configurations as shares of their total, dearest verifier share first."""
    rows: list[dict[str, Any]] = []
    for c in source.evaluation.get("costs") or []:
        parts = {p: known(c.get(p)) for p in ("prefill", "decode", "verifier")}
        total = sum(v for v in parts.values() if v is not None)
        if total > 0:
            rows.append(
                {
                    "name": label_name(str(c.get("label", "")), detail=False),
                    "key": style_key(str(c.get("strategy", ""))),
                    "total": total,
                    "text": cost(total, source.unit),
                    "parts": parts,
                    "of_budget": 1.0,
                }
            )
    rows.sort(key=lambda r: r["total"])
    if not rows:
        return [], ""
    top = max(rows, key=lambda r: (r["parts"]["verifier"] or 0.0) / r["total"])
    share = (top["parts"]["verifier"] or 0.0) / top["total"]
    asked = f"the verifier's share is at most {percent(share)} ({top['name']})." if share else "none asks a verifier."
    says = f"Mean cost of each configuration by part; {asked}"
    return rows, says


def budget_bars(
    source: Source, budget: float, evaluated: Mapping[str, Any] | None
) -> tuple[tuple[dict[str, Any], ...], str]:
    """What each method spends of a budget, by part, and a sentence on the first of them."""
    bars: list[dict[str, Any]] = []
    for method in METHODS:
        entry = ((evaluated or {}).get("methods") or {}).get(method)
        parts = {p: known(((entry or {}).get("cost_parts") or {}).get(p)) for p in _PARTS}
        total = known((entry or {}).get("cost"))
        if entry and total is not None and any(v is not None for v in parts.values()):
            bars.append(
                {
                    "name": method_name(method),
                    "key": style_key(method),
                    "total": total,
                    "text": cost(total, source.unit),
                    "parts": parts,
                    "of_budget": total / budget,
                }
            )
    if not bars:
        return (), ""
    mine = bars[0]
    largest = max(_PARTS, key=lambda p: mine["parts"][p] or 0.0)
    share = (mine["parts"][largest] or 0.0) / mine["total"] if mine["total"] else 0.0
    says = f"The full width is the budget. {mine['name']}: {percent(mine['of_budget'])} of it spent on average, "
    says += f"{percent(share)} of that on {largest}."
    if not any(b["parts"]["probe"] for b in bars):
        says += " None of it went to probes."
    if source.policy.get("verifier") and any(b["parts"]["verifier"] is None for b in bars):
        says += " Where no verifier is drawn its price is unknown, and is not counted."
    return tuple(bars), says
