"""Racing: which configurations deserve more runs, from a few runs of some of them on some problems.

Outcomes are taken as a configuration's value plus what the problem does to all configurations, plus what it does to
similar ones, plus chance. A Gaussian process over configurations lets a run say something about its neighbours, and the
problem's effects make comparisons paired. Next runs go to the front of accuracy against log-cost as a draw from what is
believed shows it (Thompson sampling). A configuration that can hardly reach the front gets none: that is the pruning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.profiling.columns import Configuration

__all__ = ["Posterior", "Race", "hypervolume", "similarity"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_DRAWS = 32
_LEAST_VARIANCE = 0.05
_MARGIN = 0.05
_NOTHING = 0.02
"""A member that adds a smaller share of its front's area is not run for it."""


def hypervolume(accuracy: Floats, log_cost: Floats, *, worst: float, dearest: float) -> float:
    """Area that points [C] dominate, up to the reference point (accuracy `worst`, log-cost `dearest`)."""
    area, best = 0.0, worst
    last = dearest
    for i in np.argsort(log_cost)[::-1].tolist():  # from the dearest: each slice counts the best of what is cheaper
        if log_cost[i] >= dearest:
            continue
        inside = log_cost <= log_cost[i]
        area += (last - float(log_cost[i])) * max(float(accuracy[inside].max()) - best, 0.0)
        last = float(log_cost[i])
    return area


def similarity(configurations: Sequence[Configuration]) -> Floats:
    """Prior correlation of the configurations' accuracies, [C, C]: half from hyperparameters they share one by one,
    half from being alike in all of them."""
    columns = _columns(configurations)
    alike = np.stack([_alike(values) for values in columns.values()])
    return np.asarray(0.5 * alike.mean(axis=0) + 0.5 * alike.prod(axis=0), np.float64)


def _columns(configurations: Sequence[Configuration]) -> Mapping[str, list[Any]]:
    names = sorted({name for c in configurations for name in c.hyperparameters})
    columns: dict[str, list[Any]] = {
        "policy_model": [c.policy_model for c in configurations],
        "strategy": [c.strategy for c in configurations],
        "verifier": [c.verifier for c in configurations],
    }
    columns |= {name: [c.hyperparameters.get(name) for c in configurations] for name in names}
    varied = {name: values for name, values in columns.items() if len({str(v) for v in values}) > 1}
    return varied or {"strategy": columns["strategy"]}


