"""A batched sampler for making training data and for measuring, with a preallocated key-value cache.

It draws from torch's generator, so a result depends on its batch: profiling uses the engines, never this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from planner.models.lab.data import pad
from planner.models.lab.tokenizer import EOS

__all__ = ["sample"]

_WIDEST_ROWS = 512
"""Rows sampled at a time: wide enough to fill the processor, small enough for its caches' memory."""


@dataclass(slots=True)
class _Cache:
    """Keys and values (layers, rows, heads, time, head size); row r holds `lengths[r]` positions."""

    keys: Tensor
    values: Tensor
    lengths: Tensor

    def take(self, rows: Tensor) -> _Cache:
        """A cache of these rows; `index_select` copies whole rows, which plain indexing does five times slower."""
        return _Cache(self.keys.index_select(1, rows), self.values.index_select(1, rows), self.lengths[rows])

    def reserve(self, width: int) -> None:
        """Make room for `width` positions, some ahead: a cache as long as the longest text would be mostly empty."""
        missing = width - self.keys.shape[3]
        if missing > 0:
            room = (0, 0, 0, missing + 48)
            self.keys, self.values = functional.pad(self.keys, room), functional.pad(self.values, room)


def _forward(model: LlamaForCausalLM, ids: Tensor, cache: _Cache, counts: Tensor) -> Tensor:
    """Logits (rows, vocabulary) after each row's last new token; `ids` (rows, new) has `counts` real tokens a row."""
    rows, new = ids.shape
    start, body = cache.lengths, model.model
    positions = start[:, None] + torch.arange(new)
    hidden = body.embed_tokens(ids)
    cosine, sine = body.rotary_emb(hidden, positions)
    width = int(start.max()) + new
    cache.reserve(width)
    mask = (torch.arange(width) <= positions[..., None])[:, None]
    row_index = torch.arange(rows)[:, None]
    for number, layer in enumerate(body.layers):
        attention, normed = layer.self_attn, layer.input_layernorm(hidden)
        query, key, value = (
            projection(normed).view(rows, new, -1, attention.head_dim)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = apply_rotary_pos_emb(query.transpose(1, 2), key.transpose(1, 2), cosine, sine)
        cache.keys[number][row_index, :, positions] = key.transpose(1, 2)
        cache.values[number][row_index, :, positions] = value
        mixed = functional.scaled_dot_product_attention(
            query, cache.keys[number, :, :, :width], cache.values[number, :, :, :width], attn_mask=mask
        )
        hidden = hidden + attention.o_proj(mixed.transpose(1, 2).reshape(rows, new, -1))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    cache.lengths = start + counts
    last: Tensor = model.lm_head(body.norm(hidden[torch.arange(rows), counts - 1]))
    return last


@torch.inference_mode()
def sample(
    model: LlamaForCausalLM,
    prompts: Sequence[Sequence[int]],
    each: int,
    *,
    temperature: float | tuple[float, float],
    seed: int,
    max_new: int = 200,
) -> list[list[list[int]]]:
    """`each` continuations (ids without the end token; truncated at `max_new`) of every prompt.

    A pair of temperatures means one drawn evenly between them for each continuation.
    """
    low, high = temperature if isinstance(temperature, tuple) else (temperature, temperature)
    generator = torch.Generator().manual_seed(seed)
    results: list[list[list[int]]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    per_group = max(1, _WIDEST_ROWS // each)
    for first in range(0, len(order), per_group):
        group = order[first : first + per_group]
        heats = low + (high - low) * torch.rand(len(group) * each, 1, generator=generator)
        texts = _sample_group(model, [prompts[number] for number in group], each, heats, generator, max_new)
        for place, number in enumerate(group):
            results[number] = texts[place * each : (place + 1) * each]
    return results


def _sample_group(
    model: LlamaForCausalLM,
    prompts: Sequence[Sequence[int]],
    each: int,
    heats: Tensor,
    generator: torch.Generator,
    max_new: int,
) -> list[list[int]]:
    config = model.config
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    heads, size = int(config.num_key_value_heads or 0), int(config.head_dim or 0)
    shape = (config.num_hidden_layers, len(prompts), heads, 0, size)
    cache = _Cache(torch.zeros(shape), torch.zeros(shape), torch.zeros(len(prompts), dtype=torch.long))
    logits = _forward(model, pad(prompts), cache, lengths).repeat_interleave(each, 0)
    cache = cache.take(torch.arange(len(prompts)).repeat_interleave(each))
    texts: list[list[int]] = [[] for _ in range(len(logits))]
    alive = torch.arange(len(logits))
    for step in range(max_new):
        noise = -torch.log(-torch.log(torch.rand(logits.shape, generator=generator).clamp_(1e-20, 1 - 1e-7)))
        chosen = (logits / heats[alive].clamp_min(1e-6) + noise).argmax(-1)
        for row, token in zip(alive.tolist(), chosen.tolist(), strict=True):
            if token != EOS and (not texts[row] or texts[row][-1] != EOS):
                texts[row].append(token)
            elif not texts[row] or texts[row][-1] != EOS:
                texts[row].append(EOS)
        going = torch.tensor([texts[row][-1] != EOS for row in alive.tolist()])
        if not bool(going.any()) or step == max_new - 1:
            break
        # Finished rows ride along until a quarter has finished: copying the cache costs more than they do.
        if float(going.float().mean()) < 0.75:
            cache, alive, chosen = cache.take(going.nonzero()[:, 0]), alive[going], chosen[going]
        logits = _forward(model, chosen[:, None], cache, torch.ones(len(alive), dtype=torch.long))
    return [text[:-1] if text and text[-1] == EOS else text for text in texts]
