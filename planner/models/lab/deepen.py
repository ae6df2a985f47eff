"""A judge's start: a policy model with layers on top that can look back at what it expected.

A judge compares each written token with what the policy model expected there. That expectation stands complete only
after the policy's last layer and one position earlier, so the first new layer starts with heads that look one token
back. Found from scratch, by gradient descent, this took longer than the whole training.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from planner.models.lab.data import pad

__all__ = ["deepened"]

_SHARPNESS = 7.0
_FREQUENCIES = 4


def deepened(model: LlamaForCausalLM, extra: int, examples: list[list[int]]) -> LlamaForCausalLM:
    """The same function with `extra` more layers, which at first add nothing to the residual stream.

    `examples` (token ids) show what the new layer reads; its queries and keys are fitted to be constant over them, so
    that rotary positions alone decide where it looks.
    """
    config = copy.deepcopy(model.config)
    config.num_hidden_layers += extra
    deeper = LlamaForCausalLM(config)
    deeper.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for layer in deeper.model.layers[-extra:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        _look_back(deeper, config.num_hidden_layers - extra, _residual(model, examples))
    deeper.generation_config = model.generation_config
    return deeper


def _residual(model: LlamaForCausalLM, examples: list[list[int]]) -> Tensor:
    """(tokens, hidden): what leaves the last layer, scaled as the next layer's RMSNorm with unit weights does."""
    ids = pad(examples)
    kept: list[Tensor] = []
    hook = model.model.norm.register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0]))
    model.model(input_ids=ids, use_cache=False)
    hook.remove()
    hidden = kept[0][ids != 0]
    return hidden / hidden.pow(2).mean(-1, keepdim=True).sqrt()


def _look_back(deeper: LlamaForCausalLM, number: int, residual: Tensor) -> None:
    attention, config = deeper.model.layers[number].self_attn, deeper.config
    heads, size, hidden = config.num_attention_heads, attention.head_dim, config.hidden_size
    ridge = 1e-3 * len(residual) * torch.eye(hidden)
    constant = torch.linalg.solve(residual.T @ residual + ridge, residual.sum(0))  # constant . x is about 1
    theta = deeper.model.rotary_emb.inv_freq[:_FREQUENCIES]
    query, key = torch.zeros(size), torch.zeros(size)
    query[:_FREQUENCIES] = _SHARPNESS
    key[:_FREQUENCIES] = _SHARPNESS * theta.cos()
    key[size // 2 : size // 2 + _FREQUENCIES] = _SHARPNESS * theta.sin()
    attention.q_proj.weight.copy_(query.repeat(heads)[:, None] * constant)
    attention.k_proj.weight.copy_(key.repeat(heads)[:, None] * constant)
    # Values carry the whole residual stream where the heads together are as wide as it.
    torch.nn.init.eye_(attention.v_proj.weight)
