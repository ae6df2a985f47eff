"""The engine for OpenAI-compatible servers, on a fake server that speaks vLLM's dialect and on the laboratory behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_server import END, MODEL, Asked, Dialect, FakeServer, Fault, in_turn
from scripted import SHAPE, ScriptedVerifier

from planner.core import GenerationRequest, Outcome, Problem, Sampling
from planner.errors import CapabilityError, EngineError, InputError
from planner.models.contract import ENGINE_CHECKS
from planner.models.openai_engine import OpenAIEngine
from planner.models.openai_options import OpenAIOptions
from planner.models.published import find_published
from planner.models.shipped import load_engine, shipped
from planner.models.transformers_engine import TransformersEngine
from planner.runtime.driver import Job, run_flows
from planner.strategies import BeamSearch, BestOfN

PROMPT = "What is 2 + 3?"
KEY = "sk-very-secret"


def engine_for(*servers: FakeServer, **options: Any) -> OpenAIEngine:
    settings = {"timeout": 5.0, **options}
    return OpenAIEngine(OpenAIOptions(base_urls=tuple(server.url for server in servers), **settings))


def asks(count: int, **sampling: Any) -> list[GenerationRequest]:
    wanted = Sampling(**{"max_tokens": 64, **sampling})
    return [GenerationRequest(prompt=PROMPT, sampling=wanted, index=i) for i in range(count)]


# --- the contract, over every dialect that can hold it ------------------------------------------------------------

DIALECTS = {
    "vllm": (Dialect(), {}),
    "names its stops": (Dialect(keeps_stop=False), {}),
    "no usage": (Dialect(usage=False), {}),
    "no completions": (Dialect(completions=False), {}),
}


@pytest.mark.parametrize("check", ENGINE_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", DIALECTS)
def test_engine_holds_its_contract(name, check):
    dialect, options = DIALECTS[name]
    with FakeServer(dialect=dialect) as server, engine_for(server, **options) as engine:
        assert engine.capabilities.counts == "server"
        check(engine, PROMPT, "\n")
        assert engine.usage_mismatch_count == 0


def test_several_servers_share_the_work():
    with FakeServer() as one, FakeServer() as two, engine_for(one, two) as engine, engine_for(one) as alone:
        together = engine.generate(asks(32))
        assert [c.text for c in together] == [c.text for c in alone.generate(asks(32))]
        assert engine.info.fingerprint == alone.info.fingerprint
        assert min(one.generated, two.generated) >= 10


def test_connections_are_pooled_and_bounded():
    with (
        FakeServer(faults=lambda *_: Fault("slow", seconds=0.02)) as server,
        engine_for(server, concurrency=4) as engine,
    ):
        engine.generate(asks(40))
        assert 2 <= server.most_open <= 4
        assert len(server.connections) <= 4


# --- what the probe finds -----------------------------------------------------------------------------------------


def test_the_probe_says_what_was_found():
    with FakeServer() as server, engine_for(server) as engine:
        found = engine.capabilities
        assert found == engine.probe()
        assert (found.endpoint, found.counts, found.max_context_tokens) == ("completions", "server", 2048)
        for name in ("token_prompts", "continues", "seeds", "logprobs", "stop_in_output", "stops_told", "usage"):
            assert getattr(found, name), name
        assert not found.reports_cached
        assert found.notes == ()
        assert found.to_dict()["endpoint"] == "completions"
        (completion,) = engine.generate(asks(1))
        assert completion.mean_logprob == -0.5


@pytest.mark.parametrize(
    ("dialect", "field", "note"),
    [
        (Dialect(seeds=False), "seeds", "seeds are ignored"),
        (Dialect(seeds=False, strict=True), "seeds", "seeds are refused"),
        (Dialect(logprobs=False), "logprobs", "no log-probabilities"),
        (Dialect(keeps_stop=False, names_stop=False), "stops_told", "cannot be told from the answer's end"),
        (Dialect(keeps_stop=False, names_stop=False, strict=True), "stops_told", "cannot be told"),
        (Dialect(completions=False, continues=False), "continues", "starts anew"),
        (Dialect(completions=False, continues=False, strict=True), "continues", "refuses to continue"),
        (Dialect(completions=False, strips_turns=True), "continues", "strips the step separator"),
        (Dialect(usage=False), "usage", "does not report usage"),
    ],
)
def test_what_is_missing_is_noticed(dialect, field, note):
    with FakeServer(dialect=dialect) as server, engine_for(server) as engine:
        assert not getattr(engine.capabilities, field)
        assert any(note in n for n in engine.capabilities.notes), engine.capabilities.notes


def test_what_is_missing_is_refused_before_anything_is_sent():
    plain = Dialect(completions=False, continues=False, keeps_stop=False, names_stop=False, tokenize=False)
    with FakeServer(dialect=plain) as server, engine_for(server) as engine:
        before = len(server.requests)
        with pytest.raises(CapabilityError, match=r"127\.0\.0\.1.*chat.*partial answer.*starts anew"):
            engine.generate([GenerationRequest(prompt=PROMPT, prefix="1 + 1 = 2\n")])
        with pytest.raises(CapabilityError, match="stops at a step's end"):
            engine.generate(asks(3, stop=("\n",)))
        problem = Problem(problem_id="p", prompt=PROMPT, step_separator="\n", max_tokens=64)
        job = Job(problem, BeamSearch(n=4, expansions=2))
        with pytest.raises(CapabilityError):
            run_flows([job], {"m": engine}, ScriptedVerifier(lambda s: 0.5), default_policy_model="m")
        assert len(server.requests) == before
        assert len({c.text for c in engine.generate(asks(4))}) > 1


def test_a_plain_completions_server_gets_text_and_estimates():
    dialect = Dialect(chat=False, tokenize=False, token_prompts=False, max_model_len=None)
    with FakeServer(dialect=dialect) as server, engine_for(server, system="Be brief.") as engine:
        assert (engine.capabilities.endpoint, engine.capabilities.counts) == ("completions", "estimate")
        engine.generate([GenerationRequest(prompt=PROMPT, prefix="1 + 1 = 2\n", sampling=Sampling(max_tokens=9))])
        assert server.requests[-1][1]["prompt"] == f"Be brief.\n\n{PROMPT}1 + 1 = 2\n"
        assert engine.count_tokens(PROMPT, "12345") == -(-len(f"Be brief.\n\n{PROMPT}") // 4) + 2
        assert engine.info.max_context_tokens == 1 << 20


def test_an_endpoint_that_is_not_served_is_an_error():
    with (
        FakeServer(dialect=Dialect(chat=False)) as server,
        pytest.raises(CapabilityError, match=r"endpoint.*chat.*404"),
    ):
        engine_for(server, endpoint="chat")


def test_a_chat_gets_messages_and_the_turn_goes_on():
    with FakeServer() as server, engine_for(server, endpoint="chat", system="Be brief.") as engine:
        engine.generate([GenerationRequest(prompt=PROMPT, prefix="1 + 1 = 2\n")])
        path, body = server.requests[-1]
        assert path == "/v1/chat/completions"
        assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant"]
        assert body["messages"][-1]["content"] == "1 + 1 = 2\n"
        assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


def test_seeds_are_the_requests_own_within_the_servers_range():
    with FakeServer() as server, engine_for(server) as engine:
        requests = asks(3)
        engine.generate(requests)
        sent = {body["seed"] for _, body in server.requests[-3:]}
        assert sent == {r.seed(engine.info.fingerprint) % (1 << 31) for r in requests}


def test_what_the_server_counts_otherwise_is_flagged():
    with FakeServer(dialect=Dialect(counts_wrong_by=1)) as server, engine_for(server) as engine:
        (completion,) = engine.generate(asks(1))
        (mismatch,) = engine.usage_mismatches
        assert engine.usage_mismatch_count == 1
        assert mismatch.server_tokens == completion.prompt_tokens == mismatch.counted_tokens + 1
        assert PROMPT in mismatch.request


def test_an_input_that_fills_the_context_is_an_error_and_a_limit_is_cut_to_it():
    with FakeServer(dialect=Dialect(max_model_len=100)) as server, engine_for(server) as engine:
        engine.generate(asks(1, max_tokens=5000))
        assert server.requests[-1][1]["max_tokens"] == 100 - engine.count_tokens(PROMPT)
        with pytest.raises(InputError, match="fewer than the model's 100"):
            engine.generate([GenerationRequest(prompt="7" * 100)])


# --- faults -------------------------------------------------------------------------------------------------------

ONCE = {
    "dropped": Fault("drop"),
    "cut off": Fault("half"),
    "rate limit": Fault("status", 429, {"Retry-After": "0"}),
    "rate limit by date": Fault("status", 429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "broken": Fault("status", 500),
    "overloaded": Fault("status", 503, body="upstream connect error"),
    "garbage": Fault("garbage"),
    "no choices": Fault("nonsense"),
    "silence": Fault("silence", seconds=30),
    "slow": Fault("slow", seconds=0.3),
    "drip": Fault("drip", seconds=30),
}


@pytest.mark.parametrize("name", ONCE)
def test_what_passes_is_retried_and_no_sample_is_lost_or_doubled(name):
    with FakeServer() as server, engine_for(server, timeout=1.0) as engine:
        expected = [c.text for c in engine.generate(asks(8))]
        server.faults = in_turn(None, ONCE[name], None, ONCE[name])
        assert [c.text for c in engine.generate(asks(8))] == expected
        seeds = [body["seed"] for _, body in server.requests[-8 - 2 * (name != "slow") :]]
        assert len(set(seeds)) == 8


@pytest.mark.parametrize(
    ("fault", "words", "retryable"),
    [
        (Fault("drop"), r"connection was lost.*What to do: is the server still up", True),
        (Fault("half"), r"connection was lost", True),
        (Fault("status", 429, {"Retry-After": "0"}), r"HTTP 429 'scripted failure'.*lower `concurrency`", True),
        (Fault("status", 429, {"Retry-After": "3600"}), r"asks for a pause of 3600 s.*try 1", True),
        (Fault("status", 500), r"HTTP 500.*try 3.*see the server's log", True),
        (Fault("garbage"), r"cannot be read \(not JSON\).*502 from a proxy.*OpenAI-compatible", True),
        (Fault("nonsense"), r"cannot be read \(not one of `choices`\)", True),
        (Fault("silence"), r"no whole answer within 0.5 s.*`timeout`", True),
        (Fault("drip"), r"no whole answer within 0.5 s.*try 2", True),
        (Fault("status", 400), r"HTTP 400 'scripted failure'.*does not take this request", False),
        (Fault("status", 404), r"HTTP 404.*end in /v1", False),
        (Fault("status", 302, body=""), r"HTTP 302.*OpenAI-compatible", False),
    ],
)
def test_what_does_not_pass_names_endpoint_request_and_remedy(fault, words, retryable):
    timeout = 0.5 if fault.kind in ("silence", "drip") else 5.0
    with FakeServer() as server, engine_for(server, timeout=timeout, retries=2) as engine:
        server.faults = lambda path, body, number: fault if path.endswith("/completions") else None
        with pytest.raises(EngineError, match=words) as caught:
            engine.generate(asks(2))
        assert caught.value.retryable is retryable
        for part in (server.url, "completions", PROMPT, "draw ", "What to do:"):
            assert part in str(caught.value)
        server.faults = None
        assert len(engine.generate(asks(2))) == 2, "the engine is usable again"


def test_a_failed_request_cancels_the_others_on_the_server_too():
    def faults(path: str, body: dict[str, Any], number: int) -> Fault | None:
        return Fault("status", 400) if body.get("max_tokens") == 13 else Fault("silence", seconds=20)

    with FakeServer() as server, engine_for(server, timeout=20) as engine:
        engine.count_tokens(PROMPT)
        server.faults = faults
        begun = time.monotonic()
        with pytest.raises(EngineError, match="HTTP 400"):
            engine.generate([*asks(6), *asks(1, max_tokens=13)])
        assert time.monotonic() - begun < 5
        deadline = time.monotonic() + 5
        while server.open and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.gone >= 1
        assert server.open == 0


def test_retry_after_is_honoured():
    with FakeServer() as server, engine_for(server) as engine:
        server.faults = in_turn(Fault("status", 429, {"Retry-After": "1"}))
        begun = time.monotonic()
        engine.generate(asks(1))
        assert time.monotonic() - begun >= 1


def test_a_failing_server_is_left_for_another():
    with FakeServer() as good, FakeServer() as bad, engine_for(good, bad, retries=1) as engine:
        bad.faults = lambda path, body, number: Fault("status", 503)
        assert len(engine.generate(asks(16))) == 16


def test_connections_that_were_dropped_while_idle_are_opened_again():
    with FakeServer() as server, engine_for(server) as engine:
        expected = [c.text for c in engine.generate(asks(4))]
        server.faults = lambda path, body, number: Fault("drop") if number in dropped else None
        dropped = set(range(len(server.requests), len(server.requests) + 4))
        assert [c.text for c in engine.generate(asks(4))] == expected


@pytest.mark.parametrize("reason", ["abort", "content_filter"])
def test_an_end_that_is_none_is_an_error(reason, monkeypatch):
    with FakeServer() as server, engine_for(server) as engine:
        cut = server._cut
        monkeypatch.setattr(server, "_cut", lambda *args: (cut(*args)[0], reason, None, 1))
        with pytest.raises(EngineError, match=reason) as caught:
            engine.generate(asks(1))
        assert caught.value.retryable is (reason == "abort")


def test_nobody_there_is_an_error_and_a_closed_engine_too():
    with FakeServer() as server:
        engine = engine_for(server)
        url = server.url
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.generate(asks(1))
    with pytest.raises(EngineError, match=r"cannot connect.*list of models.*start the server"):
        OpenAIEngine(OpenAIOptions(base_urls=(url,), retries=0))


def test_interleaved_batches_of_several_threads_are_each_answered():
    with FakeServer() as server, engine_for(server) as engine:
        expected = [c.text for c in engine.generate(asks(8))]
        results: dict[int, list[str]] = {}

        def work(number: int) -> None:
            results[number] = [c.text for c in engine.generate(asks(8))]

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list(results.values()) == [expected] * 4


# --- keys and addresses -------------------------------------------------------------------------------------------


def test_the_key_is_sent_and_never_shown(monkeypatch, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("FAKE_KEY", KEY)
    with FakeServer(dialect=Dialect(api_key=KEY)) as server:
        with engine_for(server, api_key_env="FAKE_KEY") as engine:
            engine.generate(asks(2))
        monkeypatch.setenv("FAKE_KEY", KEY + "-old")
        with pytest.raises(EngineError, match="api_key_env") as caught:
            engine_for(server, api_key_env="FAKE_KEY")
        assert KEY not in str(caught.value)
        with pytest.raises(EngineError, match="401"):
            engine_for(server)
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("modell=x", r"`modell` = 'x'.*no such option.*also, api_key_env"),
        ("timeout=soon", r"`timeout` = 'soon'.*a number of seconds"),
        ("timeout=-1", r"`timeout` = -1.0.*positive"),
        ("retries=-1", r"`retries`.*0 or more"),
        ("concurrency=0", r"`concurrency`.*1 or more"),
        ("endpoint=both", r"`endpoint`.*completions or chat"),
        ("prefix_cache=maybe", r"`prefix_cache`.*true or false"),
        ("model=a&model=b", r"`model`.*given twice"),
        ("model=", r"`model`.*is empty"),
        ("tokenizer=/nowhere", r"`tokenizer`.*a folder that holds a tokenizer"),
        ("config=/nowhere.json", r"`config`.*config.json, or the name of a published one"),
        ("config=Lama-3.1-8B", r"`config` = 'Lama-3.1-8B'.*not in the table.*Llama-3.1-8B"),
        ("api_key_env=NOT_SET_ANYWHERE", r"`api_key_env`.*export NOT_SET_ANYWHERE"),
        ("also=ftp://else", r"`base_urls` = 'ftp://else'.*http://"),
    ],
)
def test_bad_options_are_named(query, words):
    with pytest.raises(InputError, match=words):
        load_engine(f"http://127.0.0.1:9/v1?{query}")


def test_a_key_in_the_address_is_refused_unseen():
    with pytest.raises(InputError, match="api_key_env") as caught:
        load_engine(f"http://user:{KEY}@127.0.0.1:9/v1")
    assert KEY not in str(caught.value)


def test_an_address_is_an_engine(tmp_path: Path):
    config = shipped("models", "lab/lab-small") / "config.json"
    with FakeServer() as server, FakeServer() as other:
        spec = f"{server.url}/?model={MODEL}&config={config}&also={other.url}&prefix_cache=true&revision=r2&retries=1"
        engine = load_engine(spec)
        assert isinstance(engine, OpenAIEngine)
        with engine:
            assert engine.info.shape is not None
            assert engine.info.shape.parameters > 0
            assert (engine.info.name, engine.info.caches_prefixes) == (MODEL, True)
            with load_engine(server.url) as same:
                assert same.info.shape is None
                assert same.info.fingerprint != engine.info.fingerprint, "revisions are told apart"
        for name in ("Llama-3.1-8B-Instruct", "meta-llama/llama-3.1-8b-instruct", "Llama-3.1-8B"):
            with load_engine(f"{server.url}?config={name}") as priced:
                assert priced.info.shape == find_published("Llama-3.1-8B").shape
        (tmp_path / "config.json").write_text("[]")
        with pytest.raises(InputError, match="not an object"):
            load_engine(f"{server.url}?config={tmp_path / 'config.json'}")
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match="no tokenizer can be loaded"):
            load_engine(f"{server.url}?tokenizer={tmp_path / 'empty'}")


def test_of_several_models_one_must_be_named():
    with FakeServer(dialect=Dialect(models=("a", "b"))) as server:
        with pytest.raises(InputError, match=r"2 models.*one of a, b"):
            engine_for(server)
        with engine_for(server, model="b") as engine, engine_for(server, model="a") as other:
            assert engine.info.name == "b"
            assert engine.info.fingerprint != other.info.fingerprint
        with pytest.raises(CapabilityError, match="does not exist"):
            engine_for(server, model="c")


# --- searches through it ------------------------------------------------------------------------------------------


def test_searches_run_through_it_as_flows():
    """Beam search and best-of-n over HTTP, through drops and rate limits, give what they give undisturbed."""
    problems = [
        Problem(problem_id=f"p{i}", prompt=f"What is {i} + 3?", step_separator="\n", max_tokens=64) for i in range(2)
    ]
    specs = [BeamSearch(n=4, expansions=2), BestOfN(n=6)]
    jobs = [Job(problem, spec) for problem in problems for spec in specs]

    def solve(faults: Callable[[str, dict[str, Any], int], Fault | None] | None) -> list[Any]:
        verifier = ScriptedVerifier(lambda steps: (sum(map(ord, "".join(steps))) % 97) / 96, shape=SHAPE)
        config = shipped("models", "lab/lab-small") / "config.json"
        with FakeServer() as server, engine_for(server, config=config) as engine:
            server.faults = faults
            return run_flows(jobs, {"m": engine}, verifier, default_policy_model="m")

    calm = solve(None)
    assert all(run.answer.outcome is Outcome.FINISHED for run in calm)
    assert all(run.usage.generated_tokens > 0 for run in calm)
    flaky = {
        0: Fault("drop"),
        3: Fault("status", 429, {"Retry-After": "0"}),
        6: Fault("garbage"),
        9: Fault("status", 500),
    }
    assert solve(lambda path, body, number: flaky.get(number % 12)) == calm


def test_a_budget_is_held_over_http():
    problem = Problem(problem_id="p", prompt=PROMPT, step_separator="\n", max_tokens=64)
    config = shipped("models", "lab/lab-small") / "config.json"
    with FakeServer() as server, engine_for(server, config=config, prefix_cache=True) as engine:
        (free,) = run_flows([Job(problem, BestOfN(n=6))], {"m": engine}, judge(), default_policy_model="m")
        budget = free.cost.total_flops / 2
        (run,) = run_flows([Job(problem, BestOfN(n=6), budget)], {"m": engine}, judge(), default_policy_model="m")
        assert 0 < run.cost.total_flops <= budget


def judge() -> ScriptedVerifier:
    return ScriptedVerifier(lambda steps: 0.5)


# --- a real model behind the dialect ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def laboratory() -> TransformersEngine:
    return TransformersEngine(shipped("models", "lab/lab-small"), device="cpu")


@pytest.fixture(scope="module")
def served(laboratory: TransformersEngine):
    """The laboratory's small model behind the dialect: ids in, text out."""
    tokenizer = laboratory._tokenizer
    lock = threading.Lock()

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def template(messages: Any, opens: bool) -> list[int]:
        extra = {"add_generation_prompt": True} if opens else {"continue_final_message": True}
        return encode(tokenizer.apply_chat_template(list(messages), tokenize=False, **extra))

    def model(asked: Asked) -> list[int]:
        head, _, prefix = tokenizer.decode(list(asked.ids)).partition("<assistant>")
        sampling = Sampling(temperature=0.0 if asked.seed is None else 1.2, max_tokens=asked.max_tokens)
        request = GenerationRequest(
            prompt=head.removeprefix("<bos><user>"), prefix=prefix, sampling=sampling, index=asked.seed or 0
        )
        with lock:
            (completion,) = laboratory.generate([request])
        return [*encode(completion.text), *([END] if completion.finish == "end" else [])]

    with FakeServer(
        model, Dialect(max_model_len=512), encode=encode, decode=tokenizer.decode, template=template
    ) as server:
        yield server


