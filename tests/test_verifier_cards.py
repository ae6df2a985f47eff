"""Published process reward models: tiny models of the true architecture and read-out, each against a direct computation."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import LLAMA_CHAT, QUESTION, QWEN_CHAT, STEPS, byte_level, plain, save, sentence_piece, sizes
from tokenizers import AddedToken
from torch import nn
from transformers import LlamaConfig, MistralConfig, Qwen2Config
from typer import Typer
from typer.testing import CliRunner

from planner.cli.verifiers import register
from planner.core import ScoreRequest
from planner.errors import InputError, VerifierError
from planner.models import cards
from planner.models.cards import VerifierCard, fill_in, load_card, published_cards
from planner.models.contract import VERIFIER_CHECKS
from planner.models.shipped import load_verifier
from planner.models.transformers_verifier import TransformersVerifier


@dataclass(frozen=True)
class Family:
    folder: Path
    direct: Callable[[tuple[str, ...]], tuple[list[int], list[float]]]
    """The whole input's ids and all step scores, computed as the publisher's code does."""


def math_shepherd(folder: Path) -> Family:
    tokenizer = sentence_piece()
    save(folder, MistralConfig(**sizes(tokenizer)), tokenizer)

    def direct(steps: tuple[str, ...]) -> tuple[list[int], list[float]]:
        candidates = tokenizer.encode("+ -")[1:]
        tag = tokenizer.encode("ки")[-1]
        ids = tokenizer.encode(f"{QUESTION} " + "\n".join(f"{step} ки" for step in steps))
        scores = plain(folder, ids)[0][:, candidates].softmax(dim=-1)[:, 0]
        return ids, scores[torch.tensor(ids) == tag].tolist()

    return Family(folder, direct)


def er_prm(folder: Path) -> Family:
    special = ["<|begin_of_text|>", "<|eot_id|>"]
    tokenizer = byte_level(3, special, bos=special[0], adds_bos=True, chat=None)
    save(folder, LlamaConfig(**sizes(tokenizer)), tokenizer)

    def direct(steps: tuple[str, ...]) -> tuple[list[int], list[float]]:
        plus, minus, tag = (tokenizer.encode(text)[-1] for text in (" +", " -", " ки"))
        ids = tokenizer.encode(f"{QUESTION} " + "".join(f"{step} ки" for step in steps))
        scores = plain(folder, ids)[0][:, [plus, minus]].softmax(dim=-1)[:, 0]
        return ids, scores[torch.tensor(ids) == tag].tolist()

    return Family(folder, direct)


def rlhflow(folder: Path) -> Family:
    special = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = byte_level(3, special, bos=special[0], adds_bos=True, chat=LLAMA_CHAT)
    save(folder, LlamaConfig(**sizes(tokenizer)), tokenizer)

    def direct(steps: tuple[str, ...]) -> tuple[list[int], list[float]]:
        conversation = []
        for number, step in enumerate(steps):
            words = f"{QUESTION} {step}" if number == 0 else step
            conversation += [{"role": "user", "content": words}, {"role": "assistant", "content": "+"}]
        text = tokenizer.apply_chat_template(conversation, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        plus, minus = (tokenizer.encode(text)[-1] for text in ("+", "-"))
        eot = tokenizer.convert_tokens_to_ids("<|eot_id|>")
        answers = [i for i in range(len(ids) - 1) if ids[i] == plus and ids[i + 1] == eot]
        scores = plain(folder, ids)[0][:, [plus, minus]].softmax(dim=-1)[:, 0]
        return ids[: answers[-1]], [scores[i - 1].item() for i in answers]

    return Family(folder, direct)


def skywork(folder: Path) -> Family:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = byte_level(1, special, bos=special[0], adds_bos=False, chat=None)
    torch.manual_seed(5)
    head = nn.Linear(32, 1)
    save(folder, Qwen2Config(**sizes(tokenizer)), tokenizer, {"v_head.summary": head})

    def direct(steps: tuple[str, ...]) -> tuple[list[int], list[float]]:
        ids = tokenizer.encode(tokenizer.bos_token + QUESTION + "\n")
        newline, flags = tokenizer.encode("\n")[-1], []
        for step in steps:
            ids = [*ids, *tokenizer.encode(step.replace("\n", " ")), newline]
            flags.append(len(ids) - 1)
        with torch.inference_mode():
            return ids, head(plain(folder, ids)[1])[flags, 0].sigmoid().tolist()

    return Family(folder, direct)


def qwen(folder: Path) -> Family:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = byte_level(1, special, bos=None, adds_bos=False, chat=QWEN_CHAT)
    tokenizer.add_tokens([AddedToken("<extra_0>", special=False, normalized=False)])
    torch.manual_seed(5)
    head = {"score.0": nn.Linear(32, 32), "score.2": nn.Linear(32, 2)}
    save(folder, Qwen2Config(**sizes(tokenizer)), tokenizer, head)
    score = nn.Sequential(head["score.0"], nn.ReLU(), head["score.2"])

    def direct(steps: tuple[str, ...]) -> tuple[list[int], list[float]]:
        system = "Please reason step by step, and put your final answer within \\boxed{}."
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": "<extra_0>".join(steps) + "<extra_0>"},
        ]
        ids = tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False))
        tags = [i for i, token in enumerate(ids) if token == tokenizer.encode("<extra_0>")[0]]
        with torch.inference_mode():
            scores = score(plain(folder, ids)[1]).softmax(dim=-1)[tags, 1].tolist()
        return ids[: tags[-1] + 1], scores

    return Family(folder, direct)


FAMILIES = {
    "math-shepherd": math_shepherd, "er-prm": er_prm, "rlhflow": rlhflow, "skywork-o1": skywork, "qwen-math-prm": qwen,
}  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return request.param, FAMILIES[request.param](tmp_path_factory.mktemp(request.param))


def test_every_shipped_card_is_tried_here():
    assert set(published_cards()) == set(FAMILIES)


def test_scores_are_those_of_a_direct_computation(family):
    card, tiny = family
    verifier = load_verifier(f"transformers:{tiny.folder}?card={card}")
    assert verifier.info.name == published_cards()[card].name
    for steps in (STEPS[:1], STEPS, (*STEPS[:2], "no digits here", *STEPS[2:])):
        ids, scores = tiny.direct(steps)
        assert len(scores) == len(steps)
        verifier.reset()
        (mine,) = verifier.score([ScoreRequest(prompt=QUESTION, steps=steps)])
        assert mine.scores == pytest.approx(scores, abs=1e-5)
        assert mine.tokens == len(ids)
    assert max(scores) - min(scores) > 1e-3, "the scores tell nothing apart, so this test would not either"


@pytest.mark.parametrize("check", VERIFIER_CHECKS, ids=lambda c: c.__name__)
def test_each_family_holds_the_contract(family, check):
    card, tiny = family
    check(TransformersVerifier(tiny.folder, card=load_card(card), device="cpu"), QUESTION, STEPS)


@pytest.mark.parametrize("card", ["skywork-o1", "qwen-math-prm"])
def test_line_breaks_inside_a_step_are_shown_as_the_family_shows_them(card, tmp_path: Path):
    tiny = FAMILIES[card](tmp_path)
    steps = ("Step 1: first\nthen 5.", "Step 2: 4")
    verifier = TransformersVerifier(tiny.folder, card=load_card(card), device="cpu")
    (mine,) = verifier.score([ScoreRequest(prompt=QUESTION, steps=steps)])
    assert mine.scores == pytest.approx(tiny.direct(steps)[1], abs=1e-5)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("qwen-math-prm", r"`tag` = '<extra_0>'.*tokens for this tokenizer.*card of another model"),
        ("skywork-o1", r"`head` = 'v_head\.summary'.*no such layer.*card of another model"),
        ("math-shepherd", r"`tag` = 'ки'.*tokens for this tokenizer"),
    ],
)
def test_a_card_of_another_family_is_refused(other, words, tmp_path: Path):
    tiny = rlhflow(tmp_path)
    with pytest.raises(InputError, match=words):
        TransformersVerifier(tiny.folder, card=load_card(other), device="cpu")


def test_a_tag_that_a_step_swallows_is_an_error_and_no_score(tmp_path: Path):
    """Qwen's tokenizer has one token for a full stop with a line break; without `tag_apart` the tag would be lost."""
    tiny = skywork(tmp_path)
    card = replace(load_card("skywork-o1"), tag_apart=False, step="{step}\n")
    verifier = TransformersVerifier(tiny.folder, card=card, device="cpu")
    with pytest.raises(VerifierError, match="merged with the step"):
        verifier.score([ScoreRequest(prompt=QUESTION, steps=("the sum.",))])


