"""The probe on trial: each fold's probe on the problems that it has not seen, against the policy without one.

Both are run at the policy's budgets on the same orders of the same samples, and compared at equal realised cost, since
a probe is paid for everywhere and saves where it stops early. Which probe it is (stream, samples, scored or not) and
from which budget on it is drawn is chosen for each fold by the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.policy.choose import PlanTable, choose_plans
from planner.policy.evaluate import HeldOut
from planner.policy.predictor import DifficultyPredictor
from planner.policy.probing import SAMPLES, Looks, Trained, probe_kinds, train_probe
from planner.policy.statistics import Resamples, percentile_interval
from planner.policy.table import Fitted, masked_plans
from planner.profiling.along import shares_samples
from planner.profiling.outcomes import Outcomes
from planner.profiling.recorded import Recorded

__all__ = ["ProbeTrial", "try_probes"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Way:
    """One kind of probe on held-out problems: accuracy and cost [2, P, S] with it, and of the policy without it."""

    looks: Looks
    kind: tuple[int, bool]
    probed: Floats
    plain: Floats

    @property
    def names(self) -> dict[str, Any]:
        r, (samples, scored) = self.looks.recorded, self.kind
        return {
            "samples": samples, "policy_model": r.policy_model, "temperature": r.temperature, "top_p": r.top_p,
            "scored": scored, "verifier": r.verifier if scored else None,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ProbeTrial:
    """`evaluation` for evaluation.json, the probe that pays (None: none does) and from which budget on."""

    evaluation: dict[str, Any]
    best: _Way | None = None
    from_budget: float = float("nan")

    def document(
        self, predictor: DifficultyPredictor, fitted: Fitted, budgets: Sequence[float], *, by_group: bool
    ) -> dict[str, Any] | None:
        """The `probe` of policy.json, taught by all problems; None where none pays."""
        if self.best is None:
            return None
        looks = self.best.looks
        everything = np.arange(len(looks.outcomes.problem_ids))
        unfit = masked_plans(looks.outcomes, everything)
        base = _known(predictor, by_group=by_group)
        trained = train_probe(looks, self.best.kind, base, fitted, everything, budgets, unfit, predictor.oof_scale_)
        learned = {
            "from_budget": self.from_budget, "least": trained.least, "refinement": trained.refinement.to_dict()
        }  # fmt: skip
        return self.best.names | learned | trained.document(looks.outcomes)


def try_probes(
    recorded: Sequence[Recorded], outcomes: Outcomes, held: HeldOut, resamples: Resamples, *, by_group: bool, seed: int
) -> ProbeTrial:
    """Judge every probe of the streams `recorded` that a fold's plans share."""
    ways = []
    for stream in recorded:
        shared = {i for i, c in enumerate(outcomes.configurations) if shares_samples(c, stream)}
        if stream.temperature == 0 or not stream.votes or not any(shared & set(f.fitted.plans) for f in held.folds):
            continue
        kinds = probe_kinds(stream)
        looks = Looks.of(stream, outcomes, seed=seed) if kinds else None
        ways += _held_out(looks, kinds, held, by_group=by_group) if looks is not None else []
    if not ways:
        why = f"no plan begins with samples of which every problem has more than {min(SAMPLES)}"
        return ProbeTrial({"pays": False, "note": f"no probe could be tried: {why}"})
    return _judge(ways, outcomes, held, resamples)


def _known(predictor: DifficultyPredictor, *, by_group: bool) -> Floats:
    known = predictor.oof_apart_ if by_group else predictor.oof_
    assert known is not None
    return np.where(np.isnan(known), predictor.base_rate, known)


def _held_out(looks: Looks, kinds: list[tuple[int, bool]], held: HeldOut, *, by_group: bool) -> list[_Way]:
    problems, budgets = len(looks.outcomes.problem_ids), held.budgets
    chosen = held.tracks["policy"].chosen[:problems]  # a problem's rows have the same plan
    plain = _run(
        looks, np.arange(problems), (0, False), np.broadcast_to(chosen.T[:, None], (len(budgets), 1, problems))
    )
    ways = [_Way(looks, kind, plain.copy(), plain) for kind in kinds]
    for f in held.folds:
        base, told = _known(f.predictor, by_group=by_group), held.predicted[f.test]
        unfit = masked_plans(looks.outcomes, f.train)
        for way in ways:
            trained = train_probe(looks, way.kind, base, f.fitted, f.train, budgets, unfit, f.predictor.oof_scale_)
            typical = np.array(budgets)[:, None] / held.scale[f.test]
            ran = _run(looks, f.test, way.kind, _choices(looks, trained, told, f.test, typical))
            way.probed[:, f.test] = np.where((typical >= trained.least).T, ran, way.plain[:, f.test])
    return ways


