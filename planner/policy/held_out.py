"""What a fitted policy is worth: its own cross-validation, or the policy as it stands on a bank it has not seen.

On a bank every choice is the policy's: its predictor and table choose plans, its cells stand for oracle difficulty, its
table names the best fixed strategy, and each baseline's hyperparameters are those that did best where it was fitted.
Only the per-problem oracle looks at the bank's outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import InputError, PolicyError
from planner.policy import compare
from planner.policy.choose import PlanTable, choose_plans
from planner.policy.chooser import Chooser
from planner.policy.evaluate import BASELINES, METHODS, HeldOut, Track, put_oracle
from planner.policy.fit import bank_name
from planner.policy.folder import PolicyDocument
from planner.policy.statistics import Resamples, cost_percentile
from planner.policy.table import BUCKET_EDGES, bucket_of
from planner.profiling.outcomes import Configuration, Outcomes, outcomes_from_bank
from planner.profiling.recorded import Pricing

if TYPE_CHECKING:
    from planner.policy.predictor import DifficultyPredictor
    from planner.profiling.bank import Bank

__all__ = ["evaluate_on", "evaluation_of"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def evaluation_of(document: PolicyDocument) -> dict[str, Any]:
    """The cross-validation that fitting measured, in the form of `evaluate_on`. Raises PolicyError where there is
    none."""
    found = document.evaluation
    if not found.get("budgets"):
        raise PolicyError(
            "holds no evaluation", where=str(document.folder), hint="Fit it again, or give a bank with --bank"
        )
    return {
        "policy": document.policy.get("name"), "source": "cross-validation", "bank": None, "held_out": True,
        "unit": document.policy["unit"], "problems": found.get("problems"), "folds": found.get("folds"),
        "budgets": found["budgets"],
        "efficiency_gain": {name: (found.get("efficiency_gain") or {}).get(name) for name in (*BASELINES, "cheapest")},
        "gap_closed": found.get("gap_closed") or [], "predictor": found.get("difficulty"), "probe": found.get("probe"),
        "drop": found.get("drop"),
        "missing": {**(found.get("missing") or {}), **_unpriced(found["budgets"])},
        "notes": list(document.policy.get("warnings") or []),
    }  # fmt: skip


def evaluate_on(
    document: PolicyDocument, predictor: DifficultyPredictor, bank: Bank, *, seed: int = 0
) -> dict[str, Any]:
    """Measure the policy on the bank's problems.

    Raises InputError where the bank's unit is another or holds none of the policy's plans, and whatever
    `outcomes_from_bank` raises.
    """
    policy = document.policy
    plans = [_configuration(plan) for plan in policy["plans"]]
    measured = [
        _configuration({**curve, **point})
        for curve, point in _points(document.evaluation)
        if "hyperparameters" in point
    ]
    pricing = Pricing.from_manifest(_with_verifier(bank.manifest, policy))
    outcomes = outcomes_from_bank(bank, also=[*plans, *measured], pricing=pricing, seed=seed)
    if outcomes.unit != policy["unit"]:
        raise InputError(
            f"the bank's costs are {outcomes.unit}, the policy's {policy['unit']}", where=str(document.folder),
            field="unit", hint="Import the bank with the model's config.json, or fit a policy on costs of its unit",
        )  # fmt: skip
    place = {c.key: i for i, c in enumerate(outcomes.configurations)}
    columns = np.array([place.get(plan.key, -1) for plan in plans])
    allowed = columns >= 0
    if not allowed.any():
        raise InputError(
            f"none of the policy's {len(columns)} plans can be replayed from this bank", where=str(document.folder),
            expected=f"samples of {', '.join(sorted({p['policy_model'] for p in policy['plans']}))}",
            hint="Name the policy model as the policy does, with --policy-model",
        )  # fmt: skip
    chooser, resamples = Chooser(policy, predictor, None), Resamples.draw(len(outcomes.problem_ids), seed=seed)
    held = _held(document, chooser, outcomes, columns)
    budgets = compare.budget_comparisons(held, outcomes, resamples)
    same = (policy.get("provenance") or {}).get("bank_digest") == bank.digest()
    notes = [*(bank.manifest.get("flags") or []), *outcomes.notes]
    if same:
        notes.insert(0, "this is the bank that the policy was fitted on: nothing here is held out")
    if not allowed.all():
        notes.append(
            f"{int((~allowed).sum())} of {len(allowed)} plans cannot be replayed from this bank and are left out: "
            + "; ".join(plan.label for plan, kept in zip(plans, allowed, strict=True) if not kept)
        )
    known = (outcomes.trials > 0).any() and any(p is not None for p in outcomes.prompts)
    missing = {} if known else {"predictor": "The bank has no prompts or no labels to judge predictions by."}
    if policy.get("probe"):
        missing["probe"] = "Methods are measured without the probe; what it is worth is in the cross-validation."
    return {
        "policy": policy.get("name"), "source": "bank", "bank": bank_name(bank), "held_out": not same,
        "unit": outcomes.unit, "problems": len(outcomes.problem_ids), "folds": None, "budgets": budgets,
        "efficiency_gain": compare.efficiency(held, outcomes, resamples), "gap_closed": compare.gap_closed(budgets),
        "predictor": compare.predictor_figures(held, outcomes) | {"cost": compare.cost_figures(held, outcomes)}
        if known
        else None,
        "probe": None, "drop": None,
        "missing": missing | _unpriced(budgets),
        "notes": [str(note) for note in notes],
    }  # fmt: skip


def _configuration(named: Mapping[str, Any]) -> Configuration:
    return Configuration(**{name: named[name] for name in ("strategy", "hyperparameters", "policy_model", "verifier")})


def _points(evaluation: Mapping[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(curve, point) of each baseline where the policy was fitted."""
    return [
        (curve, point)
        for curve in evaluation.get("curves") or []
        if curve["strategy"] in BASELINES.values()
        for point in curve["points"]
    ]


