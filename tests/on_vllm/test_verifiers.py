"""Process reward models on vLLM's pooling, in process and over HTTP, against transformers; and what must be an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here: see scripts/vllm_env.sh", allow_module_level=True)

import test_verifier_cards
from conftest import EAGER
from test_verifier_cards import FAMILIES
from tiny_checkpoints import QUESTION, sizes
from tiny_checkpoints import STEPS as TINY_STEPS

from planner.core import ScoreRequest
from planner.errors import CapabilityError, InputError, VerifierError
from planner.models.contract import VERIFIER_CHECKS
from planner.models.protocols import Verifier
from planner.models.shipped import load_verifier
from planner.models.transformers_verifier import TransformersVerifier
from planner.tasks.lab import worked_problems

PROMPT = "Calculate 58 - 3 * 6 + 12."
STEPS = ("3 * 6 = 18", "58 - 18 = 40", "40 + 12 = 52", "#### 52")
WRONG = ("3 * 6 = 18", "58 - 18 = 30", "30 + 12 = 42", "#### 42")

POOLED = ("math-shepherd", "er-prm", "rlhflow", "qwen-math-prm")


@pytest.fixture(scope="session")
def verifiers(servers, verifier, lab) -> Iterator[dict[str, Verifier]]:
    over_http = load_verifier(f"{servers['lab-prm']}?tokenizer={lab('lab-prm')}")
    yield {"process": verifier, "http": over_http}
    over_http.close()


def mixed() -> list[ScoreRequest]:
    """Answers of all lengths, right and wrong, some of them unfinished."""
    worked = [(p.question, p.steps) for p in worked_problems("held_out", 12, seed=4)]
    rows = [(PROMPT, STEPS), (PROMPT, WRONG), *worked, *((prompt, steps[:1]) for prompt, steps in worked)]
    return [ScoreRequest(prompt=prompt, steps=tuple(steps)) for prompt, steps in rows]


@pytest.mark.parametrize("check", VERIFIER_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("way", ["process", "http"])
def test_verifier_holds_its_contract(verifiers, way, check):
    check(verifiers[way], PROMPT, STEPS)


@pytest.mark.parametrize("way", ["process", "http"])
def test_step_scores_are_those_of_transformers(verifiers, lab, way):
    plain = TransformersVerifier(lab("lab-prm"), device="cpu")
    for mine, theirs in zip(verifiers[way].score(mixed()), plain.score(mixed()), strict=True):
        assert mine.scores == pytest.approx(theirs.scores, abs=1e-4)
        assert mine.tokens == theirs.tokens
    right, wrong = verifiers[way].score(mixed()[:2])
    assert abs(right.scores[1] - wrong.scores[1]) > 1e-2, "the scores tell nothing apart"


@pytest.mark.parametrize("way", ["process", "http"])
def test_a_tag_in_the_question_is_not_taken_for_a_step(verifiers, lab, way):
    request = ScoreRequest(prompt="What does <step> mean, and 2 + 3?", steps=("2 + 3 = 5", "#### 5"))
    plain = TransformersVerifier(lab("lab-prm"), device="cpu")
    (mine,), (theirs,) = verifiers[way].score([request]), plain.score([request])
    assert mine.scores == pytest.approx(theirs.scores, abs=1e-4)


@pytest.mark.parametrize("way", ["process", "http"])
def test_an_input_longer_than_the_context_is_an_error(verifiers, way):
    with pytest.raises(VerifierError, match=r"\d+ tokens is longer than its 1024"):
        verifiers[way].score([ScoreRequest(prompt=PROMPT, steps=STEPS * 40)])


def test_another_step_tag_is_an_error_and_no_empty_list(servers, lab, tmp_path: Path):
    """The server pools at <step>; a card whose tag is another token would get nothing for every step."""
    card = (lab("lab-prm") / "verifier.toml").read_text()
    (tmp_path / "card.toml").write_text(card.replace("{step}<step>", "{step}<user>").replace('"<step>"', '"<user>"'))
    spec = f"{servers['lab-prm']}?tokenizer={lab('lab-prm')}&card={tmp_path / 'card.toml'}"
    with pytest.raises(VerifierError, match=r"0 rows for an input with \d step tags \(token 3\).*\"step_tag_id\": 3"):
        load_verifier(spec)


def test_a_tag_that_only_happens_to_be_as_frequent_is_found_out(servers, lab, tmp_path: Path):
    """Each step holds the server's tag once, and the card's once: the counts agree, the places do not."""
    card = (lab("lab-prm") / "verifier.toml").read_text()
    changed = card.replace("{step}<step>", "<step>{step}<user>").replace('"<step>"', '"<user>"')
    (tmp_path / "card.toml").write_text(changed.replace("<bos><user>", "<bos>"))
    with pytest.raises(VerifierError, match="step_tag_id is another one"):
        load_verifier(f"{servers['lab-prm']}?tokenizer={lab('lab-prm')}&card={tmp_path / 'card.toml'}")


def test_a_template_without_the_tag_is_refused(servers, lab, tmp_path: Path):
    card = (lab("lab-prm") / "verifier.toml").read_text()
    (tmp_path / "card.toml").write_text(card.replace("{step}<step>", "{step}"))
    with pytest.raises(InputError, match="does not end in the tag"):
        load_verifier(f"{servers['lab-prm']}?tokenizer={lab('lab-prm')}&card={tmp_path / 'card.toml'}")


def test_a_server_that_only_generates_is_no_verifier(servers, lab):
    with pytest.raises(VerifierError, match=r"404.*start vLLM with --runner pooling --pooler-config"):
        load_verifier(f"{servers['lab-small']}?tokenizer={lab('lab-prm')}")


@pytest.mark.parametrize(("option", "words"), [("endpoint=chat", "an engine's option"), ("", "`tokenizer`")])
def test_options_that_mean_nothing_to_a_verifier_are_refused(option, words):
    with pytest.raises(InputError, match=words):
        load_verifier(f"http://127.0.0.1:9/v1?{option}")


@pytest.mark.parametrize("family", POOLED)
def test_families_that_vllm_supports_score_as_transformers_does(family, tmp_path: Path, monkeypatch):
    """A tiny model of the true architecture with the true special tokens, in this process."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    # vLLM's attention on a CPU takes heads of 32 values and more.
    one_head = {"num_attention_heads": 1, "num_key_value_heads": 1}
    monkeypatch.setattr(test_verifier_cards, "sizes", lambda tokenizer: sizes(tokenizer) | one_head)
    tiny = FAMILIES[family](tmp_path)
    if family == "qwen-math-prm":
        config = json.loads((tmp_path / "config.json").read_text())
        config["architectures"] = ["Qwen2ForProcessRewardModel"]  # as the published config says
        (tmp_path / "config.json").write_text(json.dumps(config))
    requests = [ScoreRequest(prompt=QUESTION, steps=TINY_STEPS[:k]) for k in range(1, len(TINY_STEPS) + 1)]
    theirs = load_verifier(f"transformers:{tmp_path}?card={family}").score(requests)
    with closing(load_verifier(f"vllm:{tmp_path}?card={family}&{EAGER}")) as verifier:
        mine = verifier.score(requests)
    for a, b in zip(mine, theirs, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=1e-4)
        assert a.tokens == b.tokens
    assert mine[-1].scores == pytest.approx(tiny.direct(TINY_STEPS)[1], abs=1e-4)


def test_a_head_that_vllm_does_not_read_out_is_refused_before_it_starts(tmp_path: Path):
    FAMILIES["skywork-o1"](tmp_path)
    with pytest.raises(CapabilityError, match=r"does not pool an \w+ with a head.*transformers:"):
        load_verifier(f"vllm:{tmp_path}?card=skywork-o1")
