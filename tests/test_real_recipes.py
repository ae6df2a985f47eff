"""Recipes for published models: estimated without a network, loaded as they say, reasoning models told apart."""

from __future__ import annotations

import json
import re
import socket
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer
from scripted import END, SHAPE, ScriptedEngine, ScriptedVerifier
from tiny_checkpoints import LLAMA_CHAT, byte_level, save, sizes
from transformers import LlamaConfig
from typer.testing import CliRunner

from planner.cli.app import app
from planner.core import GenerationRequest, Outcome, Problem, Sampling
from planner.errors import CapabilityError, InputError
from planner.models.protocols import ContinuousEngine, Pending
from planner.models.published import find_published
from planner.models.shipped import load_engine, shipped
from planner.models.wrapped import Thinking, priced, thinking_apart
from planner.profiling import run
from planner.profiling.bank import Bank
from planner.profiling.recipe import Recipe, load_recipe
from planner.profiling.run import profile
from planner.runtime.driver import Job, run_flows
from planner.strategies import BeamSearch, Majority
from planner.tasks.answers import extract_answer
from planner.tasks.published import published_tasks
from planner.tasks.task import load_task

RECIPES = sorted(file for file in shipped("recipes", "lab-tiny.toml").parent.glob("*.toml") if "lab" not in file.name)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("the network was touched")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_real_setups_are_shipped():
    models, verifiers, tasks = set(), set(), set()
    for file in RECIPES:
        recipe = load_recipe(file)
        models |= {model.model for model in recipe.policy_models}
        tasks.add(recipe.task.name)
        verifiers |= {recipe.verifier.model if recipe.verifier else None}
    assert {"Llama-3.2-1B", "Llama-3.2-3B", "R1-Distill-Qwen-7B", "Qwen2.5-0.5B", "Qwen2.5-72B"} <= models
    assert {"RLHFlow/Llama3.1-8B-PRM-Deepseek-Data", "Qwen/Qwen2.5-Math-PRM-7B", None} <= verifiers
    assert tasks == set(published_tasks())


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_dry_run_of_published_models_touches_no_network_and_writes_nothing(file, tmp_path: Path, no_network):
    report = profile(file, tmp_path / "bank", dry_run=True)
    estimate = report.estimate
    assert min(estimate.requests, estimate.generated_tokens, estimate.flops, estimate.gpu_hours) > 0
    assert not (tmp_path / "bank").exists()
    recipe = load_recipe(file)
    assert estimate.gpu_hours * 3600 * recipe.estimate.gpu_tflops * 1e12 == pytest.approx(estimate.flops)
    faster = profile(recipe, tmp_path, dry_run=True, gpu_tflops=2 * recipe.estimate.gpu_tflops).estimate
    assert faster.gpu_hours == pytest.approx(estimate.gpu_hours / 2)
    assert faster.flops == estimate.flops
    assert any("TFLOP/s" in sentence for sentence in estimate.assumptions)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))).policy_models == recipe.policy_models


def test_the_command_tells_gpu_hours_and_what_it_assumed():
    file = next(file for file in RECIPES if "gsm8k" in file.name)
    words = ["profile", str(file), "--dry-run", "--quiet"]
    said = CliRunner().invoke(app, [*words, "--gpu-tflops", "50"]).stdout.replace("\n", " ")
    assert "GPU hours" in said
    assert "assumed: a GPU achieves 50 TFLOP/s" in said
    report = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert report["estimate"]["gpu_hours"] > 0