def _alike(values: Sequence[Any]) -> Floats:
    """exp(-distance) of each pair: numbers by their rank among the values tried, from 0 to 1; others 0 or 1."""
    given = sorted({v for v in values if isinstance(v, int | float) and not isinstance(v, bool)})
    numeric = [v for v in values if v is not None]
    if given and all(isinstance(v, int | float) and not isinstance(v, bool) for v in numeric):
        rank = {v: i / max(len(given) - 1, 1) for i, v in enumerate(given)}
        place = np.array([np.nan if v is None else rank[v] for v in values])
        missing = np.isnan(place)
        distance = np.abs(place[:, None] - place[None])
        distance = np.where(missing[:, None] & missing[None], 0.0, np.where(np.isnan(distance), 1.0, distance))
    else:
        names = np.array([str(v) for v in values])
        distance = (names[:, None] != names[None]).astype(np.float64)
    result: Floats = np.exp(-distance)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Where the variance of a run's outcome comes from, as shares of one run's variance: the configuration, the
    problem, how similar configurations fare on this problem (correlated as configurations are), chance."""

    configuration: float
    problem: float
    together: float
    chance: float


CORRECT = Shares(configuration=0.08, problem=0.5, together=0.3, chance=0.12)
LOG_COST = Shares(configuration=0.25, problem=0.95, together=0.03, chance=0.02)
"""Near what step searches of two laboratory models showed; a wrong share costs runs, and biases nothing."""


@dataclass(frozen=True, slots=True)
class Posterior:
    """Configurations' values: `mean` [C] and `covariance` [C, C]."""

    mean: Floats
    covariance: Floats

    @classmethod
    def of(cls, values: Floats, prior: Floats, shares: Shares, *, variance: float) -> Posterior:
        """From outcomes [C, P] of that `variance`, NaN where not run, and the configurations' prior correlation.

        Runs on one problem are correlated, so what tells configurations apart is how they differ on the same problems.
        The common level may be anything.
        """
        seen = ~np.isnan(values)
        centre = float(values[seen].mean())
        count = len(values)
        belief = shares.configuration * prior + np.ones((count, count)) + 1e-9 * np.eye(count)
        information, told = np.linalg.inv(variance * belief), np.zeros(count)
        within = shares.problem + shares.together * prior + shares.chance * np.eye(count)
        patterns, which = np.unique(seen.T, axis=0, return_inverse=True)
        for i, pattern in enumerate(patterns):
            members = np.flatnonzero(pattern)
            if len(members):
                square = np.ix_(members, members)
                mine = np.flatnonzero(which == i)
                weights = np.linalg.inv(variance * within[square])
                information[square] += len(mine) * weights
                told[members] += weights @ (values[np.ix_(members, mine)] - centre).sum(axis=1)
        covariance = np.linalg.inv(information)
        return cls(centre + covariance @ told, covariance)

    def draws(self, count: int, rng: np.random.Generator) -> Floats:
        """Samples of the configurations' values, [count, C]."""
        values, vectors = np.linalg.eigh(self.covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        drawn: Floats = self.mean + rng.standard_normal((count, len(self.mean))) @ root.T
        return drawn


@dataclass(slots=True)
class Race:
    """Outcomes so far: `correct` and `cost` [C, P], NaN where not run. Problems are run in their order, so that
    configurations share them."""

    configurations: Sequence[Configuration]
    correct: Floats
    cost: Floats
    seed: int = 0

    @classmethod
    def start(cls, configurations: Sequence[Configuration], problems: int, *, seed: int = 0) -> Race:
        shape = (len(configurations), problems)
        return cls(configurations, np.full(shape, np.nan), np.full(shape, np.nan), seed)

    def __post_init__(self) -> None:
        self._prior = similarity(self.configurations)

    _prior: Floats = None  # type: ignore[assignment]

    @property
    def runs(self) -> Ints:
        """Runs of each configuration, [C]."""
        counted: Ints = (~np.isnan(self.correct)).sum(axis=1)
        return counted

    def record(self, configuration: int, problem: int, correct: bool, cost: float) -> None:
        """The outcome of one run; `cost` above 0 in any unit, the same for all."""
        self.correct[configuration, problem], self.cost[configuration, problem] = float(correct), cost

    def first(self, share: float) -> list[int]:
        """Configurations to begin with, as unlike one another as can be: the most central one, then always the one
        that those before tell least about."""
        left = self._prior.copy() + 1e-9 * np.eye(len(self._prior))
        chosen: list[int] = []
        for _ in range(max(2, min(len(left), round(share * len(left))))):
            told = (left**2).sum(axis=1) / (np.diag(left) + 0.1)
            told[chosen] = -np.inf
            i = int(told.argmax())
            chosen.append(i)
            left = left - np.outer(left[i], left[i]) / (left[i, i] + 0.1)
        return chosen

    def accuracy(self) -> Posterior:
        """Of the probability of a correct answer. Needs at least one run."""
        rate = float(np.nanmean(self.correct))
        return Posterior.of(self.correct, self._prior, CORRECT, variance=max(rate * (1 - rate), _LEAST_VARIANCE))

    def log_cost(self) -> Floats:
        """Predicted natural logarithm of each configuration's mean cost, [C]."""
        log = np.log(self.cost)
        return Posterior.of(log, self._prior, LOG_COST, variance=max(float(np.nanvar(log)), _LEAST_VARIANCE)).mean

    def front(self) -> list[int]:
        """The configurations that look best at some cost, by rising cost, from posterior means."""
        return _front(self.accuracy().mean, self.log_cost())

    def wanted(self) -> list[int]:
        """Configurations whose next runs tell about the front: the front of one draw from what is believed (Thompson
        sampling), without members that add next to nothing to it. Empty where all of them ran on all problems."""
        rng = np.random.default_rng([self.seed, int(self.runs.sum())])
        posterior, log_cost = self.accuracy(), self.log_cost()
        open_ = self.runs < self.correct.shape[1]
        for values in posterior.draws(_DRAWS, rng):
            members = np.array(_front(values, log_cost))
            reference = {"worst": float(values.min()) - _MARGIN, "dearest": float(log_cost.max()) + _MARGIN}
            whole = hypervolume(values[members], log_cost[members], **reference)
            rest = [hypervolume(values[m], log_cost[m], **reference) for m in (members[members != c] for c in members)]
            needed = [left < (1 - _NOTHING) * whole for left in rest]
            chosen = [int(c) for c, need in zip(members, needed, strict=True) if need and open_[c]]
            if chosen:
                return chosen
        return []


def _front(accuracy: Floats, log_cost: Floats) -> list[int]:
    order = np.lexsort((-accuracy, log_cost))
    best = np.maximum.accumulate(accuracy[order])
    rises = np.concatenate(([True], best[1:] > best[:-1]))
    return [int(i) for i in order[rises]]
