"""Connections over which servers are asked, and process reward models behind them, on a fake server."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from fake_server import MODEL, FakeServer, Fault
from scripted import END, SHAPE, ScriptedEngine

from planner.core import Problem, ScoreRequest
from planner.errors import EngineError, VerifierError
from planner.models import openai_connections
from planner.models.contract import VERIFIER_CHECKS
from planner.models.openai_options import OpenAIOptions
from planner.models.openai_wire import Call, Wire
from planner.models.pooling_backends import HttpPool
from planner.models.pooling_verifier import PoolingVerifier
from planner.models.protocols import ContinuousVerifier, Pending, VerifierInfo, collected
from planner.runtime.driver import Job, Run, run_flows
from planner.strategies import BeamSearch

TAG = 9
SILENCE = Fault("silence", seconds=20)


def wire_to(*servers: FakeServer, **options: Any) -> Wire:
    settings = {"api_key": None, "timeout": 10.0, "retries": 0, "concurrency": 8, **options}
    return Wire([server.url for server in servers], **settings)


def calls(count: int, affinity: str = "") -> list[Call[Any]]:
    return [Call(path="models", read=lambda document: document, label="a list", affinity=affinity)] * count


def until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@pytest.fixture
def server():
    with FakeServer() as started:
        yield started


@pytest.fixture
def wire(server):
    made = wire_to(server)
    yield made
    made.close()


# --- connections --------------------------------------------------------------------------------------------------


def test_the_connection_that_was_used_last_is_used_next(server, wire):
    server.faults = lambda *_: Fault("slow", seconds=0.05)
    wire.ask(calls(8))
    assert len(server.connections) > 1
    server.connections.clear()
    for _ in range(4):
        wire.ask(calls(1))
    assert len(server.connections) == 1, "what is idle longest should expire"


def test_a_connection_that_was_idle_too_long_is_closed_and_not_used(server, wire, monkeypatch):
    server.faults = lambda *_: Fault("slow", seconds=0.05)
    wire.ask(calls(8))
    opened = len(server.connections)
    monkeypatch.setattr(openai_connections, "_KEEP_ALIVE", -1.0)
    wire.ask(calls(1))
    assert len(server.connections) == opened + 1
    assert until(lambda: len(wire._connections._open) == 1)


def test_each_server_has_connections_of_its_own_and_a_prompt_goes_home(server):
    with FakeServer() as other:
        wire = wire_to(server, other)
        for affinity in "abcdefgh":
            before = len(server.requests), len(other.requests)
            for _ in range(3):
                wire.ask(calls(1, affinity))
            grown = len(server.requests) - before[0], len(other.requests) - before[1]
            assert sorted(grown) == [0, 3]
        assert len(server.connections) == len(other.connections) == 1
        wire.close()


def test_a_cancelled_request_closes_its_connection_and_no_other(server, wire):
    wire.ask(calls(1))
    server.faults = lambda path, body, number: SILENCE if number % 2 else None
    futures = wire.start(calls(8))
    assert until(lambda: sum(future.done() for future in futures) == 4)
    for future in futures:
        future.cancel()
    assert until(lambda: server.gone == 4), "the server works on for nobody"
    server.faults = None
    before = set(server.connections)
    wire.ask(calls(4))
    assert len(server.connections - before) == 0, "those that were answered are kept"


def test_closing_ends_what_runs(server):
    server.faults = lambda *_: SILENCE
    wire = wire_to(server)
    futures = wire.start(calls(3))
    assert until(lambda: server.open == 3)
    wire.close()
    assert all(future.done() for future in futures)
    assert until(lambda: server.open == 0)
    with pytest.raises(EngineError, match="closed"):
        wire.start(calls(1))


# --- pooling ------------------------------------------------------------------------------------------------------


class PoolingServer(FakeServer):
    """Reads out (id before the tag) / 100 at each tag of an input."""

    def _document(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path != "/pooling":
            return super()._document(path, body)
        rows = [
            {"index": i, "data": [[ids[at - 1] / 100] for at, token in enumerate(ids) if token == TAG]}
            for i, ids in enumerate(body["input"])
        ]
        return 200, {"data": rows[::-1], "usage": {"prompt_tokens": sum(map(len, body["input"]))}}


class Ids:
    """Stands for a card and its tokenizer: a step is one id, by its length, and the tag."""

    tag = TAG

    def whole(self, prompt: str, steps: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        ids = [*map(ord, prompt)]
        for step in steps:
            ids += [10 + len(step) % 90, TAG]
        return tuple(ids), tuple(range(len(prompt) + 1, len(ids), 2))

    def count(self, prompt: str, steps: tuple[str, ...]) -> int:
        return len(self.whole(prompt, steps)[0])


@pytest.fixture
def pools():
    with PoolingServer() as started:
        yield started


@pytest.fixture
def pool(pools):
    made = HttpPool(OpenAIOptions(base_urls=(pools.url,), model=MODEL, retries=0, timeout=10.0), "start it so")
    yield made
    made.close()


@pytest.fixture
def verifier(pool):
    info = VerifierInfo(name="prm", fingerprint="prm", shape=SHAPE, incremental=False)
    return PoolingVerifier(pool, Ids(), info, max_context_tokens=400, remedy="start it so")


INPUTS = [(5, 10 + i, TAG) for i in range(70)]


def asked(server: FakeServer) -> list[int]:
    return [len(body["input"]) for path, body in server.requests if path == "/pooling"]


def test_inputs_are_sent_in_groups_and_come_back_in_order(pools, pool):
    assert collected(pool.start(INPUTS)) == [[[(10 + i) / 100]] for i in range(70)]
    assert sorted(asked(pools)) == [6, 32, 32]
    assert collected(pool.start([])) == []


def test_a_group_is_dropped_once_nobody_waits_for_it(pools, pool):
    pools.faults = lambda *_: SILENCE
    started = pool.start(INPUTS[:3])
    assert until(lambda: pools.open == 1)
    for each in started[:2]:
        assert each.future.cancel()
    time.sleep(0.1)
    assert pools.gone == 0, "the third is still waited for"
    assert started[2].future.cancel()
    assert until(lambda: pools.gone == 1)
    pools.faults = lambda *_: Fault("slow", seconds=0.2)
    first, second = pool.start(INPUTS[:2])
    first.future.cancel()
    assert second.result() == [[0.11]]


def test_a_failure_is_the_verifiers_and_the_rest_is_dropped_at_once(pools, pool):
    pools.faults = lambda path, body, number: Fault("status", 400) if len(body["input"]) == 6 else SILENCE
    begun = time.monotonic()
    with pytest.raises(VerifierError, match=r"HTTP 400.*scripted failure.*for a verifier: start it so"):
        collected(pool.start(INPUTS))
    assert time.monotonic() - begun < 10
    assert until(lambda: pools.open == 0)


@pytest.mark.parametrize("check", VERIFIER_CHECKS, ids=lambda c: c.__name__)
def test_it_holds_the_contract(verifier, check):
    check(verifier, "What is 2 + 3?", ("2 + 3 = 5", "#### 5"))


def test_too_long_an_input_is_refused_before_anything_is_sent(pools, verifier):
    before = len(pools.requests)
    with pytest.raises(VerifierError, match="an input of 402 tokens is longer than its 400"):
        verifier.submit([ScoreRequest(prompt="x", steps=("1",)), ScoreRequest(prompt="x" * 400, steps=("1",))])
    assert len(pools.requests) == before


def test_searches_run_through_it_as_through_a_verifier_with_batches(pools, verifier):
    assert isinstance(verifier, ContinuousVerifier)

    def run(judge: Any) -> list[Run]:
        engine = ScriptedEngine(lambda r: f"step {'x' * (r.seed('') % 7)}\n" if len(r.prefix) < 40 else f"#### 1{END}")
        return run_flows(jobs, {"m": engine}, judge, default_policy_model="m")

    search = BeamSearch(n=4, expansions=2, max_steps=10, max_step_tokens=20)
    jobs = [
        Job(Problem(problem_id=name, prompt=name, step_separator="\n", max_tokens=100), search) for name in "abcdef"
    ]

    class InBatches:
        """The same verifier, asked for one batch after the other."""

        info, count_tokens, reset, score = verifier.info, verifier.count_tokens, verifier.reset, verifier.score

    expected = run(InBatches())
    pools.faults = lambda path, body, number: Fault("slow", seconds=0.02 * (number % 3))
    assert run(verifier) == expected
    assert any(run.answer.candidates[0].scores for run in expected)


# --- what is pending ----------------------------------------------------------------------------------------------


def test_results_are_collected_in_order_and_a_failure_does_not_wait():
    futures = [Future[int]() for _ in range(3)]
    futures[1].set_exception(VerifierError("died"))
    with pytest.raises(VerifierError, match="died"):
        collected([Pending(future, lambda raw: raw) for future in futures])
    assert [future.cancelled() for future in futures] == [True, False, True]
