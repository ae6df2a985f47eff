"""Replay against enumeration, against the strategies themselves, and against figures measured elsewhere."""

from __future__ import annotations

import gzip
import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from planner.profiling.replay import Draws, Orders, best_of_k, draw_orders, pass_at_k, replay_dirichlet, replay_votes
from planner.profiling.stopping import StopRule, VotePaths
from planner.strategies.stopping import AdaptiveMajority

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def random_draws(seed: int, problems: int = 5, n: int = 7, ties: bool = True) -> Draws:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1, 3, (problems, n))
    finished = codes >= 0
    finished |= rng.random((problems, n)) < 0.5
    right = rng.integers(0, 3, problems)
    score = rng.integers(0, 4, (problems, n)) / 4 if ties else rng.random((problems, n))
    present = np.ones((problems, n), dtype=bool)
    present[0, 5:] = False
    return Draws(
        present=present,
        correct=(codes == right[:, None]).astype(float),
        codes=codes,
        finished=finished,
        scores={"last": score},
    )


def brute(draws: Draws, problem: int, k: int, value) -> float:
    slots = np.flatnonzero(draws.present[problem])
    return float(np.mean([value(problem, list(s)) for s in itertools.combinations(slots, k)]))


@pytest.mark.parametrize("n", [1, 4, 7, 10])
@pytest.mark.parametrize("seed", range(3))
def test_closed_forms_equal_enumeration(seed: int, n: int) -> None:
    draws = random_draws(seed, n=n)

    def best(p: int, s: list[int]) -> float:
        pool = [i for i in s if draws.finished[p, i]] or s
        top = max(draws.scores["last"][p, i] for i in pool)
        return float(np.mean([draws.correct[p, i] for i in pool if draws.scores["last"][p, i] == top]))

    ks = list(range(1, n + 1))
    exact = best_of_k(draws, "last", ks)
    # Slots that are not present carry no correctness.
    held = np.where(draws.present, draws.correct, 0).sum(1).astype(int)
    passing = pass_at_k(held, draws.counts, ks)
    for p, k in itertools.product(range(5), ks):
        if k > draws.counts[p]:
            assert np.isnan(exact[p, k - 1])
            assert np.isnan(passing[p, k - 1])
            continue
        assert exact[p, k - 1] == pytest.approx(brute(draws, p, k, best), abs=1e-12)
        assert passing[p, k - 1] == pytest.approx(
            brute(draws, p, k, lambda q, s: float(draws.correct[q, s].max())), abs=1e-12
        )


@pytest.mark.parametrize("aggregation", [None, "last"])
def test_votes_are_within_three_standard_errors_of_enumeration(aggregation: str | None) -> None:
    draws = random_draws(11, ties=False)

    def vote(p: int, s: list[int]) -> float:
        tally: Counter[int] = Counter()
        for i in s:
            if draws.codes[p, i] >= 0:
                tally[int(draws.codes[p, i])] += 1 if aggregation is None else draws.scores["last"][p, i]
        if not tally:
            return 0.0
        top = [c for c in tally if tally[c] == max(tally.values())]
        return float(np.mean([draws.correct[p][draws.codes[p] == c].max() for c in top]))

    found = replay_votes(draws, draw_orders(draws, 20_000, seed=1), range(1, 8), aggregation)
    for p, k in itertools.product(range(5), range(1, 8)):
        if k <= draws.counts[p]:
            error = 3 * found.standard_error[p, k - 1] + 1e-9
            assert abs(found.accuracy[p, k - 1] - brute(draws, p, k, vote)) <= error


