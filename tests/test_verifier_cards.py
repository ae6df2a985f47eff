"""Published process reward models: tiny models of the true architecture and read-out, each against a direct computation.

The tokenizers are small and made here, with the special tokens, the pre-tokenisation and the chat templates of the true ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from typer import Typer
from typer.testing import CliRunner

from planner.cli.verifiers import register
from planner.core import ScoreRequest
from planner.errors import InputError, VerifierError
from planner.models.cards import VerifierCard, fill_in, load_card, published_cards
from planner.models.contract import VERIFIER_CHECKS
from planner.models.shipped import load_verifier
from planner.models.transformers_verifier import TransformersVerifier

QUESTION = "What is 2 + 3 - 1?"
STEPS = ("Step 1: First, 2 + 3 = 5.", "Step 2: then 5 - 1 = 4.", "Step 3: The answer is: 4")
CORPUS = [QUESTION, *STEPS, "the answer + - = is first then question step", "Step step one two three"] * 40
BEGIN, UNKNOWN = "<s>", "<unk>"
# The pattern by which Llama 3 and Qwen 2.5 cut text into words (Qwen takes digits one by one).
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_CHAT = (
    "{{ bos_token }}{{ '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n"
    "Today Date: 26 Jul 2024\\n\\n<|eot_id|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
)
QWEN_CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
)


def byte_level(digits: int, special: list[str], *, bos: str | None, adds_bos: bool, chat: str | None) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS % digits), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*CORPUS, *["\n\n", "sum.\n"] * 40], trainer)
    if adds_bos:
        number = tokenizer.token_to_id(bos)
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, number)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, clean_up_tokenization_spaces=False)
    if chat:
        wrapped.chat_template = chat
    return wrapped


def sentence_piece() -> Any:
    """Mistral's: a blank is ▁, one is put before the text, and no newline is ever part of a word."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁[^▁\n]*|[^▁\n]+|\n"), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[UNKNOWN, BEGIN, "</s>"], show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, *["ки\nStep 1", "ки", "+", "-"] * 40], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, unk_token=UNKNOWN)


def save(folder: Path, config: Any, tokenizer: Any, head: dict[str, nn.Linear] | None = None) -> Path:
    """A checkpoint as its publisher saved it: the decoder, and the head's layers under their own names."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6.0)  # so that scores differ from step to step
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if head:
        tensors = load_file(folder / "model.safetensors")
        for name, layer in head.items():
            tensors |= {f"{name}.{kind}": value.detach() for kind, value in layer.named_parameters()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def sizes(tokenizer: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 48, "vocab_size": len(tokenizer), "max_position_embeddings": 512,
        "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip


@dataclass(frozen=True)
class Family:
    folder: Path
    direct: Callable[[tuple[str, ...]], tuple[list[int], list[float]]]
    """The whole input's ids and all step scores, computed as the publisher's code does."""


def plain(folder: Path, ids: list[int]) -> tuple[Any, Any]:
    """(logits, last hidden states) of one unbatched pass."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        out = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    return out.logits[0], out.hidden_states[-1][0]


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
        ("qwen-math-prm", r"`head` = 'score\.0'.*no such layer.*card of another model"),
        ("skywork-o1", r"`head` = 'v_head\.summary'.*no such layer"),
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


def test_the_command_lists_the_cards():
    app = Typer()
    register(app)
    rows = json.loads(CliRunner().invoke(app, ["--json"]).stdout)
    assert [row["card"] for row in rows] == sorted(FAMILIES)
    published = [model for row in rows for model in row["models"]]
    assert "Qwen/Qwen2.5-Math-PRM-7B" in published
    assert len(published) == len(set(published)) >= 8
    assert "Skywork" in CliRunner().invoke(app, []).stdout
    with pytest.raises(InputError, match=r"no such card.*rlhflow"):
        load_verifier("lab:lab-prm?card=unheard-of")
