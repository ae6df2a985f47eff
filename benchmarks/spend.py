"""The search's spend and what it finds, against an exhaustive grid of live strategies, on the laboratory.

    python benchmarks/spend.py [--folder runs/spend] [--models FOLDER] [--dry-run] [--json]

The grid runs every configuration (beam search, DVTS, REBASE and particle filtering by models, n up to 16, expansions,
temperatures; 68 in all, no two of which do the same) on 150 problems, about an hour of one core, which --dry-run
estimates from a few runs; its runs stay in the folder, and the script goes on where it stopped. A request that several
runs have in common (first steps above all) counts once in the grid, as it does in the search.

The search then races the same configurations on the same problems, over several seeds, with those runs replayed and
its requests counted. What the grid recommends (its front by means over all runs) and what the search recommends (its
front by what it believes) is run on 150 other problems, and the fronts are compared there by hypervolume: the area of
accuracy over log-FLOPs that a front dominates, from accuracy 0 and the dearest configuration. `nadir` is the same from
the worst accuracy of any, which is harder. Ratios are search to grid; the interval resamples the held-out problems.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.core import Completion, GenerationRequest, Problem
from planner.models.shipped import load_engine, load_verifier
from planner.policy.live_search import LiveRace
from planner.policy.race import hypervolume
from planner.policy.search import front
from planner.policy.statistics import Resamples
from planner.profiling.bank import Bank
from planner.profiling.columns import Configuration
from planner.profiling.live import LiveRuns, Outcome
from planner.profiling.work import Makers
from planner.strategies import Strategy, from_dict
from planner.tasks.task import Task, load_task

Floats = NDArray[np.float64]

MODELS, VERIFIER = ("lab-small", "lab-medium"), "lab-prm"
PROBLEMS, PIECE = 150, 75
TRIAL = 24
"""Problems that --dry-run runs."""
SHARES = (0.1, 0.2)
SEEDS = 10


def grid() -> list[tuple[dict[str, Any], str]]:
    """(strategy's dictionary, policy model) of each configuration."""
    steps = {"max_steps": 24, "max_step_tokens": 48}
    specs = []
    for n, m, t, name in itertools.product((4, 8, 16), (2, 4), (0.4, 0.8), ("beam_search", "dvts")):
        if name == "dvts" and n == m:
            continue  # a single subtree: the beam search of the same n
        fields = {**steps, "n": n, "expansions": m, "temperature": t, "selection": "vote"}
        specs.append({"strategy": name, "hyperparameters": fields})
    for n, b in itertools.product((4, 8, 16), (0.1, 0.2)):
        fields = {**steps, "n": n, "balance_temperature": b, "temperature": 0.8}
        specs.append({"strategy": "rebase", "hyperparameters": fields})
    for n, w in itertools.product((4, 8, 16), (0.5, 1.0)):
        fields = {**steps, "n": n, "resampling_temperature": w, "temperature": 0.8, "selection": "vote"}
        specs.append({"strategy": "particle_filtering", "hyperparameters": fields})
    return [(spec, model) for spec in specs for model in MODELS]


@dataclass(frozen=True)
class Table:
    """Runs of C configurations on P problems: `correct` and `flops` [C, P], `requests` the (key, tokens) of each."""

    correct: Floats
    flops: Floats
    requests: Sequence[Sequence[Sequence[tuple[str, int]]]]


class Maker:
    """Runs configurations on a split's problems and logs each run's requests; what is in the folder is not made."""

    def __init__(self, folder: Path, models: str | None, split: str) -> None:
        kind = "lab:" if models is None else f"transformers:{models}/"
        self.folder, self.split, self.models = folder, split, models
        self.task: Task = load_task("lab", count=PROBLEMS, split=split, seed=11)
        path = folder / f"bank-{split}"
        bank = Bank.open(path) if (path / "manifest.json").exists() else Bank.create(path, {"source": "profile"})
        engines = {name: load_engine(kind + name) for name in MODELS}
        self._verifier = load_verifier(kind + VERIFIER)
        self._log: list[tuple[str, str, int]] = []
        prints = {name: engine.info.fingerprint for name, engine in engines.items()}
        self._model = MODELS[0]

        def asked(request: GenerationRequest, made: Completion) -> None:
            self._log.append((request.prompt, request.key(prints[self._model])[:16], made.generated_tokens))

        self._makers = Makers(engines=engines, verifier=self._verifier, task=self.task, max_batch=256)
        self._asked = asked
        self.runs = LiveRuns.open(self._makers, bank, asked=asked)

    def log(self, number: int) -> Path:
        """The requests of a configuration's runs; there when all of them were made."""
        return self.folder / f"log-{self.split}-{number:03d}.json"

    def make(self, number: int, spec: Mapping[str, Any], model: str) -> None:
        path = self.log(number)
        if path.exists():
            return
        self._log.clear()
        self._model = model
        strategy = from_dict(spec)
        for start in range(0, PROBLEMS, PIECE):
            self.runs.run([(strategy, model, p) for p in self.task.problems[start : start + PIECE]])
        by = self._by_problem()
        if missing := [p for p in self.task.problems if p.problem_id not in by]:
            # The bank had these runs, and a kill took their requests: the same are drawn again, elsewhere.
            with tempfile.TemporaryDirectory() as folder:
                again = LiveRuns.open(self._makers, Bank.create(folder, {"source": "profile"}), asked=self._asked)
                again.run([(strategy, model, p) for p in missing])
            by = self._by_problem()
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"spec": spec, "model": model, "requests": by}))
        os.replace(part, path)
        print(f"{self.split} {number}: {spec['strategy']} {model}, {self.runs.generated_tokens:,} tokens", flush=True)

    def _by_problem(self) -> dict[str, list[tuple[str, int]]]:
        ids = {problem.prompt: problem.problem_id for problem in self.task.problems}
        by: dict[str, list[tuple[str, int]]] = {}
        for prompt, key, tokens in self._log:
            by.setdefault(ids[prompt], []).append((key, tokens))
        return by

    def table(self, numbers: Sequence[int]) -> Table:
        """The outcomes of these configurations, all of which were made."""
        correct, flops, requests = [], [], []
        configurations = grid()
        for number in numbers:
            spec, model = configurations[number]
            found = self.runs.run([(from_dict(spec), model, p) for p in self.task.problems])
            correct.append([float(bool(o.correct)) for o in found])
            flops.append([o.cost for o in found])
            log = json.loads(self.log(number).read_text())["requests"]
            requests.append([log[p.problem_id] for p in self.task.problems])
        return Table(np.array(correct), np.array(flops), requests)


