"""What replay says of recorded samples is what a live run does on the same draws."""

import itertools

import numpy as np
import pytest
from scripted import ScriptedEngine, ScriptedVerifier, drawn, judged

from planner.core import GenerationRequest, Problem, Sampling, ScoreRequest, split_steps
from planner.profiling.along import selected
from planner.profiling.arbitration import Arbitration, undecided
from planner.profiling.improving import confident_votes, expected_gains, improving_stops
from planner.profiling.replay import Draws, Orders, best_of_k, replay_dirichlet, replay_votes
from planner.profiling.stopping import StopRule, VotePaths
from planner.runtime.driver import Job, run_flows
from planner.strategies import (
    REGISTRY,
    AdaptiveBestOfN,
    AdaptiveMajority,
    ArbitratedMajority,
    BestOfN,
    ConfidenceVote,
    Majority,
    OddsVote,
)
from planner.strategies.improvement import expected_gain
from planner.strategies.scoring import AGGREGATIONS, aggregate, candidate

N = 12
PROBLEMS = [Problem(problem_id=str(i), prompt=f"What {i}?", step_separator="\n", max_tokens=60) for i in range(60)]


def logprob_of(text):
    return -(sum(map(ord, text)) % 17) / 10


def record():
    """N samples of each problem as a bank keeps them; "1" is right. The one order is that of the indices."""
    engine, verifier = ScriptedEngine(drawn), ScriptedVerifier(judged)
    shape = (len(PROBLEMS), N)
    codes, finished = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=bool)
    lengths, logprobs = np.zeros(shape), np.zeros(shape)
    scores = {a: np.full(shape, np.nan) for a in AGGREGATIONS}
    for p, problem in enumerate(PROBLEMS):
        sampling = Sampling(max_tokens=problem.max_tokens)
        requests = [GenerationRequest(prompt=problem.prompt, sampling=sampling, index=i) for i in range(N)]
        for i, made in enumerate(engine.generate(requests)):
            found, steps = candidate(made), split_steps(made.text, "\n")
            codes[p, i] = -1 if found.key is None else int(found.key)
            finished[p, i], lengths[p, i] = found.finished, made.generated_tokens
            logprobs[p, i] = logprob_of(made.text)
            if found.finished and steps:
                (scored,) = verifier.score([ScoreRequest(prompt=problem.prompt, steps=steps)])
                for a in AGGREGATIONS:
                    scores[a][p, i] = aggregate(scored.scores, a)
    draws = Draws(
        present=np.ones(shape, dtype=bool),
        correct=(codes == 1).astype(float),
        codes=codes,
        finished=finished,
        scores=scores,
    )
    places = np.broadcast_to(np.arange(N), shape)
    return draws, Orders(permutations=np.arange(N)[None], places=places, counts=draws.counts), lengths, logprobs


DRAWS, ORDERS, LENGTHS, LOGPROBS = record()


def runs_of(spec):
    jobs = [Job(problem, spec) for problem in PROBLEMS]
    return run_flows(jobs, {"m": ScriptedEngine(drawn)}, ScriptedVerifier(judged), default_policy_model="m")


def live(spec):
    runs = runs_of(spec)
    return np.array([float(run.answer.answer == "1") for run in runs]), [run.usage.requests for run in runs]


def agree(replayed, right):
    """Equal wherever nothing ties; a tie's share lies between, and few problems tie."""
    sure = np.isclose(replayed, 0) | np.isclose(replayed, 1)
    assert sure.mean() > 0.4
    assert np.array_equal(replayed[sure].round(), right[sure])
    assert 0 < right.mean() < 1


@pytest.mark.parametrize("n", [1, 2, 5, N])
def test_majority(n):
    agree(replay_votes(DRAWS, ORDERS, [n]).accuracy[:, 0] if n > 1 else DRAWS.correct[:, 0], live(Majority(n=n))[0])


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_best_of_n(aggregation):
    plain = live(BestOfN(n=N, aggregation=aggregation, selection="max"))[0]
    agree(best_of_k(DRAWS, aggregation, [N])[:, 0], plain)
    for n in (2, 5, N):
        by_score = BestOfN(n=n, aggregation=aggregation, selection="vote")
        for selection, spec in (("vote", by_score), ("odds", OddsVote(n=n, aggregation=aggregation))):
            weighted = live(spec)[0]
            replayed = replay_votes(DRAWS, ORDERS, [n], aggregation, selection).accuracy[:, 0]
            # Where nobody votes a live run still answers, by score; that answer has no key and is not right.
            agree(replayed, weighted)


@pytest.mark.parametrize("posterior", ["beta", "dirichlet"])
@pytest.mark.parametrize(("max_n", "threshold", "batch"), list(itertools.product([3, 8, N], [0.7, 0.9], [1, 2, 5])))
def test_adaptive_majority(max_n, threshold, batch, posterior):
    spec = AdaptiveMajority(max_n=max_n, threshold=threshold, batch=batch, posterior=posterior)
    if posterior == "beta":
        paths = VotePaths.of(DRAWS, ORDERS, np.ones(DRAWS.codes.shape))
        ((estimate, spent),) = paths.replay(StopRule(threshold=threshold, batch=batch), [max_n])
    else:
        ((estimate, spent),) = replay_dirichlet(DRAWS, ORDERS, [(max_n, threshold, batch)])
    right, requests = live(spec)
    assert spent[0].tolist() == requests
    agree(estimate.accuracy[:, 0], right)


