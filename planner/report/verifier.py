"""The verifier's audit: does it tell right from wrong answers to one problem, and what if it chooses among more?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from planner.report.document import Cell, Figure, Panel, Point, Section, Series, Table
from planner.report.numbers import known, percent, points, span
from planner.report.palette import label_name, strategy_name, style_key
from planner.report.source import Source

__all__ = ["verifier_audit"]


def verifier_audit(source: Source, missing: dict[str, str]) -> Section | None:
    """The section, or None with the reason in `missing`; parts without data are left out with theirs."""
    audit = source.evaluation.get("verifier_audit")
    if not audit or not audit.get("figures"):
        if source.evaluation:
            why = "evaluation.json was written before verifiers were audited: fit the policy again."
            scoreless = "verifier_audit" in source.evaluation
            missing["verifier_audit"] = "No sampled answer has a verifier's score." if scoreless else why
        return None
    models = source.policy.get("policy_models") or {}
    drawn = sorted(
        _hottest(audit.get("curves") or []),
        key=lambda e: known((models.get(str(e.get("policy_model"))) or {}).get("parameters")) or 0.0,
    )
    figures = [_roc(audit, drawn), _calibration(audit, drawn), _length(audit, drawn), _by_n(source, audit, drawn)]
    names = ("verifier_roc", "verifier_calibration", "verifier_length", "over-optimisation")
    reasons = (
        "No problem has both right and wrong answers with a score.",
        "The scores are no probabilities, or too few answers have one.",
        "The answers' lengths are unknown or all alike, or too few answers are right or wrong.",
        "Best-of-N was not measured at more than one N.",
    )
    missing |= {name: reason for name, f, reason in zip(names, figures, reasons, strict=True) if f is None}
    return Section(
        section_id="verifier",
        title="What the verifier can tell",
        says=(_in_short(drawn),) if drawn else (),
        figures=tuple(f for f in figures if f is not None),
        tables=(_table(source, audit), *_masked(source, audit)),
    )


def _hottest(curves: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One entry for each policy model: that of its highest temperature, where answers differ most."""
    found: dict[str, Mapping[str, Any]] = {}
    for entry in curves:
        name = str(entry.get("policy_model"))
        if name not in found or (known(entry.get("temperature")) or 0.0) > (
            known(found[name].get("temperature")) or 0.0
        ):
            found[name] = entry
    return list(found.values())