class Replayed:
    """The search's runs, from the grid's table; counts the tokens of requests that were not asked before."""

    def __init__(
        self, table: Table, live: Sequence[tuple[Configuration, Strategy]], problems: Sequence[Problem]
    ) -> None:
        self._table = table
        self._row = {(spec, c.policy_model): i for i, (c, spec) in enumerate(live)}
        self._column = {problem.problem_id: i for i, problem in enumerate(problems)}
        self._seen: dict[str, int] = {}
        self._made: dict[int, list[int]] = {}

    @property
    def generated_tokens(self) -> int:
        return sum(self._seen.values())

    def run(self, wanted: Sequence[tuple[Strategy, str, Problem]]) -> list[Outcome]:
        found = []
        for spec, model, problem in wanted:
            c, p = self._row[spec, model], self._column[problem.problem_id]
            new = {key: tokens for key, tokens in self._table.requests[c][p] if key not in self._seen}
            self._seen |= new
            self._made.setdefault(c, []).append(sum(new.values()))
            found.append(Outcome(bool(self._table.correct[c, p]), float(self._table.flops[c, p])))
        return found

    def missing(self, spec: Strategy, model: str, problems: Sequence[Problem]) -> int:
        return len(problems)

    def mean_tokens(self, spec: Strategy, model: str) -> float:
        return float(np.mean(self._made.get(self._row[spec, model], [0])))


def tokens_of(table: Table) -> int:
    """Generated tokens of all runs, a request that several have in common counted once."""
    return sum({key: n for row in table.requests for run in row for key, n in run}.values())