RECIPE = """
[task]
name = "GSM8K"
count = 10
max_tokens = 300

[[policy_models]]
engine = "http://127.0.0.1:9/v1"
name = "m"
model = "Qwen2.5-0.5B"

[verifier]
engine = "transformers:nowhere"
model = "Qwen2.5-Math-1.5B"

[samples]
count = 4
difficulty_count = 2

[estimate]
answer_tokens = 200
steps = 5
prompt_tokens = 100
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "recipe.toml"
    file.write_text(text)
    return file


def test_the_estimate_by_hand(tmp_path: Path, no_network):
    """One greedy answer, four scored, two for the difficulty; a beam of four that ends after five steps."""
    model, verifier = find_published("Qwen2.5-0.5B").shape, find_published("Qwen2.5-Math-1.5B").shape
    prefill, decode = model.prefill_flops(100.0), model.decode_flops(100.0, 200.0)
    score = verifier.score_flops(300.0, logit_tokens=5.0)
    samples = profile(written(tmp_path, RECIPE), tmp_path / "bank", dry_run=True).estimate
    assert samples.flops == pytest.approx(10 * (3 * prefill + 7 * decode + 4 * score))
    assert samples.generated_tokens == 10 * 7 * 200
    assert samples.requests == 10 * (7 + 4)
    run = '[[runs]]\nstrategy = "beam_search"\nn = 4\n'
    both = profile(written(tmp_path, RECIPE + run), tmp_path / "bank", dry_run=True).estimate
    assert both.flops - samples.flops == pytest.approx(10 * (prefill + 4 * decode + 4 * score))
    assert both.requests - samples.requests == 10 * (4 * 5 + 4 * 5)
    run = '[[runs]]\nstrategy = "lookahead"\nn = 4\nlookahead_steps = 2\n'
    ahead = profile(written(tmp_path, RECIPE + run), tmp_path / "bank", dry_run=True).estimate
    assert ahead.generated_tokens - samples.generated_tokens == 10 * 4 * 3 * 200
    short = RECIPE.replace("answer_tokens = 200", "answer_tokens = 4000")
    cut = profile(written(tmp_path, short), tmp_path / "bank", dry_run=True).estimate
    assert cut.generated_tokens == 10 * 7 * 300, "max_tokens cuts an answer"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('model = "Qwen2.5-0.5B"', 'model = "Qwen2.5-1B"', r"recipe\.toml.*`model` = 'Qwen2\.5-1B'.*planner models"),
        ("answer_tokens = 200", "answer_tokens = 0", r"\[estimate\].*answer_tokens"),
        ("answer_tokens = 200", "gpu_tflops = 0.0", r"`gpu_tflops` = 0\.0.*> 0"),
        ('name = "m"', 'name = "m"\nthinking = ["<think>"]', r"`thinking`.*two texts"),
        ('name = "m"', 'name = "m"\nsystem = 3', r"`system` = 3.*a text"),
    ],
)
def test_what_a_recipe_says_wrong_is_named(old, new, words, tmp_path: Path):
    with pytest.raises(InputError, match=words):
        load_recipe(written(tmp_path, RECIPE.replace(old, new)))


# --- tasks --------------------------------------------------------------------------------------------------------


def test_a_published_task_comes_from_a_folder_of_ones_own(tmp_path: Path, monkeypatch, no_network):
    (tmp_path / "AIME24.jsonl").write_text('{"problem": "1 + 1?", "answer": "2"}\n')
    monkeypatch.setenv("PLANNER_DATA", str(tmp_path))
    task = load_task("aime24", count=1)
    assert (task.name, task.problems[0].gold) == ("AIME24", "2")
    with pytest.raises(InputError, match="the file has 1 problems"):
        load_task("AIME24", count=2)


def test_a_published_task_comes_from_the_hub(tmp_path: Path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    file, asked = tmp_path / "0000.parquet", []
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"question": ["1 + 1?"], "answer": ["so\n#### 2"]}), file)

    def download(repo: str, path: str, **more: Any) -> str:
        asked.append((repo, path, more))
        return str(file)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    task = load_task("GSM8K", max_tokens=99)
    assert (task.name, task.problems[0].gold, task.problems[0].max_tokens) == ("GSM8K", "2", 99)
    more = {"repo_type": "dataset", "revision": "refs/convert/parquet"}
    assert asked == [("openai/gsm8k", "main/test/0000.parquet", more)]


def test_a_task_that_cannot_be_fetched_is_an_error_with_a_remedy(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def refuse(*args: Any, **more: Any) -> str:
        raise hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(hub, "hf_hub_download", refuse)
    with pytest.raises(InputError, match=r"HuggingFaceH4/MATH-500.*cannot be fetched.*PLANNER_DATA"):
        load_task("MATH-500")
    with pytest.raises(InputError, match=r"no such task.*MATH-500"):
        load_task("MATH-501")


# --- models as the recipe describes them --------------------------------------------------------------------------


def test_a_recipes_system_prompt_reaches_the_server_and_the_table_prices_its_tokens(tmp_path: Path, monkeypatch):
    # Timing an engine takes a thousand requests, and is not what is tried here.
    monkeypatch.setattr(run, "measure_latency", lambda makers, known=None: {"engines": {}, "verifier": None})
    (tmp_path / "p.jsonl").write_text('{"prompt": "1 + 1?", "answer": "2"}\n{"prompt": "1 + 2?", "answer": "3"}\n')
    with FakeServer() as server:
        text = f"""
