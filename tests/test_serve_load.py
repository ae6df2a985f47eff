"""The endpoint under load and under fuzzing, bounded in time, on loopback."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import time
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import openai
import pytest
import schemathesis
from policy_fixture import prompt_of, write_fixture
from schemathesis.specs.openapi.checks import positive_data_acceptance
from served import Moody, Served, serving

from planner.api import Planner, load
from planner.serve import Settings

CLIENTS, CAP = 64, 4e6


@pytest.fixture(scope="module")
def planner(tmp_path_factory: pytest.TempPathFactory) -> Planner:
    return load(write_fixture(tmp_path_factory.mktemp("policy") / "fixture"))


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Tally:
    def __init__(self) -> None:
        self.sent = self.unhinted = 0
        self.statuses: Counter[int] = Counter()
        self.flops = 0.0
        self.overspent: list[float] = []
        self.memory: list[int] = []


async def client_loop(client: openai.AsyncOpenAI, number: int, until: float, tally: Tally) -> None:
    rng = random.Random(number)
    while time.monotonic() < until:
        prompt = prompt_of(rng.randint(2, 9), rng.randint(0, 10**6))
        model = rng.choice(("small@4x", "small@2x"))
        stream = rng.random() < 0.2
        tally.sent += 1
        try:
            reply = await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": prompt}], stream=stream
            )
            part = {}
            if stream:
                async for chunk in reply:
                    part = getattr(chunk, "planner", None) or part
            else:
                part = reply.planner
        except openai.APIStatusError as error:
            tally.statuses[error.status_code] += 1
            tally.unhinted += "Retry-After" not in error.response.headers
            await asyncio.sleep(0.2)
            continue
        tally.statuses[200] += 1
        tally.flops += part["flops"]["total"]
        if part["flops"]["total"] > CAP:
            tally.overspent.append(part["flops"]["total"])


async def load_server(served: Served, seconds: float, tally: Tally) -> None:
    until = time.monotonic() + seconds
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        clients = [asyncio.ensure_future(client_loop(client, i, until, tally)) for i in range(CLIENTS)]
        while time.monotonic() < until:
            await asyncio.sleep(seconds / 20)
            tally.memory.append(resident_bytes())
            # The engine goes away for a twentieth of the time, again and again.
            served.engine.broken = len(tally.memory) % 5 == 4
        served.engine.broken = False
        await asyncio.wait_for(asyncio.gather(*clients), 30)


@pytest.mark.parametrize("seconds", [8, pytest.param(120, marks=pytest.mark.slow)])
def test_64_clients_lose_nothing_and_overspend_nothing(planner: Planner, seconds: float) -> None:
    engine = Moody()
    engine.seconds = 0.002
    tally = Tally()
    with serving(planner, Settings(), engine) as served:
        asyncio.run(load_server(served, seconds, tally))
        metrics = served.gateway.metrics.registry
        assert served.gateway.in_flight == 0
        spent = sum(metrics.get_sample_value("planner_flops_total", {"part": p}) or 0 for p in ("policy", "verifier"))
    assert sum(tally.statuses.values()) == tally.sent > CLIENTS
    assert set(tally.statuses) == {200, 503}, tally.statuses
    assert tally.statuses[200] > tally.statuses[503]
    assert not tally.overspent
    assert not tally.unhinted
    assert spent == pytest.approx(tally.flops)
    settled = len(tally.memory) // 2
    assert tally.memory[-1] - tally.memory[settled] < 40e6, [m // 10**6 for m in tally.memory]


def test_nothing_that_its_own_description_allows_breaks_it(planner: Planner) -> None:
    with serving(planner, Settings(max_body_bytes=100_000)) as served:
        schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        assert {operation.path for operation in operations} >= {"/v1/chat/completions", "/v1/plan", "/v1/feedback"}
        for operation in operations:

            @hypothesis.given(case=operation.as_strategy())
            @hypothesis.settings(
                max_examples=10, deadline=None, database=None, derandomize=True,
                suppress_health_check=list(hypothesis.HealthCheck),
            )  # fmt: skip
            def holds(case: schemathesis.Case) -> None:
                # A budget's grammar, and that the last message is the user's, are more than a schema can say.
                case.validate_response(case.call(timeout=20), excluded_checks=[positive_data_acceptance])

            holds()


def test_junk_in_every_field_is_refused_or_answered(planner: Planner) -> None:
    junk = st.recursive(
        st.none() | st.booleans() | st.floats()
        | st.integers() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    )  # fmt: skip
    fields = (
        *("model", "messages", "budget", "n", "stop", "max_tokens", "temperature", "top_p", "stream", "stream_options"),
        *("progress", "tools", "logprobs", "response_format"),
    )
    good = {"model": "small@8x", "messages": [{"role": "user", "content": "Calculate 1 + 2."}]}

    with serving(planner) as served:
        connection = HTTPConnection("127.0.0.1", int(served.url.rpartition(":")[2]), timeout=20)

        @hypothesis.given(change=st.dictionaries(st.sampled_from(fields), junk, max_size=3))
        @hypothesis.settings(max_examples=80, deadline=None, database=None, derandomize=True)
        def holds(change: dict[str, object]) -> None:
            connection.request("POST", "/v1/chat/completions", json.dumps(good | change))
            reply = connection.getresponse()
            reply.read()
            assert reply.status in (200, 400, 404), change

        holds()
        connection.close()
