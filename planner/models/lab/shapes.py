"""The laboratory's models as numbers, and how one is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from planner.errors import InputError
from planner.models.checkpoint import open_checkpoint
from planner.models.lab.tokenizer import BOS, EOS, PAD, VOCABULARY

__all__ = ["SHAPES", "Shape", "load_model", "new_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Width, layers, width inside the MLP, attention heads of 32, and the learning rate that suits them.

    Weights are random at the start or, where `grown_from` names a smaller model, grown from it
    (`planner.models.lab.grow`).
    """

    hidden: int
    layers: int
    mlp: int
    heads: int
    learning_rate: float
    grown_from: str | None = None


SHAPES = {
    "lab-small": Shape(hidden=64, layers=4, mlp=192, heads=4, learning_rate=3e-3),
    "lab-medium": Shape(hidden=128, layers=4, mlp=384, heads=4, learning_rate=2e-3),
    "lab-large": Shape(hidden=256, layers=6, mlp=768, heads=8, learning_rate=3e-4, grown_from="lab-medium"),
}


def new_model(shape: Shape) -> LlamaForCausalLM:
    """A model with random weights (seed torch before); heads of 32 are what vLLM's kernels take."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            intermediate_size=shape.mlp,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            head_dim=32,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )
    )
    model.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=True, temperature=0.8, max_new_tokens=256
    )
    return model


def load_model(folder: Path) -> LlamaForCausalLM:
    """A model of the laboratory, on the CPU in float32. Raises InputError where `folder` holds none."""
    model = open_checkpoint(folder, device="cpu").model
    if not isinstance(model, LlamaForCausalLM):
        raise InputError("not a model of the laboratory", where=str(folder), value=type(model).__name__)
    return model