@pytest.mark.parametrize("posterior", ["beta", "dirichlet"])
@pytest.mark.parametrize(("threshold", "batch"), [(0.6, 1), (0.8, 2), (0.95, 3)])
def test_adaptive_equals_the_strategy_on_the_same_order(posterior: str, threshold: float, batch: int) -> None:
    draws = random_draws(5, problems=6, n=8)
    orders = draw_orders(draws, 40, seed=3)
    spec = AdaptiveMajority(max_n=5, threshold=threshold, batch=batch, posterior=posterior)
    if posterior == "beta":
        paths = VotePaths.of(draws, orders, np.ones(draws.codes.shape))
        ((estimate, drawn),) = paths.replay(StopRule(threshold=threshold, batch=batch), [5])
    else:
        ((estimate, drawn),) = replay_dirichlet(draws, orders, [(5, threshold, batch)])
    for p in range(6):
        values = []
        for r in range(40):
            seen: list[int] = []
            while len(seen) < 5 and not spec.stops(Counter(str(c) for c in seen if c >= 0)):
                count = min(batch, 5 - len(seen))
                seen += [int(c) for c in draws.codes[p, orders.index[r, p, len(seen) : len(seen) + count]]]
            assert drawn[r, p] == len(seen)
            votes = Counter(c for c in seen if c >= 0)
            top = [c for c in votes if votes[c] == max(votes.values())]
            values.append(np.mean([draws.correct[p][draws.codes[p] == c].max() for c in top]) if top else 0.0)
        assert estimate.accuracy[p, 0] == pytest.approx(np.mean(values))


def test_adaptive_is_within_three_standard_errors_of_all_orders() -> None:
    draws = random_draws(8, problems=6, n=6)
    draws.present[:] = True
    every = Orders(
        permutations=np.array(list(itertools.permutations(range(6)))), places=np.tile(np.arange(6), (6, 1)),
        counts=draws.counts,
    )  # fmt: skip
    rules = [(6, 0.8, 1), (5, 0.7, 2), (4, 0.99, 2)]
    exact = replay_dirichlet(draws, every, rules)
    drawn = replay_dirichlet(draws, draw_orders(draws, 4000, seed=2), rules)
    for (truth, all_spent), (found, spent) in zip(exact, drawn, strict=True):
        assert (np.abs(found.accuracy - truth.accuracy) <= 3 * found.standard_error + 1e-9).all()
        error = spent.std(axis=0) / np.sqrt(4000)
        assert (np.abs(spent.mean(axis=0) - all_spent.mean(axis=0)) <= 3.5 * error + 1e-9).all()


def test_a_problem_does_not_depend_on_the_problems_beside_it() -> None:
    """Blocks, shared rows of single answers and ragged counts change nothing."""
    rng = np.random.default_rng(3)
    problems, n = 300, 40
    codes = np.where(rng.random((problems, n)) < rng.random(problems)[:, None], 0, rng.integers(1, 60, (problems, n)))
    codes[rng.random((problems, n)) < 0.1] = -1
    present = np.arange(n) < rng.choice([n, 25, 7], problems)[:, None]
    draws = Draws(
        present=present, correct=(codes == 0).astype(float), codes=codes, finished=codes >= 0,
        scores={"last": rng.integers(0, 5, (problems, n)) / 4},
    )  # fmt: skip
    orders, ks = draw_orders(draws, 7, seed=1), range(1, n + 1)
    for aggregation in (None, "last"):
        whole = replay_votes(draws, orders, ks, aggregation)
        weight = np.ones((problems, n)) if aggregation is None else draws.scores["last"]
        for p in rng.choice(problems, 25, replace=False).tolist():
            value = np.full((7, n), np.nan)
            for r, order in enumerate(orders.index[:, p]):
                tally: dict[int, float] = {}
                for k, slot in enumerate(order[: draws.counts[p]]):
                    if codes[p, slot] >= 0:
                        tally[codes[p, slot]] = tally.get(codes[p, slot], 0.0) + weight[p, slot]
                    top = [c for c in tally if tally[c] == max(tally.values())]
                    value[r, k] = np.mean([c == 0 for c in top]) if top else 0.0
            value[:, 0] = draws.correct[p, present[p]].mean()
            assert whole.accuracy[p] == pytest.approx(value.mean(axis=0), abs=1e-6, nan_ok=True)


def test_more_single_answers_than_a_byte_counts() -> None:
    n = 300
    codes = np.arange(n)[None]
    draws = Draws(
        present=np.ones((1, n), dtype=bool), correct=(codes == 0).astype(float), codes=codes,
        finished=np.ones((1, n), dtype=bool),
    )  # fmt: skip
    # All answers tie with one vote each: whoever is drawn, the right one's share is 1 / n at every k.
    found = replay_votes(draws, draw_orders(draws, 100, seed=0), [1, 100, 200, 300])
    assert found.accuracy[0, 0] == pytest.approx(1 / n)
    assert found.accuracy[0, 3] == pytest.approx(1 / n)
    assert (np.abs(found.accuracy[0] - 1 / n) <= 4 * found.standard_error[0] + 1e-9).all()


