"""Replay of recorded samples: every N of every selection rule, against a plain Python loop in the same run.

    python benchmarks/replay.py [--json]

500 problems x 256 samples, all N in 1..256, the 8 rules of best-of-N (4 aggregations x {max, vote}), 200 random orders,
by the functions that `planner fit` calls. `seconds` is everything from arrays of scores to curves, the best of
--repeats.

The loop is what one writes first: for every problem, order, rule and N, take the order's first N samples and ask the
strategies' own `select` which answer that is. It is timed on --loop-orders orders of --loop-problems problems at every
N and rule and scaled up to the whole (`python_seconds`). `ratio_to_running_tallies` is held against the cleverest plain
loop instead, which keeps running tallies and so looks at each sample once.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from planner.core import Candidate
from planner.profiling.replay import Draws, best_of_k, draw_orders, replay_votes
from planner.strategies.scoring import AGGREGATIONS, SELECTIONS, select


def recorded(problems: int, samples: int, seed: int = 0) -> Draws:
    """Samples as a model gives them: a few answers that come often, many that come once, one in twenty without any."""
    rng = np.random.default_rng(seed)
    shape = (problems, samples)
    right = rng.random(shape) < rng.beta(0.6, 0.6, problems)[:, None]
    codes = np.where(right, 0, np.minimum(rng.zipf(1.6, shape), 40))
    codes[rng.random(shape) < 0.05] = -1
    for row in codes:  # numbered by first appearance, as a bank's answers are
        _, first, place = np.unique(row[row >= 0], return_index=True, return_inverse=True)
        row[row >= 0] = np.argsort(np.argsort(first))[place]
    level = 0.4 + 0.25 * right
    scores = {a: np.clip(level + rng.normal(0, 0.2, shape), 0.001, 0.999) for a in AGGREGATIONS}
    return Draws(
        present=np.ones(shape, dtype=bool), correct=(right & (codes >= 0)).astype(float), codes=codes,
        finished=codes >= 0, scores=scores,
    )  # fmt: skip


def replay(draws: Draws, orders: int) -> dict[str, np.ndarray]:
    """Mean accuracy at every N for each rule."""
    ks = range(1, draws.present.shape[1] + 1)
    drawn = draw_orders(draws, orders, seed=0)
    curves = {}
    for aggregation in AGGREGATIONS:
        curves[f"{aggregation} max"] = best_of_k(draws, aggregation, ks).mean(axis=0)
        curves[f"{aggregation} vote"] = replay_votes(draws, drawn, ks, aggregation).accuracy.mean(axis=0)
    return curves


def plain_loop(draws: Draws, problems: int, orders: int) -> dict[str, np.ndarray]:
    """The same curves for the first problems: one selection for each order, rule and N."""
    index = draw_orders(draws, orders, seed=0).index.tolist()
    n = draws.present.shape[1]
    curves = {}
    for aggregation in AGGREGATIONS:
        for selection in SELECTIONS:
            right = [0.0] * n
            for p in range(problems):
                codes, finished = draws.codes[p].tolist(), draws.finished[p].tolist()
                scores, correct = draws.scores[aggregation][p].tolist(), draws.correct[p].tolist()
                label = {str(c): y for c, y in zip(codes, correct, strict=True) if c >= 0}
                found = [
                    Candidate(text="", answer=None, key=str(c) if c >= 0 else None, finished=f, scores=(s,))
                    for c, f, s in zip(codes, finished, scores, strict=True)
                ]
                for order in range(orders):
                    drawn = [found[slot] for slot in index[order][p]]
                    for k in range(1, n + 1):
                        best = select(drawn[:k], aggregation, selection)
                        right[k - 1] += label[best.key] if best is not None and best.key is not None else 0.0
            curves[f"{aggregation} {selection}"] = np.array(right) / (problems * orders)
    return curves


def running_tallies(draws: Draws, problems: int, orders: int) -> None:
    """One pass over each order for each rule, keeping the leader."""
    index = draw_orders(draws, orders, seed=0).index.tolist()
    for aggregation in AGGREGATIONS:
        for selection in SELECTIONS:
            right = [0.0] * draws.present.shape[1]
            for p in range(problems):
                codes, scores = draws.codes[p].tolist(), draws.scores[aggregation][p].tolist()
                correct = draws.correct[p].tolist()
                for order in range(orders):
                    tally: dict[int, float] = {}
                    best, value = -1.0, 0.0
                    for k, slot in enumerate(index[order][p]):
                        code, score = codes[slot], scores[slot]
                        if code >= 0:
                            if selection == "vote":
                                score = tally[code] = tally.get(code, 0.0) + score
                            if score > best:
                                best, value = score, correct[slot]
                        right[k] += value


def seconds_of(function, *arguments) -> tuple[float, object]:  # type: ignore[no-untyped-def]
    started = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - started, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loop-problems", type=int, default=3)
    parser.add_argument("--loop-orders", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    draws = recorded(args.problems, args.samples)
    replay(recorded(8, 16), 4)  # imports and first calls
    runs = []
    for _ in range(args.repeats):
        busy = time.process_time()
        wall, curves = seconds_of(replay, draws, args.orders)
        runs.append((wall, time.process_time() - busy, curves))
    seconds, cpu, curves = min(runs, key=lambda run: run[0])
    scale = args.problems * args.orders / (args.loop_problems * args.loop_orders)
    loop, _ = seconds_of(plain_loop, draws, args.loop_problems, args.loop_orders)
    tallies, _ = seconds_of(running_tallies, draws, args.loop_problems, args.loop_orders * 20)
    result = {
        "problems": args.problems, "samples": args.samples, "orders": args.orders, "rules": len(curves),
        "seconds": seconds, "cpu_seconds": cpu, "python_seconds": loop * scale,
        "ratio_to_python": loop * scale / seconds, "ratio_to_running_tallies": tallies * scale / 20 / seconds,
        "loop_measured": {"problems": args.loop_problems, "orders": args.loop_orders, "seconds": loop},
    }  # fmt: skip
    if args.json:
        print(json.dumps(result))
        return
    print(f"{args.problems} problems x {args.samples} samples, {len(curves)} rules at every N, {args.orders} orders")
    print(f"replay       {seconds:8.2f} s ({cpu:.2f} s of processor time)")
    print(f"plain Python {result['python_seconds']:8.0f} s, scaled up: {result['ratio_to_python']:.0f} times as long")
    print(f"             {result['ratio_to_running_tallies']:.0f} times with running tallies")


if __name__ == "__main__":
    main()
