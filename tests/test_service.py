"""The service that runs jobs as they arrive: results, batching, cancelling, failures, closing."""

import asyncio
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import END, ScriptedEngine, ScriptedVerifier, drawn, judged
from test_strategies import SPECS

from planner.core import Answer, GenerationRequest, Outcome, Problem, Sampling
from planner.effects import Generate
from planner.errors import CapabilityError, EngineError, InputError, VerifierError
from planner.runtime.driver import Job, run_flows
from planner.runtime.service import FlowService
from planner.strategies import BeamSearch, BestOfN, Greedy, Majority


def problem(name, length=60):
    return Problem(problem_id=name, prompt=name, step_separator="\n", max_tokens=length)


def service(engine, verifier=None, **options):
    engines = engine if isinstance(engine, dict) else {"m": engine}
    return FlowService(engines, verifier or ScriptedVerifier(judged), default_policy_model="m", **options)


class GatedEngine(ScriptedEngine):
    """Holds each batch back until the test lets it pass; `entered` tells that one is inside."""

    def __init__(self, script, **options):
        super().__init__(script, **options)
        self.gate, self.entered = threading.Semaphore(0), threading.Semaphore(0)

    def generate(self, requests):
        self.entered.release()
        assert self.gate.acquire(timeout=20)
        return super().generate(requests)

    async def inside(self):
        assert await asyncio.to_thread(self.entered.acquire, timeout=20)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(SPECS), st.none() | st.floats(1e4, 3e6), st.integers(0, 3)), min_size=1, max_size=8
    ),
    st.integers(1, 9),
)
def test_every_run_is_the_one_that_run_flows_gives(rows, max_batch):
    jobs = [Job(problem(f"p{i}"), spec, budget) for i, (spec, budget, _) in enumerate(rows)]

    async def arrive(flows, job, pause):
        for _ in range(pause):
            await asyncio.sleep(0)
        return await flows.run(job)

    async def main():
        flows = service(ScriptedEngine(drawn), max_batch=max_batch)
        try:
            waiting = [arrive(flows, job, pause) for job, (_, _, pause) in zip(jobs, rows, strict=True)]
            return await asyncio.gather(*waiting)
        finally:
            await flows.aclose()

    apart = run_flows(jobs, {"m": ScriptedEngine(drawn)}, ScriptedVerifier(judged), default_policy_model="m")
    assert asyncio.run(main()) == apart


def test_what_arrives_during_a_batch_shares_the_next_one():
    def script(request):
        return "s\n" if "long" in request.prompt and len(request.prefix) < 4 else f"#### 1{END}"

    async def main():
        engine = GatedEngine(script)
        flows = service(engine)
        first = asyncio.create_task(flows.run(Job(problem("long"), BeamSearch(n=1, expansions=1))))
        await engine.inside()
        others = [asyncio.create_task(flows.run(Job(problem(f"p{i}"), Majority(n=2)))) for i in range(3)]
        await asyncio.sleep(0.05)
        for _ in range(4):
            engine.gate.release()
        runs = await asyncio.gather(first, *others)
        await flows.aclose()
        return engine, runs

    engine, runs = asyncio.run(main())
    # All that came meanwhile is one batch; the first flow is scored while it waits, and goes on without the others.
    assert [len(batch) for batch in engine.batches] == [1, 6, 1, 1]
    assert [run.answer.answer for run in runs] == ["1"] * 4


def test_flows_that_got_results_ask_on_before_the_next_batch():
    def script(request):
        return "s\n" if len(request.prefix) < 6 else f"#### 1{END}"

    async def main():
        engine = ScriptedEngine(script)
        flows = service(engine)
        await asyncio.gather(*(flows.run(Job(problem(f"p{i}"), BeamSearch(n=1, expansions=1))) for i in range(50)))
        await flows.aclose()
        return engine

    batches = asyncio.run(main()).batches
    assert sum(len(batch) for batch in batches) == 200
    assert len(batches) <= 12  # 4 rounds for each flow; 50 apart would be 200 batches


