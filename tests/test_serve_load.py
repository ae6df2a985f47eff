"""The endpoint under load and under fuzzing, bounded in time, on loopback."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import sys
import time
import urllib.request
from asyncio import Event
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

import hypothesis
import hypothesis.strategies as st
import openai
import pytest
import schemathesis
from policy_fixture import write_fixture
from schemathesis.specs.openapi.checks import positive_data_acceptance
from served import ServerProcess, serving

from planner.api import Planner, load
from planner.cli import main
from planner.models.shipped import load_engine, shipped
from planner.serve import Settings
from planner.serve.start import make_gateway
from planner.tasks.lab import worked_problems

CLIENTS = 64
LAB_POLICY = shipped("models", "lab/policy")
REFERENCE = json.loads((LAB_POLICY / "policy.json").read_text())["reference_cost"]


@pytest.fixture(scope="module")
def planner(tmp_path_factory: pytest.TempPathFactory) -> Planner:
    return load(write_fixture(tmp_path_factory.mktemp("policy") / "fixture"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A policy model of the laboratory behind a server of its own."""
    with ServerProcess(tmp_path_factory.mktemp("lab") / "said.txt", "--engine", "lab-small=lab:lab-small") as server:
        yield server


def address(lab: ServerProcess) -> str:
    """The server as an engine that gives up at once."""
    folder = shipped("models", "lab/lab-small")
    options = {"model": "lab-small", "endpoint": "chat", "tokenizer": folder, "config": folder / "config.json"}
    return f"{lab.url}/v1?{urlencode(options | {'retries': 0, 'timeout': 60})}"


def fitted_on(lab: ServerProcess, folder: Path) -> Path:
    """The shipped policy as if it had been fitted on this engine."""
    shutil.copytree(LAB_POLICY, folder)
    document = json.loads((folder / "policy.json").read_text())
    engine = load_engine(address(lab))
    document["fingerprints"]["policy_models"]["lab-small"] = engine.info.fingerprint
    (folder / "policy.json").write_text(json.dumps(document))
    return folder


# --- 64 clients, and an engine that is killed -------------------------------------------------------------------------


class Tally:
    """What clients have seen; `flops` by decision."""

    def __init__(self) -> None:
        self.sent = self.after_restart = 0
        self.statuses: Counter[int] = Counter()
        self.flops: dict[str, float] = {}
        self.wrong: list[str] = []
        self.memory: list[int] = []
        self.restarted = False


async def client_loop(client: openai.AsyncOpenAI, number: int, prompts: list[str], ended: Event, tally: Tally) -> None:
    rng = random.Random(number)
    while not ended.is_set():
        multiple = rng.choice((4, 8, 16))
        message = {"role": "user", "content": rng.choice(prompts)}
        stream = rng.random() < 0.2
        tally.sent += 1
        try:
            reply = await client.chat.completions.create(
                model=f"lab-small@{multiple}x", messages=[message], stream=stream
            )
            part = {}
            if stream:
                async for chunk in reply:
                    part = getattr(chunk, "planner", None) or part
            else:
                part = reply.planner
        except openai.APIStatusError as error:
            tally.statuses[error.status_code] += 1
            if "Retry-After" not in error.response.headers:
                tally.wrong.append(f"no hint when to retry: {error}")
            await asyncio.sleep(0.5)
            continue
        tally.statuses[200] += 1
        tally.after_restart += tally.restarted
        spent = tally.flops[part["decision_id"]] = part["flops"]["total"]
        if not 0 < spent <= multiple * REFERENCE:
            tally.wrong.append(f"{spent} FLOPs of {multiple}x")


async def loaded(lab: ServerProcess, server: ServerProcess, prompts: list[str], seconds: float, tally: Tally) -> None:
    until, ended = time.monotonic() + seconds, Event()
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        clients = [asyncio.ensure_future(client_loop(client, i, prompts, ended, tally)) for i in range(CLIENTS)]
        await asyncio.sleep(seconds / 4)
        lab.kill()
        await asyncio.sleep(1)
        lab.start()
        await asyncio.to_thread(lab.wait_until_ready)
        tally.restarted = True
        # On a slow machine the engine is back late; some answers of its second life are waited for.
        deadline = time.monotonic() + 120
        while time.monotonic() < until or tally.after_restart < CLIENTS:
            assert time.monotonic() < max(deadline, until), tally.statuses
            await asyncio.sleep(0.5)
            tally.memory.append(server.resident_bytes)
        ended.set()
        await asyncio.wait_for(asyncio.gather(*clients), 120)


