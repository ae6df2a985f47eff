"""Two policies on the problems that both were measured on: differences paired on problems, at equal mean cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.policy.statistics import Resamples
from planner.report.numbers import known

__all__ = ["Paired", "pair_up"]

_FEWEST = 20
"""Common problems below which differences are not paired."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Paired:
    """Both policies' accuracies on the `problems` common ones, [problems, budgets] with the mean costs of the budgets,
    rising; `whole` says whether those are all problems of both."""

    accuracy: tuple[Floats, Floats]
    cost: tuple[Floats, Floats]
    whole: bool
    resamples: Resamples

    @property
    def problems(self) -> int:
        return len(self.accuracy[0])

    def at(self, cost: float) -> tuple[float, float, tuple[float, float]] | None:
        """Both accuracies on the common problems at a mean cost, linear in log cost, and the 95 % interval of second
        minus first; None outside what both measured."""
        values = [_between(a, c, cost) for a, c in zip(self.accuracy, self.cost, strict=True)]
        one, two = values
        if one is None or two is None:
            return None
        return float(one.mean()), float(two.mean()), self.resamples.interval(two - one)


def pair_up(first: Mapping[str, Any], second: Mapping[str, Any]) -> Paired | None:
    """From two evaluation.json; None where one keeps no outcomes of problems or few problems are common."""
    left, right = _read(first), _read(second)
    if left is None or right is None:
        return None
    (keys, one, cost_one), (others, two, cost_two) = left, right
    place = {key: i for i, key in enumerate(others)}
    common = [(i, place[key]) for i, key in enumerate(keys) if key in place]
    if len(common) < _FEWEST:
        return None
    a, b = (np.array(side) for side in zip(*common, strict=True))
    whole = len(common) == len(keys) == len(others)
    return Paired((one[a], two[b]), (cost_one, cost_two), whole, Resamples.draw(len(common)))


def _read(evaluation: Mapping[str, Any]) -> tuple[list[str], Floats, Floats] | None:
    """Keys of the problems, accuracy [problems, budgets] and mean cost [budgets], by rising cost."""
    kept = evaluation.get("by_problem") or {}
    keys, rows = str(kept.get("problems") or "").split(), kept.get("thousandths") or []
    entries = evaluation.get("budgets") or []
    costs = [known(((e.get("methods") or {}).get("policy") or {}).get("cost")) for e in entries]
    if not keys or len(rows) != len(costs) or any(c is None or c <= 0 for c in costs):
        return None
    numbers = [str(row).split() for row in rows]
    if any(len(row) != len(keys) for row in numbers):
        return None
    values = np.array([[_number(v) for v in row] for row in numbers], np.float64).T / 1000
    if np.isnan(values).any():
        return None
    order = np.argsort(np.array(costs, np.float64), kind="stable")
    return keys, values[:, order], np.array(costs, np.float64)[order]


def _number(text: str) -> float:
    """A whole number, NaN for anything else."""
    return float(text) if text.lstrip("-").isdecimal() else math.nan


def _between(values: Floats, costs: Floats, x: float) -> Floats | None:
    """Each problem's accuracy at a mean cost, [problems]."""
    tolerance = 1e-9 * x
    for i in range(len(costs) - 1):
        low, high = float(costs[i]), float(costs[i + 1])
        if low - tolerance <= x <= high + tolerance:
            t = 0.0 if high == low else math.log(x / low) / math.log(high / low)
            blend: Floats = (1 - t) * values[:, i] + t * values[:, i + 1]
            return blend
    return None
