"""Is what a server sees still what was profiled? From a decision log: prompts, difficulty, cost and success.

A finding needs a difference that is large enough to matter and is not noise (two-sided 1 %). Success is known only
where feedback came; where plans were drawn with known propensities, the plans not taken are estimated too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import InputError
from planner.policy.chooser import Chooser

__all__ = ["Cell", "DriftReport", "Estimate", "measure_drift"]

_SURE = 2.576
"""Standard errors of a two-sided 1 % test."""
_STRANGE_SHARE = 0.05
_MIX_SHIFT = 0.1
_ACCURACY_SHIFT = 0.05
_COST_RATIO = 1.25
_LEAST = 20

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One plan in one likeliest bucket: means over its decisions; success is None without feedback."""

    bucket: str
    plan: str
    decisions: int
    rated: int
    expected_accuracy: float
    success: float | None
    cost_ratio: float | None
    profile_again: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Success of always taking `plan` where it fits, from decisions drawn with known propensities (self-normalised
    inverse propensity weights), with a 95 % interval; `effective` is how many plain ratings it is worth."""

    plan: str
    success: float
    low: float
    high: float
    effective: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    decisions: int
    rated: int
    strange_share: float | None
    difficulty: Mapping[str, float]
    profiled_difficulty: Mapping[str, float]
    outcomes: Mapping[str, int]
    findings: tuple[str, ...]
    cells: tuple[Cell, ...]
    estimates: tuple[Estimate, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        """For a terminal."""
        mix = ", ".join(f"{b} {s:.0%} ({self.profiled_difficulty[b]:.0%})" for b, s in self.difficulty.items())
        lines = [f"{self.decisions} decisions, {self.rated} with feedback", f"difficulty (as profiled): {mix}"]
        if self.strange_share is not None:
            lines.append(f"unlike anything profiled: {self.strange_share:.1%}")
        lines.append("outcomes: " + ", ".join(f"{name} {count}" for name, count in self.outcomes.items()))
        lines += ["", *(self.findings or ("no drift found",))]
        again = [cell for cell in self.cells if cell.profile_again]
        lines += ["", "profile again:"] if again else []
        lines += [f"  {cell.bucket}: {cell.plan} ({cell.why})" for cell in again]
        if self.estimates:
            lines += ["", "estimated success if it were always taken where it fits (95 % interval):"]
            lines += [f"  {e.success:.3f} [{e.low:.3f}, {e.high:.3f}]  {e.plan}" for e in self.estimates]
        return "\n".join(lines)


def measure_drift(log: Path, chooser: Chooser, *, seed: int = 0) -> DriftReport:
    """Hold the log (with its rotated parts) against the policy it was served with.

    Raises InputError where there is no log or no planned decision in it. A line that a killed server left unfinished
    is passed over.
    """
    decisions, ratings = _read(log, chooser)
    buckets = chooser.table.buckets
    mix = np.array([[d["difficulty"].get(b, 0.0) for b in buckets] for d in decisions])
    rated = np.array([ratings.get(d["decision_id"], math.nan) for d in decisions])
    strangeness = np.array([math.nan if d.get("strangeness") is None else d["strangeness"] for d in decisions])
    known = strangeness[~np.isnan(strangeness)]
    share = float((known > 1).mean()) if len(known) else None
    outcomes: dict[str, int] = {}
    for d in decisions:
        name = d.get("outcome") or "planned only"
        outcomes[name] = outcomes.get(name, 0) + 1
    findings = [*_prompts(share, len(known)), *_mix(mix, chooser)]
    findings += _success(rated, np.array([d["expected_accuracy"] for d in decisions]))
    return DriftReport(
        decisions=len(decisions), rated=int((~np.isnan(rated)).sum()), strange_share=share,
        difficulty=dict(zip(buckets, mix.mean(axis=0).tolist(), strict=True)),
        profiled_difficulty=dict(zip(buckets, chooser.base_rates.tolist(), strict=True)),
        outcomes=outcomes, findings=tuple(findings), cells=tuple(_cells(decisions, mix, rated, chooser)),
        estimates=tuple(_estimates(decisions, mix, rated, chooser, seed)),
    )  # fmt: skip


def _read(log: Path, chooser: Chooser) -> tuple[list[dict[str, Any]], dict[str, float]]:
    if not log.exists():
        raise InputError("no such file", where=str(log), hint="Serve with --decision-log")
    decisions, ratings = [], {}
    for record in _lines(log):
        if record.get("kind") == "feedback":
            ratings[str(record["decision_id"])] = float(record["score"])
        elif record.get("kind") == "decision" and record.get("plan") is not None:
            if not 0 <= record["plan"]["index"] < len(chooser.names):
                raise InputError("decisions of another policy", where=str(log), hint="Name theirs with --policy")
            decisions.append(record)
    if not decisions:
        raise InputError("no planned decision", where=str(log), expected="a log of planned requests")
    return decisions, ratings


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    """Oldest first."""
    number = 1
    while log.with_name(f"{log.name}.{number}").exists():
        number += 1
    for path in [log.with_name(f"{log.name}.{n}") for n in range(number - 1, 0, -1)] + [log]:
        lines = path.read_text(encoding="utf-8").split("\n")
        for place, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                if place == len(lines):  # not ended by a newline: cut off while it was written
                    continue
                raise InputError(f"no JSON ({error})", where=f"{path}, line {place}") from error
            yield record


def _prompts(share: float | None, count: int) -> list[str]:
    if share is None or count < _LEAST:
        return []
    error = math.sqrt(_STRANGE_SHARE * (1 - _STRANGE_SHARE) / count)
    if share <= _STRANGE_SHARE + _SURE * error:
        return []
    return [f"prompts drift: {share:.0%} are unlike anything profiled (5 % or less is usual)"]


def _mix(mix: Floats, chooser: Chooser) -> list[str]:
    if len(mix) < _LEAST:
        return []
    found = []
    error = mix.std(axis=0, ddof=1) / math.sqrt(len(mix))
    # The profiled shares were counted on a sample, too.
    profiled = sum(float(n or 0) for n in (chooser.document.get("bucket_counts") or {}).values()) or math.inf
    base = chooser.base_rates
    error = np.sqrt(error**2 + base * (1 - base) / profiled)
    for b, name in enumerate(chooser.table.buckets):
        shift = float(mix[:, b].mean() - base[b])
        if abs(shift) > _MIX_SHIFT and abs(shift) > _SURE * error[b]:
            found.append(f"difficulty drifts: {name} prompts are {base[b] + shift:.0%}, {base[b]:.0%} were profiled")
    return found


def _success(rated: Floats, expected: Floats) -> list[str]:
    known = ~np.isnan(rated)
    if known.sum() < _LEAST:
        return []
    shift, sure = _shift(rated[known] - expected[known])
    if not sure or abs(shift) <= _ACCURACY_SHIFT:
        return []
    return [f"success drifts: {rated[known].mean():.1%} of rated answers, {expected[known].mean():.1%} were expected"]


def _shift(differences: Floats) -> tuple[float, bool]:
    """Mean difference, and whether it is more than noise."""
    mean = float(differences.mean())
    if len(differences) < 2:
        return mean, False
    return mean, abs(mean) > _SURE * float(differences.std(ddof=1)) / math.sqrt(len(differences))


def _cells(decisions: list[dict[str, Any]], mix: Floats, rated: Floats, chooser: Chooser) -> Iterator[Cell]:
    likeliest = mix.argmax(axis=1)
    index = np.array([d["plan"]["index"] for d in decisions])
    for b, plan in sorted({*zip(likeliest.tolist(), index.tolist(), strict=True)}):
        rows = np.flatnonzero((likeliest == b) & (index == plan))
        expected = np.array([decisions[r]["expected_accuracy"] for r in rows])
        known = ~np.isnan(rated[rows])
        why = []
        if known.sum() >= _LEAST:
            shift, sure = _shift(rated[rows][known] - expected[known])
            if sure and abs(shift) > _ACCURACY_SHIFT:
                why.append(f"success is {100 * shift:+.0f} points from expected")
        pairs = [(d["flops"]["total"], d["expected_cost"]) for d in (decisions[r] for r in rows) if _priced(d)]
        ratio = sum(a for a, _ in pairs) / sum(e for _, e in pairs) if pairs else None
        if ratio is not None and len(pairs) >= _LEAST and not 1 / _COST_RATIO < ratio < _COST_RATIO:
            why.append(f"it costs {ratio:.2f} times what was expected")
        yield Cell(
            bucket=chooser.table.buckets[b], plan=chooser.names[plan], decisions=len(rows), rated=int(known.sum()),
            expected_accuracy=float(expected.mean()),
            success=float(rated[rows][known].mean()) if known.any() else None,
            cost_ratio=ratio, profile_again=bool(why), why="; ".join(why),
        )  # fmt: skip


def _priced(decision: Mapping[str, Any]) -> bool:
    flops = (decision.get("flops") or {}).get("total")
    return flops is not None and decision.get("unit") == "flops" and decision["expected_cost"] > 0


def _estimates(
    decisions: list[dict[str, Any]], mix: Floats, rated: Floats, chooser: Chooser, seed: int
) -> Iterator[Estimate]:
    index = np.array([d["plan"]["index"] for d in decisions])
    propensity = np.array([d["propensity"] for d in decisions])
    amount = np.array([d["amount"] for d in decisions])
    known = ~np.isnan(rated)
    if not (propensity[known] < 1).any():
        return
    scale = np.array([d.get("cost_scale", 1.0) for d in decisions])
    fits = mix @ chooser.table.p95.T * scale[:, None] <= amount[:, None] * (1 + 1e-9)
    rng = np.random.default_rng(seed)
    for plan, name in enumerate(chooser.names):
        rows = np.flatnonzero(known & fits[:, plan])
        weights = (index[rows] == plan) / propensity[rows]
        effective = float(weights.sum() ** 2 / max((weights**2).sum(), 1e-12))
        if effective < _LEAST:
            continue
        value = float(weights @ rated[rows] / weights.sum())
        draws = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=500)
        totals = draws @ weights
        means = (draws @ (weights * rated[rows]))[totals > 0] / totals[totals > 0]
        low, high = np.percentile(means, [2.5, 97.5])
        yield Estimate(plan=name, success=value, low=float(low), high=float(high), effective=effective)
