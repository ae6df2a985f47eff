"""A judge's start: a policy model, kept as it is, under layers that compare each written token with what it expected.

What a policy model expects stands complete only after its last layer and one position earlier, so three layers on top
bring the two together. The first writes a loud constant, after which no norm varies any more. The second looks one
token back and multiplies the expectation there with the token's own embedding, which waits beside the residual stream
in dimensions of its own. The third averages that over the attempt so far, and over its least expected tokens. So a
judge begins with the attempt's likelihood and learns the rest. Found from scratch by gradient descent, this took longer
than the whole training.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from planner.models.lab.data import pad
from planner.models.lab.tokenizer import ASSISTANT, BOS, MINUS, PAD, PLUS, STEP

__all__ = ["EXTRA_LAYERS", "judge_on"]

EXTRA_LAYERS = 3
_AXES = 32
"""Main directions of the embeddings that are kept."""
_CODE = _AXES + 1
"""And a constant, which the expectation's normaliser is multiplied with."""
_BESIDE = 96
"""Dimensions beside the residual stream; those without a purpose are there for learning."""
_FAINT = 0.01
"""Scale of what waits there, too little to move any norm of the layers below."""
_LOUD = 4.5
"""The constant, in lengths of the residual stream."""
_SHARPNESS = 7.0
_FREQUENCIES = 4
_MATCH = 0.2
"""Scale of log-probabilities in the stream; like all that the new layers read, it should be about 1."""
_FIRM = 40.0
"""Attention (in nats) that leaves nothing to anything else."""


@dataclass(frozen=True, slots=True)
class _Slots:
    """Where things stand beside the `hidden` dimensions of the residual stream."""

    hidden: int

    @property
    def code(self) -> slice:
        return slice(self.hidden, self.hidden + _CODE)

    @property
    def expected(self) -> slice:
        return slice(self.code.stop, self.code.stop + _CODE)

    @property
    def singles(self) -> range:
        """First token, `<assistant>`, constant, inside the attempt, match, mean match, least match."""
        return range(self.expected.stop, self.expected.stop + 7)

    @property
    def width(self) -> int:
        return self.hidden + _BESIDE


@torch.no_grad()
def judge_on(model: LlamaForCausalLM, newline: int, examples: Sequence[Sequence[int]]) -> LlamaForCausalLM:
    """`model`, unchanged under EXTRA_LAYERS more, whose P(<+>) at a `<step>` begins as the attempt's likelihood.

    `<step>` is read as `newline` is. `examples` (token ids of questions and attempts) show what the layers will read.
    Draws from torch's generator.
    """
    slots = _Slots(model.config.hidden_size)
    judge = _widened(model, slots)
    ids = pad(examples)
    ids = ids.where(ids != STEP, newline)
    # Of attempts only: questions are not expected, and would draw the fits to themselves.
    written = (ids != PAD) & (ids == ASSISTANT).cumsum(1).bool()
    residual = _residual(model, ids)
    first_length = float(residual[0, 0].pow(2).sum().sqrt())
    residual = residual[written]
    length = float(residual.pow(2).sum(-1).sqrt().median())
    normed = residual / residual.pow(2).mean(-1, keepdim=True).sqrt()
    mean, axes = _main_directions(model, ids[written])
    gain = model.model.norm.weight
    expected = normed * gain
    normaliser = _fitted(expected, (expected @ model.lm_head.weight.T).logsumexp(-1))
    table = judge.model.embed_tokens.weight
    first, assistant, *_ = slots.singles
    table[:, slots.code] = _FAINT * torch.cat(
        ((model.lm_head.weight - mean) @ axes.T, torch.full((len(table), 1), 10.0)), dim=1
    )
    table[BOS, first] = table[ASSISTANT, assistant] = _FAINT
    table[STEP] = table[newline]
    scales = _Scales(length=length, slots=slots)
    unit = _FAINT * math.sqrt(slots.width) / first_length  # the first token's mark after a norm
    steady, compare, gather = judge.model.layers[-EXTRA_LAYERS:]
    _steady(steady, slots, _fitted(normed, torch.ones(len(normed))), unit, scales)
    _compare(compare, slots, torch.cat((axes, (mean - normaliser)[None] / 10)) * gain, scales)
    _gather(gather, slots, scales)
    _read_out(judge, slots, scales)
    judge.generation_config = model.generation_config
    return judge


