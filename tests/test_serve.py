"""The endpoint, as clients use it: the official openai client and raw HTTP against a real server on loopback."""

from __future__ import annotations

import http.client
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import pytest
from policy_fixture import prompt_of, write_fixture
from scripted import ScriptedEngine, ScriptedVerifier, drawn, judged
from served import Moody, Served, finished, serving

from planner.api import Planner, load
from planner.core import Completion, GenerationRequest
from planner.errors import CapabilityError, InputError
from planner.policy.drift import measure_drift
from planner.serve import Settings
from planner.serve.start import check_match, priced

HARD = prompt_of(9)
# The scripted engine's tokens are far cheaper than the fixture's plans, so its budgets bind rarely.
BUDGET = "32x"


@pytest.fixture(scope="module")
def planner(tmp_path_factory: pytest.TempPathFactory) -> Planner:
    return load(write_fixture(tmp_path_factory.mktemp("policy") / "fixture"))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "decisions.jsonl"


@pytest.fixture(scope="module")
def served(planner: Planner, log: Path) -> Iterator[Served]:
    settings = Settings(decision_log=log, max_body_bytes=200_000, body_timeout_seconds=1.0)
    with serving(planner, settings) as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(client: openai.OpenAI, prompt: str = HARD, model: str = "small", **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}], **more)