@pytest.mark.parametrize(
    ("max_n", "threshold", "answers", "readings", "limit"),
    [(6, 0.8, 2, 1, None), (N, 0.9, 2, 1, None), (N, 0.99, 3, 2, None), (7, 0.95, 8, 12, None), (N, 0.99, 2, 2, 14)],
)
def test_arbitrated_majority(max_n, threshold, answers, readings, limit):
    fields = {"threshold": threshold, "batch": 2, "give_up_tokens": limit}
    paths = VotePaths.of(DRAWS, ORDERS, LENGTHS)
    drawn, open_ = undecided(paths, StopRule(**fields), max_n)
    counted = Arbitration.of(DRAWS, ORDERS, max_n)
    read = counted.read(answers, readings)
    ones = np.ones(DRAWS.codes.shape)
    reading = np.where(open_, counted.spent(read, ones, np.zeros(len(PROBLEMS))), 0)[0]
    for aggregation in AGGREGATIONS:
        spec = ArbitratedMajority(max_n=max_n, answers=answers, readings=readings, aggregation=aggregation, **fields)
        runs = runs_of(spec)
        assert drawn[0].tolist() == [len(run.answer.candidates) for run in runs]
        assert reading.tolist() == [sum(c.scores is not None for c in run.answer.candidates) for run in runs]
        chosen = counted.value(read, aggregation)[0]
        decided = (reading > 0) & ~np.isnan(chosen)
        right = np.array([float(run.answer.answer == "1") for run in runs])
        assert np.array_equal(chosen[decided], right[decided])
        agree(np.where(decided, chosen, paths.value[drawn[0] - 1, 0, np.arange(len(PROBLEMS))]), right)
    assert 0 < (reading > 0).mean() < 1
    assert reading.max() <= min(answers * readings, max_n)


def test_reading_all_of_all_answers_is_the_vote_by_odds():
    # A vote that nothing settles and that is read whole: votes times mean odds is the sum of odds.
    counted = Arbitration.of(DRAWS, ORDERS, N)
    read = counted.read(answers=N, readings=N)
    for aggregation in AGGREGATIONS:
        contested = read.any(axis=2)[0]
        assert contested.mean() > 0.5
        replayed = replay_votes(DRAWS, ORDERS, [N], aggregation, "odds").accuracy[:, 0]
        agree(replayed[contested], counted.value(read, aggregation)[0][contested])


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize(("max_n", "min_gain", "batch"), [(6, 0.05, 2), (N, 0.03, 2), (N, 0.04, 5), (7, 0.02, 3)])
def test_adaptive_best_of_n(max_n, min_gain, batch, aggregation):
    fields = {"max_n": max_n, "min_gain": min_gain, "batch": batch, "aggregation": aggregation}
    runs = runs_of(AdaptiveBestOfN(**fields))
    drawn = improving_stops(DRAWS, ORDERS, fields)[0]
    assert drawn.tolist() == [len(run.answer.candidates) for run in runs]
    best = selected(DRAWS, ORDERS.index, aggregation, "max")[drawn - 1, 0, np.arange(len(PROBLEMS))]
    right = np.array([float(run.answer.answer == "1") for run in runs])
    assert np.array_equal(best, right)
    assert len(set(drawn.tolist())) > 1 or min_gain == 0.02


def test_expected_gains_are_those_of_each_beginning():
    scores = np.array([0.2, np.nan, 0.9, 0.9, 0.4])
    gains = expected_gains(scores)
    assert gains == pytest.approx([expected_gain([s for s in scores[: k + 1] if s == s]) for k in range(5)], abs=1e-9)
    assert np.isinf(expected_gains(np.array([np.nan]))[0])


def test_confidence_votes():
    for quantile, weighted, threshold in itertools.product((0.0, 0.4), (True, False), (None, 0.6)):
        fields = {"n": N, "quantile": quantile, "weighted": weighted, "threshold": threshold, "batch": 4}
        for known in (True, False):
            engine = ScriptedEngine(drawn, logprob=logprob_of) if known else ScriptedEngine(drawn)
            jobs = [Job(problem, ConfidenceVote(**fields)) for problem in PROBLEMS]
            runs = run_flows(jobs, {"m": engine}, None, default_policy_model="m")
            recorded = LOGPROBS if known else np.full(LOGPROBS.shape, np.nan)
            count, value = confident_votes(DRAWS, ORDERS, recorded, fields)
            assert count[0].tolist() == [run.usage.requests for run in runs]
            right = np.array([float(run.answer.answer == "1") for run in runs])
            assert np.mean(value[0] == right) > 0.98  # sums in another order may break a tie otherwise
            assert 0 < right.mean() < 1


def test_every_replayable_strategy_is_compared_here():
    assert [name for name, kind in REGISTRY.items() if kind.replayable] == [
        "greedy", "majority", "best_of_n", "odds_vote", "adaptive_majority", "arbitrated_majority",
    ]  # fmt: skip
