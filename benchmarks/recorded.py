"""What a policy is worth on recorded Llama-3.1-8B samples, held out, and where the rest is lost.

    python benchmarks/recorded.py [SAMPLES] [--json]

Majority vote and its stopping rules are replayed from 44 samples of each of 100 MATH-500 problems. Each way of choosing
is nested: everything (rule, threshold, maximum, price, predictor) is chosen on nine tenths of the problems and measured
on the rest, over several splits. All choose by one price per token, from whose sweep the curves come. Tokens are read
where a curve reaches the accuracy of majority over 16 samples (.598 at 8.1k tokens); intervals resample problems, the
level with them.

    fixed      one plan for all: majority; adaptive majority that stops when agreed; that gives up (`give_up_tokens`)
    predicted  the plan by the difficulty predicted from the prompt
    probed     four samples first, which are kept; then the plan by what they show and the prompt predicts
    oracle     the plan by the difficulty measured on other samples of the problem: what knowing buckets would give
    best       the plan by the problem's own outcomes: no policy could do better
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.policy.difficulty import make_folds
from planner.policy.evaluate import fit_predictor
from planner.policy.refine import PROBE_FEATURES, fit_refinement, probe_features
from planner.policy.statistics import Resamples, shrink
from planner.policy.table import BUCKET_EDGES, bucket_of
from planner.profiling.bank import Bank
from planner.profiling.importers import import_bank
from planner.profiling.outcomes import Outcomes, outcomes_from_bank
from planner.profiling.recorded import Pricing, Recorded, recorded_samples
from planner.profiling.replay import draw_orders
from planner.profiling.stopping import StopRule, VotePaths

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SHARED = Path("../shared/data/math100_llama3.1_8b/math100_llama3.1-8b_bon44.jsonl.gz")
PRICES = np.geomspace(1e-6, 2e-4, 60)
LEVEL_N, BUDGET = 16, 5000.0
PROBE, BINS = 4, 4
SPLITS, FOLDS = 5, 10


def load(path: Path) -> tuple[Outcomes, Recorded]:
    with tempfile.TemporaryDirectory() as folder:
        import_bank([path], Path(folder) / "bank", format="samples", policy="llama-3.1-8b")
        bank = Bank.open(Path(folder) / "bank")
        outcomes = outcomes_from_bank(bank, subsets=200)
        (recorded,) = recorded_samples(bank.samples, outcomes.problem_ids, Pricing.from_manifest(bank.manifest), [])
        return outcomes, recorded


@dataclass(frozen=True)
class Probed:
    """Adaptive rules that all begin with PROBE samples, along R orders: `value` and `tokens` [R, P, rules], what the
    probe shows `features` [R, P, F], and `successes` of `trials` [R, P] among the other samples."""

    value: Floats
    tokens: Floats
    features: Floats
    successes: Floats
    trials: Floats

    @classmethod
    def of(cls, r: Recorded) -> Probed:
        orders = draw_orders(r.draws, 100, seed=1)
        paths = VotePaths.of(r.draws, orders, r.tokens)
        limits = [
            None,
            *(round(float(x)) for x in np.quantile((r.tokens / r.draws.counts[:, None]).sum(axis=1), (0.8, 0.9))),
        ]
        at = np.ogrid[: len(orders.permutations), : len(r.tokens)]
        values, tokens = [], []
        for threshold, limit in itertools.product((0.6, 0.75, 0.9), limits):
            stops = paths.stops(StopRule(threshold=threshold, give_up_tokens=limit, min_n=PROBE))
            for most in (PROBE, 8, 16, 32, 44):
                drawn = np.minimum(stops, most)
                values.append(paths.value[drawn - 1, at[0], at[1]])
                tokens.append(paths.length[drawn - 1, at[0], at[1]])
        correct = np.where(r.draws.present, r.draws.correct, 0.0)
        own = orders.take(correct)[:, :, :PROBE].astype(np.float64).sum(axis=2)
        return cls(
            np.stack(values, axis=2).astype(np.float64), np.stack(tokens, axis=2),
            probe_features(r.draws, orders, PROBE, r.tokens), correct.sum(axis=1) - own,
            np.broadcast_to(r.draws.counts - PROBE, own.shape).astype(np.float64),
        )  # fmt: skip

    def held_out(self, outcomes: Outcomes, seed: int) -> tuple[Floats, Floats]:
        """As `held_out`: the plan goes by the refined prediction, in bins of equal mass."""
        problems = len(outcomes.problem_ids)
        fold = make_folds(problems, FOLDS, seed=seed)
        out = np.empty((2, len(PRICES), problems))
        for f in range(FOLDS):
            train, test = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
            predictor = fit_predictor(outcomes, train, seed=seed)
            assert predictor.oof_ is not None
            refinement = fit_refinement(
                predictor.oof_, self.features[:, train], self.successes[:, train], self.trials[:, train],
                PROBE_FEATURES, fold=make_folds(len(train), 5, seed=seed),
            )  # fmt: skip
            base = predictor.predict([outcomes.prompts[i] or "" for i in test])
            seen = refinement.predict(
                np.broadcast_to(predictor.oof_, self.trials[:, train].shape), self.features[:, train]
            )
            told = refinement.predict(np.broadcast_to(base, self.trials[:, test].shape), self.features[:, test])
            edges = np.quantile(seen, np.linspace(0, 1, BINS + 1)[1:-1])
            mine, place = np.searchsorted(edges, seen), np.searchsorted(edges, told)
            plans = np.empty((len(PRICES), *told.shape), np.int64)
            for b in range(BINS):
                rows = mine == b
                best = price_out(self.value[:, train][rows].mean(axis=0), self.tokens[:, train][rows].mean(axis=0))
                plans[:, place == b] = best[:, None]
            for i, values in enumerate((self.value, self.tokens)):
                chosen = np.take_along_axis(values[:, test][None], plans[..., None], axis=3)[..., 0]
                out[i][:, test] = chosen.mean(axis=1)
        return out[0], out[1]


def price_out(accuracy: Floats, cost: Floats) -> Ints:
    """For each price the best of C configurations, [prices, ...], from `accuracy` and `cost` [..., C]."""
    found: Ints = np.stack([(accuracy - price * cost).argmax(axis=-1) for price in PRICES])
    return found


def held_out(outcomes: Outcomes, allowed: NDArray[np.bool_], way: str, seed: int) -> tuple[Floats, Floats]:
    """Held-out accuracy and cost of each problem at each price, [prices, P]."""
    members = np.flatnonzero(allowed)
    rows, copies = len(outcomes.problem_index), len(outcomes.problem_index) // len(outcomes.problem_ids)
    value, cost = outcomes.accuracy[:, members], outcomes.cost[:, members]
    bucket = bucket_of(outcomes.difficulty[outcomes.reference_model])
    fold = make_folds(len(outcomes.problem_ids), FOLDS, seed=seed)
    out = np.empty((2, len(PRICES), rows))
    for f in range(FOLDS):
        train, test = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
        seen, rest = (np.flatnonzero(np.isin(outcomes.problem_index, x)) for x in (train, test))
        if way == "fixed":
            plans = price_out(value[seen].mean(axis=0), cost[seen].mean(axis=0))[:, None]
        else:
            overall = value[seen].mean(axis=0)
            cells, prices = [], []
            for b in range(len(BUCKET_EDGES)):
                mine = seen[bucket[seen] == b]
                cells.append(shrink(value[mine], np.full(len(mine), 1 / copies), overall)[0])
                prices.append(cost[mine].mean(axis=0) if len(mine) else cost[seen].mean(axis=0))
            share = np.eye(len(BUCKET_EDGES))[bucket[rest]]
            if way == "predicted":
                predictor = fit_predictor(outcomes, train, seed=seed)
                prompts = [outcomes.prompts[i] or "" for i in outcomes.problem_index[rest]]
                share = predictor.distribution(prompts, BUCKET_EDGES)
            plans = price_out(share @ np.stack(cells), share @ np.stack(prices))
        out[0][:, rest] = value[rest[None], plans]
        out[1][:, rest] = cost[rest[None], plans]
    return by_problem(outcomes, out[0]), by_problem(outcomes, out[1])


def own(outcomes: Outcomes, allowed: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The best for each problem by its own outcomes (chosen and measured on the same ones: a bound)."""
    value, cost = (by_problem(outcomes, x[:, allowed].T).T for x in (outcomes.accuracy, outcomes.cost))
    plans = price_out(value, cost)
    rows = np.arange(len(value))[None]
    return value[rows, plans], cost[rows, plans]