@dataclass(frozen=True, slots=True)
class _Scales:
    """`length` of the residual stream where the new layers begin."""

    length: float
    slots: _Slots

    @property
    def loud(self) -> float:
        return _LOUD * self.length

    @property
    def one(self) -> float:
        """What comes out of a norm above the constant as 1."""
        return self.loud / math.sqrt(self.slots.width)

    def above_constant(self, norm: Any) -> None:
        """Gains of such a norm: the residual stream comes out at about 1, what waits as it would without _FAINT."""
        first, assistant, constant, *_ = self.slots.singles
        gain = torch.ones(self.slots.width)
        gain[: self.slots.hidden] = self.one / self.length * math.sqrt(self.slots.hidden)
        gain[self.slots.code] = gain[first] = gain[assistant] = self.one / _FAINT
        gain[constant] = self.one / self.loud
        norm.weight.copy_(gain)


def _widened(model: LlamaForCausalLM, slots: _Slots) -> LlamaForCausalLM:
    """The same function, with room beside the residual stream and fresh layers that write nothing."""
    config = copy.deepcopy(model.config)
    config.hidden_size = slots.width
    config.num_hidden_layers += EXTRA_LAYERS
    config.rms_norm_eps *= slots.hidden / slots.width
    wide = LlamaForCausalLM(config)
    shrink = math.sqrt(slots.hidden / slots.width)
    narrow = dict(model.named_parameters())
    for name, weight in wide.named_parameters():
        if name in narrow:
            own = narrow[name]
            weight.zero_()
            weight[tuple(slice(0, size) for size in own.shape)] = own * (shrink if own.dim() == 1 else 1.0)
    for layer in wide.model.layers[-EXTRA_LAYERS:]:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    return wide


def _residual(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """(batch, time, hidden): what leaves the last layer."""
    kept: list[Tensor] = []
    hook = model.model.norm.register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0]))
    model.model(input_ids=ids, use_cache=False)
    hook.remove()
    return kept[0]


