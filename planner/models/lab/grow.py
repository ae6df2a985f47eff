"""A larger policy model that begins as a smaller one: twice as wide, deeper, and at first the same function.

Widening as in Net2Net (Chen et al., arXiv 1511.05641): every unit is there twice, and who reads the pair gives each
half of its weight. Halves that differ, by as much as fresh weights do, break the symmetry and change nothing else.
Added layers write nothing until they have learned to.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

__all__ = ["grow"]

_READS_PAIRS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@torch.no_grad()
def grow(small: LlamaForCausalLM, large: LlamaForCausalLM) -> None:
    """Give `large` the weights with which it computes what `small` does. Heads, widths and vocabulary must be twice
    and once its own; layers beyond its own go on top. Draws from torch's generator."""
    layers = small.config.num_hidden_layers
    grown = dict(large.named_parameters())
    for name, weight in small.named_parameters():
        grown[name].copy_(_twice(name, weight, large.config.initializer_range))
    # The embedding is the output's too, which reads pairs: the last norm gives it half.
    large.model.norm.weight.mul_(0.5)
    for layer in large.model.layers[layers:]:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()


def _twice(name: str, weight: Tensor, spread: float) -> Tensor:
    if weight.dim() == 1:
        return torch.cat((weight, weight))
    if not any(part in name for part in _READS_PAIRS):
        return torch.cat((weight, weight), dim=1)
    # Each copy of a row reads with halves of its own, and both come out the same.
    rows = []
    for _ in range(2):
        noise = torch.randn_like(weight) * spread
        rows.append(torch.cat((weight / 2 + noise, weight / 2 - noise), dim=1))
    return torch.cat(rows)