def by_problem(outcomes: Outcomes, values: Floats) -> Floats:
    """[K, rows] -> [K, problems]."""
    return outcomes.by_problem(values.T).T


def cost_at(accuracy: Floats, cost: Floats, level: float) -> float | None:
    """Tokens at which the curve (means over problems, by price) first reaches `level`, linear in log tokens."""
    order = np.argsort(cost)
    a, c = np.maximum.accumulate(accuracy[order]), cost[order]
    there = np.flatnonzero(a >= level)
    if not len(there):
        return None
    i = int(there[0])
    if i == 0:
        return float(c[0])
    share = (level - a[i - 1]) / (a[i] - a[i - 1])
    return float(np.exp(np.log(c[i - 1]) + share * np.log(c[i] / c[i - 1])))


def at_budget(accuracy: Floats, cost: Floats, budget: float) -> float:
    order = np.argsort(cost)
    return float(np.interp(np.log(budget), np.log(cost[order]), np.maximum.accumulate(accuracy[order])))


def figures(run: Callable[[int], tuple[Floats, Floats]], level: Floats, resamples: Resamples) -> dict[str, Any]:
    """`level` [P]: each problem's accuracy under the baseline that is to be reached."""
    runs = [run(seed) for seed in range(SPLITS)]
    value, cost = (np.mean([r[i] for r in runs], axis=0) for i in (0, 1))
    curves = list(zip(resamples.means(value.T), resamples.means(cost.T), resamples.means(level), strict=True))
    drawn = sorted(np.inf if (found := cost_at(a, c, x)) is None else found for a, c, x in curves)
    ends = [drawn[round(q * (len(drawn) - 1))] for q in (0.025, 0.975)]
    gained = [at_budget(a, c, BUDGET) - x for a, c, x in curves]
    return {
        "tokens_at_level": cost_at(value.mean(axis=1), cost.mean(axis=1), float(level.mean())),
        "tokens_ci": [None if np.isinf(end) else end for end in ends],
        "tokens_by_split": [cost_at(a.mean(axis=1), c.mean(axis=1), float(level.mean())) for a, c in runs],
        "accuracy_at_budget": at_budget(value.mean(axis=1), cost.mean(axis=1), BUDGET),
        "difference_from_level_ci": np.percentile(gained, [2.5, 97.5]).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", nargs="?", type=Path, default=SHARED)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not args.samples.exists():
        print(f"skipped: {args.samples} is not here")
        return
    outcomes, recorded = load(args.samples)
    probed = Probed.of(recorded)
    names = np.array([c.strategy for c in outcomes.configurations])
    gives_up = np.array(["give_up_tokens" in c.hyperparameters for c in outcomes.configurations])
    voting, everything = names == "majority", np.isin(names, ("majority", "adaptive_majority"))
    resamples = Resamples.draw(len(outcomes.problem_ids), count=500)
    ways = {
        "fixed: majority": lambda seed: held_out(outcomes, voting, "fixed", seed),
        "fixed: stops when agreed": lambda seed: held_out(outcomes, everything & ~gives_up, "fixed", seed),
        "fixed: gives up too": lambda seed: held_out(outcomes, everything, "fixed", seed),
        "predicted": lambda seed: held_out(outcomes, everything, "predicted", seed),
        "probed": lambda seed: probed.held_out(outcomes, seed),
        "oracle": lambda seed: held_out(outcomes, everything, "oracle", seed),
        "oracle, majority only": lambda seed: held_out(outcomes, voting, "oracle", seed),
        "best": lambda seed: own(outcomes, everything),
        "best, majority only": lambda seed: own(outcomes, voting),
    }
    sixteen = next(i for i, c in enumerate(outcomes.configurations) if c.samples == LEVEL_N and voting[i])
    level = outcomes.by_problem(outcomes.accuracy[:, sixteen])
    tokens = float(outcomes.cost[:, sixteen].mean())
    found = {name: figures(run, level, resamples) for name, run in ways.items()}
    if args.json:
        print(json.dumps({"level": level.mean(), "level_tokens": tokens, "budget_tokens": BUDGET, "ways": found}))
        return
    print(f"majority over {LEVEL_N}: {level.mean():.3f} at {tokens:.0f} tokens")
    print(f"{'':26}{'tokens at that accuracy':>28}   accuracy at {BUDGET:.0f} tokens, difference")
    for name, f in found.items():
        low, high, at = ("never" if x is None else f"{x:.0f}" for x in (*f["tokens_ci"], f["tokens_at_level"]))
        less, more = f["difference_from_level_ci"]
        accuracy = f"{f['accuracy_at_budget']:.3f} [{less:+.3f}, {more:+.3f}]"
        print(f"{name:26}{f'{at} [{low}, {high}]':>28}   {accuracy}")


if __name__ == "__main__":
    main()
