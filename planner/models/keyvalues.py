"""Keys and values of a decoder: ragged batches without left padding, and prefixes kept for reuse.

Row r of a batch holds its own `lengths[r]` positions from slot 0 on; what stands behind them is masked and overwritten
later. So a batch may mix inputs of any length, and a prefix's keys and values can be taken out of one batch and put
into another.
"""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from planner.errors import InputError
from planner.models.branches import Branches, Current, attend_through

__all__ = ["Decoder", "Kept", "KeyValues", "PrefixStore", "padded"]

_ROOM = 48
"""Slots added at a time: a cache as long as the longest answer would be mostly empty."""

_PREFIXES = 0.75
"""Shared prefixes that no row follows any more are dropped once a quarter is such."""


class _Arena:
    """A few pieces of memory that batches are written to in turn.

    A batch takes tens of megabytes for some milliseconds; asking the system for new ones each time cost a fifth of all
    time in page faults. One batch is alive at a time, besides what it is copied from.
    """

    def __init__(self) -> None:
        self._pieces: list[Tensor] = []

    def zeros(self, shape: Sequence[int], like: Tensor, *beside: Tensor) -> Tensor:
        return self.empty(shape, like, *beside).zero_()

    def empty(self, shape: Sequence[int], like: Tensor, *beside: Tensor) -> Tensor:
        """Memory of this shape that does not overlap `beside`; what it held before is lost."""
        size, taken = math.prod(shape), {tensor.untyped_storage().data_ptr() for tensor in beside}
        free = [p for p in self._pieces if p.untyped_storage().data_ptr() not in taken]
        fitting = min((p for p in free if p.numel() >= size), key=Tensor.numel, default=None)
        if fitting is None:
            self._pieces = [p for p in self._pieces if all(p is not f for f in free)]
            fitting = like.new_empty(size + size // 4)
            self._pieces.append(fitting)
        return fitting[:size].view(*shape)


class KeyValues(Cache):
    """`kept` is (2, layers, rows, heads, capacity, head size): keys, then values. With `branches` it holds what follows
    the rows' shared prefixes, and so do `lengths`. Made by `Decoder.start`."""

    def __init__(
        self, layers: int, kept: Tensor | None, lengths: Tensor, arena: _Arena, branches: Branches | None = None
    ) -> None:
        super().__init__(layers=[])  # type: ignore[no-untyped-call, unused-ignore]
        self.layer_count, self.kept, self.lengths, self._arena = layers, kept, lengths, arena
        self.branches = branches
        self.positions = self.rows = lengths
        self.width, self.level = 0, False

    @property
    def _held(self) -> list[Tensor]:
        """The memory that this batch is alive in."""
        return [x for x in (self.kept, self.branches.kept if self.branches else None) if x is not None]

    def prepare(self, new: int) -> Tensor:
        """Make room for `new` tokens a row; returns their places in the text, shape (rows, new)."""
        self.positions = self.lengths[:, None] + torch.arange(new, device=self.lengths.device)
        self.rows = torch.arange(len(self.lengths), device=self.lengths.device)[:, None]
        shortest, longest = (int(length) for length in self.lengths.aminmax())
        # Rows that all hold as much are written as one block, which is far quicker than row by row.
        self.width, self.level = longest + new, shortest == longest
        if self.kept is not None and self.width > self.kept.shape[4]:
            *front, capacity, size = self.kept.shape
            wider = self._arena.zeros((*front, self.width + _ROOM, size), self.kept, *self._held)
            wider[:, :, :, :, :capacity] = self.kept
            self.kept = wider
        if self.branches is None:
            return self.positions
        return self.positions + self.branches.lengths[self.branches.owners][:, None]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by the model's attention: write the new (rows, heads, new, size), return all of (.., width, size)."""
        if self.kept is None:
            rows, heads, _, size = key_states.shape
            shape = (2, self.layer_count, rows, heads, self.width + _ROOM, size)
            self.kept = self._arena.zeros(shape, key_states, *self._held)
        keys, values = self.kept[0, layer_idx], self.kept[1, layer_idx]
        if self.level:
            keys[:, :, self.width - key_states.shape[2] : self.width] = key_states
            values[:, :, self.width - key_states.shape[2] : self.width] = value_states
        else:
            keys[self.rows, :, self.positions] = key_states.transpose(1, 2)
            values[self.rows, :, self.positions] = value_states.transpose(1, 2)
        return keys[:, :, : self.width], values[:, :, : self.width]

    def take(self, rows: Tensor) -> KeyValues:
        """A batch of these rows; `index_select` copies whole rows, which plain indexing does five times slower."""
        taken, branches, held = None, self.branches, self._held
        if self.kept is not None:
            taken = self._select(self.kept, rows, held)
            held.append(taken)
        if branches is not None:
            owners, left = branches.owners[rows], branches
            wanted, places = owners.unique(return_inverse=True)
            if len(wanted) < _PREFIXES * len(branches.lengths):
                kept = self._select(branches.kept, wanted, held)
                left, owners = Branches(kept, branches.lengths[wanted], places), places
            branches = Branches(left.kept, left.lengths, owners)
        return KeyValues(self.layer_count, taken, self.lengths[rows], self._arena, branches)

    def _select(self, kept: Tensor, rows: Tensor, beside: Sequence[Tensor]) -> Tensor:
        two, layers, _, *rest = kept.shape
        taken = self._arena.empty((two, layers, len(rows), *rest), kept, *beside)
        torch.index_select(kept, 2, rows, out=taken)
        return taken

    def branch(self, owners: Tensor) -> KeyValues:
        """A batch of which row r goes on from this one's row `owners[r]`, whose keys and values are not copied."""
        assert self.kept is not None
        branches = Branches(self.kept[:, :, :, :, : int(self.lengths.max())], self.lengths, owners)
        return KeyValues(self.layer_count, None, torch.zeros_like(owners), self._arena, branches)

    def row(self, number: int, length: int) -> Tensor:
        """A copy of one row's first `length` positions, (2, layers, heads, length, size)."""
        parts, rest = list[Tensor](), length
        if self.branches is not None:
            owner = int(self.branches.owners[number])
            before = min(int(self.branches.lengths[owner]), length)
            parts.append(self.branches.kept[:, :, owner, :, :before])
            rest -= before
        if rest:
            assert self.kept is not None
            parts.append(self.kept[:, :, number, :, :rest])
        return torch.cat(parts, dim=3)


@dataclass(frozen=True, slots=True)
class Kept:
    """Token ids of a prefix, keys and values of (at least) their first part, and the scores of its steps, if any."""

    ids: tuple[int, ...]
    key_values: Tensor
    scores: tuple[float, ...] = ()

    @property
    def length(self) -> int:
        return int(self.key_values.shape[3])


K = TypeVar("K", bound=Hashable)


class PrefixStore(Generic[K]):
    """The prefixes used last, within `limit_bytes`; what falls out is computed again when it is needed."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.bytes = limit_bytes, 0
        self._kept: OrderedDict[K, Kept] = OrderedDict()

    def get(self, key: K) -> Kept | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: K, kept: Kept) -> None:
        before = self._kept.pop(key, None)
        self.bytes += kept.key_values.nbytes - (before.key_values.nbytes if before else 0)
        self._kept[key] = kept
        while self.bytes > self.limit_bytes and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self.bytes -= oldest.key_values.nbytes

    def clear(self) -> None:
        self._kept.clear()
        self.bytes = 0


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids (rows, longest), right-padded with 0; counts (rows,)) of ragged token ids, none empty."""
    counts = torch.tensor([len(row) for row in rows], device=device)
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device), counts