@pytest.mark.parametrize("seconds", [20, pytest.param(120, marks=pytest.mark.slow)])
def test_64_clients_of_a_laboratory_engine_that_is_killed(lab: ServerProcess, tmp_path: Path, seconds: float) -> None:
    log, tally = tmp_path / "decisions.jsonl", Tally()
    prompts = [problem.question for problem in worked_problems("held_out", 200)]
    policy = fitted_on(lab, tmp_path / "policy")
    with ServerProcess(
        tmp_path / "said.txt", "--policy", policy, "--engine", address(lab), "--decision-log", log
    ) as server:
        asyncio.run(loaded(lab, server, prompts, seconds, tally))
        metrics = urllib.request.urlopen(f"{server.url}/metrics", timeout=20).read().decode()
    assert not tally.wrong, tally.wrong[:5]
    assert sum(tally.statuses.values()) == tally.sent
    assert set(tally.statuses) == {200, 503}, tally.statuses
    # Nothing is left of a request, whether it was answered or its engine died under it.
    assert "planner_in_flight 0.0" in metrics
    spent = sum(float(v) for v in re.findall(r'^planner_flops_total\{part="\w+"\} (\S+)$', metrics, re.MULTILINE))
    assert spent == pytest.approx(sum(tally.flops.values()))
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert Counter(record["outcome"] == "error" for record in records) == {
        False: tally.statuses[200], True: tally.statuses[503]
    }  # fmt: skip
    assert {r["decision_id"]: r["flops"]["total"] for r in records if r["outcome"] != "error"} == tally.flops
    settled = tally.memory[len(tally.memory) // 2 :]
    assert max(settled) - settled[0] < 40e6, [m // 10**6 for m in tally.memory]


def test_an_engine_that_the_policy_was_not_fitted_on_is_refused(
    lab: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["planner", "serve", "--engine", address(lab)])
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert "fitted on another engine" in said
    assert "--allow-mismatch lab-small" in said
    policy = fitted_on(lab, tmp_path / "policy")
    document = json.loads((policy / "policy.json").read_text())
    for name, listed in (("", ()), ("lab-small", ("lab-small",))):
        prints = document["fingerprints"]["policy_models"]
        prints["lab-small"] = "another" if name else prints["lab-small"]
        (policy / "policy.json").write_text(json.dumps(document))
        gateway = make_gateway(policy, [address(lab)], None, Settings(allow_mismatch=listed))
        assert gateway.names == ("lab-small", "auto")


# --- fuzzing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", [5, pytest.param(250, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", schemathesis.GenerationMode)
def test_what_its_own_description_allows_and_forbids_breaks_nothing(
    planner: Planner, mode: schemathesis.GenerationMode, examples: int
) -> None:
    with serving(planner, Settings(max_body_bytes=100_000)) as served:
        schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        assert {operation.path for operation in operations} == set(schema.raw_schema["paths"]) - {"/openapi.json"}
        for operation in operations:
            if mode is schemathesis.GenerationMode.NEGATIVE and operation.method == "get":
                continue  # nothing in it could be wrong

            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            @hypothesis.settings(
                max_examples=examples, deadline=None, database=None, derandomize=True,
                suppress_health_check=list(hypothesis.HealthCheck),
            )  # fmt: skip
            def holds(case: schemathesis.Case) -> None:
                # A budget's grammar, and that the last message is the user's, are more than a schema can say.
                case.validate_response(case.call(timeout=20), excluded_checks=[positive_data_acceptance])

            holds()
        assert served.gateway.in_flight == 0


@pytest.mark.parametrize("examples", [80, pytest.param(1000, marks=pytest.mark.slow)])
def test_junk_in_every_field_is_refused_or_answered(planner: Planner, examples: int) -> None:
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
        @hypothesis.settings(max_examples=examples, deadline=None, database=None, derandomize=True)
        def holds(change: dict[str, object]) -> None:
            connection.request("POST", "/v1/chat/completions", json.dumps(good | change))
            reply = connection.getresponse()
            reply.read()
            assert reply.status in (200, 400, 404), change

        holds()
        connection.close()
