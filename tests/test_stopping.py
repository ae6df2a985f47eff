"""Rules that end a vote early: replay says what a live run does, and giving up saves where answers ramble."""

import numpy as np
import pytest
from scripted import ScriptedEngine, drawn

from planner.core import GenerationRequest, Problem, Sampling
from planner.errors import InputError
from planner.profiling.replay import Draws, draw_orders
from planner.profiling.stopping import StopRule, VotePaths
from planner.runtime.driver import Job, run_flows
from planner.strategies import AdaptiveMajority, from_dict, to_dict
from planner.strategies.scoring import candidate


def votes(problems=60, n=20, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.where(rng.random((problems, n)) < 0.15, -1, rng.zipf(1.7, (problems, n)).clip(max=9) - 1)
    right = rng.integers(0, 3, problems)
    counts = rng.integers(n // 2, n + 1, problems)
    return Draws(
        present=np.arange(n)[None] < counts[:, None],
        correct=(codes == right[:, None]).astype(float),
        codes=codes,
        finished=(codes >= 0) | (rng.random((problems, n)) < 0.5),
    )


def test_unlabelled_answers_leave_a_problem_unknown():
    draws = votes()
    draws.correct[0, 0] = np.nan
    ((estimate, _),) = VotePaths.of(draws, draw_orders(draws, 4, 0), np.ones(draws.codes.shape)).replay(
        StopRule(threshold=0.9), [4]
    )
    known = (draws.codes[0, 0] < 0) or not draws.finished[0, 0]
    assert np.isnan(estimate.accuracy[0, 0]) != known
    assert not np.isnan(estimate.accuracy[1:][draws.counts[1:] >= 4]).any()


@pytest.mark.parametrize(("limit", "min_n"), [(10, None), (12, 4), (15, 3), (None, 6)])
def test_replay_is_what_a_live_run_does(limit, min_n):
    problems = [Problem(problem_id=str(i), prompt=f"What {i}?", step_separator="\n", max_tokens=60) for i in range(60)]
    n, engine = 12, ScriptedEngine(drawn)
    codes, lengths = np.full((60, n), -1), np.zeros((60, n))
    finished = np.zeros((60, n), bool)
    for p, problem in enumerate(problems):
        requests = [
            GenerationRequest(prompt=problem.prompt, sampling=Sampling(max_tokens=60), index=i) for i in range(n)
        ]
        for i, made in enumerate(engine.generate(requests)):
            found = candidate(made)
            codes[p, i] = -1 if found.key is None else int(found.key)
            finished[p, i], lengths[p, i] = found.finished, made.generated_tokens
    draws = Draws(
        present=np.ones((60, n), bool), correct=(codes == 1).astype(float), codes=codes, finished=finished
    )  # fmt: skip
    orders = draw_orders(draws, 1, seed=0)
    # The one order is that of the indices, which a live run draws in.
    back = np.argsort(orders.index[0], axis=1)
    shuffled = Draws(
        present=draws.present, correct=np.take_along_axis(draws.correct, back, 1),
        codes=np.take_along_axis(codes, back, 1), finished=np.take_along_axis(finished, back, 1),
    )  # fmt: skip
    paths = VotePaths.of(shuffled, orders, np.take_along_axis(lengths, back, 1))
    ((_, ends),) = paths.replay(StopRule(threshold=0.9, batch=2, give_up_tokens=limit, min_n=min_n), [n])
    spec = AdaptiveMajority(max_n=n, threshold=0.9, batch=2, give_up_tokens=limit, min_n=min_n)
    runs = run_flows([Job(p, spec) for p in problems], {"m": ScriptedEngine(drawn)}, None, default_policy_model="m")
    assert [run.usage.requests for run in runs] == ends[0].tolist()
    assert len(set(ends[0].tolist())) > 1
    assert min(ends[0]) >= (min_n or 2)


def test_giving_up_saves_on_long_answers_only():
    draws = votes(problems=40)
    long = np.arange(40) < 20
    lengths = np.where(long[:, None], 900.0, 300.0) * np.ones(draws.codes.shape)
    paths = VotePaths.of(draws, draw_orders(draws, 8, 0), lengths)
    without, with_ = (
        next(paths.replay(StopRule(threshold=0.95, give_up_tokens=limit, min_n=4), [10]))[1] for limit in (None, 600)
    )
    assert (with_[:, long] == 4).all()
    assert np.array_equal(with_[:, ~long], without[:, ~long])
    assert without[:, long].mean() > 4


def test_what_is_off_is_not_named_and_contradictions_are_refused():
    plain = AdaptiveMajority(max_n=8)
    assert not {"give_up_tokens", "min_n"} & set(to_dict(plain)["hyperparameters"])
    spec = AdaptiveMajority(max_n=8, give_up_tokens=700, min_n=4)
    assert from_dict(to_dict(spec)) == spec
    assert StopRule(threshold=0.8, min_n=4).fields == {"threshold": 0.8, "batch": 2, "min_n": 4}
    with pytest.raises(InputError, match="at most max_n = 8"):
        AdaptiveMajority(max_n=8, min_n=9)
    with pytest.raises(InputError, match="give_up_tokens"):
        AdaptiveMajority(max_n=8, give_up_tokens=0)