def raw(url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, reply.read(), reply.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def post(served: Served, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, text, _ = raw(served.url + path, data, headers)
    return status, json.loads(text)


# --- answers ----------------------------------------------------------------------------------------------------------


def test_http_gives_what_the_planner_gives(served: Served, client: openai.OpenAI, planner: Planner) -> None:
    engines, verifier = {"small": Moody()}, ScriptedVerifier(judged)
    for terms in range(2, 10):
        prompt = prompt_of(terms)
        offline = planner.solve(prompt, BUDGET, engine=engines, verifier=verifier)
        online = ask(client, prompt, extra_body={"budget": BUDGET})
        plan = online.planner["plan"]
        expected = offline.plan.to_dict()
        assert {k: v for k, v in plan.items() if k != "decision_id"} == {
            k: v for k, v in json.loads(json.dumps(expected)).items() if k != "decision_id"
        }
        assert online.choices[0].message.content == offline.text
        assert online.planner["answer"] == offline.answer
        assert online.planner["outcome"] == offline.outcome
        assert online.usage.completion_tokens == offline.usage.generated_tokens
        assert online.usage.prompt_tokens == offline.usage.prompt_tokens
        assert online.usage.total_tokens == online.usage.prompt_tokens + online.usage.completion_tokens
        assert online.usage.verifier_tokens == offline.usage.scored_tokens
        assert online.planner["flops"]["total"] == offline.cost.total_flops <= 32e6


def test_a_budget_comes_from_body_header_or_model_name(client: openai.OpenAI) -> None:
    for more, model in (
        ({"extra_body": {"budget": "8x"}}, "small"),
        ({"extra_body": {"budget": 8e6}}, "small"),
        ({"extra_headers": {"X-Planner-Budget": "8x"}}, "small"),
        ({}, "small@8x"),
        ({}, "auto@8x"),
        ({"extra_body": {"budget": "8x"}, "extra_headers": {"X-Planner-Budget": "32x"}}, "small@16x"),
    ):
        plan = ask(client, model=model, **more).planner["plan"]
        assert (plan["strategy"], plan["hyperparameters"]["n"]) == ("best_of_n", 4)
    assert ask(client, model="auto").planner["plan"]["hyperparameters"]["n"] == 16


def test_seconds_are_a_cap_beside_the_servers_own(planner: Planner) -> None:
    timed = json.loads(json.dumps(planner.document))
    for plan, p99 in zip(timed["plans"], (1.0, 2.0, 4.0, 60.0, 90.0), strict=True):
        plan["seconds"] = {bucket: {"mean": p99 / 2, "p99": p99} for bucket in timed["bucket_edges"]}
    with serving(Planner(timed, planner.predictor), Settings(max_budget="32x")) as server:
        for budget, amount, seconds in (("5 s", 32e6, 5.0), ("8x and 20 s", 8.0, 20.0)):
            status, reply = post(server, "/v1/chat/completions", GOOD | {"model": "small", "budget": budget})
            assert status == 200
            plan = reply["planner"]["plan"]
            assert (plan["budget"]["amount"], plan["budget"]["and_seconds"]) == (amount, seconds)
            assert plan["seconds_p99"] <= seconds
            assert plan["expected_cost"]["p95"] <= 32e6
        assert post(server, "/v1/chat/completions", GOOD | {"model": "small", "budget": "0.5 s"})[0] == 400


def test_the_plain_model_is_sampled_as_asked(client: openai.OpenAI) -> None:
    reply = ask(client, n=3, temperature=0.7)
    assert reply.planner["plan"] is None
    assert len(reply.choices) == 3
    assert reply.usage.requests == 3
    assert reply.usage.prompt_tokens == len(HARD)  # one prefill, shared
    again, other = (ask(client, n=3, temperature=0.7, seed=seed) for seed in (0, 7))
    assert [c.message for c in again.choices] == [c.message for c in reply.choices]
    assert [c.message for c in other.choices] != [c.message for c in reply.choices]
    greedy = ask(client, temperature=0, n=2)
    assert greedy.choices[0].message.content == greedy.choices[1].message.content
    assert greedy.usage.requests == 1
    assert {choice.finish_reason for choice in reply.choices} <= {"stop", "length"}


def test_n_choices_are_the_plans_own_answers(client: openai.OpenAI) -> None:
    reply = ask(client, n=4, extra_body={"budget": "8x"})
    assert len(reply.choices) == 4
    assert reply.usage.requests >= 4
    with pytest.raises(openai.BadRequestError, match="no plan draws so many"):
        ask(client, n=100, extra_body={"budget": "8x"})


def test_stop_and_max_tokens(planner: Planner) -> None:
    with serving(planner, engine=Moody(lambda r: finished("first line\nsecond line\n#### 7"))) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        assert ask(client, stop="\n").choices[0].message.content == "first line"
        assert ask(client, stop=["second", "#"], model="small@4x").choices[0].message.content == "first line\n"
        short = ask(client, max_tokens=5, model="small@4x")
        assert short.choices[0].finish_reason == "length"
        assert short.planner["outcome"] == "truncated"
        text = client.completions.create(model="small@4x", prompt=HARD)
        assert text.choices[0].text == "first line\nsecond line\n#### 7"
        client.close()


def test_streams_are_the_same_answer(client: openai.OpenAI) -> None:
    whole = ask(client, extra_body={"budget": BUDGET})
    stream = ask(client, stream=True, stream_options={"include_usage": True}, extra_body={"budget": BUDGET})
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    last = next(c for c in reversed(chunks) if c.choices)
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.planner["flops"] == whole.planner["flops"]
    text = client.completions.create(model="small@32x", prompt=HARD, stream=True)
    assert "".join(c.choices[0].text for c in text if c.choices) == whole.choices[0].message.content


def test_progress_events_come_while_it_works(planner: Planner) -> None:
    engine = Moody()
    engine.seconds = 0.15
    with serving(planner, engine=engine) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        started, seen = time.monotonic(), []
        for chunk in ask(client, model="small@32x", stream=True, extra_body={"progress": True}):
            part = getattr(chunk, "planner", None)
            if part is not None and "event" in part:
                seen.append((part["event"], time.monotonic() - started, part))
        client.close()
    assert seen[0][0] == "plan"
    assert seen[0][1] < 0.15
    assert seen[0][2]["plan"]["strategy"] == "best_of_n"
    assert seen[1][2]["completions"] == 16
    assert seen[-1][2]["scored"] > 0


def test_messages_are_joined_and_said_so(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "Calculate 1 + 1."}]
    reply = client.chat.completions.create(
        model="small@8x",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Calculate 2 + 2."},
            {"role": "assistant", "content": "4"},
            {"role": "user", "content": parts},
        ],
    )
    assert "joined" in " ".join(reply.planner["warnings"])


