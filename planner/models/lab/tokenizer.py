"""The laboratory's tokenizer: byte-level BPE whose digits and newlines are always tokens of their own.

A sequence is `<bos><user>QUESTION<assistant>STEP1\\nSTEP2\\n...#### ANSWER<eos>`. `<assistant>` ends the prompt and a
newline every step, and neither merges with anything: prompts, steps and prefixes are encoded apart and joined freely.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

__all__ = [
    "ASSISTANT",
    "BOS",
    "EOS",
    "MINUS",
    "PAD",
    "PLUS",
    "STEP",
    "USER",
    "VOCABULARY",
    "load_tokenizer",
    "prompt_text",
    "train_tokenizer",
]

SPECIAL = ("<pad>", "<bos>", "<eos>", "<user>", "<assistant>", "<step>", "<+>", "<->")
PAD, BOS, EOS, USER, ASSISTANT, STEP, PLUS, MINUS = range(len(SPECIAL))
"""Token ids: the special tokens come first in the vocabulary."""

VOCABULARY = 512

# An operator with its blanks is one piece, so `57 + 87 = 144` takes nine tokens.
_PIECES = r"\n|\d| [-+*/=] |#### |: | ?[A-Za-z]+|[^\sA-Za-z\d]+ ?| +|\s"

_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}<user>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<assistant>{{ message['content'] }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def prompt_text(question: str) -> str:
    """What a policy model is given; the chat template writes the same."""
    return f"<bos><user>{question}<assistant>"


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learn the merges from `texts`; the same texts give the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        additional_special_tokens=list(SPECIAL[3:]),
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        padding_side="right",
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of an exported model."""
    return PreTrainedTokenizerFast.from_pretrained(folder)  # type: ignore[no-any-return, unused-ignore]