def test_curves_follow_a_known_law() -> None:
    """Right with probability p, one wrong answer, score normal around `right`: pass@k, majority@k and best-of-k."""
    rng = np.random.default_rng(0)
    problems, n, p, ks = 4000, 32, 0.45, [1, 2, 3, 4, 8, 16]
    right = rng.random((problems, n)) < p
    draws = Draws(
        present=np.ones((problems, n), dtype=bool), correct=right.astype(float), codes=(~right).astype(np.int64),
        finished=np.ones((problems, n), dtype=bool), scores={"last": rng.normal(right, 1.0)},
    )  # fmt: skip
    x = np.linspace(-8, 9, 20_001)
    phi = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), np.exp(-((x - 1) ** 2) / 2) / np.sqrt(2 * np.pi)
    below = np.cumsum(p * phi[1] + (1 - p) * phi[0]) * (x[1] - x[0])
    votes = draw_orders(draws, 20, seed=0)
    measured = {
        "pass": pass_at_k(right.sum(1), draws.counts, ks), "majority": replay_votes(draws, votes, ks).accuracy,
        "best": best_of_k(draws, "last", ks),
    }  # fmt: skip
    for column, k in enumerate(ks):
        tally = [math.comb(k, c) * p**c * (1 - p) ** (k - c) for c in range(k + 1)]
        law = {
            "pass": 1 - (1 - p) ** k,
            "majority": sum(chance * (1.0 if 2 * c > k else 0.5 if 2 * c == k else 0.0) for c, chance in enumerate(tally)),
            "best": float((k * p * phi[1] * below ** (k - 1)).sum() * (x[1] - x[0])),
        }  # fmt: skip
        for name, values in measured.items():
            error = values[:, column].std(ddof=1) / np.sqrt(problems)
            assert abs(values[:, column].mean() - law[name]) <= 4 * error, (name, k)


def _codes(keys: list[list[str | None]]) -> np.ndarray:
    return np.array([[-1 if k is None else sorted({x for x in row if x}).index(k) for k in row] for row in keys])


def test_recorded_llama_majority() -> None:
    path = DATA / "math100_llama3.1_8b" / "math100_llama3.1-8b_bon44.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    rows = [json.loads(line)["samples"] for line in gzip.decompress(path.read_bytes()).splitlines()]
    codes = _codes([[s["key"] or None for s in row] for row in rows])
    correct = np.array([[float(s["correct"]) for s in row] for row in rows])
    draws = Draws(present=np.ones_like(codes, dtype=bool), correct=correct, codes=codes, finished=codes >= 0)
    found = replay_votes(draws, draw_orders(draws, 200, seed=0), [4, 8, 16, 32, 44]).accuracy.mean(axis=0)
    assert correct.mean() == pytest.approx(0.434, abs=0.003)  # by the file's own labels .432
    assert np.abs(found - [0.510, 0.557, 0.598, 0.624, 0.620]).max() <= 0.005
    assert pass_at_k(correct.sum(1).astype(int), draws.counts, [44]).mean() == pytest.approx(0.89)


def test_recorded_reward_model_is_exact() -> None:
    path = DATA / "qwen2.5_math_rm" / "math_cot_100.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    codes = _codes([[p or None for p in row["pred"]] for row in rows])
    draws = Draws(
        present=np.ones_like(codes, dtype=bool),
        correct=np.array([row["score"] for row in rows], dtype=float),
        codes=codes,
        finished=codes >= 0,
        scores={"last": np.array([row["pred_score"] for row in rows], dtype=float)[:, :, 0]},
    )
    assert np.abs(best_of_k(draws, "last", [2, 4, 8]).mean(0) - [0.9279, 0.9361, 0.9400]).max() <= 5e-4
    found = replay_votes(draws, draw_orders(draws, 20_000, seed=0), [2, 4, 8])
    assert np.abs(found.accuracy.mean(0) - [0.9100, 0.9201, 0.9250]).max() <= 5e-4
    assert pass_at_k(draws.correct.sum(1).astype(int), draws.counts, [8]).mean() == pytest.approx(0.96)
