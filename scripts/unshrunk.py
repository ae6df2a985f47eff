"""How often a plan whose 99th-percentile cost is its budget ends as it would without one.

    python scripts/unshrunk.py BANK [--runs 1000] [--json]

BANK is a profiled bank of the laboratory (`planner profile profiling/recipes/lab-every-strategy.toml`). Of each
strategy in it the configurations with the fewest and the most samples are taken, each with a budget of exactly its
99th-percentile cost over the profiled problems, the tightest budget that the plan is within, and run on held-out
problems that the bank has not seen. A run is shrunk where a request was cut short by the budget or refused; its
strategy then ends `out_of_budget`. A limit that was lowered and not reached changed nothing and does not count.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import torch

from planner.core import Outcome
from planner.models.shipped import load_engine, load_verifier
from planner.policy.statistics import cost_percentile
from planner.profiling.bank import Bank
from planner.profiling.outcomes import Outcomes, outcomes_from_bank
from planner.runtime.driver import Job, run_flows
from planner.strategies import from_dict
from planner.tasks.task import load_task


def extremes(outcomes: Outcomes) -> list[int]:
    """The configurations with the fewest and the most samples of each strategy and model."""
    chosen: dict[tuple[str, str], list[int]] = {}
    for i, c in enumerate(outcomes.configurations):
        chosen.setdefault((c.strategy, c.policy_model), []).append(i)
    found = []
    for members in chosen.values():
        by_size = sorted(members, key=lambda i: outcomes.configurations[i].samples)
        found += dict.fromkeys([by_size[0], by_size[-1]])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bank", type=Path)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--split", default="held_out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bank = Bank.open(args.bank)
    outcomes = outcomes_from_bank(bank)
    budgets = cost_percentile(outcomes.cost, outcomes.cost_p95, share=0.99)
    plans = extremes(outcomes)
    each = -(-args.runs // len(plans))
    # Every plan has problems of its own, so that no single odd problem counts many times.
    problems = load_task("lab", split=args.split, count=args.runs).problems
    jobs, names = list[Job](), list[str]()
    for number, i in enumerate(plans):
        c = outcomes.configurations[i]
        fields = {**c.hyperparameters, "policy_model": c.policy_model}
        spec = from_dict({"strategy": c.strategy, "hyperparameters": fields})
        for problem in problems[number * each : (number + 1) * each]:
            jobs.append(Job(problem, spec, float(budgets[i])))
            names.append(c.strategy)
    recipe = bank.manifest["recipe"]
    engines = {model["name"]: load_engine(model["engine"]) for model in recipe["policy_models"]}
    verifier = load_verifier(recipe["verifier"]["engine"]) if recipe["verifier"] else None
    runs = run_flows(jobs, engines, verifier, default_policy_model=next(iter(engines)))
    shrunk = Counter(n for n, run in zip(names, runs, strict=True) if run.answer.outcome is Outcome.OUT_OF_BUDGET)
    total = Counter(names)
    overspent = sum(run.cost.total_flops > job.budget_flops for run, job in zip(runs, jobs, strict=True))
    result = {
        "runs": len(runs),
        "unshrunk": 1 - sum(shrunk.values()) / len(runs),
        "overspent": overspent,
        "by_strategy": {name: {"runs": total[name], "unshrunk": 1 - shrunk[name] / total[name]} for name in total},
    }
    if args.json:
        print(json.dumps(result))
        return
    print(f"{result['unshrunk']:.1%} of {len(runs)} runs ended unshrunk, {overspent} spent more than their budget")
    for name in total:
        print(f"  {name:20} {1 - shrunk[name] / total[name]:.1%} of {total[name]}")


if __name__ == "__main__":
    main()