def estimate(maker: Maker) -> dict[str, Any]:
    """Tokens and processor seconds of the grid's runs that are not in the folder, from a few runs of the smallest n of
    each strategy and model; tokens rise with n, and requests that runs have in common count each time, so both are
    upper bounds."""
    todo = [(spec, model) for i, (spec, model) in enumerate(grid()) if not maker.log(i).exists()]
    rates: dict[tuple[str, str], tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        trial = Maker(Path(folder), maker.models, maker.split)
        for spec, model in grid():
            if (key := (spec["strategy"], model)) in rates:
                continue
            before, started = trial.runs.generated_tokens, time.process_time()
            trial.runs.run([(from_dict(spec), model, p) for p in trial.task.problems[:TRIAL]])
            tokens = trial.runs.generated_tokens - before
            paths = TRIAL * spec["hyperparameters"]["n"]
            rates[key] = tokens / paths, (time.process_time() - started) / paths
    runs = [(rates[spec["strategy"], model], PROBLEMS * spec["hyperparameters"]["n"]) for spec, model in todo]
    return {
        "configurations": len(grid()), "to_make": len(todo), "problems": PROBLEMS,
        "tokens": round(sum(rate[0] * paths for rate, paths in runs)),
        "seconds": sum(rate[1] * paths for rate, paths in runs),
    }  # fmt: skip


def area(members: Sequence[int], accuracy: Floats, log_cost: Floats, worst: float, dearest: float) -> float:
    chosen = np.array(members)
    return hypervolume(accuracy[chosen], log_cost[chosen], worst=worst, dearest=dearest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/spend"))
    parser.add_argument("--models", help="folder with lab-small, lab-medium and lab-prm; default: the shipped ones")
    parser.add_argument(
        "--dry-run", action="store_true", help="estimate tokens and seconds of what is left of the grid"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    configurations = grid()
    maker = Maker(args.folder, args.models, "profile")
    if args.dry_run:
        found = estimate(maker)
        told = (
            f"{found['to_make']} of {found['configurations']} configurations x {PROBLEMS} problems are to be made: "
            f"at most {found['tokens']:,} tokens, {found['seconds'] / 60:.0f} minutes of processor time (and about a "
            "third more for the held-out problems)"
        )
        print(json.dumps(found) if args.json else told)
        return
    for number, (spec, model) in enumerate(configurations):
        maker.make(number, spec, model)
    everything = list(range(len(configurations)))
    table, problems = maker.table(everything), maker.task.problems
    live: list[tuple[Configuration, Strategy]] = []
    for spec, model in configurations:
        fields = {k: v for k, v in spec["hyperparameters"].items() if not k.startswith("max_step")}
        named = Configuration(
            strategy=spec["strategy"], hyperparameters=fields, policy_model=model, verifier=VERIFIER
        )  # fmt: skip
        live.append((named, from_dict({**spec, "hyperparameters": {**spec["hyperparameters"], "policy_model": model}})))
    total = tokens_of(table)
    best = front(everything, table.correct.mean(axis=1), table.flops.mean(axis=1))
    searches: dict[float, list[tuple[list[int], int, int]]] = {}
    for share in SHARES:
        for seed in range(SEEDS):
            runs = Replayed(table, live, problems)
            race = LiveRace(live, problems, runs, cap=round(share * total), seed=seed)
            race.go(finish=False)
            searches.setdefault(share, []).append((race.race.front(), runs.generated_tokens, int(race.race.runs.sum())))
    wanted = sorted({*best, *(c for found in searches.values() for members, _, _ in found for c in members)})
    other = Maker(args.folder, args.models, "held_out")
    for number in wanted:
        other.make(number, *configurations[number])
    held = other.table(wanted)
    place = {c: i for i, c in enumerate(wanted)}
    report = compare(
        held, [place[c] for c in best],
        {share: [([place[c] for c in m], t, r) for m, t, r in found] for share, found in searches.items()}, total,
    )  # fmt: skip
    report |= {"configurations": len(configurations), "problems": PROBLEMS, "grid_tokens": total}
    report["front"] = [
        {"configuration": live[c][0].label, "accuracy": float(held.correct[place[c]].mean()),
         "flops": float(held.flops[place[c]].mean())} for c in best
    ]  # fmt: skip
    if args.json:
        print(json.dumps(report))
        return
    print(f"grid: {len(configurations)} configurations, {total:,} tokens; its front on held-out problems:")
    for row in report["front"]:
        print(f"  {row['accuracy']:.3f} at {row['flops'] / 1e6:.0f} MFLOPs  {row['configuration']}")
    for row in report["searches"]:
        low, high = row["hypervolume_ci"]
        print(
            f"search with {row['tokens']:.1%} of the tokens ({row['runs']:.0f} runs): hypervolume "
            f"{row['hypervolume']:.3f} [{low:.3f}, {high:.3f}], least {row['least']:.3f}; nadir {row['nadir']:.3f}"
        )


def compare(
    held: Table, best: Sequence[int], searches: Mapping[float, Sequence[tuple[list[int], int, int]]], total: int
) -> dict[str, Any]:
    """Ratios of held-out hypervolume, mean over seeds, with the interval of that mean."""
    resamples = Resamples.draw(held.correct.shape[1], count=300)

    def ratios(accuracy: Floats, flops: Floats, worst: Callable[[Floats], float]) -> dict[float, list[float]]:
        log_cost = np.log(flops)
        reference = {"worst": worst(accuracy), "dearest": float(log_cost.max()) + 1e-6}
        whole = area(best, accuracy, log_cost, **reference)
        return {
            share: [area(members, accuracy, log_cost, **reference) / whole for members, _, _ in found]
            for share, found in searches.items()
        }

    accuracy, flops = held.correct.mean(axis=1), held.flops.mean(axis=1)
    plain = ratios(accuracy, flops, lambda _: 0.0)
    nadir = ratios(accuracy, flops, lambda a: float(a.min()))
    drawn = [
        ratios(a, f, lambda _: 0.0)
        for a, f in zip(resamples.means(held.correct.T), resamples.means(held.flops.T), strict=True)
    ]
    rows = []
    for share, found in searches.items():
        ci = np.percentile([np.mean(d[share]) for d in drawn], [2.5, 97.5])
        rows.append(
            {
                "cap": share, "tokens": float(np.mean([t for _, t, _ in found])) / total,
                "runs": float(np.mean([r for _, _, r in found])), "hypervolume": float(np.mean(plain[share])),
                "hypervolume_ci": ci.tolist(), "least": float(np.min(plain[share])),
                "nadir": float(np.mean(nadir[share])),
            }
        )  # fmt: skip
    return {"searches": rows}


if __name__ == "__main__":
    main()