class Tracing:
    """A strategy of a user that reports how its flow ended."""

    name, needs_verifier, replayable, policy_model = "tracing", False, False, None

    def __init__(self, rounds=1):
        self.rounds, self.closed = rounds, threading.Event()

    def solve(self, problem):
        try:
            for i in range(self.rounds):
                yield Generate(
                    requests=(GenerationRequest(prompt=problem.prompt, sampling=Sampling(max_tokens=5), index=i),)
                )
            return Answer(answer="done", text="", outcome=Outcome.FINISHED)
        finally:
            self.closed.set()


def test_a_cancelled_run_drops_its_flow_and_leaves_the_others():
    async def main():
        engine = GatedEngine(lambda r: f"#### 1{END}")
        flows = service(engine, max_batch=1)
        in_batch, waiting = Tracing(rounds=3), Tracing()
        tasks = [asyncio.create_task(flows.run(Job(problem(name), spec))) for name, spec in
                 (("inside", in_batch), ("queued", waiting), ("other", Greedy()))]  # fmt: skip
        await engine.inside()
        await asyncio.sleep(0.05)
        for task in tasks[:2]:
            task.cancel()
        await asyncio.sleep(0)
        for _ in range(5):
            engine.gate.release()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await flows.aclose()
        assert await asyncio.to_thread(in_batch.closed.wait, 5)
        assert await asyncio.to_thread(waiting.closed.wait, 5)
        return ended, [r.prompt for batch in engine.batches for r in batch]

    ended, asked = asyncio.run(main())
    assert [type(e) for e in ended[:2]] == [asyncio.CancelledError] * 2
    assert ended[2].answer.answer == "1"
    assert asked == ["inside", "other"]  # nothing was generated for what had been given up


@pytest.mark.parametrize("error", [EngineError("down", retryable=True), RuntimeError("out of memory")])
def test_a_failure_reaches_only_the_jobs_of_its_batch(error):
    def script(request):
        if "bad" in request.prompt:
            raise error
        return f"#### 1{END}"

    async def main():
        flows = service(ScriptedEngine(script), max_batch=1)
        jobs = [Job(problem(name), Greedy()) for name in ("good", "bad", "fine")]
        ended = await asyncio.gather(*(flows.run(job) for job in jobs), return_exceptions=True)
        later = await flows.run(Job(problem("later"), Majority(n=3)))
        await flows.aclose()
        return [*ended, later]

    good, bad, fine, later = asyncio.run(main())
    assert bad is error
    assert [run.answer.answer for run in (good, fine, later)] == ["1"] * 3


@pytest.mark.parametrize("error", [EngineError("too long"), InputError("too long", field="prompt")])
def test_a_refused_request_fails_its_own_job_and_not_its_batch(error):
    def script(request):
        if "long" in request.prompt and request.index == 1:
            raise error
        return f"#### 1{END}"

    async def main():
        engine = ScriptedEngine(script)
        flows = service(engine)
        names = ["a", "b", "long c", "d", "long e", "f"]
        ended = await asyncio.gather(
            *(flows.run(Job(problem(name), Majority(n=3))) for name in names), return_exceptions=True
        )
        await flows.aclose()
        return names, ended, engine

    names, ended, engine = asyncio.run(main())
    assert [run is error for run in ended] == ["long" in name for name in names]
    assert {run.answer.answer for run in ended if run is not error} == {"1"}
    assert all(run.usage.generated_tokens == 3 * 7 for run in ended if run is not error)
    assert [len(batch) for batch in engine.batches] == [18, 9, 3, 6, 3, 3, 9, 3, 6, 3, 3]


def test_an_answer_that_a_verifier_refuses_fails_its_own_job():
    class Short(ScriptedVerifier):
        def score(self, requests):
            if any("long" in request.prompt for request in requests):
                raise VerifierError("longer than its limit")
            return super().score(requests)

    async def main():
        flows = service(ScriptedEngine(lambda r: f"#### 1{END}"), Short(judged))
        jobs = [Job(problem(name), BestOfN(n=2)) for name in ("a", "long b", "c")]
        ended = await asyncio.gather(*(flows.run(job) for job in jobs), return_exceptions=True)
        await flows.aclose()
        return ended

    first, refused, last = asyncio.run(main())
    assert isinstance(refused, VerifierError)
    assert [run.answer.answer for run in (first, last)] == ["1", "1"]