@pytest.mark.parametrize("options", [{}, {"tokenizer": True}, {"endpoint": "chat"}], ids=["server", "folder", "chat"])
def test_greedy_text_equals_the_engine_in_process(laboratory, served, options):
    options = {k: shipped("models", "lab/lab-small") if k == "tokenizer" else v for k, v in options.items()}
    prompts = ["Calculate 58 - 3 * 6 + 12.", "Find the Greatest Common Divisor (GCD) of these numbers: 84, 36."]
    cold = Sampling(temperature=0.0, max_tokens=48)
    with engine_for(served, **options) as engine:
        assert engine.capabilities.counts == ("tokenizer" if "tokenizer" in options else "server")
        assert engine.capabilities.continues
        for sampling in (cold, replace(cold, stop=("\n",))):
            requests = [GenerationRequest(prompt=prompt, sampling=sampling) for prompt in prompts]
            requests += [replace(r, prefix=laboratory.generate([r])[0].text[:9]) for r in requests]
            laboratory.reset()
            for mine, theirs in zip(engine.generate(requests), laboratory.generate(requests), strict=True):
                assert (mine.text, mine.finish) == (theirs.text, theirs.finish)
                assert (mine.prompt_tokens, mine.generated_tokens) == (theirs.prompt_tokens, theirs.generated_tokens)
        assert engine.usage_mismatch_count == 0