def _row(audit: Mapping[str, Any], entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """The audit's figures over all problems of what an entry was drawn from."""
    names = ("policy_model", "temperature", "aggregation")
    for row in audit["figures"]:
        if row.get("bucket") == "all" and all(row.get(n) == entry.get(n) for n in names):
            return dict(row)
    return {}


def _in_short(drawn: Sequence[Mapping[str, Any]]) -> str:
    told = []
    for e in drawn:
        heat = known(e.get("temperature"))
        told.append(f"{e['policy_model']}: {e['aggregation']} score" + (f" at T {heat:g}" if heat is not None else ""))
    return (
        f"Of the ways of reading the verifier, the figures show the one that ranks best ({'; '.join(told)}), where "
        "several temperatures were sampled at the highest. The table below them has all."
    )


def _roc(audit: Mapping[str, Any], drawn: Sequence[Mapping[str, Any]]) -> Figure | None:
    panels, said = [], []
    for entry in drawn:
        roc = entry.get("roc")
        if not roc:
            continue
        row, series = _row(audit, entry), []
        for part, name, key in (("within", "within problems", "policy"), ("pooled", "pooled over problems", "other")):
            marks = [
                Point(x=x, y=y, tip=f"{name}\naccepts {percent(y)} of right and {percent(x)} of wrong answers")
                for x, y in zip(roc["wrong_accepted"], roc[part], strict=True)
            ]
            series.append(Series(name=name, key=key, points=tuple(marks), marker=int(part == "pooled")))
        within, pooled, pair = known(row.get("auc_within")), known(row.get("auc_pooled")), row.get("auc_within_ci")
        panels.append(
            Panel(
                title=str(entry["policy_model"]), series=tuple(series), note=f"{row.get('problems_with_both')} problems"
            )
        )
        if within is not None:
            bounds = f" ({pair[0]:.2f} to {pair[1]:.2f})" if pair else ""
            told = f"of {entry['policy_model']} {within:.2f}{bounds}"
            said.append(told + (f", pooled {pooled:.2f}" if pooled is not None else ""))
    if not panels:
        return None
    return Figure(
        figure_id="verifier-roc",
        kind="lines",
        title="Right answers accepted against wrong answers accepted (ROC)",
        says="How often a right answer outscores a wrong one to the same problem (AUC within problems; the dashed "
        f"diagonal, 0.50, is guessing): for answers {'; '.join(said)}. Pooled over problems the figure also counts "
        "telling easy problems from hard ones, which is of no use in choosing among answers to one of them.",
        panels=tuple(panels),
        x_label="wrong answers accepted",
        y_label="right answers accepted",
        x_scale="share",
        extra={"legend": True, "diagonal": True, "plain": True},
    )


def _calibration(audit: Mapping[str, Any], drawn: Sequence[Mapping[str, Any]]) -> Figure | None:
    panels, said = [], []
    for entry in drawn:
        marks = []
        for b in entry.get("calibration") or []:
            pair = b.get("ci") or [None, None]
            tip = f"{b['n']} answers\nmean score {percent(b['predicted'])}, right {percent(b['true'])}"
            tip += f" ({span(pair[0], pair[1])})"
            marks.append(Point(x=b["predicted"], y=b["true"], low=known(pair[0]), high=known(pair[1]), tip=tip))
        if not marks:
            continue
        panels.append(
            Panel(
                title=str(entry["policy_model"]),
                series=(Series(name="share of right answers", key="policy", points=tuple(marks)),),
            )
        )
        gap = max(marks, key=lambda p: abs(p.y - p.x))
        error = known(_row(audit, entry).get("calibration_error"))
        told = f"of {entry['policy_model']} scored around {percent(gap.x)}, {percent(gap.y)} are right"
        said.append(told + (f" (calibration error {points(error, sign=False)} points)" if error is not None else ""))
    if not panels:
        return None
    return Figure(
        figure_id="verifier-calibration",
        kind="lines",
        title="Score against the share of answers that are right",
        says=f"On the diagonal a score is a probability. Furthest from it: {'; '.join(said)}.",
        panels=tuple(panels),
        x_label="mean score",
        y_label="right answers",
        x_scale="share",
        extra={"diagonal": True},
    )


def _length(audit: Mapping[str, Any], drawn: Sequence[Mapping[str, Any]]) -> Figure | None:
    panels, said = [], []
    for entry in drawn:
        length = entry.get("length")
        if not length:
            continue
        series = []
        for side, key in (("right", "policy"), ("wrong", "other")):
            marks = []
            for b in length[side]:
                pair = b.get("ci") or [None, None]
                tip = f"{b['n']} {side} answers\n{b['length']:.2f}× the mean length, mean score {b['score']:.3g}"
                marks.append(Point(x=b["length"], y=b["score"], low=known(pair[0]), high=known(pair[1]), tip=tip))
            series.append(Series(name=f"{side} answers", key=key, points=tuple(marks), marker=int(side == "wrong")))
        panels.append(Panel(title=str(entry["policy_model"]), series=tuple(series)))
        wrong = known((_row(audit, entry).get("length_correlation") or {}).get("wrong"))
        if wrong is not None:
            likes = "long" if wrong > 0.1 else "short" if wrong < -0.1 else "neither long nor short"
            said.append(f"of {entry['policy_model']}, {likes} wrong answers ({_signed(wrong)})")
    if not panels:
        return None
    favour = f" It favours, by rank correlation within problems: {'; '.join(said)}." if said else ""
    return Figure(
        figure_id="verifier-length",
        kind="lines",
        title="Score against length",
        says="A verifier should not care how long an answer is: level lines, the right answers' above the wrong "
        f"ones'.{favour} The lines also differ because problems do; the correlations do not.",
        panels=tuple(panels),
        x_label="length, as a multiple of the mean length of the problem's answers",
        y_label="mean score",
        x_scale="number",
        y_scale="number",
        extra={"legend": True},
    )


def _by_n(source: Source, audit: Mapping[str, Any], drawn: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Accuracy of best-of-N against N in each bucket: plain, weighted, and majority as what needs no verifier."""
    panels, said, stopped, plain = [], [], 0, 0
    for entry in drawn:
        model = str(entry["policy_model"])
        families = [
            f
            for f in audit.get("best_of_n") or []
            if all(f.get(n) == entry.get(n) for n in ("policy_model", "temperature", "aggregation"))
            and len(f.get("n") or []) > 1
        ]
        for bucket in source.buckets:
            mine = [f for f in families if f["bucket"] == bucket]
            series = [s for f in mine if (s := _family(f))] + _votes(source, model, bucket)
            for f in (f for f in mine if f["selection"] == "max"):
                plain, stopped = plain + 1, stopped + (f.get("stops_at") is not None)
            if mine:
                panels.append(Panel(title=f"{bucket.capitalize()}, {model}", series=tuple(series)))
        for f in families:
            if f["bucket"] == "all" and f["selection"] == "max":
                said.append(f"{model} {_peak(f)}")
    if not panels:
        return None
    return Figure(
        figure_id="over-optimisation",
        kind="lines",
        title="Over-optimisation: accuracy as the verifier chooses among more answers",
        says=f"Taking the answer with the highest score, over all problems: {'; '.join(said)}. In {stopped} of {plain} "
        "panels its accuracy falls significantly beyond some N (p < 0.01, these same problems): more answers hold more "
        "that fool the verifier. Each panel has its own vertical scale.",
        panels=tuple(panels),
        x_label="N, logarithmic",
        y_label="accuracy",
        x_scale="points",
        extra={"legend": True},
    )


def _family(family: Mapping[str, Any]) -> Series | None:
    name, key, marker = {"max": ("highest score wins", "best_of_n", 0)}.get(
        str(family.get("selection")), ("vote weighted by scores", "weighted_vote", 1)
    )
    marks = [
        Point(x=float(n), y=y, tip=f"{name}\nN = {n}: {percent(y)}")
        for n, accuracy in zip(family["n"], family["accuracy"], strict=True)
        if (y := known(accuracy)) is not None
    ]
    return Series(name=name, key=key, points=tuple(marks), marker=marker) if marks else None


def _votes(source: Source, model: str, bucket: str) -> list[Series]:
    for curve in source.evaluation.get("curves") or []:
        if curve.get("strategy") == "majority" and curve.get("policy_model") == model:
            marks = [
                Point(x=n, y=y, tip=f"majority vote\nN = {n:.0f}: {percent(y)}")
                for p in curve.get("points") or []
                if (y := known(((p.get("buckets") or {}).get(bucket) or {}).get("accuracy"))) is not None
                and (n := known(p.get("n"))) is not None
            ]
            if marks:
                return [Series(name="majority vote, no verifier", key="majority", points=tuple(marks), marker=2)]
    return []


def _peak(family: Mapping[str, Any]) -> str:
    best = max(range(len(family["n"])), key=lambda i: family["accuracy"][i])
    top, last = family["accuracy"][best], family["accuracy"][-1]
    if best == len(family["n"]) - 1:
        return f"still rises at N = {family['n'][best]} ({percent(top)})"
    return f"peaks at N = {family['n'][best]} ({percent(top)}) and has {percent(last)} at N = {family['n'][-1]}"


def _table(source: Source, audit: Mapping[str, Any]) -> Table:
    rows = []
    names = ("policy_model", "temperature", "aggregation")
    by = {(*(r.get(n) for n in names), r.get("bucket")): r for r in audit["figures"]}
    for row, reading in _readings(audit):
        pair, heat = row.get("auc_within_ci"), known(row.get("temperature"))
        cells = [
            Cell(text=f"{row['policy_model']}, {reading}", note=f"T {heat:g}" if heat else ""),
            _auc(row, note=f"{pair[0]:.2f} to {pair[1]:.2f}" if pair else ""),
        ]
        cells += [_auc(by.get((*(row.get(n) for n in names), bucket)) or {}) for bucket in source.buckets]
        lengths = row.get("length_correlation") or {}
        cells += [
            _number(row.get("auc_pooled")), _number(row.get("calibration_error")),
            _number(lengths.get("right")), _number(lengths.get("wrong")),
        ]  # fmt: skip
        rows.append(tuple(cells))
    best = max(rows, key=lambda r: r[1].value if r[1].value is not None else -1.0)
    return Table(
        table_id="verifier-table",
        title="Every way of reading it",
        says=f"Best within problems: {best[0].text}{', ' + best[0].note if best[0].note else ''}, {best[1].text}. AUC "
        "within problems over those with right and wrong answers; length is the rank correlation of score and length "
        "within problems.",
        columns=("Answers and reading", "AUC within", *(f"{b.capitalize()}" for b in source.buckets), "AUC pooled",
                 "Calibration error", "Length, right", "Length, wrong"),
        rows=tuple(rows),
    )  # fmt: skip


def _readings(audit: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
    """The figures over all problems, each with what was read; one for all where answers have a single score, which
    every aggregation gives back."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in audit["figures"]:
        if row.get("bucket") == "all":
            groups.setdefault((row.get("policy_model"), row.get("temperature")), []).append(row)
    found: list[tuple[Mapping[str, Any], str]] = []
    for rows in groups.values():
        same = all({**row, "aggregation": None} == {**rows[0], "aggregation": None} for row in rows)
        if same and len(rows) > 1:
            found.append((rows[0], "its only score"))
        else:
            found += [(row, f"{row['aggregation']} score") for row in rows]
    return found


def _auc(row: Mapping[str, Any], note: str = "") -> Cell:
    value = known(row.get("auc_within"))
    return Cell(text="" if value is None else f"{value:.2f}", value=value, note=note)


def _number(value: Any) -> Cell:
    x = known(value)
    return Cell(text="" if x is None else _signed(x).lstrip("+"), value=x)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _masked(source: Source, audit: Mapping[str, Any]) -> tuple[Table, ...]:
    """What is not planned because asking the verifier measurably hurts it, counted by strategy and policy model."""
    entries = audit.get("masked") or []
    if not entries:
        return ()
    counts = Counter(_kind(source, str(m.get("configuration"))) for m in entries)
    examples = {_kind(source, str(m.get("configuration"))): m for m in reversed(entries)}
    rows = []
    for (strategy, model), count in counts.most_common():
        first = examples[strategy, model]
        rows.append(
            (
                Cell(text=strategy_name(strategy), key=style_key(strategy), note=model),
                Cell(text=str(count), value=float(count)),
                Cell(text=label_name(str(first["configuration"])), note=label_name(str(first["reason"]))),
            )
        )
    return (
        Table(
            table_id="masked",
            kind="prose",
            title="Never planned, because asking the verifier hurts",
            says=f"Configurations that asked the verifier, significantly worse (p < 0.01) than fewer answers or than "
            f"something no dearer that asks none, and no better in any bucket: {len(entries)} in all.",
            columns=("Strategy", "Configurations", "For example"),
            rows=tuple(rows),
        ),
    )


def _kind(source: Source, label: str) -> tuple[str, str]:
    strategy, _, rest = label.partition("(")
    return strategy, rest.rpartition(") ")[2]
