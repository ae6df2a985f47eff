"""Flows on engines whose running batch anybody may join: nobody waits for others, and nobody else's failure is theirs."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import replace

import pytest
from scripted import END, ScriptedEngine, ScriptedVerifier, drawn, judged
from test_strategies import SPECS

from planner.core import Outcome, Problem
from planner.errors import EngineError, InputError, VerifierError
from planner.models.protocols import ContinuousEngine, ContinuousVerifier, Pending
from planner.runtime.driver import Job, iter_runs, run_flow, run_flows
from planner.runtime.service import FlowService
from planner.strategies import BeamSearch, BestOfN, Greedy, Majority

PROBLEM = Problem(problem_id="p", prompt="p", step_separator="\n", max_tokens=60)
SEARCH = BeamSearch(n=4, expansions=2, max_steps=8, max_step_tokens=20)


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


class ContinuousJudge(ScriptedVerifier):
    """The same for a verifier and prompts named "scored late"; those named "too long" it refuses."""

    def __init__(self, script):
        super().__init__(script)
        self.held: list[tuple[Future, object]] = []

    def score(self, requests):
        raise AssertionError("a batch was asked for")

    def submit(self, requests):
        if any(request.prompt.startswith("too long") for request in requests):
            raise VerifierError("the input is too long")
        pending = []
        for request, scores in zip(requests, super().score(requests), strict=True):
            future = Future()
            if request.prompt.startswith("scored late"):
                self.held.append((future, scores))
            else:
                future.set_result(scores)
            pending.append(Pending(future, lambda result: result))
        return pending


def named(*names: str) -> list[Problem]:
    return [replace(PROBLEM, problem_id=name, prompt=name) for name in names]


def test_runs_are_those_of_an_engine_with_batches():
    jobs = [Job(problem, spec) for spec in SPECS for problem in named("a", "b")]
    continuous = ContinuousScripted(drawn)
    assert isinstance(continuous, ContinuousEngine)
    ours = run_flows(jobs, {"m": continuous}, ScriptedVerifier(judged), default_policy_model="m")
    theirs = run_flows(jobs, {"m": ScriptedEngine(drawn)}, ScriptedVerifier(judged), default_policy_model="m")
    judge = ContinuousJudge(judged)
    assert isinstance(judge, ContinuousVerifier)
    scored = run_flows(jobs, {"m": continuous}, judge, default_policy_model="m")
    assert judge.batches
    for mine, other in [*zip(ours, theirs, strict=True), *zip(scored, theirs, strict=True)]:
        assert (mine.answer, mine.cost) == (other.answer, other.cost)
        assert mine.usage.generated_tokens == other.usage.generated_tokens


def test_a_flow_of_many_rounds_ends_while_anothers_first_request_still_runs():
    engine = ContinuousScripted(drawn)
    jobs = [Job(problem, spec) for problem, spec in zip(named("slow", "quick"), (Greedy(), SEARCH), strict=True)]
    runs = iter_runs(jobs, {"m": engine}, ScriptedVerifier(judged), default_policy_model="m")
    number, _ = next(runs)
    assert number == 1
    assert len(engine.held) == 1
    engine.let_go()
    assert next(runs)[0] == 0


@pytest.mark.parametrize("make", [ScriptedEngine, ContinuousScripted])
def test_a_flow_ends_while_anothers_scores_are_still_to_come(make):
    judge = ContinuousJudge(judged)
    jobs = [Job(problem, SEARCH) for problem in named("quick", "also quick", "scored late")]
    runs = iter_runs(jobs, {"m": make(lambda r: f"step {r.index}\n#### 1{END}")}, judge, default_policy_model="m")
    assert {next(runs)[0], next(runs)[0]} == {0, 1}
    assert len(judge.held) == 4
    runs.close()
    assert all(future.cancelled() for future, _ in judge.held)


def test_scores_under_way_at_the_deadline_are_cancelled_and_charged():
    judge, now = ContinuousJudge(judged), [0.0]
    engine = ScriptedEngine(lambda r: f"step {r.index}\n#### 1{END}")

    def clock() -> float:
        now[0] += 10.0 * bool(judge.held)  # time goes on once scores are asked for
        return now[0]

    runs = {}
    for seconds in (5.0, None):
        problem = named("scored late" if seconds else "scored now!")[0]
        run = run_flow(
            problem, BestOfN(n=2), {"m": engine}, judge, default_policy_model="m", budget_flops=1e12,
            budget_seconds=seconds, clock=clock,
        )  # fmt: skip
        runs[seconds] = run
    assert [future.cancelled() for future, _ in judge.held] == [True, True]
    assert runs[5.0].answer.outcome is Outcome.OUT_OF_BUDGET
    assert runs[5.0].cost.verifier_flops > 0
    assert runs[5.0].usage.scored_tokens == runs[None].usage.scored_tokens
    assert runs[5.0].usage.computed_scored_tokens == 0


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


class Refusing(ContinuousScripted):
    """`failure` is what a prompt named "bad" is refused with."""

    def __init__(self, failure):
        super().__init__(lambda r: f"#### 1{END}")
        self.failure = failure

    def submit(self, requests):
        if any(request.prompt == "bad" for request in requests):
            raise self.failure
        return super().submit(requests)


def in_service(engine, judge, jobs: list[Job]) -> list[object]:
    """What became of jobs that were all there before the first was taken up, and of one after them."""

    async def main():
        flows = FlowService({"m": engine}, judge, default_policy_model="m")
        try:
            found = await asyncio.wait_for(asyncio.gather(*map(flows.run, jobs), return_exceptions=True), 30)
            return [*found, await asyncio.wait_for(flows.run(Job(named("later")[0], Greedy())), 30)]
        finally:
            await flows.aclose()

    return asyncio.run(main())


def test_a_refused_request_fails_its_own_flow_and_the_service_goes_on():
    jobs = [Job(problem, Majority(n=2)) for problem in named("good", "bad", "as good")]
    good, bad, other, later = in_service(Refusing(InputError("the input is too long")), None, jobs)
    assert isinstance(bad, InputError)
    assert {run.answer.outcome for run in (good, other, later)} == {Outcome.FINISHED}
    jobs = [Job(problem, BestOfN(n=2)) for problem in named("good", "too long", "as good")]
    good, bad, other, later = in_service(ScriptedEngine(lambda r: f"#### 1{END}"), ContinuousJudge(judged), jobs)
    assert isinstance(bad, VerifierError)
    assert {run.answer.outcome for run in (good, other, later)} == {Outcome.FINISHED}


def test_an_engine_that_breaks_when_it_is_asked_leaves_nobody_waiting():
    found = in_service(Refusing(ZeroDivisionError("a bug")), None, [Job(named("bad")[0], Majority(n=2))])
    assert isinstance(found[0], ZeroDivisionError)
    assert found[1].answer.outcome is Outcome.FINISHED