def _with_verifier(manifest: Mapping[str, Any], policy: Mapping[str, Any]) -> Mapping[str, Any]:
    """The bank's manifest, with the policy's config of the verifier where the bank knows only its name."""
    own, ours = manifest.get("verifier") or {}, policy.get("verifier") or {}
    if own.get("config") or not ours.get("config") or own.get("name") != ours.get("name"):
        return manifest
    return {**manifest, "verifier": {**own, "config": ours["config"]}}


def _unpriced(budgets: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Which methods' costs leave a verifier out because its price is unknown."""
    names = dict.fromkeys(
        name
        for entry in budgets
        for name, method in entry["methods"].items()
        if method is not None and method["cost_parts"]["verifier"] is None
    )
    if not names:
        return {}
    return {
        "verifier_cost": f"The verifier's price is unknown: the costs of {', '.join(names)} leave it out where they "
        "ask it, and are too low. Import the bank with --verifier-config."
    }


def _held(document: PolicyDocument, chooser: Chooser, outcomes: Outcomes, columns: Ints) -> HeldOut:
    policy, table = document.policy, chooser.table
    rows, problems = len(outcomes.problem_index), len(outcomes.problem_ids)
    distribution, predicted, scale = _difficulty(chooser, outcomes)
    budgets = sorted(float(b) for b in policy.get("budgets") or [row["budget"] for row in policy["table"]])
    dense = sorted({*budgets, *(b * 2**0.5 for b in budgets[:-1])})
    curves = _baselines(document.evaluation, outcomes)
    levels = sorted({n for points in curves.values() for n in points})
    held = HeldOut(
        budgets=dense, levels=levels,
        tracks={name: Track.empty(rows, len(dense)) for name in METHODS},
        at_n={name: Track.empty(rows, len(levels)) for name in BASELINES},
        predicted=predicted, distribution=distribution, base=np.full(problems, chooser.predictor.base_rate),
        scale=scale,
    )  # fmt: skip
    everything = np.arange(rows)
    allowed = columns >= 0
    bucket = bucket_of(outcomes.difficulty.get(str(policy.get("reference_model")), np.full(rows, np.nan)))
    mine = distribution[outcomes.problem_index]
    ways = {
        "policy": mine,
        "policy_oracle_difficulty": np.where(bucket[:, None] >= 0, np.eye(len(BUCKET_EDGES))[bucket], mine),
    }
    cheapest = int(np.flatnonzero(allowed)[table.p95.mean(axis=1)[allowed].argmin()])
    p95 = cost_percentile(outcomes.cost, outcomes.cost_p95)
    if not (bucket >= 0).any():
        del ways["policy_oracle_difficulty"]
    sure = replace(table, p95=table.known_p95)
    for s, budget in enumerate(dense):
        for name, share in ways.items():
            plan = choose_plans(
                table if name == "policy" else sure, share, budget / scale[outcomes.problem_index], allowed=allowed
            ).plan
            held.tracks[name].put(outcomes, everything, s, columns[np.where(plan < 0, cheapest, plan)])
        fixed = _fixed(table, budget, allowed, cheapest)
        held.tracks["best_fixed"].put(outcomes, everything, s, np.full(rows, columns[fixed]))
        for name, points in curves.items():
            within = [(accuracy, -n, column) for n, (accuracy, column) in points.items() if p95[column] <= budget]
            if within:
                held.tracks[name].put(outcomes, everything, s, np.full(rows, max(within)[2]))
    for name, points in curves.items():
        for n, (_, column) in points.items():
            held.at_n[name].put(outcomes, everything, levels.index(n), np.full(rows, column))
    put_oracle(held, outcomes)
    return held


def _difficulty(chooser: Chooser, outcomes: Outcomes) -> tuple[Floats, Floats, Floats]:
    """Bucket distribution [problems, B] as `choose` would have it, predictions and cost scales [problems]; base rates
    and 1 without a prompt."""
    known = np.array([prompt is not None for prompt in outcomes.prompts])
    distribution = np.repeat(chooser.base_rates[None], len(known), axis=0)
    predicted, scale = np.full(len(known), chooser.predictor.base_rate), np.ones(len(known))
    prompts = [prompt for prompt in outcomes.prompts if prompt is not None]
    if prompts:
        outlook = chooser.outlook(prompts)
        distribution[known], scale[known] = outlook.distribution, outlook.scale
        predicted[known] = chooser.predictor.predict(prompts)
    return distribution, predicted, scale


def _fixed(table: PlanTable, budget: float, allowed: NDArray[np.bool_], cheapest: int) -> int:
    """The plan that the table calls best over all problems at the largest of its budgets within this one."""
    row = table.row(budget)
    for r in range(row, -1, -1):
        plan = int(table.best_fixed[r])
        if plan >= 0 and allowed[plan]:
            return plan
    return cheapest


def _baselines(evaluation: Mapping[str, Any], outcomes: Outcomes) -> dict[str, dict[int, tuple[float, int]]]:
    """For each baseline and N the accuracy where the policy was fitted and the bank's column, of the policy model and
    hyperparameters that did best there."""
    place = {c.key: i for i, c in enumerate(outcomes.configurations)}
    # Evaluations written before points told their hyperparameters have labels alone.
    labels = {c.label: i for i, c in reversed(list(enumerate(outcomes.configurations)))}
    found: dict[str, dict[int, tuple[float, int]]] = {name: {} for name in BASELINES}
    names = {strategy: name for name, strategy in BASELINES.items()}
    for curve, point in _points(evaluation):
        told = "hyperparameters" in point
        column = place.get(_configuration({**curve, **point}).key) if told else labels.get(point["plan"])
        if column is not None:
            points, entry = found[names[curve["strategy"]]], (float(point["accuracy"]), column)
            points[int(point["n"])] = max(points.get(int(point["n"]), entry), entry)
    return found