def _choices(looks: Looks, trained: Trained, told: Floats, test: Ints, typical: Floats) -> Ints:
    """Configurations after the probe, [S, R, T], at budgets `typical` [S, T]; any where none fits."""
    shown = looks.features(trained.samples, trained.scored)[:, test]
    table = PlanTable.from_document(trained.document(looks.outcomes))
    base = np.broadcast_to(told, shown.shape[:2]).ravel()
    bins = trained.place(base, shown.reshape(-1, shown.shape[2]))
    every = np.eye(len(table.buckets))
    rows = every[bins]
    plans = [choose_plans(table, rows, np.tile(budget, len(shown))).plan for budget in typical]
    found: Ints = np.array(trained.plans)[np.array(plans)].reshape(len(typical), *shown.shape[:2])
    return found


def _run(looks: Looks, test: Ints, kind: tuple[int, bool], plans: Ints) -> Floats:
    """Accuracy and cost [2, T, S] of `plans` [S, R or 1, T], means over looks."""
    plans = np.broadcast_to(plans, (len(plans), looks.correct.shape[0], len(test)))
    out = np.empty((2, *plans.shape))
    for configuration in np.unique(plans):
        value, cost, _, _ = (x[:, test] for x in looks.plan(int(configuration), *kind))
        mine = plans == configuration
        for i, values in enumerate((value, cost)):
            out[i][mine] = np.broadcast_to(values, plans.shape)[mine]
    mean: Floats = out.mean(axis=2).transpose(0, 2, 1)
    return mean


def _judge(ways: list[_Way], outcomes: Outcomes, held: HeldOut, resamples: Resamples) -> ProbeTrial:
    problems, budgets = len(outcomes.problem_ids), np.array(held.budgets)
    plain, probed = np.empty_like(ways[0].plain), np.empty_like(ways[0].plain)
    for f in held.folds:
        way, start = max((_best_start(w, f.train) for w in ways), key=lambda found: found[2])[:2]
        plain[:, f.test], probed[:, f.test] = way.plain[:, f.test], way.probed[:, f.test]
        probed[:, f.test, :start] = plain[:, f.test, :start]
    found = _gain(plain.mean(axis=1), probed.mean(axis=1))
    curves = [np.stack([resamples.means(x) for x in both], axis=1) for both in (plain, probed)]
    draws = np.array([_gain(a, b) for a, b in zip(*curves, strict=True)])
    interval = percentile_interval(draws.mean(axis=1))
    pays = interval[0] > 0
    everything = np.arange(problems)
    each = [_best_start(w, everything) for w in ways]
    best, start, _ = max(each, key=lambda found: found[2])
    rows = [
        {
            "budget": float(budgets[s]),
            **{name: {"accuracy": float(x[0, :, s].mean()), "cost": float(x[1, :, s].mean())}
               for name, x in (("unprobed", plain), ("probed", probed))},
            "at_equal_cost": float(found[s]), "ci": list(percentile_interval(draws[:, s])),
        }
        for s in range(0, len(budgets), 2)
    ]  # fmt: skip
    figure = f"{100 * found.mean():+.2f} points at equal cost [{100 * interval[0]:+.2f}, {100 * interval[1]:+.2f}]"
    note = f"over {problems} held-out problems a probe is worth {figure}, its cost charged: " + (
        f"{best.kind[0]} samples of {best.looks.recorded.policy_model} are drawn first" if pays else "none is drawn"
    )
    evaluation = {
        "pays": pays, "gain": float(found.mean()), "gain_ci": list(interval), "budgets": rows,
        "tried": [w.names | {"from_budget": float(budgets[at]) if at < len(budgets) else None, "gain": gain}
                  for w, at, gain in each],
        "note": note,
    }  # fmt: skip
    return ProbeTrial(evaluation, best if pays else None, float(budgets[start]) if pays else float("nan"))


def _best_start(way: _Way, problems: Ints) -> tuple[_Way, int, float]:
    """The budget (index; their number for none) from which on the probe is best drawn on these problems, and its mean
    gain over all budgets then."""
    gain = _gain(way.plain[:, problems].mean(axis=1), way.probed[:, problems].mean(axis=1))
    onward = np.append(np.cumsum(gain[::-1])[::-1], 0.0)
    start = len(onward) - 1 - int(np.argmax(onward[::-1]))  # on ties the last: no probe without a gain
    return way, start, float(onward[start]) / len(gain)


def _gain(plain: Floats, probed: Floats) -> Floats:
    """What the probed policy has at each budget beyond what the plain one has for as much, [S]; both [2, S] accuracy
    and mean cost, the plain one's interpolated over log-cost."""
    order = np.argsort(plain[1], kind="stable")
    had: Floats = np.interp(np.log(probed[1]), np.log(plain[1][order]), plain[0][order])
    gain: Floats = probed[0] - had
    return gain
