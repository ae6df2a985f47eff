"""Replay against enumeration, against the strategies themselves, and against figures measured elsewhere."""

from __future__ import annotations

import gzip
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from planner.profiling.replay import Draws, best_of_k, draw_orders, pass_at_k, replay_adaptive, replay_votes
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


@pytest.mark.parametrize("seed", range(4))
def test_closed_forms_equal_enumeration(seed: int) -> None:
    draws = random_draws(seed)

    def best(p: int, s: list[int]) -> float:
        pool = [i for i in s if draws.finished[p, i]] or s
        top = max(draws.scores["last"][p, i] for i in pool)
        return float(np.mean([draws.correct[p, i] for i in pool if draws.scores["last"][p, i] == top]))

    ks = list(range(1, 8))
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


def test_adaptive_equals_the_strategy_on_the_same_order() -> None:
    draws = random_draws(5, problems=6, n=8)
    orders = draw_orders(draws, 40, seed=3)
    spec = AdaptiveMajority(max_n=5, threshold=0.8, batch=2)
    ((estimate, drawn),) = replay_adaptive(draws, orders, [(5, 0.8, 2)])
    for p in range(6):
        values = []
        for r in range(40):
            seen: list[int] = []
            while len(seen) < 5 and not spec.stops(Counter(str(c) for c in seen if c >= 0)):
                count = min(2, 5 - len(seen))
                seen += [int(c) for c in draws.codes[p, orders.index[r, p, len(seen) : len(seen) + count]]]
            assert drawn[r, p] == len(seen)
            votes = Counter(c for c in seen if c >= 0)
            top = [c for c in votes if votes[c] == max(votes.values())]
            values.append(np.mean([draws.correct[p][draws.codes[p] == c].max() for c in top]) if top else 0.0)
        assert estimate.accuracy[p, 0] == pytest.approx(np.mean(values))


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
    found = replay_votes(draws, draw_orders(draws, 2000, seed=0), [2, 4, 8])
    assert np.abs(found.accuracy.mean(0) - [0.9100, 0.9201, 0.9250]).max() <= 0.002