class Decoder:
    """Runs a transformers decoder over ragged batches; one batch is alive at a time.

    `model` must use attention that takes a boolean mask (sdpa). Raises InputError for latent attention, whose cache
    holds no keys and values.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        if getattr(model.config, "kv_lora_rank", None) is not None:
            raise InputError(
                "latent attention cannot be run in this process", field="model_type", value=model.config.model_type,
                hint="Serve the model with vLLM and name its address as the engine",
            )  # fmt: skip
        self.model, self.device, self._arena, self._current = model, model.device, _Arena(), Current()
        self._branching = attend_through(model, self._current)
        self.layers = int(model.config.num_hidden_layers)
        self._body = model.get_decoder()  # type: ignore[no-untyped-call, unused-ignore]
        names = inspect.signature(self._body.forward).parameters
        # transformers 5.2x renamed the argument; older ones warn of neither.
        self._cache_name = "cache" if "cache" in names else "past_key_values"

    def start(self, kept: Sequence[Kept | None], lengths: Sequence[int]) -> KeyValues:
        """A batch whose row r begins with the first `lengths[r]` positions of `kept[r]` (0 where it is None)."""
        counts = torch.tensor(lengths, device=self.device)
        example = next((k for k in kept if k is not None), None)
        if example is None:
            return KeyValues(self.layers, None, counts, self._arena)
        two, layers, heads, _, size = example.key_values.shape
        shape = (two, layers, len(kept), heads, max(lengths) + _ROOM, size)
        whole = self._arena.zeros(shape, example.key_values)
        for row, (one, length) in enumerate(zip(kept, lengths, strict=True)):
            if one is not None and length:
                whole[:, :, row, :, :length] = one.key_values[:, :, :, :length]
        return KeyValues(self.layers, whole, counts, self._arena)

    def branch(self, cache: KeyValues, owners: Tensor) -> KeyValues:
        """A batch of which row r goes on from row `owners[r]` of `cache`: without copies where the model allows."""
        return cache.branch(owners) if self._branching else cache.take(owners)

    def advance(self, ids: Tensor, counts: Tensor, cache: KeyValues) -> Tensor:
        """Hidden states (rows, new, width) of `ids` (rows, new), of which the first `counts` a row are real; the cache
        then holds them."""
        positions = cache.prepare(ids.shape[1])
        mask = (torch.arange(cache.width, device=self.device) <= cache.positions[..., None])[:, None]
        self._current.branches, self._current.masked = cache.branches, not (cache.level and ids.shape[1] == 1)
        hidden: Tensor = self._body(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, **{self._cache_name: cache}
        ).last_hidden_state
        cache.lengths = cache.lengths + counts
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """(.., vocabulary) in float32 from hidden states (.., width)."""
        logits: Tensor = self.model.get_output_embeddings()(hidden).float()
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap
