"""How many problems and samples a profile needs: held-out value against both, from recorded banks.

    python benchmarks/profile_size.py BANK... [--repeats 20] [--json]

Each repeat holds a third of the problems out. A policy (plans, table, predictor: all that `planner fit` learns) is
fitted on some of the others with some of each one's samples, and runs on the held-out problems with all of theirs, at
each of the whole bank's budgets. `loss` is the mean over budgets of what the policy of the full profile reaches there
(all the other problems, all samples) less what this one reaches; `fixed` is the same for the best fixed strategy that
it chose. Both in points, with the standard error over repeats; beside them `worse`, the share of repeats in which the
policy is more than a point below the full profile's best fixed strategy.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.policy.choose import choose_plans
from planner.policy.evaluate import fit_predictor
from planner.policy.table import BUCKET_EDGES, budget_grid, fit_plans, plan_table
from planner.profiling.bank import Bank
from planner.profiling.columns import Configuration
from planner.profiling.outcomes import Outcomes, outcomes_from_bank

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PROBLEMS = (12, 25, 50, 100, 200, 400, 800)
SAMPLES = (1, 2, 4, 8, 16, 32, 64)
HELD_OUT = 1 / 3
WORSE = 0.01


@dataclass
class Part:
    """A bank with the first `count` of each problem's samples, shuffled by `seed`; its runs as they are."""

    bank: Bank
    count: int
    seed: int

    @property
    def manifest(self) -> Any:
        return self.bank.manifest

    @property
    def problems(self) -> Any:
        return self.bank.problems

    @property
    def runs(self) -> Any:
        return self.bank.runs

    @property
    def samples(self) -> Any:
        rows = self.bank.samples.sample(frac=1, random_state=self.seed)
        keys = ["problem_id", "policy_model", "temperature", "top_p", "role"]
        return rows[rows.groupby(keys, dropna=False).cumcount() < self.count]


def values(seen: Outcomes, whole: Outcomes, train: Ints, test: Ints, budgets: list[float], trials: int) -> Floats:
    """Mean accuracy on the held-out problems of the policy and of its best fixed strategy, [2, budgets]: learned from
    `train` in `seen`, measured in `whole`."""
    verifier = next((c.verifier for c in seen.configurations if c.verifier), None)
    predictor = fit_predictor(seen, train, seed=0)
    fitted = fit_plans(
        seen, train, budgets, trials=trials, seed=0, verifier=verifier, predictor=predictor
    )  # fmt: skip
    table, plans = plan_table(fitted, seen, budgets), np.array(fitted.plans)
    place = {c.key: i for i, c in enumerate(whole.configurations)}
    column = np.array([place.get(seen.configurations[i].key, -1) for i in fitted.plans])
    prompts = [whole.prompts[i] or "" for i in test]
    share, scale = predictor.distribution(prompts, BUCKET_EDGES), predictor.scales(prompts)
    cheapest = int(np.argmin(fitted.overall_p95[plans]))
    accuracy = whole.by_problem(whole.accuracy)[test]
    found = np.empty((2, len(budgets)))
    for s, budget in enumerate(budgets):
        chosen = choose_plans(table, share, budget / scale, allowed=column >= 0).plan
        chosen = np.where(chosen < 0, cheapest, chosen)
        found[0, s] = accuracy[np.arange(len(test)), column[chosen]].mean()
        fixed = fitted.best_fixed(budget, np.isin(np.arange(len(seen.configurations)), plans[column >= 0]))
        at = cheapest if fixed is None else int(np.flatnonzero(plans == fixed)[0])
        found[1, s] = accuracy[:, column[at]].mean()
    return found


def measure(bank: Bank, repeats: int, trials: int) -> dict[str, Any]:
    """Losses of each number of problems and of samples."""
    plain = outcomes_from_bank(bank)
    budgets = [m * plain.reference_cost for m in budget_grid(plain)]
    total = len(plain.problem_ids)
    most = int(bank.samples.groupby(["problem_id", "policy_model", "temperature", "role"], dropna=False).size().max())
    train_size = total - round(total * HELD_OUT)
    counts = [p for p in PROBLEMS if p < train_size] + [train_size]
    samples = [n for n in SAMPLES if n < most] + [most]
    cells: dict[tuple[int, int], list[Floats]] = {}
    for repeat in range(repeats):
        order = np.random.default_rng(repeat).permutation(total)
        test, train = order[train_size:], order[:train_size]
        parts = {n: outcomes_from_bank(Part(bank, n, repeat)) if n < most else plain for n in samples}  # type: ignore[arg-type]
        # Rules that give up take their lengths from the samples seen: what each part may choose is measured on all.
        wanted = {c.key: c for part in parts.values() for c in part.configurations}
        whole = outcomes_from_bank(bank, also=_only_new(wanted.values(), plain))
        for n, part in parts.items():
            for p in counts:
                cells.setdefault((p, n), []).append(values(part, whole, train[:p], test, budgets, trials))
    full = np.stack(cells[train_size, most])
    rows = []
    for (p, n), found in sorted(cells.items()):
        loss = 100 * (full - np.stack(found)).mean(axis=2)
        below = full[:, 1].mean(axis=1) - np.stack(found)[:, 0].mean(axis=1)
        rows.append(
            {
                "problems": p, "samples": n, "loss": float(loss[:, 0].mean()), "loss_error": _error(loss[:, 0]),
                "fixed": float(loss[:, 1].mean()), "fixed_error": _error(loss[:, 1]),
                "worse": float((below > WORSE).mean()),
            }
        )  # fmt: skip
    return {
        "problems": total, "held_out": total - train_size, "samples": most, "repeats": repeats, "unit": plain.unit,
        "budgets": budgets, "policy": float(full[:, 0].mean()), "fixed": float(full[:, 1].mean()), "rows": rows,
    }  # fmt: skip


def _only_new(wanted: Any, plain: Outcomes) -> Sequence[Configuration]:
    known = {c.key for c in plain.configurations}
    return [c for c in wanted if c.key not in known]


def _error(values: Floats) -> float | None:
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("banks", nargs="+", type=Path, metavar="BANK")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    report = {path.name: measure(Bank.open(path), args.repeats, args.trials) for path in args.banks}
    if args.json:
        print(json.dumps(report))
        return
    for name, found in report.items():
        print(
            f"{name}: {found['problems']} problems, {found['held_out']} held out, {found['repeats']} repeats; with "
            f"everything the policy reaches {found['policy']:.3f} and the best fixed strategy {found['fixed']:.3f}"
        )
        print("points lost by policy (by best fixed strategy) | share of repeats over a point below best fixed")
        samples = sorted({row["samples"] for row in found["rows"]})
        print("problems  " + "".join(f"{f'{n} samples':>26}" for n in samples))
        for p in sorted({row["problems"] for row in found["rows"]}):
            line = {row["samples"]: row for row in found["rows"] if row["problems"] == p}
            cells = (f"{line[n]['loss']:+.1f} ({line[n]['fixed']:+.1f}) | {line[n]['worse']:.0%}" for n in samples)
            print(f"{p:8}  " + "".join(f"{cell:>26}" for cell in cells))


if __name__ == "__main__":
    main()