def test_a_missing_or_misfitting_head_is_named(tmp_path: Path):
    tiny = skywork(tmp_path / "tiny")
    card = load_card("skywork-o1")
    for head, words in ((("score.0", "score.2"), r"score\.0.*no such layer"), (("lm_head",), "outputs")):
        wrong = VerifierCard(prompt=card.prompt, step=card.step, tag=card.tag, tag_apart=True, head=head)
        with pytest.raises(InputError, match=words):
            TransformersVerifier(tiny.folder, card=wrong, device="cpu")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "none"}, r"no \{question\}"),
        ({"step": "none<t>"}, r"no \{step\}"),
        ({"step": "{step}"}, "does not end in the tag"),
        ({"tag_apart": True}, "is to stand apart"),
        ({"head": ("v_head",)}, "no single read-out"),
        ({"negative": None}, "no single read-out"),
    ],
)
def test_cards_that_contradict_themselves_are_refused(changes, words):
    whole = {"prompt": "{question}", "step": "{step}<t>", "tag": "<t>", "positive": "+", "negative": "-"}
    assert VerifierCard(**whole).to_dict() == whole
    with pytest.raises(InputError, match=words):
        VerifierCard(**{**whole, **changes})


def test_what_is_filled_in_is_not_looked_through_again():
    assert fill_in("{question} {step} \\boxed{}", {"question": "{step}?", "step": "{question}"}) == (
        "{step}? {question} \\boxed{}"
    )


