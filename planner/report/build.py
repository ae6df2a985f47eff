"""From a policy folder to the report's document: sections, sentences and what had to be left out."""

from __future__ import annotations

from pathlib import Path

from planner.report.answers import budget_views
from planner.report.document import BudgetView, Cell, Figure, ReportDocument, Section, Table
from planner.report.facts import measured
from planner.report.figures import against_compute, by_bucket, differences, part_shares
from planner.report.gains import efficiency
from planner.report.numbers import cost, known, multiple, percent, points
from planner.report.palette import STYLES, strategy_name
from planner.report.predictor import predictor_section
from planner.report.sizes import size_section
from planner.report.source import Source, read_source
from planner.report.verifier import verifier_audit

__all__ = ["build_report", "summary_of"]

_MISSING_NAMES = {
    "verifier": "Verifier scores",
    "flops": "FLOPs",
    "prompts": "Prompts",
    "held_out": "Held-out evaluation",
    "greedy": "Greedy",
    "search": "Step search",
    "voting": "Replayed votes",
    "predictor": "Difficulty predictor",
    "efficiency_gain": "Efficiency gain",
    "sizes": "Small model against large",
    "verifier_audit": "Verifier audit",
    "verifier_roc": "Verifier's ROC",
    "verifier_calibration": "Verifier's calibration",
    "verifier_length": "Score against length",
    "over-optimisation": "Over-optimisation",
}


def build_report(policy_path: str | Path) -> ReportDocument:
    """The report of a policy folder. Raises PolicyError where the folder cannot be used."""
    source = read_source(policy_path)
    missing = {str(k): str(v) for k, v in (source.evaluation.get("missing") or {}).items() if v}
    if not source.evaluation:
        missing["held_out"] = "The folder has no evaluation.json, so nothing here was tested on held-out problems."
    views = budget_views(source)
    sections = [s for s in _sections(source, views, missing) if s is not None]
    name = str(source.policy.get("name") or Path(policy_path).name)
    return ReportDocument(
        name=name,
        summary=summary_of(source),
        unit=source.unit,
        buckets=source.buckets,
        default_budget=_default(views),
        budgets=views,
        sections=tuple(sections),
        measured=measured(source),
        command=(source.policy.get("provenance") or {}).get("command"),
        warnings=(*(str(w) for w in source.policy.get("warnings") or []), *_answerless(source)),
        missing={_MISSING_NAMES.get(k, k.replace("_", " ").capitalize()): v for k, v in missing.items()},
    )


def _answerless(source: Source) -> list[str]:
    shares = source.evaluation.get("answerless") or {}
    return [
        f"{percent(share)} of what {strategy_name(str(name)) if name in STYLES else name} generated ended without "
        "an answer (out of tokens, or none could be read), and counts as wrong"
        for name, share in shares.items()
        if known(share)
    ]


def summary_of(source: Source) -> str:
    """Models, verifier and task in one line."""
    task = source.policy.get("task") or {}
    models = ", ".join(str(m) for m in source.policy.get("policy_models") or {})
    verifier = (source.policy.get("verifier") or {}).get("name")
    helped = f"with verifier {verifier}" if verifier else "without a verifier"
    return f"{models or 'Unknown model'} {helped} on {task.get('name') or 'an unnamed task'}"


def _default(views: tuple[BudgetView, ...]) -> int:
    """The budget nearest to 8x greedy, or the middle one; never chosen by its result."""
    known_multiples = [v for v in views if v.multiple]
    if not known_multiples:
        return len(views) // 2
    return min(
        known_multiples,
        key=lambda v: abs((v.multiple or 1.0) / 8 - 1) if (v.multiple or 0) > 8 else 8 / (v.multiple or 1.0) - 1,
    ).index


def _sections(source: Source, views: tuple[BudgetView, ...], missing: dict[str, str]) -> list[Section | None]:
    curve, versus, buckets = against_compute(source), differences(source), by_bucket(source)
    if source.evaluation and curve is None:
        missing.setdefault("comparison", "evaluation.json compares no methods.")
    if source.evaluation and buckets is None:
        missing.setdefault("curves", "evaluation.json has no curves by difficulty.")
    return [
        Section(
            section_id="compute",
            title="Accuracy against compute",
            figures=tuple(f for f in (curve, versus) if f is not None),
        )
        if curve
        else None,
        Section(section_id="difficulty-curves", title="By difficulty", figures=(buckets,)) if buckets else None,
        _map(source, views),
        _costs(source),
        efficiency(source, missing),
        size_section(source, missing),
        verifier_audit(source, missing),
        predictor_section(source, missing),
    ]


def _map(source: Source, views: tuple[BudgetView, ...]) -> Section:
    rows, cells, fallbacks, distinct = [], 0, 0, 0
    for view in views:
        row = [
            Cell(
                text=multiple(view.multiple) if view.multiple else cost(view.budget, source.unit),
                value=view.budget,
                note=cost(view.budget, source.unit) if view.multiple else "",
            )
        ]
        for action in view.actions:
            usable = action["accuracy"] is not None
            cells, fallbacks = cells + usable, fallbacks + (usable and action["fallback"])
            distinct += usable and not action["is_best_fixed"]
            gap = (
                f"{points(action['gap'])} on {action['runner_up']}"
                if action["gap"] is not None and action["runner_up"]
                else ""
            )
            note = " · ".join(
                t for t in (percent(action["accuracy"]) if usable else "", "" if action["fallback"] else gap) if t
            )
            row.append(
                Cell(
                    text=action["plan"],
                    value=action["accuracy"],
                    key=action["key"],
                    note=note,
                    tone="fallback" if action["fallback"] else "",
                )
            )
        rows.append(tuple(row))
    return Section(
        section_id="map",
        title="What to run where",
        tables=(
            Table(
                table_id="map-table",
                kind="map",
                title="Best strategy by budget and difficulty",
                says=f"{distinct} of {cells} cells use another plan than the best fixed strategy of their budget. "
                + (
                    f"{fallbacks} {'is' if fallbacks == 1 else 'are'} hatched: no plan was significantly better there "
                    "than the one that is best over all problems, so the policy falls back to that one."
                    if fallbacks
                    else "In none did the policy have to fall back to the plan that is best over all problems."
                ),
                columns=("Budget", *(b.capitalize() for b in source.buckets)),
                rows=tuple(rows),
            ),
        ),
    )


def _costs(source: Source) -> Section | None:
    rows, says = part_shares(source)
    if not rows:
        return None
    figure = Figure(
        figure_id="part-shares", kind="bars", title="Where the compute goes", says=says, panels=(), extra={"bars": rows}
    )
    return Section(section_id="costs", title="Cost by part", figures=(figure,))
