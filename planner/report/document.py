"""The report as plain data: what HTML, Markdown and JSON are all written from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeAlias

__all__ = [
    "BudgetView",
    "Cell",
    "ComparisonDocument",
    "Figure",
    "Panel",
    "Point",
    "ReportDocument",
    "Section",
    "Series",
    "Table",
    "plain",
    "to_json",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One table cell: its text, the number it sorts by, a strategy's style, a second line, a tone."""

    text: str
    value: float | None = None
    key: str | None = None
    note: str = ""
    tone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with a sentence above it. `at` is the budget's index where it belongs to one."""

    table_id: str
    title: str
    says: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    at: int | None = None
    kind: str = "table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A mark at (x, y) with an interval (None where unknown) and what its tooltip says."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    tip: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    name: str
    key: str
    points: tuple[Point, ...]
    marker: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    title: str
    series: tuple[Series, ...]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure with the sentence above it.

    `kind`: "lines" (bands), "whiskers" (intervals around zero), "calibration" (unit square), "bars". `x_scale`: "cost"
    (logarithmic, follows the budget), "points" (logarithmic, a tick at each x), "share" ([0, 1], in percent) or
    "number". `y_scale`: "share" or "number". `extra` holds what only one kind needs.
    """

    figure_id: str
    kind: str
    title: str
    says: str
    panels: tuple[Panel, ...]
    x_label: str = ""
    y_label: str = ""
    x_scale: str = "cost"
    y_scale: str = "share"
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetView:
    """What the page shows while the slider stands on one budget. Accuracies are shares, None where unknown."""

    index: int
    budget: float
    multiple: float | None
    label: str
    headline: str
    expected_accuracy: float | None
    held_out_accuracy: float | None
    held_out_interval: tuple[float, float] | None
    actions: tuple[Mapping[str, Any], ...]
    versus: tuple[Mapping[str, Any], ...]
    sure: str
    doubling: str
    strategies: Table
    comparison: Table | None
    cost_bars: tuple[Mapping[str, Any], ...]
    cost_says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    section_id: str
    title: str
    says: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()


Facts: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportDocument:
    """Everything the report says. `missing` names each part left out and why."""

    schema_version: int = 1
    name: str
    summary: str
    unit: str
    buckets: tuple[str, ...]
    default_budget: int
    budgets: tuple[BudgetView, ...]
    sections: tuple[Section, ...]
    measured: Facts
    command: str | None
    warnings: tuple[str, ...]
    missing: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonDocument:
    """What two policies say side by side. `names` are theirs, told apart; `headline` is the answer in sentences."""

    schema_version: int = 1
    names: tuple[str, str]
    summaries: tuple[str, str]
    unit: str
    headline: tuple[str, ...]
    sections: tuple[Section, ...]
    warnings: tuple[str, ...]


def plain(value: Any) -> Any:
    """Dataclasses, tuples and mappings as JSON-able data; NaN and infinities become None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_json(document: ReportDocument | ComparisonDocument) -> str:
    """The document as JSON text: what the HTML embeds, key for key."""
    return json.dumps(plain(document), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
