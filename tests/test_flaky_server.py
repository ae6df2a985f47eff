"""Whole profiling runs through a server that fails at random: right in the end, or an error that says what to do."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_server import FakeServer, Fault
from scripted import SHAPE, ScriptedVerifier

from planner.errors import EngineError
from planner.models.openai_engine import OpenAIEngine
from planner.models.openai_options import OpenAIOptions
from planner.models.shipped import shipped
from planner.profiling import run
from planner.profiling.bank import Bank
from planner.profiling.recipe import load_recipe
from planner.profiling.run import profile

FAULTS = {
    "drops": Fault("drop"),
    "half answers": Fault("half"),
    "429": Fault("status", 429, {"Retry-After": "0"}),
    "500": Fault("status", 500),
    "502 with a page": Fault("status", 502, body="<html>bad gateway</html>"),
    "garbage": Fault("garbage"),
    "no choices": Fault("nonsense"),
    "silence": Fault("silence", seconds=20),
    "slow": Fault("slow", seconds=0.05),
    "slow tokens": Fault("drip", seconds=20),
}
SLOW = ("silence", "slow tokens")
RECIPE = """
[task]
name = "p.jsonl"
max_tokens = 48
step_separator = "\\n"
[[policy_models]]
engine = "http://127.0.0.1:9/v1"
name = "m"
[verifier]
engine = "lab:lab-prm"
[samples]
count = 2
difficulty_count = 1
[[runs]]
strategy = "beam_search"
n = 2
expansions = 2
max_steps = 4
[run]
chunk_problems = 1
"""
Decide = Callable[[str, dict[str, Any], int], Fault | None]


def at_random(kinds: list[str], share: float, seed: int) -> Decide:
    """One request in so many fails, on every path of the server."""
    rng, lock = random.Random(seed), threading.Lock()

    def decide(path: str, body: dict[str, Any], number: int) -> Fault | None:
        with lock:
            return FAULTS[rng.choice(kinds)] if rng.random() < share else None

    return decide


def run_over_http(server: FakeServer, folder: Path, *, retries: int, timeout: float, faults: Decide | None) -> Bank:
    """Profile into `folder`/bank; the engine is made while the server is calm."""
    (folder / "p.jsonl").write_text(
        "".join(f'{{"prompt": "What is {i} + 3?", "answer": "{i + 3}"}}\n' for i in range(2))
    )
    (folder / "recipe.toml").write_text(RECIPE)
    config = shipped("models", "lab/lab-small") / "config.json"
    options = OpenAIOptions(
        base_urls=(server.url,), config=config, retries=retries, timeout=timeout, prefix_cache=True, concurrency=8
    )
    verifier = ScriptedVerifier(lambda steps: (sum(map(ord, "".join(steps))) % 97) / 96, shape=SHAPE)
    with OpenAIEngine(options) as engine:
        server.faults = faults
        try:
            profile(load_recipe(folder / "recipe.toml"), folder / "bank", engines={"m": engine}, verifier=verifier)
        finally:
            server.faults = None
    return Bank.open(folder / "bank")


@pytest.fixture(scope="module", autouse=True)
def untimed():
    """Timing an engine takes a thousand requests, and is not what is tried here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "measure_latency", lambda makers, known=None: {"engines": {}, "verifier": None})
        yield


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    with FakeServer() as server:
        bank = run_over_http(server, tmp_path_factory.mktemp("calm"), retries=0, timeout=10.0, faults=None)
    return tables(bank)


def tables(bank: Bank) -> dict[str, pd.DataFrame]:
    """Samples and runs by key; what was found in a cache is the server's own affair."""
    frames = bank.to_pandas()
    kept = {name: frames[name].sort_values("key", ignore_index=True) for name in ("samples", "runs")}
    return {name: frame.drop(columns=["cached_tokens"], errors="ignore") for name, frame in kept.items()}


def assert_same(found: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame]) -> None:
    for name, frame in expected.items():
        assert Counter(found[name]["key"]) == Counter(frame["key"]), "a sample was lost or doubled"
        assert found[name]["key"].is_unique
        pd.testing.assert_frame_equal(found[name], frame)


@pytest.mark.parametrize("kind", FAULTS)
def test_a_run_through_one_kind_of_failure_is_the_calm_one(kind, calm, tmp_path: Path):
    share, timeout = (0.05, 0.5) if kind in SLOW else (0.2, 10.0)
    with FakeServer() as server:
        bank = run_over_http(server, tmp_path, retries=8, timeout=timeout, faults=at_random([kind], share, 3))
    assert_same(tables(bank), calm)


@pytest.mark.parametrize("seed", range(2))
def test_a_run_through_all_of_them_ends_right_or_says_what_to_do_and_goes_on(seed, calm, tmp_path: Path):
    """With one retry some runs fail for good; taken up again when the server is well, nothing is lost or doubled."""
    quick = [kind for kind in FAULTS if kind not in SLOW]
    with FakeServer() as server:
        failures: list[EngineError] = []
        for attempt in range(40):
            share = 0.5 if attempt < 2 else 0.05
            faults = at_random(quick, share, 100 * seed + attempt) if attempt < 39 else None
            try:
                bank = run_over_http(server, tmp_path, retries=1, timeout=10.0, faults=faults)
                break
            except EngineError as error:
                failures.append(error)
        assert_same(tables(bank), calm)
        assert failures, "nothing failed for good, so this test showed nothing"
        for error in failures:
            assert error.retryable
            for part in (server.url, "request: ", "What to do: ", "try 2"):
                assert part in str(error)


@pytest.mark.parametrize("path", ["/tokenize", "/v1/models"])
@pytest.mark.parametrize("kind", ["drops", "429", "500", "garbage"])
def test_what_an_engine_asks_besides_is_retried_too(kind, path, tmp_path: Path):
    with FakeServer() as server:
        left = [FAULTS[kind]] * 2
        server.faults = lambda at, body, number: left.pop() if at == path and left else None
        options = OpenAIOptions(base_urls=(server.url,), timeout=5.0, retries=3)
        with OpenAIEngine(options) as engine:
            tokens = engine.count_tokens("What is 2 + 3?")
            found = engine.capabilities
    assert not left or path == "/tokenize"
    with FakeServer() as server, OpenAIEngine(OpenAIOptions(base_urls=(server.url,), timeout=5.0)) as engine:
        if found.counts == "server":
            assert engine.count_tokens("What is 2 + 3?") == tokens
        assert engine.capabilities == found or kind == "garbage"


@pytest.mark.parametrize("kind", ["drops", "429", "500", "garbage", "silence"])
def test_a_server_that_never_gets_well_is_named_at_once(kind):
    with FakeServer(faults=lambda path, body, number: FAULTS[kind]) as server:
        timeout = 0.4 if kind in SLOW else 5.0
        with pytest.raises(EngineError) as caught:
            OpenAIEngine(OpenAIOptions(base_urls=(server.url,), timeout=timeout, retries=1))
    for part in (server.url, "request: the list of models", "What to do: "):
        assert part in str(caught.value)
