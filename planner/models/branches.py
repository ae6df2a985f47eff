"""Attention of many rows over few shared prefixes, each read once for all rows that follow it.

Sampling many continuations of one prefix is bound by reading its keys and values; softmax over prefix and own tokens
together is the same attention as over a copy of the whole (Juravsky et al., "Hydragen", arXiv 2402.05099).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

__all__ = ["Branches", "Current", "attend_through"]

_NAME = "planner_branches"


@dataclass(slots=True)
class Branches:
    """`kept` is (2, layers, prefixes, heads, width, size), of which the first `lengths` (prefixes,) are real; row r
    follows prefix `owners[r]`."""

    kept: Tensor
    lengths: Tensor
    owners: Tensor
    _hidden: Tensor = field(init=False)
    _places: Tensor = field(init=False)
    _each: int = field(init=False)

    def __post_init__(self) -> None:
        width, device = self.kept.shape[4], self.kept.device
        behind = torch.arange(width, device=device) >= self.lengths[:, None]
        self._hidden = self.kept.new_zeros(behind.shape).masked_fill_(behind, -torch.inf)[:, None, None]
        # A prefix's rows take as many places as the most followed one has: place = prefix * each + rank among its rows.
        order = self.owners.argsort(stable=True)
        counts = self.owners.bincount(minlength=len(self.lengths))
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=device) - (counts.cumsum(0) - counts)[self.owners[order]]
        self._each = int(counts.max())
        self._places = self.owners * self._each + rank

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, layer: int, scaling: float
    ) -> Tensor:
        """(rows, new, heads, size) from `query` (rows, heads, new, size), the rows' own `keys` and `values` (rows,
        key-value heads, width, size), and `mask` (rows, 1, new, width), True where they are seen (None: everywhere)."""
        (rows, heads, new, size), shared = query.shape, keys.shape[1]
        folded = (query * scaling).reshape(rows, shared, heads // shared * new, size)
        prefix_keys, prefix_values = self.kept[0, layer], self.kept[1, layer]
        far = self._spread(self._gather(folded) @ prefix_keys.transpose(2, 3) + self._hidden)
        near = folded @ keys.transpose(2, 3)
        if mask is not None:
            mask = mask[:, :, None].expand(rows, 1, heads // shared, new, -1).flatten(2, 3)
            near = near.masked_fill(~mask, -torch.inf)
        weights = torch.cat([far, near], -1).softmax(-1, dtype=torch.float32).to(query.dtype)
        width = far.shape[-1]
        seen = self._spread(self._gather(weights[..., :width]) @ prefix_values) + weights[..., width:] @ values
        return seen.view(rows, heads, new, size).transpose(1, 2)

    def _gather(self, rows: Tensor) -> Tensor:
        """(rows, heads, m, x) as (prefixes, heads, each * m, x)."""
        _, heads, m, x = rows.shape
        held = rows.new_zeros((len(self.lengths) * self._each, heads, m, x))
        held[self._places] = rows
        return held.view(-1, self._each, heads, m, x).transpose(1, 2).flatten(2, 3)

    def _spread(self, held: Tensor) -> Tensor:
        """Inverse of `_gather`."""
        prefixes, heads, _, x = held.shape
        return held.view(prefixes, heads, self._each, -1, x).transpose(1, 2).flatten(0, 1)[self._places]


class Current:
    """What the attention of one model looks up in a pass: the rows' shared prefixes, or None; and whether anything of
    what follows them is masked."""

    branches: Branches | None = None
    masked = True


def attend_through(model: PreTrainedModel, current: Current) -> bool:
    """Make the model's attention look at `current`; without branches it stays transformers' own sdpa.

    False, and nothing changed, where the architecture does not call its attention by transformers' interface.
    """
    AttentionInterface.register(_NAME, _attention)
    if not model._can_set_attn_implementation():  # asked first: setting it regardless writes a warning
        return False
    model.set_attn_implementation(_NAME)
    for module in model.modules():
        if hasattr(module, "layer_idx"):
            module.planner_current = current  # type: ignore[assignment]
    return True


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **kwargs: Any
) -> tuple[Tensor, None]:
    current = module.planner_current
    if current.branches is None:
        seen: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return seen
    mask = attention_mask if current.masked else None
    return current.branches.attend(query, key, value, mask, module.layer_idx, scaling), None
