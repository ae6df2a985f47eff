"""Flows on engines whose running batch anybody may join: nobody waits for others, and nobody else's failure is theirs."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import replace

import pytest
from scripted import END, ScriptedEngine, ScriptedVerifier, drawn, judged
from test_strategies import SPECS

from planner.core import Outcome, Problem
from planner.errors import EngineError
from planner.models.protocols import ContinuousEngine, Pending
from planner.runtime.driver import Job, iter_runs, run_flows
from planner.runtime.service import FlowService
from planner.strategies import BeamSearch, Greedy, Majority

PROBLEM = Problem(problem_id="p", prompt="p", step_separator="\n", max_tokens=60)


class ContinuousScripted(ScriptedEngine):
    """Answers at once, but for prompts named "slow", whose futures the test ends; is never asked for a batch."""

    def __init__(self, script):
        super().__init__(script)
        self.held: list[tuple[Future, object]] = []

    def generate(self, requests):
        raise AssertionError("a batch was asked for")

    def submit(self, requests):
        pending = []
        for request in requests:
            future, completion = Future(), self._one(request)
            if request.prompt.startswith("slow"):
                self.held.append((future, completion))
            else:
                future.set_result(completion)
            pending.append(Pending(future, lambda result: result))
        return pending

    def let_go(self):
        while self.held:
            future, completion = self.held.pop(0)
            future.set_result(completion)


def named(*names: str) -> list[Problem]:
    return [replace(PROBLEM, problem_id=name, prompt=name) for name in names]


def test_runs_are_those_of_an_engine_with_batches():
    jobs = [Job(problem, spec) for spec in SPECS for problem in named("a", "b")]
    continuous = ContinuousScripted(drawn)
    assert isinstance(continuous, ContinuousEngine)
    ours = run_flows(jobs, {"m": continuous}, ScriptedVerifier(judged), default_policy_model="m")
    theirs = run_flows(jobs, {"m": ScriptedEngine(drawn)}, ScriptedVerifier(judged), default_policy_model="m")
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.answer, mine.cost) == (other.answer, other.cost)
        assert mine.usage.generated_tokens == other.usage.generated_tokens


def test_a_flow_of_many_rounds_ends_while_anothers_first_request_still_runs():
    engine = ContinuousScripted(drawn)
    search = BeamSearch(n=4, expansions=2, max_steps=8, max_step_tokens=20)
    jobs = [Job(problem, spec) for problem, spec in zip(named("slow", "quick"), (Greedy(), search), strict=True)]
    runs = iter_runs(jobs, {"m": engine}, ScriptedVerifier(judged), default_policy_model="m")
    number, _ = next(runs)
    assert number == 1
    assert len(engine.held) == 1
    engine.let_go()
    assert next(runs)[0] == 0


def test_what_still_runs_is_cancelled_when_nobody_wants_it():
    engine = ContinuousScripted(lambda r: f"#### 1{END}")
    jobs = [Job(problem, Greedy()) for problem in named("slow", "quick")]
    runs = iter_runs(jobs, {"m": engine}, None, default_policy_model="m")
    next(runs)
    runs.close()
    assert [future.cancelled() for future, _ in engine.held] == [True]


def test_a_failure_ends_a_drivers_jobs_and_cancels_the_rest():
    engine = ContinuousScripted(lambda r: f"#### 1{END}")
    jobs = [Job(problem, Greedy()) for problem in named("slow one", "slow two", "quick")]
    runs = iter_runs(jobs, {"m": engine}, None, default_policy_model="m")
    next(runs)
    engine.held[0][0].set_exception(EngineError("died"))
    with pytest.raises(EngineError, match="died"):
        next(runs)
    assert engine.held[1][0].cancelled()


async def until(condition) -> None:
    for _ in range(20_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to that")


def test_the_service_takes_new_jobs_and_fails_one_alone_while_others_run():
    async def main():
        engine = ContinuousScripted(lambda r: f"#### 1{END}")
        flows = FlowService({"m": engine}, None, default_policy_model="m")
        try:
            slow, doomed = (asyncio.create_task(flows.run(Job(p, Greedy()))) for p in named("slow", "slow and doomed"))
            await until(lambda: len(engine.held) == 2)
            quick = await flows.run(Job(named("quick")[0], Majority(n=3)))
            assert quick.answer.outcome is Outcome.FINISHED
            assert not slow.done()
            (failing,) = [future for future, _ in engine.held[1:]]
            failing.set_exception(EngineError("this one only"))
            del engine.held[1:]
            with pytest.raises(EngineError, match="this one only"):
                await doomed
            engine.let_go()
            assert (await slow).answer.outcome is Outcome.FINISHED
        finally:
            await flows.aclose()

    asyncio.run(main())


def test_a_job_that_is_given_up_is_cancelled_at_the_engine():
    async def main():
        engine = ContinuousScripted(lambda r: f"#### 1{END}")
        flows = FlowService({"m": engine}, None, default_policy_model="m")
        try:
            job = asyncio.create_task(flows.run(Job(named("slow")[0], Majority(n=2))))
            await until(lambda: len(engine.held) == 2)
            job.cancel()
            await until(lambda: all(future.cancelled() for future, _ in engine.held))
        finally:
            await flows.aclose()

    asyncio.run(main())
