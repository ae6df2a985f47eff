"""Engines on a real vLLM, in process and over HTTP: the contract, transformers' own greedy texts, and whole runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from importlib.util import find_spec

import pytest

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here: see scripts/vllm_env.sh", allow_module_level=True)

from planner.core import GenerationRequest, Outcome, Problem, Sampling
from planner.errors import InputError
from planner.models.contract import ENGINE_CHECKS
from planner.models.protocols import ContinuousEngine, Engine
from planner.models.shipped import load_engine
from planner.models.transformers_engine import TransformersEngine
from planner.models.vllm_engine import VllmEngine
from planner.profiling.bank import Bank
from planner.profiling.run import profile
from planner.runtime.driver import Job, run_flows
from planner.strategies import BeamSearch
from planner.tasks.lab import worked_problems

PROMPT = "Calculate 58 - 3 * 6 + 12."
LONG = "Calculate 58 - 3 * 6 + 12 - 100 + 33 * 4 + 5 - 6 + 7 + 8 + 9 + 10 - 11 + 12."

WAYS = ("process", "server counts", "own tokenizer", "chat")


@pytest.fixture(scope="session")
def engines(servers, engine, lab) -> Iterator[dict[str, Engine]]:
    address, folder = servers["lab-small"], lab("lab-small")
    over_http = {
        "server counts": load_engine(address),
        "own tokenizer": load_engine(f"{address}?tokenizer={folder}&config={folder}/config.json"),
        "chat": load_engine(f"{address}?endpoint=chat"),
    }
    yield {"process": engine, **over_http}
    for each in over_http.values():
        each.close()


@pytest.fixture(scope="session")
def plain(lab) -> TransformersEngine:
    return TransformersEngine(lab("lab-small"), device="cpu")


def greedy(*prompts: str, max_tokens: int = 100) -> list[GenerationRequest]:
    return [GenerationRequest(prompt=p, sampling=Sampling(temperature=0.0, max_tokens=max_tokens)) for p in prompts]


@pytest.mark.parametrize("check", ENGINE_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("way", WAYS)
def test_engine_holds_its_contract(engines, way, check):
    check(engines[way], PROMPT, "\n")


def test_the_probe_finds_what_vllm_does(engines):
    for way, counts in (("server counts", "server"), ("own tokenizer", "tokenizer")):
        found = engines[way].capabilities
        assert found.counts == counts
        assert found.token_prompts
        assert found.max_context_tokens == 1024
        assert found.seeds
        assert found.logprobs
        assert found.stop_in_output
        assert found.usage
        assert found.continues
        assert found.reports_cached
        assert not found.notes
        assert engines[way].usage_mismatch_count == 0
    assert engines["chat"].capabilities.endpoint == "chat"


@pytest.mark.parametrize("way", WAYS)
def test_greedy_tokens_are_those_of_transformers(engines, plain, way):
    """float32 on both sides; the text and its length fix the tokens, and their log-probabilities agree."""
    asked = greedy(PROMPT, LONG, *(problem.question for problem in worked_problems("held_out", 10, seed=3)))
    for mine, theirs in zip(engines[way].generate(asked), plain.generate(asked), strict=True):
        assert (mine.text, mine.finish, mine.generated_tokens) == (theirs.text, theirs.finish, theirs.generated_tokens)
        assert mine.prompt_tokens == theirs.prompt_tokens
        assert mine.mean_logprob == pytest.approx(theirs.mean_logprob, abs=1e-4)


@pytest.mark.parametrize("way", ["process", "own tokenizer"])
def test_kept_prefixes_are_reported(engines, way):
    """43 tokens of prompt fill one block of 32."""
    engine = engines[way]
    engine.reset()
    first, again = (engine.generate(greedy(LONG, max_tokens=4))[0] for _ in range(2))
    assert first.text == again.text
    assert again.cached_tokens == 32
    if way == "process":
        assert first.cached_tokens == 0


@pytest.mark.parametrize("way", ["process", "own tokenizer"])
def test_who_comes_later_and_asks_for_less_is_answered_first(engines, way):
    """No request waits for a batch to drain: short ones join the running batch, and leave it before the long one."""
    engine = engines[way]
    assert isinstance(engine, ContinuousEngine)
    (long,) = engine.submit(greedy(LONG, max_tokens=200))
    short = engine.submit(greedy(PROMPT, "Calculate 1 + 1.", max_tokens=1))
    done, _ = wait([long.future, *(each.future for each in short)], return_when=FIRST_COMPLETED)
    assert long.future not in done
    assert [each.result().generated_tokens for each in short] == [1, 1]
    assert not long.future.done()
    assert long.result().text == engine.generate(greedy(LONG, max_tokens=200))[0].text


@pytest.mark.parametrize("way", ["process", "own tokenizer"])
def test_a_cancelled_request_is_dropped_and_the_others_are_not(engines, way):
    engine = engines[way]
    given_up, kept = engine.submit(greedy(LONG, PROMPT))
    assert given_up.future.cancel()
    assert kept.result().text == engine.generate(greedy(PROMPT))[0].text


def test_steps_are_continued_from_the_ids_that_were_drawn(engine):
    """Encoding the text anew may split it otherwise: what was drawn is what counts, until it is forgotten."""
    request = GenerationRequest(prompt=PROMPT, sampling=Sampling(temperature=0.0, max_tokens=64, stop=("\n",)))
    engine.reset()
    (step,) = engine.generate([request])
    assert step.finish == "stop"
    drawn = engine._drawn[PROMPT, step.text]
    assert len(drawn) == step.prompt_tokens + step.generated_tokens
    (following,) = engine.generate([GenerationRequest(prompt=PROMPT, prefix=step.text, sampling=request.sampling)])
    assert following.prompt_tokens == len(drawn)
    engine.reset()
    assert not engine._drawn


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("vllm:", "no model"),
        ("vllm:{}?dtype=", "`dtype`.*empty or given twice"),
        ("vllm:{}?enforce_eagre=true", "`enforce_eagre`.*no such argument of vLLM"),
        ("vllm:{}?dtype=float33", "vLLM cannot serve it.*float33"),
        ("vllm:/nowhere/at/all", "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_served_is_named(lab, spec, words):
    with pytest.raises(InputError, match=rf"(?s){words}"):
        load_engine(spec.format(lab("lab-small")))


@pytest.mark.parametrize("way", ["process", "own tokenizer"])
def test_an_input_that_fills_the_context_is_refused(engines, way):
    with pytest.raises(InputError, match=r"`prompt`.*takes \d+ tokens.*fewer than the model's 1024"):
        engines[way].generate(greedy("1 + " * 800))


@pytest.mark.parametrize("way", ["process", "own tokenizer"])
def test_a_beam_search_runs_on_vllm_alone(engines, servers, verifier, lab, way):
    from planner.models.shipped import load_verifier

    judge = verifier
    if way != "process":
        judge = load_verifier(f"{servers['lab-prm']}?tokenizer={lab('lab-prm')}")
    spec = BeamSearch(n=4, expansions=2, max_steps=24, max_step_tokens=48)
    problems = [
        Problem(problem_id=str(i), prompt=p.question, step_separator="\n", max_tokens=256)
        for i, p in enumerate(worked_problems("held_out", 4, seed=5))
    ]
    runs = run_flows([Job(p, spec) for p in problems], {"m": engines[way]}, judge, default_policy_model="m")
    assert [run.answer.outcome for run in runs] == [Outcome.FINISHED] * 4
    for run in runs:
        best = run.answer.candidates[0]
        assert best.scores is not None
        assert all(0 < score < 1 for score in best.scores)
        assert min(run.usage.scored_tokens, run.usage.generated_tokens) > 0
        assert run.cost.total_flops > 0


RECIPE = """
name = "on-vllm"
[task]
name = "lab"
split = "profile"
count = 4
[[policy_models]]
engine = {engine}
name = "policy"
[verifier]
engine = {verifier}
[samples]
count = 2
difficulty_count = 2
[[runs]]
strategy = "beam_search"
n = 4
expansions = 2
max_steps = 24
max_step_tokens = 48
"""


def profiled(path, engine: str, verifier: str):
    (path / "recipe.toml").write_text(RECIPE.format(engine=json.dumps(engine), verifier=json.dumps(verifier)))
    return path / "recipe.toml", path / "bank"


def check_bank(path) -> None:
    bank = Bank.open(path)
    samples, runs = bank.samples, bank.runs
    assert len(samples) == 4 * (1 + 2 + 2)
    assert len(runs) == 4
    assert samples["mean_logprob"].notna().all()
    scored = samples[(samples["role"] == "score") & (samples["temperature"] > 0) & samples["finished"]]
    assert len(scored)
    assert all(len(scores) for scores in scored["scores"])


def test_planner_profiles_over_http(servers, lab, tmp_path):
    from typer.testing import CliRunner

    from planner.cli.app import app

    policy = f"{servers['lab-small']}?tokenizer={lab('lab-small')}&config={lab('lab-small')}/config.json"
    recipe, bank = profiled(tmp_path, policy, f"{servers['lab-prm']}?tokenizer={lab('lab-prm')}")
    result = CliRunner().invoke(app, ["profile", str(recipe), "-o", str(bank), "--quiet"])
    assert result.exit_code == 0, result.output
    check_bank(bank)


def test_planner_profiles_in_process(engine, verifier, tmp_path):
    assert isinstance(engine, VllmEngine)
    recipe, bank = profiled(tmp_path, "vllm:given", "vllm:given")
    report = profile(recipe, bank, engines={"policy": engine}, verifier=verifier)
    assert (report.new_samples, report.new_runs) == (20, 4)
    check_bank(bank)
    assert profile(recipe, bank, engines={"policy": engine}, verifier=verifier).new_samples == 0


@pytest.mark.parametrize("way", WAYS)
def test_more_prompts_at_once_than_one_step_reads(engines, way):
    """vLLM 0.32 on a CPU ends where it reads a seeded request's prompt in parts."""
    sampled = Sampling(temperature=0.8, max_tokens=2)
    asked = [GenerationRequest(prompt=f"Calculate {i} + {'1 + ' * 20}2.", sampling=sampled) for i in range(200)]
    assert len(engines[way].generate(asked)) == 200