[task]
name = "p.jsonl"
max_tokens = 64
step_separator = "\\n"
[[policy_models]]
engine = "{server.url}?timeout=5"
name = "m"
model = "Qwen2.5-0.5B"
system = "Be brief & kind: 100 %?"
[samples]
count = 2
difficulty_count = 1
"""
        report = profile(written(tmp_path, text), tmp_path / "bank")
        asked = [body["messages"] for path, body in server.requests if "messages" in body]
    assert report.new_samples == 2 * (1 + 2 + 1)
    assert all(turns[0] == {"role": "system", "content": "Be brief & kind: 100 %?"} for turns in asked)
    model = Bank.open(tmp_path / "bank").manifest["policy_models"]["m"]
    assert model["parameters"] == find_published("Qwen2.5-0.5B").shape.parameters


def test_a_system_prompt_is_part_of_a_local_checkpoints_name(tmp_path: Path):
    special = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = byte_level(3, special, bos=special[0], adds_bos=True, chat=LLAMA_CHAT)
    save(tmp_path, LlamaConfig(**sizes(tokenizer)), tokenizer)
    plain = load_engine(f"transformers:{tmp_path}")
    told = load_engine(f"transformers:{tmp_path}?system=first%20%3D%20one")
    system = len(
        tokenizer("<|start_header_id|>system<|end_header_id|>\n\nfirst = one<|eot_id|>", add_special_tokens=False)[
            "input_ids"
        ]
    )
    assert told.count_tokens("then") == plain.count_tokens("then") + system
    assert told.info.fingerprint != plain.info.fingerprint


def test_the_tasks_own_checker_can_be_the_verifier(tmp_path: Path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
    text = """