def _main_directions(model: LlamaForCausalLM, written: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, main axes) of the embeddings, weighted by how often their tokens are written."""
    table = model.lm_head.weight
    share = torch.bincount(written, minlength=len(table)).float() / len(written)
    mean = share @ table
    return mean, torch.linalg.svd((table - mean) * share.sqrt()[:, None], full_matrices=False).Vh[:_AXES]


def _fitted(inputs: Tensor, target: Tensor) -> Tensor:
    """The vector whose product with the rows of `inputs` is about `target`."""
    ridge = 1e-4 * len(inputs) * inputs.pow(2).mean() * torch.eye(inputs.shape[1])
    found: Tensor = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ target)
    return found


def _clear(attention: Any, head: int) -> int:
    """Empty a head; returns the first of its rows."""
    start = head * int(attention.head_dim)
    for weight in (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight):
        weight[start : start + attention.head_dim] = 0.0
    return start


def _slow(attention: Any) -> int:
    """The dimension of a head that rotary positions hardly turn."""
    return int(attention.head_dim) // 2 - 1


def _steady(layer: Any, slots: _Slots, constant: Tensor, unit: float, scales: _Scales) -> None:
    """Every position attends to the first token, which is always the same, and writes the mark it finds there (of size
    `unit`), loudly. `constant` reads about 1 from the residual stream."""
    attention = layer.self_attn
    first, _, loud, *_ = slots.singles
    layer.input_layernorm.weight.fill_(1.0)
    start, slow = _clear(attention, 0), _slow(attention)
    attention.q_proj.weight[start + slow, : slots.hidden] = constant * math.sqrt(attention.head_dim)
    attention.k_proj.weight[start + slow, first] = 2 * _FIRM / unit
    attention.v_proj.weight[start, first] = 1 / unit
    attention.o_proj.weight[loud, start] = scales.loud
    scales.above_constant(layer.post_attention_layernorm)


def _compare(layer: Any, slots: _Slots, rows: Tensor, scales: _Scales) -> None:
    """match = the log-probability of the token that was written, about; inside = 1 from `<assistant>` on.

    `rows` [CODE, hidden] read the expectation's code and its normaliser from the residual stream.
    """
    attention, mlp = layer.self_attn, layer.mlp
    _, assistant, constant, inside, match, *_ = slots.singles
    size, wide = int(attention.head_dim), _CODE
    theta = 10_000.0 ** (-torch.arange(_FREQUENCIES) * 2 / size)
    query, key = torch.zeros(size), torch.zeros(size)
    query[:_FREQUENCIES] = _SHARPNESS
    key[:_FREQUENCIES] = _SHARPNESS * theta.cos()
    key[size // 2 : size // 2 + _FREQUENCIES] = _SHARPNESS * theta.sin()
    scales.above_constant(layer.input_layernorm)
    looks_back = range(attention.q_proj.weight.shape[0] // size - 1)
    for head in looks_back:
        start = _clear(attention, head)
        attention.q_proj.weight[start : start + size, constant] = query
        attention.k_proj.weight[start : start + size, constant] = key
    attention.v_proj.weight[:wide, : slots.hidden] = rows
    attention.o_proj.weight[slots.expected, :wide] = scales.one * torch.eye(wide)
    rest = len(looks_back) * size - wide  # may learn to carry whatever else of the token before is of use
    attention.v_proj.weight[wide : wide + rest, : slots.hidden] = torch.eye(rest, slots.hidden)
    start, slow = _clear(attention, len(looks_back)), _slow(attention)
    attention.q_proj.weight[start + slow, constant] = math.sqrt(size)
    attention.k_proj.weight[start + slow, assistant] = _FIRM
    attention.v_proj.weight[start, assistant] = 1.0
    attention.o_proj.weight[inside, start] = scales.one
    scales.above_constant(layer.post_attention_layernorm)
    # x * y = silu(x) * y + silu(-x) * -y
    for sign, unit in ((1.0, 0), (-1.0, wide)):
        units = slice(unit, unit + wide)
        for weight, slot in ((mlp.gate_proj.weight, slots.code), (mlp.up_proj.weight, slots.expected)):
            weight[units] = 0.0
            weight[units, slot] = sign * _MATCH * torch.eye(wide)
        mlp.down_proj.weight[match, units] = scales.one / _MATCH


def _gather(layer: Any, slots: _Slots, scales: _Scales) -> None:
    """The mean match of the attempt so far, and that of its least expected tokens."""
    attention = layer.self_attn
    _, assistant, constant, inside, match, mean, least = slots.singles
    scales.above_constant(layer.input_layernorm)
    scales.above_constant(layer.post_attention_layernorm)
    for head, (choosy, dimension) in enumerate(((0.0, mean), (1.0, least))):
        start, slow = _clear(attention, head), _slow(attention)
        attention.q_proj.weight[start + slow, constant] = math.sqrt(attention.head_dim)
        attention.k_proj.weight[start + slow, inside] = _FIRM
        attention.k_proj.weight[start + slow, assistant] = -_FIRM  # where the attempt begins nothing is written yet
        attention.k_proj.weight[start + slow, match] = -choosy / _MATCH
        attention.v_proj.weight[start, match] = 1.0
        attention.o_proj.weight[dimension, start] = scales.one


def _read_out(judge: LlamaForCausalLM, slots: _Slots, scales: _Scales) -> None:
    _, _, constant, _, _, mean, least = slots.singles
    scales.above_constant(judge.model.norm)
    signs = judge.lm_head.weight
    signs[[MINUS, PLUS]] = 0.0
    signs[PLUS, mean], signs[PLUS, least], signs[PLUS, constant] = 2.0, 0.5, 1.0