def test_a_card_of_ones_own_is_a_file_and_no_code(family, tmp_path: Path):
    card, tiny = family
    theirs = (Path(cards.__file__).with_name("verifier_cards") / f"{card}.toml").read_text()
    (tmp_path / "mine.toml").write_text(theirs.replace("name = ", "name = 'Mine' # ", 1))
    shipped = load_verifier(f"transformers:{tiny.folder}?card={card}")
    for place in (f"transformers:{tiny.folder}?card={tmp_path / 'mine.toml'}", f"transformers:{tiny.folder}"):
        (tiny.folder / "verifier.toml").write_text((tmp_path / "mine.toml").read_text())
        mine = load_verifier(place)
        assert mine.info.name == "Mine"
        assert mine.info.fingerprint == shipped.info.fingerprint, "a name changes no score"
        request = [ScoreRequest(prompt=QUESTION, steps=STEPS)]
        assert mine.score(request) == shipped.score(request)
        mine.reset()
        shipped.reset()


def test_a_search_reads_a_fraction_of_the_tokens_and_scores_the_same(family):
    """Twelve steps, scored one after the other as a search does: each costs its own tokens, not the whole prefix."""
    card, tiny = family
    verifier = load_verifier(f"transformers:{tiny.folder}?card={card}")
    steps = tuple(f"Step {n}: then {n} + {n} = {2 * n}." for n in range(1, 13))
    grown = [verifier.score([ScoreRequest(prompt=QUESTION, steps=steps[:k])])[0] for k in range(1, 13)]
    read = sum(result.computed_tokens for result in grown)
    full = []
    for k in range(1, 13):
        verifier.reset()
        full += verifier.score([ScoreRequest(prompt=QUESTION, steps=steps[:k])])
    for mine, whole in zip(grown, full, strict=True):
        assert mine.scores == pytest.approx(whole.scores, abs=1e-4)
    assert grown[-1].scores == pytest.approx(tiny.direct(steps)[1], abs=1e-4)
    assert 4 * read <= sum(result.computed_tokens for result in full)


def test_the_command_lists_the_cards():
    app = Typer()
    register(app)
    rows = json.loads(CliRunner().invoke(app, ["--json"]).stdout)
    assert {row["card"] for row in rows if row["kind"] == "process"} == set(FAMILIES)
    assert {row["kind"] for row in rows} == {"process", "outcome", "judge", "rule", "tests"}
    published = [model for row in rows for model in row.get("models", [])]
    assert "Qwen/Qwen2.5-Math-PRM-7B" in published
    assert len(published) == len(set(published)) >= 8
    assert "Skywork" in CliRunner().invoke(app, []).stdout
    with pytest.raises(InputError, match=r"no such card.*rlhflow"):
        load_verifier("lab:lab-prm?card=unheard-of")
