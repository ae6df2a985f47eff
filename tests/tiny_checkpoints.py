"""FOR TESTS ONLY: tiny checkpoints of true architectures, with tokenizers made here.

The tokenizers have the special tokens, the pre-tokenisation and the chat templates of the true ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

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


def plain(folder: Path, ids: list[int]) -> tuple[Any, Any]:
    """(logits, last hidden states) of one unbatched pass."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        out = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    return out.logits[0], out.hidden_states[-1][0]