class Replayed(Moody):
    """Gives what another engine gave, and nothing else."""

    def __init__(self, records: dict[str, Completion]) -> None:
        super().__init__()
        self.records = records

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        return [self.records[request.key("small")] for request in requests]


class Recording(Replayed):
    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        made = Moody.generate(self, requests)
        self.records.update({r.key("small"): c for r, c in zip(requests, made, strict=True)})
        return made


def test_what_was_drawn_behind_the_endpoint_replays_to_the_same_plans_and_answers(planner: Planner) -> None:
    recording = Recording({})
    with serving(planner, engine=recording) as server:
        served = {
            (terms, budget): post(server, "/v1/completions", {"model": "small", "prompt": prompt_of(terms), "budget": budget})
            for terms in range(2, 10) for budget in ("4x", "8x", "32x")
        }  # fmt: skip
    engine, verifier = Replayed(recording.records), ScriptedVerifier(judged)
    strategies = set()
    for (terms, budget), (status, online) in served.items():
        offline = planner.solve(prompt_of(terms), budget, engine={"small": engine}, verifier=verifier)
        assert status == 200
        plan = online["planner"]["plan"]
        strategies.add(plan["strategy"])
        assert (plan["strategy"], plan["hyperparameters"]) == (
            offline.plan.strategy,
            dict(offline.plan.hyperparameters),
        )
        assert online["choices"][0]["text"] == offline.text
        assert online["planner"]["answer"] == offline.answer
        assert online["planner"]["flops"]["total"] == offline.cost.total_flops
    assert strategies == {"greedy", "majority", "best_of_n"}


# --- going away, failing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_stops_the_work(planner: Planner, stream: bool) -> None:
    # An answer that goes on for many rounds: adaptive and search strategies would, here a slow engine does.
    engine = Moody()
    engine.seconds = 0.2
    with serving(planner, Settings(max_batch=1), engine) as server:
        body = json.dumps(
            {"model": "small@32x", "stream": stream, "messages": [{"role": "user", "content": HARD}]}
        ).encode()
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            _until(lambda: engine.calls >= 2)
        _until(lambda: server.gateway.in_flight == 0)
        calls = engine.calls
        time.sleep(0.7)
        assert engine.calls <= calls + 1 < 16
        assert "planner_cancelled_total 1.0" in raw(f"{server.url}/metrics")[1].decode()


def _until(condition: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("shown", [False, True])
def test_an_engine_that_is_down_is_503_until_it_is_back(
    planner: Planner, caplog: pytest.LogCaptureFixture, shown: bool
) -> None:
    engine = Moody()
    with serving(planner, Settings(retry_after_seconds=0.3, log_prompts=shown), engine) as server:
        assert raw(f"{server.url}/ready")[0] == 200
        engine.broken = True
        body = {"model": "small@8x", "messages": [{"role": "user", "content": HARD}]}
        for stream in (False, True):
            data = json.dumps({**body, "stream": stream}).encode()
            status, text, headers = raw(f"{server.url}/v1/chat/completions", data)
            assert (status, headers["Retry-After"]) == (503, "1")
            assert json.loads(text)["error"]["code"] == "engine_unavailable"
            assert HARD.encode() not in text  # it might be another client's
        assert raw(f"{server.url}/ready")[0] == 503
        assert raw(f"{server.url}/health")[0] == 200
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client, model="small@8x")
        assert caught.value.status_code == 503
        events = ask(client, model="small@8x", stream=True, extra_body={"progress": True})
        with pytest.raises(openai.APIError, match="engine failed"):
            list(events)
        engine.broken = False
        assert ask(client, model="small@8x").planner["outcome"]
        assert raw(f"{server.url}/ready")[0] == 200
        client.close()
        assert server.gateway.in_flight == 0
    said = [record.getMessage() for record in caplog.records if record.name == "planner.serve"]
    assert len(said) == 2  # one when it fails, one when it is back
    assert (HARD in said[0]) is shown


