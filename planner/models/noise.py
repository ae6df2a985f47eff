"""Sampling that depends on a request alone: Gumbel noise from a counter, added to the logits before argmax.

The noise of a token is a hash of (the request's seed, the token's position, its id), so neither the batch around a
request nor the order of requests can change what it draws. argmax(logits / T + Gumbel) is a draw from
softmax(logits / T) (Gumbel-max; Maddison, Tarlow and Minka, "A* sampling", 2014).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["choose_tokens", "gumbel"]


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 (whose sums and products wrap; shifts are made logical by a mask)."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _FIRST
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _SECOND
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def gumbel(seeds: Tensor, positions: Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise (rows, vocabulary), float32, for `seeds` and `positions` (rows,), int64."""
    keys = _mix(seeds + (positions + 1) * _GAMMA)
    counters = (torch.arange(vocabulary, device=seeds.device) + 1) * _GAMMA
    bits = _mix(keys[:, None] + counters)
    uniform = ((bits >> 40) & 0xFFFFFF).float().mul_(2.0**-24).add_(2.0**-25)
    return uniform.log_().neg_().log_().neg_()


def choose_tokens(logits: Tensor, temperature: Tensor, top_p: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    """One token id a row: argmax where the temperature is 0, else a draw within the nucleus of mass `top_p`.

    `logits` is (rows, vocabulary), everything else (rows,).
    """
    scaled = logits / temperature.clamp_min(1e-6)[:, None]
    if bool((top_p < 1).any()):
        ordered, places = scaled.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        outside = torch.zeros_like(before, dtype=torch.bool).scatter(-1, places, before >= top_p[:, None])
        scaled = scaled.masked_fill(outside, -torch.inf)
    warm = temperature > 0
    if bool(warm.any()):
        noise = gumbel(seeds[warm], positions[warm], logits.shape[-1])
        scaled[warm] = scaled[warm] + noise
    return scaled.argmax(-1)
