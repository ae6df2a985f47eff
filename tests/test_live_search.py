"""A search runs live strategies on demand: what it makes is made once, stays in the bank, and keeps to its cap."""

import json
from pathlib import Path

import numpy as np
import pytest
from scripted import ScriptedEngine, ScriptedVerifier, drawn, judged

from planner.core import GenerationRequest, Problem, ScoreRequest
from planner.errors import InputError
from planner.models.memo import RememberingEngine, RememberingVerifier
from planner.policy.live_search import EFFORTS, search_recipe
from planner.policy.search import open_storage, search
from planner.policy.space import Space
from planner.profiling.bank import Bank
from planner.profiling.columns import Configuration
from planner.profiling.live import LiveRuns
from planner.profiling.run import profile
from planner.profiling.work import Makers
from planner.runtime.driver import run_flow
from planner.strategies import BeamSearch
from planner.tasks.task import load_task

RECIPE = """
[task]
name = "problems.jsonl"
step_separator = "\\n"
max_tokens = 64

[[policy_models]]
engine = "test:small"
name = "small"

[[policy_models]]
engine = "test:large"
name = "large"

[verifier]
engine = "test:prm"

[samples]
temperatures = [0.7]
count = 4
difficulty_count = 3

[[runs]]
strategy = ["beam_search"]
n = [2, 4, 8]
expansions = 2
temperature = [0.4, 0.8]
max_steps = 4
max_step_tokens = 32
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rows = [{"problem_id": f"p{i}", "prompt": f"problem {i}", "answer": str(1 + i % 2)} for i in range(30)]
    (tmp_path / "problems.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "recipe.toml").write_text(RECIPE.replace('["beam_search"]', '"beam_search"'))
    return tmp_path / "recipe.toml"


def makers():
    return {name: ScriptedEngine(drawn, name=name) for name in ("small", "large")}, ScriptedVerifier(judged)


def test_a_remembering_engine_asks_once_and_answers_the_same():
    requests = [GenerationRequest(prompt=f"What {i % 3}?", index=i % 2) for i in range(12)]
    plain, inner = ScriptedEngine(drawn), ScriptedEngine(drawn)
    engine = RememberingEngine(inner)
    expected = plain.generate(requests)
    for _ in range(2):
        assert [c.text for c in engine.generate(requests)] == [c.text for c in expected]
    assert sum(map(len, inner.batches)) == 6
    assert engine.fresh_tokens == inner.generated_tokens > 0
    verifier, asked = RememberingVerifier(ScriptedVerifier(judged)), [ScoreRequest(prompt="p", steps=("a", "b"))] * 3
    first, *others = verifier.score(asked)
    assert first.computed_tokens > 0
    assert [o.computed_tokens for o in others] == [0, 0]
    assert all(o.scores == first.scores for o in others)


def test_remembered_runs_are_metered_as_if_they_were_alone():
    spec = BeamSearch(n=4, expansions=2, max_steps=4, max_step_tokens=32)
    task_engine, verifier = ScriptedEngine(drawn), ScriptedVerifier(judged)
    problem = Problem(problem_id="a", prompt="What 1?", step_separator="\n", max_tokens=60)
    alone = run_flow(problem, spec, {"m": task_engine}, verifier, default_policy_model="m")
    shared = {"m": RememberingEngine(ScriptedEngine(drawn))}
    remembering = RememberingVerifier(ScriptedVerifier(judged))
    for _ in range(2):
        again = run_flow(problem, spec, shared, remembering, default_policy_model="m")
        assert again.answer == alone.answer
        assert again.cost == alone.cost
        assert again.usage.generated_tokens == alone.usage.generated_tokens


def test_live_runs_are_made_once_and_kept(recipe: Path, tmp_path: Path):
    engines, verifier = makers()
    profile(recipe, tmp_path / "bank", engines=engines, verifier=verifier)
    bank = Bank.open(tmp_path / "bank")
    task = load_task(str(recipe.parent / "problems.jsonl"), step_separator="\n", max_tokens=64)
    fresh, verifier = makers()
    runs = LiveRuns.open(Makers(engines=fresh, verifier=verifier, task=task, max_batch=64), bank)
    known = BeamSearch(n=2, expansions=2, max_steps=4, max_step_tokens=32, temperature=0.4)
    recorded = runs.run([(known, "small", problem) for problem in task.problems])
    assert runs.generated_tokens == 0, "the bank holds these runs"
    new = BeamSearch(n=6, expansions=2, max_steps=4, max_step_tokens=32, temperature=0.4)
    before = len(bank.runs)
    made = runs.run([(new, "small", problem) for problem in task.problems[:5]])
    tokens = runs.generated_tokens
    assert tokens > 0
    assert len(Bank.open(tmp_path / "bank").runs) == before + 5
    assert runs.run([(new, "small", problem) for problem in task.problems[:5]]) == made
    assert runs.generated_tokens == tokens
    assert runs.mean_tokens(new, "small") == pytest.approx(tokens / 5)
    assert {o.correct for o in recorded} == {True, False}
    assert all(o.cost > 0 for o in made)


@pytest.mark.parametrize("auto", ["light", "heavy"])
def test_a_search_keeps_to_its_cap_and_reuses_its_runs(recipe: Path, tmp_path: Path, auto: str):
    engines, verifier = makers()
    seen: list[tuple[int, int, str]] = []
    storage = f"journal:{tmp_path / 'study.log'}"
    report = search_recipe(
        recipe, tmp_path / "bank", auto=auto, storage=storage, trials=20, engines=engines, verifier=verifier,
        progress=lambda *row: seen.append(row),
    )  # fmt: skip
    e = report.estimate
    assert e.configurations == 12
    assert e.problems == 30
    assert e.cap_tokens == round(EFFORTS[auto] * e.exhaustive_tokens) > 0
    # What runs will take is expected, not known.
    assert 0 < report.generated_tokens <= 1.05 * e.cap_tokens
    assert seen[-1][1] == e.cap_tokens
    assert "front" in seen[-1][2]
    assert report.live_front
    assert report.front
    costs = [point.cost for point in report.front]
    assert costs == sorted(costs)
    again = search_recipe(
        recipe, tmp_path / "bank", auto=auto, trials=20, engines=makers()[0], verifier=verifier
    )  # fmt: skip
    # The cap is on all searches of a bank together; the second one goes on with what the first left of it.
    assert report.generated_tokens + again.generated_tokens <= 1.05 * e.cap_tokens
    assert sum(p.runs for p in again.live_front) >= sum(p.runs for p in report.live_front)
    from optuna import load_study
    from optuna.trial import TrialState

    study = load_study(study_name="live", storage=open_storage(storage))
    states = {trial.state for trial in study.trials}
    assert states <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len({trial.user_attrs["configuration"] for trial in study.trials}) == len(study.trials)


def test_a_dry_run_estimates_and_writes_nothing(recipe: Path, tmp_path: Path):
    engines, verifier = makers()
    report = search_recipe(recipe, tmp_path / "bank", dry_run=True, engines=engines, verifier=verifier)
    assert report.estimate.cap_tokens > 0
    assert report.generated_tokens == 0
    assert not (tmp_path / "bank").exists()
    with pytest.raises(InputError, match="light or medium or heavy"):
        search_recipe(recipe, tmp_path / "bank", auto="enormous", engines=engines, verifier=verifier)


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_study_in_a_storage_is_gone_on_with(tmp_path: Path, kind: str):
    configurations = [
        Configuration(strategy="majority", hyperparameters={"n": n, "temperature": t}, policy_model="m")
        for n in range(1, 21)
        for t in (0.4, 0.6, 0.8)
    ]
    accuracy = np.array([c.hyperparameters["n"] / 20 - 0.1 * c.hyperparameters["temperature"] for c in configurations])
    cost = np.array([100.0 * c.hyperparameters["n"] for c in configurations])
    storage = f"sqlite:///{tmp_path / 's.db'}" if kind == "sqlite" else f"journal:{tmp_path / 's.log'}"
    space = Space(configurations, range(len(configurations)))
    first = search(space, accuracy, cost, trials=4, seed=0, storage=storage)
    again = search(space, accuracy, cost, trials=4, seed=1, storage=storage)
    assert again == first, "its trials are there already"
    more = search(space, accuracy, cost, trials=9, seed=1, storage=storage)
    assert more[: len(first)] == first
    assert len(more) > len(first)
    for member in range(len(configurations)):
        values = space.parameters(member)
        assert space._walk(lambda name, choices, depth, values=values: values[name]) == member


def test_other_storages_are_refused():
    with pytest.raises(InputError, match="journal:FILE"):
        open_storage("studies.db")