def test_a_server_that_takes_no_ids_gets_the_templated_text(laboratory, served, monkeypatch):
    monkeypatch.setattr(served.dialect, "token_prompts", False)
    prefix = "3 * 6 = 18\n"
    request = GenerationRequest(
        prompt="Calculate 58 - 3 * 6 + 12.", prefix=prefix, sampling=Sampling(temperature=0.0, max_tokens=24)
    )
    with engine_for(served, tokenizer=shipped("models", "lab/lab-small")) as engine:
        assert (engine.capabilities.endpoint, engine.capabilities.token_prompts) == ("completions", False)
        (mine,), (theirs,) = engine.generate([request]), laboratory.generate([request])
        assert served.requests[-1][1]["prompt"] == f"<bos><user>{request.prompt}<assistant>{prefix}"
        assert (mine.text, mine.prompt_tokens) == (theirs.text, theirs.prompt_tokens)
        assert engine.usage_mismatch_count == 0


def test_the_laboratory_over_http_holds_the_contract_where_text_matters(served):
    with engine_for(served, tokenizer=shipped("models", "lab/lab-small")) as engine:
        for name in ("limits_are_held", "steps_add_up_to_the_whole", "usage_is_true"):
            (check,) = (check for check in ENGINE_CHECKS if check.__name__ == name)
            check(engine, "Calculate 58 - 3 * 6 + 12.", "\n")