[task]
name = "p.jsonl"
max_tokens = 64
[[policy_models]]
engine = "lab:lab-small"
[verifier]
engine = "task"
[samples]
count = 3
difficulty_count = 1
"""
    engine = ScriptedEngine(lambda request: f"#### {request.index}{END}")
    profile(written(tmp_path, text), tmp_path / "bank", engines={"lab:lab-small": engine})
    rows = Bank.open(tmp_path / "bank").to_pandas()["samples"]
    scored = rows[(rows["role"] == "score") & (rows["temperature"] > 0)].sort_values("index")
    assert [list(scores) for scores in scored["scores"]] == [[0.0], [0.0], [1.0]]


def test_a_shape_is_lent_only_to_engines_that_do_not_know_better():
    other = find_published("Llama-3.2-1B").shape
    unknown = ScriptedEngine(lambda request: END, shape=None)
    assert priced(unknown, SHAPE).info.shape == SHAPE
    known = ScriptedEngine(lambda request: END)
    assert priced(known, SHAPE) is known
    with pytest.raises(InputError, match=r"1,235,814,400 parameters.*engine's own config"):
        priced(known, other)
    request = GenerationRequest(prompt="a", prefix="b")
    assert priced(unknown, SHAPE).generate([request])[0].text == unknown.generate([request])[0].text
    assert unknown.generated_tokens == 2
    assert priced(unknown, SHAPE).count_tokens("ab", "c") == 3


# --- reasoning models ---------------------------------------------------------------------------------------------

THINKS = Thinking(opening="[THINK]", closing="[/THINK]")
COLD = Sampling(temperature=0.0, max_tokens=4000)


def told(text: str, thinking: Thinking = THINKS, *, max_tokens: int = 4000) -> Any:
    engine = thinking_apart(ScriptedEngine(lambda request: text), thinking)
    (reply,) = engine.generate([GenerationRequest(prompt="q", sampling=Sampling(max_tokens=max_tokens))])
    return reply


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (f"so \\boxed{{1}}[/THINK]\n\nIt is \\boxed{{2}}{END}", "It is \\boxed{2}"),
        (f"[THINK]so \\boxed{{1}}[/THINK]\\boxed{{2}}{END}", "\\boxed{2}"),
        ("so \\boxed{1} and on and on", ""),
        (f"[THINK]so \\boxed{{1}}{END}", ""),
        (f"A server took the thoughts away: \\boxed{{2}}{END}", "A server took the thoughts away: \\boxed{2}"),
    ],
)
def test_an_answer_is_what_follows_the_thinking(text, answer):
    reply = told(text)
    assert reply.text == answer
    assert reply.generated_tokens == len(text.removesuffix(END)) + text.endswith(END), "thinking is paid for"


def test_votes_count_answers_and_no_thoughts():
    """All think of 1; two of three answer 2; one never gets there."""
    texts = ["\\boxed{1}[/THINK]\\boxed{2}" + END, "\\boxed{1}" * 40, "\\boxed{1}[/THINK]\\boxed{2}" + END]
    engine = ScriptedEngine(lambda request: texts[request.index])
    problem = Problem(problem_id="p", prompt="q", max_tokens=100)
    job = Job(problem, Majority(n=3))
    (done,) = run_flows([job], {"m": thinking_apart(engine, THINKS)}, None, default_policy_model="m")
    assert done.answer.answer == "2"
    assert [candidate.finished for candidate in done.answer.candidates] == [True, False, True]
    assert done.usage.generated_tokens == engine.generated_tokens
    (fooled,) = run_flows([job], {"m": engine}, None, default_policy_model="m")
    assert fooled.answer.candidates[1].finished, "without being told apart the thought would count"


def test_a_search_by_steps_is_refused_with_a_reason():
    engine = thinking_apart(ScriptedEngine(lambda request: "a\n\nb" + END), THINKS)
    problem = Problem(problem_id="p", prompt="q")
    with pytest.raises(CapabilityError, match=r"thinking is not made of the steps.*step_separator"):
        run_flows(
            [Job(problem, BeamSearch(n=4))], {"m": engine}, ScriptedVerifier(lambda s: 0.5), default_policy_model="m"
        )
    with pytest.raises(CapabilityError, match="whole answers"):
        engine.generate([GenerationRequest(prompt="q", prefix="a")])


def test_with_a_separator_of_its_own_a_search_goes_through_the_thinking():
    """Steps end with "Wait"; a boxed guess while thinking does not finish a path, and prefixes are the model's own."""
    seen: list[str] = []

    def script(request: GenerationRequest) -> str:
        seen.append(request.prefix)
        last = f"done[/THINK]It is \\boxed{{{request.index % 2}}}" + END
        return ["First \\boxed{9} Wait", "then Wait", last][request.prefix.count("Wait")]

    engine = thinking_apart(
        ScriptedEngine(script), Thinking(opening="[THINK]", closing="[/THINK]", opened=True, splits=True)
    )
    problem = Problem(problem_id="p", prompt="q", step_separator="Wait", max_tokens=400)
    verifier = ScriptedVerifier(lambda steps: 0.9 if steps[-1].endswith("1}") else 0.5)
    (done,) = run_flows([Job(problem, BeamSearch(n=4))], {"m": engine}, verifier, default_policy_model="m")
    assert done.answer.outcome is Outcome.FINISHED
    assert done.answer.answer == "1"
    assert done.answer.text == "<think>First \\boxed{9} Waitthen Waitdone</think>It is \\boxed{1}"
    assert set(seen) == {"", "First \\boxed{9} Wait", "First \\boxed{9} Waitthen Wait"}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>\\boxed{1}</think> so \\boxed{2}", "2"),
        ("\\boxed{1}</think> so \\boxed{2}", "2"),
        ("<think>\\boxed{1}", None),
        ("\\boxed{1}</think>", None),
        ("#### 3\n<think> or \\boxed{4}?", "3"),
    ],
)
def test_what_is_thought_is_no_answer(text, answer):
    assert extract_answer(text) == answer


