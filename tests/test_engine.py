"""The transformers engine and verifier on the laboratory's real checkpoints."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from planner.core import GenerationRequest, Sampling, ScoreRequest
from planner.errors import InputError, VerifierError
from planner.models.cards import load_card
from planner.models.contract import ENGINE_CHECKS, VERIFIER_CHECKS
from planner.models.lab.corrupt import corrupt
from planner.models.noise import choose_tokens, gumbel
from planner.models.shipped import load_engine, load_verifier, shipped
from planner.models.transformers_engine import TransformersEngine
from planner.models.transformers_verifier import TransformersVerifier
from planner.tasks.lab import worked_problems

PROMPT = "Calculate 58 - 3 * 6 + 12."
STEPS = ("3 * 6 = 18", "58 - 18 = 40", "40 + 12 = 52", "#### 52")
WRONG = ("3 * 6 = 18", "58 - 18 = 30", "30 + 12 = 42", "#### 42")


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return TransformersEngine(shipped("models", "lab/lab-small"), device="cpu")


@pytest.fixture(scope="module")
def verifier() -> TransformersVerifier:
    return TransformersVerifier(shipped("models", "lab/lab-prm"), device="cpu")


@pytest.mark.parametrize("check", ENGINE_CHECKS, ids=lambda c: c.__name__)
def test_engine_holds_its_contract(engine, check):
    engine.reset()
    check(engine, PROMPT, "\n")


@pytest.mark.parametrize("check", VERIFIER_CHECKS, ids=lambda c: c.__name__)
def test_verifier_holds_its_contract(verifier, check):
    check(verifier, PROMPT, STEPS)


def test_greedy_is_what_transformers_generates(engine):
    folder = shipped("models", "lab/lab-small")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for prompt in (PROMPT, "Find the Greatest Common Divisor (GCD) of these numbers: 84, 36."):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
        )
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            ids = model.generate(**inputs, do_sample=False, max_new_tokens=100)[0, inputs["input_ids"].shape[1] :]
        (mine,) = engine.generate(
            [GenerationRequest(prompt=prompt, sampling=Sampling(temperature=0.0, max_tokens=100))]
        )
        assert mine.text == tokenizer.decode(ids, skip_special_tokens=True)
        assert mine.generated_tokens == len(ids)


def test_scores_are_what_the_definition_says(verifier):
    """P(+) written out: one unbatched pass over the whole text, softmax of two logits at each tag."""
    folder = shipped("models", "lab/lab-prm")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for steps in (STEPS, WRONG):
        text = f"<bos><user>{PROMPT}<assistant>" + "".join(f"{step}<step>" for step in steps)
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0]
        plus, minus, tag = (tokenizer.convert_tokens_to_ids(t) for t in ("<+>", "<->", "<step>"))
        expected = logits[ids[0] == tag][:, [minus, plus]].softmax(-1)[:, 1].tolist()
        verifier.reset()
        (mine,) = verifier.score([ScoreRequest(prompt=PROMPT, steps=steps)])
        assert mine.scores == pytest.approx(expected, abs=1e-5)
        assert mine.tokens == ids.shape[1]


def test_wrong_solutions_are_mostly_scored_lower(verifier):
    rng = random.Random(5)
    pairs = [(p, wrong) for p in worked_problems("held_out", 60) if (wrong := corrupt(p, rng)) is not None]
    right = verifier.score([ScoreRequest(prompt=p.question, steps=p.steps) for p, _ in pairs])
    wrong = verifier.score([ScoreRequest(prompt=p.question, steps=w.steps) for p, w in pairs])
    lower = [r.scores[-1] > w.scores[-1] for r, w in zip(right, wrong, strict=True)]
    assert len(lower) > 40
    assert sum(lower) / len(lower) > 0.7


def test_prefixes_are_reused_and_forgotten(engine):
    engine.reset()
    sampling = Sampling(temperature=0.0, max_tokens=64, stop=("\n",))
    (first,) = engine.generate([GenerationRequest(prompt=PROMPT, sampling=sampling)])
    assert (first.cached_tokens, first.finish) == (0, "stop")
    (second,) = engine.generate([GenerationRequest(prompt=PROMPT, prefix=first.text, sampling=sampling)])
    assert second.cached_tokens == second.prompt_tokens - 1
    engine.reset()
    (again,) = engine.generate([GenerationRequest(prompt=PROMPT, prefix=first.text, sampling=sampling)])
    assert (again.text, again.cached_tokens) == (second.text, 0)


def test_a_small_prefix_cache_changes_nothing_but_its_use():
    small = TransformersEngine(shipped("models", "lab/lab-small"), device="cpu", prefix_cache_bytes=1)
    for check in ENGINE_CHECKS:
        check(small, PROMPT, "\n")
    stingy = TransformersVerifier(shipped("models", "lab/lab-prm"), device="cpu", prefix_cache_bytes=1)
    (a,) = stingy.score([ScoreRequest(prompt=PROMPT, steps=STEPS)])
    (b,) = stingy.score([ScoreRequest(prompt=PROMPT, steps=STEPS[:2])])
    assert b.scores == pytest.approx(a.scores[:2], abs=1e-5)


def test_top_p_keeps_the_nucleus():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(4000, 1)
    seeds, zeros = torch.arange(4000), torch.zeros(4000, dtype=torch.long)
    ones = torch.ones(4000)
    nucleus = choose_tokens(logits, ones, ones * 0.7, seeds, zeros).bincount(minlength=4) / 4000
    assert nucleus.tolist() == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    everything = choose_tokens(logits, ones, ones, seeds, zeros).bincount(minlength=4) / 4000
    assert everything.tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    assert choose_tokens(logits, zeros.float(), ones, seeds, zeros).unique().tolist() == [0]


def test_gumbel_noise_has_gumbels_moments_and_no_neighbours():
    noise = gumbel(torch.arange(500), torch.arange(500) % 7, 400)
    assert torch.isfinite(noise).all()
    assert noise.mean().item() == pytest.approx(0.57722, abs=0.01)
    assert noise.std().item() == pytest.approx(math.pi / math.sqrt(6), abs=0.01)
    pairs = torch.stack([noise[:-1].flatten(), noise[1:].flatten()])
    assert abs(torch.corrcoef(pairs)[0, 1].item()) < 0.01


def test_too_long_inputs_are_errors(engine, verifier):
    long = "Calculate " + " + ".join(["123"] * 400) + "."
    with pytest.raises(InputError, match="1024"):
        engine.generate([GenerationRequest(prompt=long)])
    with pytest.raises(VerifierError, match="longer than its 1024"):
        verifier.score([ScoreRequest(prompt=long, steps=("1",))])


def test_a_card_of_another_model_is_refused(tmp_path: Path):
    card = load_card(shipped("models", "lab/lab-prm") / "verifier.toml")
    for field, text in (("tag", " ки"), ("positive", "plus and more"), ("negative", "")):
        changed = {field: text, "step": "{step}" + text} if field == "tag" else {field: text}
        with pytest.raises(InputError, match=field):
            TransformersVerifier(shipped("models", "lab/lab-prm"), card=replace(card, **changed), device="cpu")
    (tmp_path / "verifier.toml").write_text('prompt = "{question}"\nstep = "{step}x"\nextra = 3\n')
    with pytest.raises(InputError, match=r"extra.*missing: tag, positive, negative"):
        load_card(tmp_path / "verifier.toml")
    with pytest.raises(InputError, match=r"verifier\.toml"):
        load_card(tmp_path / "none" / "verifier.toml")


@pytest.mark.parametrize(
    ("spec", "words"),
    [("lab:lab-huge", "lab-huge.*lab-small"), ("gpt", "lab:NAME"), ("transformers:/nowhere", "no checkpoint there")],
)
def test_unknown_models_are_named(spec, words):
    with pytest.raises(InputError, match=words):
        load_engine(spec)
    with pytest.raises(InputError):
        load_verifier(spec)