def test_a_failing_verifier_and_a_breaking_flow_reach_their_own_jobs():
    class Failing(ScriptedVerifier):
        def score(self, requests):
            raise VerifierError("down")

    class Breaking(Tracing):
        def solve(self, problem):
            yield Generate(requests=(GenerationRequest(prompt=problem.prompt, sampling=Sampling(max_tokens=5)),))
            raise KeyError("a bug of the user's")

    async def main():
        flows = service(ScriptedEngine(lambda r: f"#### 1{END}"), Failing(judged))
        jobs = [Job(problem("a"), BestOfN(n=2)), Job(problem("b"), Breaking()), Job(problem("c"), Majority(n=2))]
        ended = await asyncio.gather(*(flows.run(job) for job in jobs), return_exceptions=True)
        later = await flows.run(Job(problem("d"), Greedy()))
        await flows.aclose()
        return [*ended, later]

    scored, broken, voted, later = asyncio.run(main())
    assert [type(e) for e in (scored, broken)] == [VerifierError, KeyError]
    assert [run.answer.answer for run in (voted, later)] == ["1", "1"]


def test_an_engine_that_breaks_its_word_fails_its_jobs_only():
    class Silent(ScriptedEngine):
        def generate(self, requests):
            return []

    async def main():
        engines = {"m": ScriptedEngine(lambda r: f"#### 1{END}"), "silent": Silent(drawn)}
        flows = service(engines)
        jobs = [Job(problem("a"), Greedy(policy_model="silent")), Job(problem("b"), Greedy())]
        ended = await asyncio.gather(*(flows.run(job) for job in jobs), return_exceptions=True)
        await flows.aclose()
        return ended

    failed, good = asyncio.run(main())
    assert isinstance(failed, EngineError)
    assert "0 results for 1" in str(failed)
    assert good.answer.answer == "1"


def test_what_is_missing_is_said_at_once():
    async def main():
        flows = FlowService({"m": ScriptedEngine(drawn)}, None, default_policy_model="m")
        with pytest.raises(CapabilityError, match="verifier"):
            await flows.run(Job(problem("a"), BestOfN(n=2)))
        with pytest.raises(CapabilityError, match=r"policy_model.*other"):
            await flows.run(Job(problem("a"), Greedy(policy_model="other")))
        await flows.aclose()

    asyncio.run(main())
    with pytest.raises(ValueError, match="max_batch"):
        FlowService({"m": ScriptedEngine(drawn)}, None, default_policy_model="m", max_batch=0)


def test_closing_ends_what_runs_and_refuses_what_comes():
    async def main():
        engine = GatedEngine(lambda r: f"#### 1{END}")
        flows, spec = service(engine), Tracing(rounds=2)
        running = asyncio.create_task(flows.run(Job(problem("a"), spec)))
        await engine.inside()
        closing = asyncio.create_task(flows.aclose())
        await asyncio.sleep(0.05)
        engine.gate.release()
        await closing
        with pytest.raises(EngineError, match="closed") as caught:
            await running
        assert caught.value.retryable
        assert spec.closed.is_set()
        with pytest.raises(RuntimeError, match="closed"):
            await flows.run(Job(problem("b"), Greedy()))
        await flows.aclose()
        assert len(engine.batches) == 1

    asyncio.run(main())


def test_a_small_queue_is_not_starved_by_a_full_one():
    """While new jobs keep the main engine's queue fuller, the other engine's single request is answered all the same."""

    async def main():
        engines = {"m": ScriptedEngine(lambda r: f"#### 1{END}"), "rare": ScriptedEngine(lambda r: f"#### 2{END}")}
        flows = service(engines, max_batch=2)
        crowd = [asyncio.create_task(flows.run(Job(problem(f"p{i}"), Majority(n=4)))) for i in range(100)]
        rare = await flows.run(Job(problem("rare"), Greedy(policy_model="rare")))
        left = sum(not task.done() for task in crowd)
        await asyncio.gather(*crowd)
        await flows.aclose()
        return rare, left

    rare, left = asyncio.run(main())
    assert rare.answer.answer == "2"
    assert left > 50