def test_slow_answers_and_too_many_are_refused(planner: Planner) -> None:
    engine = Moody()
    engine.seconds = 1.0
    body = {"model": "small@8x", "messages": [{"role": "user", "content": HARD}]}
    with serving(planner, Settings(request_timeout_seconds=0.2), engine) as server:
        assert post(server, "/v1/chat/completions", body)[0] == 504
    with serving(planner, Settings(max_in_flight=0)) as server:
        status, _, headers = raw(f"{server.url}/v1/chat/completions", json.dumps(body).encode())
        assert (status, headers["Retry-After"]) == (429, "1")


# --- what is refused ---------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"model": "small@8x", "messages": [{"role": "user", "content": HARD}]}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"budget": "1e12x"}, "budget"),
        ({"budget": "0.01x"}, "budget"),
        ({"budget": -1}, "budget"),
        ({"budget": 10**400}, "budget"),
        ({"budget": "lots"}, "budget"),
        ({"budget": "3 s"}, None),
        ({"budget": True}, "budget"),
        ({"budget": []}, "budget"),
        ({"model": "small@-3x"}, "budget"),
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages"),
        ({"messages": [{"role": "user", "content": "a b" * 20_000}]}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 1.5}, "n"),
        ({"seed": 2**63}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"temperature": 1e999}, None),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "7", "max_completion_tokens": 7}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": 1}, "stream_options"),
        ({"tools": [{}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_what_cannot_be_used_is_a_400_that_names_it(served: Served, change: dict[str, Any], param: str | None) -> None:
    status, body = post(served, "/v1/chat/completions", GOOD | change)
    assert status == 400, body
    assert set(body["error"]) == {"message", "type", "param", "code"}
    if param is not None:
        assert body["error"]["param"] == param


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe{}", b"[" * 50_000, b'{"n": ' + b"9" * 6000 + b"}"])
def test_bodies_that_are_no_json(served: Served, body: bytes) -> None:
    status, reply = post(served, "/v1/chat/completions", body)
    assert (status, reply["error"]["code"]) == (400, "invalid_json")


def test_large_and_slow_bodies(served: Served) -> None:
    large = json.dumps(GOOD | {"user": "x" * 1_000_000}).encode()
    status, body = post(served, "/v1/chat/completions", large)
    assert (status, body["error"]["code"]) == (413, "body_too_large")
    port = int(served.url.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("Content-Length", "1000")
    connection.endheaders()
    connection.send(b'{"model"')
    assert connection.getresponse().status == 408
    connection.close()
    # No length given: counted as it comes.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    parts = (b"x" * 50_000 for _ in range(8))
    connection.request(
        "POST", "/v1/chat/completions", body=parts, encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
    )
    assert connection.getresponse().status == 413
    connection.close()


def test_a_megabyte_of_prompt_is_refused_by_size_or_by_length(served: Served, planner: Planner) -> None:
    prompt = "What is 1 + 1? " * 70_000
    for path, body in (("/v1/chat/completions", GOOD | {"messages": [{"role": "user", "content": prompt}]}),
                       ("/v1/completions", {"model": "small", "prompt": prompt})):  # fmt: skip
        assert post(served, path, body)[0] == 413
    with serving(planner, Settings(max_body_bytes=2_000_000)) as wide:
        for model in ("small", "small@8x"):
            status, reply = post(wide, "/v1/completions", {"model": model, "prompt": prompt})
            assert (status, reply["error"]["code"]) == (400, "context_length_exceeded")
        assert post(wide, "/v1/plan", {"prompt": prompt, "budget": "8x"})[0] == 400


def told_until_closed(connection: socket.socket) -> bytes:
    connection.settimeout(20)
    said = b""
    with suppress(ConnectionResetError):  # closed before all that was sent had been read
        while piece := connection.recv(65536):
            said += piece
    return said


def test_a_head_that_trickles_in_is_refused(planner: Planner) -> None:
    with serving(planner, Settings(head_timeout_seconds=0.4)) as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        # Nothing at all; a head without an end; the second request of a kept connection.
        with socket.create_connection(address) as silent:
            assert told_until_closed(silent).startswith(b"HTTP/1.1 408 ")
        for first in (b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"):
            with socket.create_connection(address) as slow:
                slow.sendall(first)
                said = b""
                while first and b'"ok"' not in said:
                    said += slow.recv(65536)
                slow.sendall(b"POST /v1/plan HTTP/1.1\r\nHost: x\r\n")
                for _ in range(200):
                    try:
                        slow.sendall(b"X-Trickle: 1\r\n")
                        slow.settimeout(0.05)
                        said = slow.recv(65536)
                    except TimeoutError:
                        assert raw(f"{server.url}/health")[0] == 200  # nobody else waits
                        continue
                    except ConnectionError:
                        break
                    assert said.startswith(b"HTTP/1.1 408 ")
                    break
                else:
                    pytest.fail("a head may trickle in for ever")
        with socket.create_connection(address) as large:
            large.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 200_000)
            assert told_until_closed(large)[:13] in (b"HTTP/1.1 400 ", b"")


def test_answers_that_nobody_reads_are_given_up(planner: Planner) -> None:
    asked = 1500
    with serving(planner, Settings(read_timeout_seconds=0.3)) as server:
        registry = server.gateway.metrics.registry

        def answered() -> float:
            return registry.get_sample_value("planner_requests_total", {"path": "/openapi.json", "status": "200"}) or 0

        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
            deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * asked)
            before = -1.0
            while answered() != before:  # until the system's buffers are full, and then for longer than is allowed
                before = answered()
                time.sleep(0.6)
            assert 0 < before < asked
            assert told_until_closed(deaf).count(b"HTTP/1.1 200") < asked
            assert answered() <= before + 1
        assert raw(f"{server.url}/health")[0] == 200


def test_unknown_models_paths_and_methods(served: Served, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no such model"):
        ask(client, model="large")
    assert raw(f"{served.url}/v2")[0] == 404
    status, body, headers = raw(f"{served.url}/v1/plan")
    assert (status, headers["Allow"]) == (405, "POST")
    assert "error" in json.loads(body)


def test_the_key_is_asked_for(planner: Planner) -> None:
    with serving(planner, Settings(api_key="sésame")) as server:
        data = json.dumps(GOOD).encode()
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "sesame"}):
            status, body, replied = raw(f"{server.url}/v1/chat/completions", data, headers)
            assert (status, replied["WWW-Authenticate"]) == (401, "Bearer")
            assert json.loads(body)["error"]["type"] == "authentication_error"
        assert raw(f"{server.url}/metrics")[0] == 401
        assert raw(f"{server.url}/health")[0] == raw(f"{server.url}/ready")[0] == 200
    with serving(planner, Settings(api_key="sesame")) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sesame")
        assert ask(client, model="small@8x").choices
        client.close()


def test_an_open_address_needs_a_key() -> None:
    with pytest.raises(InputError, match="API key"):
        Settings(host="0.0.0.0")  # noqa: S104
    with pytest.raises(InputError, match="explore"):
        Settings(explore=2)


def test_another_engine_is_refused_unless_it_is_named(planner: Planner) -> None:
    engine = Moody(name="other")
    with pytest.raises(CapabilityError, match="--allow-mismatch other"):
        check_match(planner, {"small": engine}, None, ())
    check_match(planner, {"small": engine}, None, ("other",))
    verifier = ScriptedVerifier(judged)
    with pytest.raises(CapabilityError, match="another verifier"):
        check_match(planner, {"small": engine}, verifier, ("other",))


def test_an_engine_without_a_config_is_priced_by_the_policys(planner: Planner) -> None:
    unknown = ScriptedEngine(drawn, name="small", shape=None, caches_prefixes=False)
    found = priced(planner, {"small": unknown})["small"]
    assert found.info.shape is not None
    assert found.info.shape.hidden == 64  # the fixture's config
    request = GenerationRequest(prompt=HARD)
    assert found.generate([request]) == unknown.generate([request])
    assert found.count_tokens(HARD) == len(HARD)
    found.reset()
    known = Moody()
    assert priced(planner, {"small": known})["small"] is known
    with pytest.raises(CapabilityError, match=r"config\.json"):
        priced(planner, {"large": unknown})


# --- the other paths ---------------------------------------------------------------------------------------------------


def test_models_plan_and_metrics(served: Served, client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["small", "auto", "small@2x", "small@8x", "small@32x", "auto@2x", "auto@8x", "auto@32x"]
    status, plan = post(served, "/v1/plan", {"prompt": HARD, "budget": "8x"})
    assert (status, plan["strategy"]) == (200, "best_of_n")
    assert "alternatives" in plan["explanation"]
    assert (
        post(served, "/v1/plan", {"messages": GOOD["messages"]}, **{"X-Planner-Budget": "2x"})[1]["strategy"]
        == "greedy"
    )
    status, text, headers = raw(f"{served.url}/metrics")
    assert headers["Content-Type"].startswith("text/plain")
    for name in (
        "planner_requests_total{",
        "planner_plans_total{",
        'planner_flops_total{part="policy"}',
        "planner_request_seconds_bucket",
        'planner_plans_total{bucket="hard",strategy="best_of_n"}',
        "planner_flops_saved ",
        "planner_budget_hits_total ",
        'planner_outcomes_total{outcome="finished"}',
    ):
        assert name in text.decode()


def test_the_log_has_decisions_and_feedback_and_no_text(served: Served, client: openai.OpenAI, log: Path) -> None:
    private = "Calculate 31337 + 12."
    reply = ask(client, private, model="small@8x")
    decision = reply.planner["decision_id"]
    status, body = post(served, "/v1/feedback", {"decision_id": decision, "correct": True})
    assert (status, body["logged"]) == (200, True)
    assert post(served, "/v1/feedback", {"decision_id": "x", "correct": True})[0] == 400
    assert post(served, "/v1/feedback", {"decision_id": decision})[0] == 400
    text = log.read_text()
    assert "31337" not in text
    records = [json.loads(line) for line in text.splitlines()]
    own = [r for r in records if r.get("decision_id") == decision]
    assert [r["kind"] for r in own] == ["decision", "feedback"]
    assert own[0]["propensity"] == 1.0
    assert own[0]["flops"]["total"] == reply.planner["flops"]["total"]
    assert own[0]["features"]["number_count"] == 2
    assert own[0]["outcome"] == reply.planner["outcome"]


def test_exploring_logs_what_an_off_policy_estimate_needs(planner: Planner, tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    with serving(planner, Settings(explore=0.6, decision_log=log)) as server:
        for seed in range(120):
            prompt = prompt_of(9, seed)
            status, reply = post(server, "/v1/completions", {"model": "small", "prompt": prompt, "budget": "32x"})
            assert status == 200
            decision = reply["planner"]["decision_id"]
            assert post(server, "/v1/feedback", {"decision_id": decision, "score": 0.5})[1]["logged"] is True
    records = [json.loads(line) for line in log.read_text().splitlines()]
    decisions = [record for record in records if record["kind"] == "decision"]
    assert len({record["plan"]["index"] for record in decisions}) > 2
    assert all(0 < record["propensity"] < 1 for record in decisions)
    report = measure_drift(log, planner.chooser)
    assert report.rated == 120
    assert report.estimates
    for estimate in report.estimates:
        assert (estimate.low, estimate.success, estimate.high) == pytest.approx((0.5, 0.5, 0.5))
