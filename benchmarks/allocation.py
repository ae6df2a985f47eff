"""One total budget over all GSM8K prompts and four cells: 6B and 175B, one sample or the best of a hundred.

    python benchmarks/allocation.py [SAMPLES] [--json]

A prompt's difficulty (its success averaged over the cells) is predicted from its text by a predictor that was fitted
on the other folds; a cell's expected accuracy is its shrunk mean over the other folds' prompts of similar prediction
(three bins, as in a policy's table). The same expectations go to `planner.policy.allocate` and to a mixed-integer
solver (scipy's milp): `objective_to_optimum` is the first's expected accuracy over the second's. Realised accuracy is
the recorded one of the chosen cells, against the same cell for every prompt (`uniform`: the best of those that the
budget a prompt pays for, by training accuracy) and against an allocation that knows every outcome (`oracle`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import coo_array, vstack

from planner.policy.allocate import allocate
from planner.policy.difficulty import fit_difficulty, make_folds
from planner.policy.statistics import Resamples, shrink
from planner.profiling.bank import Bank
from planner.profiling.importers import import_bank

Floats = NDArray[np.float64]

SHARED = Path("../shared/data/gsm8k/example_model_solutions.jsonl.gz")
COSTS = {"6b_finetuning": 1.0, "175b_finetuning": 29.0, "6b_verification": 100.0, "175b_verification": 2900.0}
BUDGETS = (2, 5, 10, 20, 29, 40, 60, 100, 200, 500, 1000, 2000, 2900)
"""Units a prompt."""
FOLDS, BINS = 5, 3


def load(path: Path) -> tuple[list[str], Floats]:
    """Prompts, and whether each cell of COSTS was right, [P, 4]."""
    with tempfile.TemporaryDirectory() as folder:
        import_bank([path], Path(folder) / "bank", costs=COSTS)
        bank = Bank.open(Path(folder) / "bank")
        table = bank.samples.pivot(index="problem_id", columns="policy_model", values="correct")
        table = table.reindex(bank.problems["problem_id"])[list(COSTS)]
        return bank.problems["prompt"].tolist(), table.to_numpy(np.float64)


def predict(prompts: list[str], right: Floats, fold: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Each cell's expected accuracy by the other folds, and its mean there, both [P, C]."""
    predicted, mean = np.empty_like(right), np.empty_like(right)
    for f in range(FOLDS):
        train, test = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
        mean[test] = right[train].mean(axis=0)
        texts = [prompts[i] for i in train]
        predictor = fit_difficulty(texts, right[train].sum(axis=1), np.full(len(train), right.shape[1]), seed=0)
        assert predictor.oof_ is not None
        edges = np.quantile(predictor.oof_, np.linspace(0, 1, BINS + 1)[1:-1])
        seen = np.searchsorted(edges, predictor.oof_)
        told = np.searchsorted(edges, predictor.predict([prompts[i] for i in test]))
        for b in range(BINS):
            mine = right[train][seen == b]
            predicted[test[told == b]] = shrink(mine, np.ones(len(mine)), mean[test[0]])[0]
    return predicted, mean


def optimum(value: Floats, cost: Floats, total: float) -> float:
    """Upper bound, within 1e-5, of the best integer choice of a cell for each prompt within the total, by a solver."""
    problems, cells = value.shape
    at = np.arange(problems * cells)
    each = coo_array((np.ones(len(at)), (at // cells, at)), shape=(problems, len(at)))
    spent = coo_array(cost.ravel()[None])
    low = np.concatenate((np.ones(problems), [-np.inf]))
    high = np.concatenate((np.ones(problems), [total]))
    found = milp(
        -value.ravel(), constraints=LinearConstraint(vstack([each, spent]).tocsc(), low, high), integrality=1,
        bounds=(0, 1), options={"mip_rel_gap": 1e-5, "time_limit": 60},
    )  # fmt: skip
    if found.x is None:
        raise RuntimeError(f"the solver found nothing: {found.message}")
    return float(-found.mip_dual_bound)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", nargs="?", type=Path, default=SHARED)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not args.samples.exists():
        print(f"skipped: {args.samples} is not here")
        return
    prompts, right = load(args.samples)
    fold, price = make_folds(len(prompts), FOLDS, seed=0), np.array(list(COSTS.values()))
    predicted, mean = predict(prompts, right, fold)
    cost, rows = np.broadcast_to(price, right.shape), np.arange(len(prompts))
    resamples = Resamples.draw(len(prompts))
    results = []
    for budget in BUDGETS:
        total = float(budget * len(prompts))
        found = allocate(predicted, cost, total)
        mine = right[rows, found.plan]
        uniform = right[rows, np.where(price <= budget, mean, -1.0).argmax(axis=1)]
        best = right[rows, allocate(right, cost, total).plan]
        results.append(
            {
                "budget": budget, "expected": found.expected_accuracy / len(prompts),
                "objective_to_optimum": found.expected_accuracy / optimum(predicted, cost, total),
                "accuracy": float(mine.mean()), "uniform": float(uniform.mean()), "oracle": float(best.mean()),
                "difference_ci": list(resamples.interval(mine - uniform)),
                "plans": {name: int((found.plan == c).sum()) for c, name in enumerate(COSTS)},
            }
        )  # fmt: skip
    report = {
        "problems": len(prompts), "cells": dict(zip(COSTS, right.mean(axis=0).tolist(), strict=True)),
        "budgets": results, "least_objective_to_optimum": min(r["objective_to_optimum"] for r in results),
        "least_difference": min(r["accuracy"] - r["uniform"] for r in results),
    }  # fmt: skip
    if args.json:
        print(json.dumps(report))
        return
    print(
        "units a prompt  objective/optimum  expected  realised  uniform  difference (95 %)      oracle  "
        + " ".join(COSTS)
    )
    for r in results:
        low, high = r["difference_ci"]
        print(
            f"{r['budget']:14}  {r['objective_to_optimum']:17.5f}  {r['expected']:8.3f}  {r['accuracy']:8.3f}  "
            f"{r['uniform']:7.3f}  {r['accuracy'] - r['uniform']:+.3f} [{low:+.3f}, {high:+.3f}]  {r['oracle']:6.3f}  "
            + " ".join(f"{n:>{len(name)}}" for name, n in r["plans"].items())
        )


if __name__ == "__main__":
    main()