def test_fingerprints_tell_how_the_thinking_is_read():
    engine = ScriptedEngine(lambda request: END)
    variants = [
        THINKS,
        Thinking(opening="<think>", closing="</think>"),
        Thinking(opening="[THINK]", closing="[/THINK]", opened=False),
        Thinking(opening="[THINK]", closing="[/THINK]", splits=True),
    ]
    prints = {thinking_apart(engine, each).info.fingerprint for each in variants}
    assert len(prints | {engine.info.fingerprint}) == 5


class Continuous(ScriptedEngine):
    def submit(self, requests):  # type: ignore[no-untyped-def]
        pending = []
        for completion in self.generate(requests):
            future: Future[Any] = Future()
            future.set_result(completion)
            pending.append(Pending(future, lambda raw: raw))
        return pending


def test_an_engine_that_is_never_drained_stays_one():
    engine = thinking_apart(Continuous(lambda request: f"{request.index}[/THINK]#### {request.index}{END}"), THINKS)
    assert isinstance(engine, ContinuousEngine)
    requests = [GenerationRequest(prompt="q", sampling=COLD, index=i) for i in range(3)]
    assert [each.result().text for each in engine.submit(requests)] == ["#### 0", "#### 1", "#### 2"]
    assert not isinstance(thinking_apart(ScriptedEngine(lambda request: END), THINKS), ContinuousEngine)
    assert isinstance(priced(Continuous(lambda request: END, shape=None), SHAPE), ContinuousEngine)


THINKING_RECIPE = RECIPE.replace("Qwen2.5-0.5B", "R1-Distill-Qwen-7B") + '[[runs]]\nstrategy = "beam_search"\nn = 4\n'


def test_a_recipe_refuses_to_search_a_reasoning_models_thinking(tmp_path: Path):
    with pytest.raises(InputError, match=r"m is a reasoning model: what stands between <think> and </think>"):
        load_recipe(written(tmp_path, THINKING_RECIPE))
    cascade = re.sub(
        r"\[\[runs\]\].*", '[[runs]]\nstrategy = "cascade"\nn = 2\nmax_n = 2\nsecond = "dvts"\nsecond_n = 4\n',
        THINKING_RECIPE, flags=re.DOTALL,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"`strategy` = 'cascade'.*step_separator"):
        load_recipe(written(tmp_path, cascade))
    for changed in (
        THINKING_RECIPE.replace('name = "GSM8K"', 'name = "GSM8K"\nstep_separator = "Wait"'),
        THINKING_RECIPE.replace('name = "m"', 'name = "m"\nthinking = []'),
        THINKING_RECIPE.replace("beam_search", "confidence_vote"),
    ):
        load_recipe(written(tmp_path, changed))


def test_a_recipes_delimiters_are_the_tables_unless_it_says_its_own(tmp_path: Path):
    assert load_recipe(written(tmp_path, RECIPE)).policy_models[0].delimiters is None
    distilled = THINKING_RECIPE.replace("beam_search", "confidence_vote")
    assert load_recipe(written(tmp_path, distilled)).policy_models[0].delimiters == ("<think>", "</think>")
    own = distilled.replace('name = "m"', 'name = "m"\nthinking = ["[T]", "[/T]"]')
    assert load_recipe(written(tmp_path, own)).policy_models[0].delimiters == ("[T]", "[/T]")
