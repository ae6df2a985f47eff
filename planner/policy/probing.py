"""Does it pay to look at a few samples first and then choose again? Learned and measured on the policy's own folds.

A probe draws the first samples of a stream that plans share, so that they are kept: a plan that continues it pays for
the rest only, any other pays for the probe on top. What the probe shows refines the predicted success (`refine`), and
prompts are grouped by the refined prediction, in bins of equal mass. For each bin the plans' accuracies and costs are
measured along the very orders that the probe saw, so what its votes already decide is counted in.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.policy.choose import TIE
from planner.policy.difficulty import make_folds
from planner.policy.refine import PROBE_FEATURES, Refinement, fit_refinement, probe_features
from planner.policy.statistics import cost_percentile, shrink
from planner.policy.table import Fitted, accuracy_cell
from planner.profiling.along import Along, shares_samples
from planner.profiling.outcomes import Outcomes
from planner.profiling.recorded import Recorded
from planner.profiling.replay import draw_orders

__all__ = ["SAMPLES", "Looks", "Trained", "probe_kinds", "train_probe"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SAMPLES = (2, 4)
_LOOKS = 8
_MOST_BINS, _PROBLEMS_A_BIN = 6, 25


@dataclass(frozen=True, slots=True)
class Looks:
    """All that probes of one stream need: its samples along R random orders, and what every plan gives along them.

    `shared` [C] are the configurations (indices into the outcomes') that begin with the stream's samples, as `along`
    has them. `successes` of `trials` [P] are the reference model's, of which a probe's own are taken off.
    """

    recorded: Recorded
    outcomes: Outcomes
    shared: Ints
    along: Along
    correct: Floats
    seed: int
    _shown: dict[tuple[int, bool], Floats] = field(default_factory=dict)

    @classmethod
    def of(cls, recorded: Recorded, outcomes: Outcomes, *, seed: int) -> Looks:
        orders = draw_orders(recorded.draws, _LOOKS, seed + 1)
        shared = np.array([i for i, c in enumerate(outcomes.configurations) if shares_samples(c, recorded)])
        along = Along.of(recorded, orders, [outcomes.configurations[i] for i in shared])
        correct = np.where(recorded.draws.present, recorded.draws.correct, 0.0)
        looks = cls(recorded, outcomes, shared, along, orders.take(correct).astype(np.float64), seed)
        for samples, scored in probe_kinds(recorded):
            draws = recorded.draws if scored else _unscored(recorded).draws
            looks._shown[samples, scored] = probe_features(draws, orders, samples, recorded.tokens, recorded.logprobs)
        return looks

    def features(self, samples: int, scored: bool) -> Floats:
        """[R, P, F]"""
        return self._shown[samples, scored]

    def rest(self, samples: int) -> tuple[Floats, Floats]:
        """The reference model's successes and trials [R, P] beside those that the probe saw."""
        outcomes = self.outcomes
        mine = self.recorded.policy_model == outcomes.reference_model and self.recorded.temperature != 0
        own = self.correct[:, :, :samples].sum(axis=2) if mine else np.zeros(self.correct.shape[:2])
        taken = np.minimum(samples, self.recorded.draws.counts) if mine else 0
        trials = np.broadcast_to(outcomes.trials - taken, own.shape)
        return np.clip(outcomes.successes - own, 0.0, trials), trials

    def probe_cost(self, samples: int, scored: bool) -> Floats:
        """[R, P]"""
        return self.along.spent(samples) + self.along.scoring_of(samples if scored else 0)

    def plan(self, configuration: int, samples: int, scored: bool) -> tuple[Floats, Floats, Floats, Floats]:
        """Value, cost, the verifier's part of it beside the probe's, and the cost's 95th percentile, [R, P] each, of a
        configuration after a probe (`samples` 0: without one)."""
        place, shape = np.flatnonzero(self.shared == configuration), self.correct.shape[:2]
        probe_scoring = self.along.scoring_of(samples if scored else 0)
        if len(place):
            at = int(place[0])
            generation, scoring = self.along.cost(at, least=samples, least_scored=samples if scored else 0)
            value = self.along.value[at].astype(np.float64)
            return value, generation + scoring, scoring - probe_scoring, generation + scoring
        of = self.outcomes
        arrays = (of.accuracy, of.cost, np.nan_to_num(of.verifier), of.cost_p95)
        value, cost, verifier, p95 = (of.by_problem(x[:, configuration]) for x in arrays)
        probe = self.probe_cost(samples, scored) if samples else np.zeros(shape)
        return np.broadcast_to(value, shape), cost + probe, np.broadcast_to(verifier, shape), p95 + probe


def _unscored(recorded: Recorded) -> Recorded:
    return replace(recorded, draws=replace(recorded.draws, scores={}))


def probe_kinds(recorded: Recorded) -> list[tuple[int, bool]]:
    """(samples, scored) of each probe that could be drawn and judged on other samples."""
    return [
        (samples, scored)
        for samples in SAMPLES
        if recorded.draws.counts.min() > samples
        for scored in ((False, True) if recorded.draws.scores else (False,))
    ]


@dataclass(frozen=True, slots=True)
class Trained:
    """A probe as some problems taught it: the refinement, inner `edges` [J - 1] of the bins of refined predictions, and
    `plans` (configurations) with accuracy, its standard error and costs in bins, [C, J]; `verifier` [C, J] is the part
    of the cost that goes to it, `probe` [J] what the probe itself costs, `counts` [J] are problems."""

    samples: int
    scored: bool
    refinement: Refinement
    edges: Floats
    plans: tuple[int, ...]
    accuracy: Floats
    error: Floats
    cost: Floats
    verifier: Floats
    p95: Floats
    probe: Floats
    counts: Floats

    def document(self, outcomes: Outcomes) -> dict[str, Any]:
        """`bucket_edges`, `plans` and `table` as policy.json has them, with bins for buckets and no rows: every plan is
        a candidate at every budget."""
        bounds = [0.0, *self.edges.tolist(), 1.0]
        names = [f"solved {100 * a:.0f}-{100 * b:.0f} %" for a, b in pairwise(bounds)]
        if len(set(names)) < len(names):
            names = [f"{name}, bin {b + 1}" for b, name in enumerate(names)]
        plans = []
        for i, configuration in enumerate(self.plans):
            c = outcomes.configurations[configuration]
            cells = range(len(names))
            accuracy = [accuracy_cell(self.accuracy[i, b], self.error[i, b], self.counts[b]) for b in cells]
            cost = [self._cost(i, b) for b in cells]
            plans.append(
                {
                    "strategy": c.strategy, "hyperparameters": dict(c.hyperparameters),
                    "policy_model": c.policy_model, "verifier": c.verifier,
                    "accuracy": dict(zip(names, accuracy, strict=True)), "cost": dict(zip(names, cost, strict=True)),
                }
            )  # fmt: skip
        edges = {name: [a, b] for name, (a, b) in zip(names, pairwise(bounds), strict=True)}
        return {"bucket_edges": edges, "plans": plans, "table": []}

    def _cost(self, i: int, b: int) -> dict[str, float]:
        total, probe, verifier = float(self.cost[i, b]), float(self.probe[b]), float(self.verifier[i, b])
        rest = max(total - probe - verifier, 0.0)
        return {"policy": rest, "verifier": verifier, "probe": probe, "total": total, "p95": float(self.p95[i, b])}

    @property
    def least(self) -> float:
        """The smallest budget at which every bin has a plan."""
        return float(self.p95.min(axis=0).max())

    def place(self, base: Floats, features: Floats) -> Ints:
        """The bin [S] of prompts predicted at `base` [S] by what the probe showed, [S, F]."""
        place: Ints = np.searchsorted(self.edges, self.refinement.predict(base, features))
        return place


def train_probe(
    looks: Looks, kind: tuple[int, bool], base: Floats, fitted: Fitted,
    problems: Ints, budgets: Sequence[float], unfit: Collection[int], scale: Floats | None,
) -> Trained:  # fmt: skip
    """From these problems (indices); `base` and `scale` [len(problems)] are predictions and cost scales of prompts by
    predictors that did not see them, `unfit` configurations that the verifier is too noisy for. Costs are those of a
    prompt of scale 1."""
    samples, scored = kind
    successes, trials = (x[:, problems] for x in looks.rest(samples))
    shown = looks.features(samples, scored)[:, problems]
    fold = make_folds(len(problems), 5, seed=looks.seed)
    refinement = fit_refinement(base, shown, successes, trials, PROBE_FEATURES, fold=fold)
    seen = refinement.predict(np.broadcast_to(base, trials.shape).ravel(), shown.reshape(-1, shown.shape[2]))
    bins = int(np.clip(len(problems) // _PROBLEMS_A_BIN, 2, _MOST_BINS))
    # Observed values, the largest left out, so that no bin is empty.
    edges = np.unique(np.quantile(seen, np.linspace(0, 1, bins + 1)[1:-1], method="lower"))
    edges = edges[edges < seen.max()]
    place = np.searchsorted(edges, seen)
    members = [int(i) for i in dict.fromkeys((*looks.shared.tolist(), *fitted.plans)) if i not in unfit]
    columns = [tuple(x[:, problems].ravel() for x in looks.plan(i, samples, scored)) for i in members]
    value, cost, verifier, top = (np.stack(x, axis=1) for x in zip(*columns, strict=True))
    scales = np.broadcast_to(1.0 if scale is None else scale, trials.shape).ravel()
    cost, verifier, top = (x / scales[:, None] for x in (cost, verifier, top))
    overall = value.mean(axis=0)
    weight = np.full(len(place), 1.0 / len(looks.correct))
    along = np.isin(members, looks.shared)  # whose costs vary from look to look, not around a mean
    cells = []
    for b in range(len(edges) + 1):
        mine = place == b
        accuracy, error = shrink(value[mine], weight[mine], overall)
        p95 = np.quantile(cost[mine], 0.95, axis=0)
        if not along.all():
            p95[~along] = cost_percentile(cost[mine][:, ~along], top[mine][:, ~along])
        cells.append((accuracy, error, cost[mine].mean(axis=0), verifier[mine].mean(axis=0), p95))
    accuracy, error, cost, verifier, p95 = (np.stack(x, axis=1) for x in zip(*cells, strict=True))
    probe = looks.probe_cost(samples, scored)[:, problems].ravel() / scales
    probe_cost = np.array([probe[place == b].mean() for b in range(len(edges) + 1)])
    counts = np.array([weight[place == b].sum() for b in range(len(edges) + 1)])
    kept = _named(accuracy, cost, p95, budgets)
    return Trained(
        samples, scored, refinement, edges, tuple(members[i] for i in kept), accuracy[kept], error[kept], cost[kept],
        verifier[kept], p95[kept], probe_cost, counts,
    )  # fmt: skip


def _named(accuracy: Floats, cost: Floats, p95: Floats, budgets: Sequence[float]) -> list[int]:
    """What any bin would choose at any of the budgets, and each bin's cheapest."""
    named = set(p95.argmin(axis=0).tolist())
    for b in range(accuracy.shape[1]):
        for budget in budgets:
            fits = np.flatnonzero(p95[:, b] <= budget)
            if len(fits):
                near = fits[accuracy[fits, b] >= accuracy[fits, b].max() - TIE]
                named.add(int(near[cost[near, b].argmin()]))
    return sorted(named)
