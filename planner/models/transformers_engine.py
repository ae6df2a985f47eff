"""The engine `transformers`: batched generation on any local checkpoint, step by step, with kept keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from planner.core import Completion, Finish, GenerationRequest, stable_hash
from planner.errors import InputError
from planner.models.checkpoint import open_checkpoint
from planner.models.keyvalues import Decoder, Kept, KeyValues, PrefixStore, padded
from planner.models.noise import choose_tokens
from planner.models.protocols import EngineInfo

__all__ = ["TransformersEngine"]

_COMPACT_BELOW = 0.75
"""Finished rows ride along until a quarter has finished: copying the cache costs more than they do."""


@dataclass(slots=True)
class _Row:
    """One request on its way. `context` is the model's input, `made` what was generated, the end token included."""

    request: GenerationRequest
    context: tuple[int, ...]
    cached: int
    limit: int
    made: list[int] = field(default_factory=list)
    logprob: float = 0.0
    text: str = ""
    finish: Finish | None = None


class TransformersEngine:
    """Generates with a local causal language model.

    A prompt goes through the tokenizer's chat template as a user turn (plain where it has none); `prefix` continues the
    assistant's turn. Text is the truth: where a stop string cuts a token, the kept keys and values are dropped and the
    prefix is encoded again. Sliding-window models are used within their window only.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        name: str | None = None,
        system: str | None = None,
        device: str | None = None,
        dtype: torch.dtype = torch.float32,
        prefix_cache_bytes: int = 1 << 30,
    ) -> None:
        opened = open_checkpoint(folder, device=device, dtype=dtype)
        self._decoder, self._tokenizer, self._system = Decoder(opened.model), opened.tokenizer, system
        windows = [w for w in opened.shape.windows if w is not None]
        self._info = EngineInfo(
            name=name or opened.folder.name,
            fingerprint=stable_hash("transformers", opened.digest, system),
            shape=opened.shape,
            caches_prefixes=True,
            max_context_tokens=min([opened.shape.max_context_tokens, *windows]),
        )
        self._ends = _end_tokens(opened.model, opened.tokenizer)
        self._pieces = [opened.tokenizer.decode([token]) for token in range(opened.shape.vocabulary)]
        self._store: PrefixStore[tuple[str, str]] = PrefixStore(prefix_cache_bytes)
        self._prompt_ids = lru_cache(maxsize=4096)(self._encode_prompt)
        self._prefix_ids = lru_cache(maxsize=65536)(self._encode_prefix)
        self._stopping = lru_cache(maxsize=64)(self._stopping_tokens)
        # Paths of a search mostly share their last tokens, and often the new ones too.
        self._decoded = lru_cache(maxsize=16384)(self._decode_ids)

    @property
    def info(self) -> EngineInfo:
        return self._info

    def count_tokens(self, prompt: str, prefix: str = "") -> int:
        return len(self._prompt_ids(prompt)) + (len(self._prefix_ids(prefix)) if prefix else 0)

    def reset(self) -> None:
        self._store.clear()

    @torch.inference_mode()
    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """One completion for each request, in order. Raises InputError for an input that fills the model's context."""
        if not requests:
            return []
        rows = [self._row(request) for request in requests]
        logits, cache = self._prefill(rows)
        self._decode(rows, logits, cache)
        return [
            Completion(
                text=row.text,
                finish=row.finish or "length",
                prompt_tokens=len(row.context),
                cached_tokens=row.cached,
                generated_tokens=len(row.made),
                mean_logprob=row.logprob / len(row.made),
            )
            for row in rows
        ]

    # --- input ----------------------------------------------------------------------------------------------------

    def _encode_prompt(self, prompt: str) -> tuple[int, ...]:
        if not self._tokenizer.chat_template:
            text = prompt if self._system is None else f"{self._system}\n\n{prompt}"
            return tuple(self._tokenizer(text)["input_ids"])
        turns = [{"role": "user", "content": prompt}]
        if self._system is not None:
            turns.insert(0, {"role": "system", "content": self._system})
        written = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return tuple(self._tokenizer(str(written), add_special_tokens=False)["input_ids"])

    def _encode_prefix(self, prefix: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(prefix, add_special_tokens=False)["input_ids"])

    def _row(self, request: GenerationRequest) -> _Row:
        kept = self._store.get((request.prompt, request.prefix)) if request.prefix else None
        context = self._prompt_ids(request.prompt)
        if kept is not None:
            context = kept.ids
        elif request.prefix:
            context = context + self._prefix_ids(request.prefix)
        room = self._info.max_context_tokens - len(context)
        if room < 1:
            raise InputError(
                f"the input takes {len(context)} tokens",
                where=self._info.name,
                field="prompt",
                expected=f"fewer than the model's {self._info.max_context_tokens}",
                hint="Shorten the prompt, or choose a model with a longer context",
            )
        return _Row(request, context, 0, min(request.sampling.max_tokens, room))

    def _prefill(self, rows: list[_Row]) -> tuple[Tensor, KeyValues]:
        """Logits (rows, vocabulary) after each row's context. A context that several rows share is computed once."""
        places: dict[tuple[int, ...], int] = {}
        for row in rows:
            places.setdefault(row.context, len(places))
        first = {row.context: row for row in reversed(rows)}
        kept, lengths = list[Kept | None](), list[int]()
        for context in places:
            request = first[context].request
            found = self._store.get((request.prompt, request.prefix)) or self._store.get((request.prompt, ""))
            kept.append(found)
            # The last token is computed in any case: its logits are what is asked for.
            lengths.append(min(found.length, len(context) - 1) if found else 0)
        ids, counts = padded([context[n:] for context, n in zip(places, lengths, strict=True)], self._decoder.device)
        cache = self._decoder.start(kept, lengths)
        hidden = self._decoder.advance(ids, counts, cache)
        logits = self._decoder.logits(hidden[torch.arange(len(ids), device=hidden.device), counts - 1])
        for place, context in enumerate(places):
            request = first[context].request
            if not request.prefix and self._store.get((request.prompt, "")) is None:
                self._store.put((request.prompt, ""), Kept(context, cache.row(place, len(context))))
        for row in rows:
            row.cached = lengths[places[row.context]]
        order = torch.tensor([places[row.context] for row in rows], device=self._decoder.device)
        return logits[order], self._decoder.branch(cache, order)

    # --- output ---------------------------------------------------------------------------------------------------

    def _decode(self, rows: list[_Row], logits: Tensor, cache: KeyValues) -> None:
        device = self._decoder.device
        seeds = torch.tensor([row.request.seed(self._info.fingerprint) for row in rows], device=device)
        heat = torch.tensor([row.request.sampling.temperature for row in rows], device=device)
        top_p = torch.tensor([row.request.sampling.top_p for row in rows], device=device)
        alive = list(range(len(rows)))
        while True:
            positions = torch.tensor([len(rows[n].made) for n in alive], device=device)
            chosen = choose_tokens(logits, heat, top_p, seeds, positions)
            picked = logits.gather(-1, chosen[:, None])[:, 0] - logits.logsumexp(-1)
            for place, (number, token, logprob) in enumerate(zip(alive, chosen.tolist(), picked.tolist(), strict=True)):
                row = rows[number]
                if row.finish is None and self._append(row, token, logprob) == "stop":
                    self._keep(row, cache, place)
            going = [place for place, number in enumerate(alive) if rows[number].finish is None]
            if not going:
                return
            if len(going) < _COMPACT_BELOW * len(alive):
                keep = torch.tensor(going, device=device)
                cache, chosen, alive = cache.take(keep), chosen[keep], [alive[place] for place in going]
                seeds, heat, top_p = seeds[keep], heat[keep], top_p[keep]
            hidden = self._decoder.advance(chosen[:, None], torch.ones_like(chosen), cache)
            logits = self._decoder.logits(hidden[:, 0])

    def _append(self, row: _Row, token: int, logprob: float) -> Finish | None:
        """Take one token; sets and returns the row's finish, with its text, once it has ended."""
        row.made.append(token)
        row.logprob += logprob
        if token in self._ends:
            row.finish, row.text = "end", self._text(row, row.made[:-1])
            return row.finish
        stops = row.request.sampling.stop
        if stops and token in self._stopping(stops):
            text = self._text(row, row.made)
            ends = [at + len(stop) for stop in stops if (at := text.find(stop)) >= 0]
            if ends:
                row.finish, row.text = "stop", text[: min(ends)]
        if row.finish is None and len(row.made) >= row.limit:
            row.finish, row.text = "length", self._text(row, row.made)
        return row.finish

    def _text(self, row: _Row, made: list[int]) -> str:
        # Decoded behind the context's last tokens, since some tokenizers drop a text's leading blank.
        tail = tuple(token for token in row.context[-8:] if token not in self._ends) if row.request.prefix else ()
        return self._decoded(tail + tuple(made))[len(self._decoded(tail)) :]

    def _decode_ids(self, ids: tuple[int, ...]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _stopping_tokens(self, stops: tuple[str, ...]) -> frozenset[int]:
        """Tokens that may complete a stop string: those that hold its last character."""
        lasts = {stop[-1] for stop in stops if stop}
        return frozenset(token for token, piece in enumerate(self._pieces) if lasts & set(piece))

    def _keep(self, row: _Row, cache: KeyValues, place: int) -> None:
        """Keep a stopped step's keys and values, unless the stop string cut a token."""
        if self._text(row, row.made) == row.text:
            ids = row.context + tuple(row.made)
            key = (row.request.prompt, row.request.prefix + row.text)
            # The last token has been drawn and not yet been computed.
            self._store.put(key, Kept(ids, cache.row(place, len(ids) - 1)))


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    found = getattr(model.generation_config, "eos_token_id", None)
    if found is None:
        found = tokenizer.eos_token_id
    if found is None:
        return frozenset()
    return frozenset([found] if isinstance(found, int) else found)
