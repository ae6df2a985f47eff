"""The strategies' contract on the laboratory's models: what tests/test_strategies.py checks on a script, for everything
that is registered."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("reasoning_gym")

import torch
from strategy_specs import small_spec

from planner.core import Outcome, Usage
from planner.models.shipped import load_engine, load_verifier
from planner.runtime.driver import Job, run_flow, run_flows
from planner.strategies import REGISTRY, from_dict, paths_in_flight, to_dict
from planner.strategies.paths import StepSearch
from planner.tasks.answers import extract_answer
from planner.tasks.task import load_task

PROBLEMS = [replace(p, max_tokens=80) for p in load_task("lab", split="profile", count=4).problems]
# Depends on what other flows left in the caches, and on the batch around.
COMPUTED = {"cached_tokens", "computed_prompt_tokens", "computed_scored_tokens"}


class Recorder:
    """Passes everything on, counts it and keeps it."""

    def __init__(self, inner):
        self.inner, self.known, self.batches = inner, {}, []
        self.requests = self.generated = self.computed_prompt = self.computed_scored = 0

    @property
    def info(self):
        return self.inner.info

    def count_tokens(self, *args):
        return self.inner.count_tokens(*args)

    def reset(self):
        self.inner.reset()
        self.known.clear()
        self.batches.clear()
        self.requests = self.generated = self.computed_prompt = self.computed_scored = 0

    def keep(self, requests, results):
        self.requests += len(requests)
        self.batches.append(list(requests))
        for request, result in zip(requests, results, strict=True):
            self.known.setdefault(request, []).append(result)
        return results

    def generate(self, requests):
        made = self.inner.generate(requests)
        self.generated += sum(c.generated_tokens for c in made)
        self.computed_prompt += sum(c.prompt_tokens - c.cached_tokens for c in made)
        return self.keep(requests, made)

    def score(self, requests):
        scored = self.inner.score(requests)
        self.computed_scored += sum(s.computed_tokens for s in scored)
        return self.keep(requests, scored)


class FromRecord:
    """Answers from a record alone, as often as it was asked then; what is not in it is a KeyError."""

    def __init__(self, recorder, known):
        self.known = {request: iter(results) for request, results in known.items()}
        self.info, self.count_tokens = recorder.info, recorder.count_tokens

    def generate(self, requests):
        return [next(self.known[request]) for request in requests]

    score = generate


@pytest.fixture(scope="module")
def makers():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Recorder(load_engine("lab:lab-small")), Recorder(load_verifier("lab:lab-prm"))
    torch.set_num_threads(before)


def run_all(makers, specs):
    engine, verifier = makers
    for maker in makers:
        maker.reset()
    jobs = [Job(problem, spec) for spec in specs for problem in PROBLEMS]
    return run_flows(jobs, {"lab-small": engine}, verifier, default_policy_model="lab-small")


@pytest.fixture(scope="module")
def together(makers):
    """Every strategy's runs on all problems, from one call in which all are batched with all."""
    runs = run_all(makers, [small_spec(name) for name in REGISTRY])
    total = sum((run.usage for run in runs), Usage())
    engine, verifier = makers
    counted = (engine.requests + verifier.requests, engine.generated, engine.computed_prompt, verifier.computed_scored)
    spent = (total.requests, total.generated_tokens, total.computed_prompt_tokens, total.computed_scored_tokens)
    return {name: runs[i * len(PROBLEMS) :][: len(PROBLEMS)] for i, name in enumerate(REGISTRY)}, spent, counted


@pytest.fixture(scope="module", params=list(REGISTRY))
def alone(request, makers):
    """One strategy's runs, problem by problem; with the batches that the engine saw, and the record."""
    spec, runs, batches, records = small_spec(request.param), [], [], []
    for problem in PROBLEMS:
        for maker in makers:
            maker.reset()
        engine, verifier = makers
        runs.append(run_flow(problem, spec, {"lab-small": engine}, verifier, default_policy_model="lab-small"))
        batches.append(list(engine.batches))
        records.append([dict(maker.known) for maker in makers])
    return spec, runs, batches, records


def logical(run):
    usage = {f.name: getattr(run.usage, f.name) for f in fields(Usage) if f.name not in COMPUTED}
    return run.answer.answer, run.answer.text, run.answer.outcome, usage, run.cost


def test_what_all_flows_spend_is_what_the_models_count(together):
    _, spent, counted = together
    assert spent == counted


def test_finished_with_an_answer_that_can_be_checked_or_honest_about_it(alone):
    spec, runs, _, _ = alone
    for run in runs:
        answer = run.answer
        assert answer.candidates
        if answer.outcome is Outcome.FINISHED:
            assert any(c.finished and c.text == answer.text for c in answer.candidates)
            assert answer.answer == extract_answer(answer.text)
        else:
            assert answer.outcome is Outcome.TRUNCATED
            assert not any(c.finished for c in answer.candidates)
        assert all(0 <= score <= 1 for c in answer.candidates for score in c.scores or ())
    assert any(run.answer.outcome is Outcome.FINISHED for run in runs), spec


def test_batched_with_everything_as_alone(alone, together):
    spec, runs, _, _ = alone
    for mine, batched in zip(runs, together[0][spec.name], strict=True):
        assert logical(mine) == logical(batched)
        assert [(c.text, c.finished) for c in mine.answer.candidates] == [
            (c.text, c.finished) for c in batched.answer.candidates
        ]
        for a, b in zip(mine.answer.candidates, batched.answer.candidates, strict=True):
            assert a.scores == (None if b.scores is None else pytest.approx(b.scores, abs=1e-4))


def test_its_json_replayed_from_the_recorded_draws_is_the_live_run(alone, makers):
    spec, runs, _, records = alone
    again = from_dict(json.loads(json.dumps(to_dict(spec))))
    assert again == spec
    for problem, run, known in zip(PROBLEMS, runs, records, strict=True):
        engine, verifier = map(FromRecord, makers, known)
        replayed = run_flow(problem, again, {"lab-small": engine}, verifier, default_policy_model="lab-small")
        assert replayed.answer == run.answer
        assert logical(replayed) == logical(run)


def test_honours_n(alone):
    spec, runs, batches, _ = alone
    n, second = paths_in_flight(to_dict(spec)["hyperparameters"]), getattr(spec, "second_n", 0)
    for run, asked in zip(runs, batches, strict=True):
        sampled = [[r for r in batch if r.sampling.temperature > 0] for batch in asked]
        assert max(map(len, sampled)) <= max(n, second)
        first = [r for batch in sampled for r in batch if not r.prefix]
        assert len({(r.prompt, r.sampling.stop, r.index) for r in first}) == len(first)  # no draw is asked for twice
        assert len(first) <= n + second
        if isinstance(spec, StepSearch):
            assert len(sampled[0]) == n
        if spec.name in {"majority", "best_of_n", "revision"}:
            assert len(first) == len(run.answer.candidates) == n
