"""How well prompts tell their difficulty: calibration, confusion, and what the prediction rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.report.document import Cell, Section, Table
from planner.report.figures import calibration
from planner.report.numbers import known, percent
from planner.report.source import Source

__all__ = ["predictor_section"]


def predictor_section(source: Source, missing: dict[str, str]) -> Section | None:
    figure = None if "predictor" in missing else calibration(source)
    difficulty = source.evaluation.get("difficulty") or {}
    if figure is None:
        missing.setdefault("predictor", "No difficulty predictor was evaluated.")
        return None
    return Section(
        section_id="predictor",
        title="How well difficulty is predicted",
        figures=(figure,),
        tables=(*_confusion(source, difficulty), *_features(difficulty), *_cost(difficulty)),
    )


def _confusion(source: Source, difficulty: Mapping[str, Any]) -> tuple[Table, ...]:
    """Confusion by bucket; accepts a matrix in bucket order or {true: {predicted: count}}."""
    raw = difficulty.get("confusion")
    if isinstance(raw, Mapping) and "matrix" in raw:
        raw = raw["matrix"]
    names = source.buckets
    if isinstance(raw, Mapping):
        matrix = [[known((raw.get(t) or {}).get(p)) or 0.0 for p in names] for t in names]
    elif (
        isinstance(raw, list)
        and len(raw) == len(names)
        and all(isinstance(r, list) and len(r) == len(names) for r in raw)
    ):
        matrix = [[known(v) or 0.0 for v in r] for r in raw]
    else:
        return ()
    total = sum(map(sum, matrix))
    right = sum(matrix[i][i] for i in range(len(names)))
    largest = max((sum(r) for r in matrix), default=0.0)
    if not total:
        return ()
    rows = [
        (
            Cell(text=name.capitalize()),
            *(Cell(text=f"{v:.0f}", value=v, note=percent(v / sum(row)) if sum(row) else "") for v in row),
        )
        for name, row in zip(names, matrix, strict=True)
    ]
    return (
        Table(
            table_id="confusion",
            kind="confusion",
            title="True bucket (rows) and predicted bucket (columns)",
            says=f"The predicted bucket is the true one for {percent(right / total)} of problems; "
            f"always naming the most common bucket would be right for {percent(largest / total)}.",
            columns=("True", *(n.capitalize() for n in names)),
            rows=tuple(rows),
        ),
    )


def _cost(difficulty: Mapping[str, Any]) -> tuple[Table, ...]:
    """How well prompts tell what their answers cost; nothing where all are taken as typical."""
    found = difficulty.get("cost") or {}
    rank, explained, before, after = (
        known(found.get(name)) for name in ("spearman", "explained", "p95_over_mean", "p95_over_mean_scaled")
    )
    if rank is None or explained is None or before is None or after is None:
        return ()
    return (
        Table(
            table_id="cost-scale",
            title="What an answer costs, predicted from its prompt",
            says=f"Held out, prompts tell {percent(explained)} of the variance of log-cost. A budget has to leave room "
            f"for an answer of {after:.2f} times its predicted cost (the 95th percentile); not knowing the prompt, it "
            f"would be {before:.2f} times the mean.",
            columns=("Rank correlation", "Variance explained", "95th percentile over mean", "The same, once predicted"),
            rows=(
                (
                    Cell(text=f"{rank:.2f}", value=rank), Cell(text=percent(explained), value=explained),
                    Cell(text=f"{before:.2f}", value=before), Cell(text=f"{after:.2f}", value=after),
                ),
            ),
        ),
    )  # fmt: skip


_NAMES = {
    "characters": "length in characters",
    "words": "number of words",
    "word_hashes": "which words occur (hashed)",
    "char_hashes": "which letter triples occur (hashed)",
    "number_count": "how many numbers",
    "number_log_first": "size of the first number",
    "number_log_last": "size of the last number",
    "number_log_max": "size of the largest number",
    "number_log_min": "size of the smallest number",
    "number_log_mean": "mean size of the numbers",
}


def _plain(name: str) -> str:
    kind, _, rest = name.partition("_")
    rest = rest.replace("_", " ")
    what = {"n": "characters", "cue": "words"}.get(kind)
    return f"{what} of the kind: {rest}" if what else name.replace("_", " ")


def _features(difficulty: Mapping[str, Any]) -> tuple[Table, ...]:
    rows = []
    for entry in difficulty.get("features") or []:
        name, share = str(entry.get("feature")), known(entry.get("gain_share"))
        if share is None:
            continue
        rows.append((Cell(text=_NAMES.get(name, _plain(name))), Cell(text=percent(share), value=share)))
    if not rows:
        return ()
    total = sum(row[1].value or 0.0 for row in rows)
    return (
        Table(
            table_id="features-table",
            title="What the prediction rests on",
            says=f"{rows[0][0].text.capitalize()} comes first, with {rows[0][1].text} of what the trees' splits "
            f"gained; the {len(rows)} features listed have {percent(total)} of it. Features that say the same thing "
            "share their gain.",
            columns=("Feature of the prompt", "Share"),
            rows=tuple(rows),
        ),
    )
