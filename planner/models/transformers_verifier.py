"""The verifier `transformers`: a process reward model from a local checkpoint and its card; incremental and batched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from planner.core import ScoreRequest, StepScores, stable_hash
from planner.errors import VerifierError
from planner.models.card_tokens import CardTokens
from planner.models.cards import VerifierCard, load_card
from planner.models.checkpoint import open_checkpoint
from planner.models.keyvalues import Decoder, Kept, PrefixStore, padded
from planner.models.protocols import VerifierInfo
from planner.models.score_head import ScoreHead
from planner.tasks.answers import extract_answer

__all__ = ["TransformersVerifier"]

T = TypeVar("T")

_PASS_TOKENS = 1 << 15
"""Tokens, padding and kept ones included, of the inputs computed at a time: those with as many new ones together."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What one request adds to a kept prefix: token ids, and where among them the new steps' tags stand."""

    request: ScoreRequest
    kept: Kept
    new: tuple[int, ...]
    tags: tuple[int, ...]


class TransformersVerifier:
    """The score of each step at its tag, as the card reads it out. A scored prefix's keys and values are kept, so a new
    step costs its own tokens.

    Raises InputError at construction where the tokenizer has no single token for tag, positive or negative, or the
    checkpoint not the card's head; VerifierError for an input longer than the model's context (it is never cut).
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        card: VerifierCard | None = None,
        name: str | None = None,
        device: str | None = None,
        dtype: torch.dtype = torch.float32,
        prefix_cache_bytes: int = 1 << 30,
    ) -> None:
        self._card = card or load_card(Path(folder) / "verifier.toml")
        opened = open_checkpoint(folder, device=device, dtype=dtype)
        self._decoder = Decoder(opened.model)
        c = self._card
        self._tokens = CardTokens(c, opened.tokenizer, name or c.name or opened.folder.name)
        self._head = ScoreHead(folder, c.head, self._decoder.device, opened.shape.hidden) if c.head else None
        self._info = VerifierInfo(
            name=name or c.name or opened.folder.name,
            fingerprint=stable_hash("transformers", opened.digest, self._tokens.format()),
            shape=opened.shape,
            incremental=True,
        )
        self._limit = opened.shape.max_context_tokens
        self._store: PrefixStore[tuple[str, tuple[str, ...]]] = PrefixStore(prefix_cache_bytes)
        self._count = lru_cache(maxsize=65536)(self._tokens.count)

    @property
    def info(self) -> VerifierInfo:
        return self._info

    def count_tokens(self, prompt: str, steps: Sequence[str]) -> int:
        return self._count(prompt, tuple(steps))

    def reset(self) -> None:
        self._store.clear()

    @torch.inference_mode()
    def score(self, requests: Sequence[ScoreRequest]) -> list[StepScores]:
        """Step scores for each request, in order."""
        prompts, fresh = self._prompts(list(dict.fromkeys(request.prompt for request in requests)))
        # Equal answers, which are common among a search's paths, are computed once.
        works = {request: self._work(request, prompts[request.prompt]) for request in dict.fromkeys(requests)}
        order = sorted(works.values(), key=lambda work: len(work.new))
        scores: dict[ScoreRequest, tuple[float, ...]] = {}
        for group in _passes(order, lambda work: len(work.kept.ids) + len(work.new)):
            scores.update(zip((work.request for work in group), self._compute(group), strict=True))
        unseen, results = set(works), list[StepScores]()
        for request in requests:
            # Whoever asks first is shown what was computed, a prompt's prefill too.
            new = (len(works[request].new) if request in unseen else 0) + fresh.pop(request.prompt, 0)
            unseen.discard(request)
            tokens = len(works[request].kept.ids) + len(works[request].new)
            results.append(StepScores(scores=scores[request], tokens=tokens, new_tokens=new, computed_tokens=new))
        return results

    # --- input ----------------------------------------------------------------------------------------------------

    def _work(self, request: ScoreRequest, base: Kept) -> _Work:
        prompt, steps = request.prompt, request.steps
        done, kept = 0, base
        for k in range(len(steps), 0, -1):
            found = self._store.get((prompt, steps[:k]))
            if found is not None:
                done, kept = k, found
                break
        new, tags = list[int](), list[int]()
        for number in range(done, len(steps)):
            new += self._tokens.step(prompt, steps[number], first=not number)
            tags.append(len(new) - 1)
        return _Work(request, kept, tuple(new), tuple(tags))

    # --- computing ------------------------------------------------------------------------------------------------

    def _prompts(self, prompts: Sequence[str]) -> tuple[dict[str, Kept], dict[str, int]]:
        """Each prompt's keys and values, and the tokens of those that had to be computed."""
        kept = {prompt: found for prompt in prompts if (found := self._store.get((prompt, ()))) is not None}
        fresh = [prompt for prompt in prompts if prompt not in kept]
        for group in _passes(fresh, lambda prompt: len(self._tokens.prompt(prompt))):
            inputs = [self._tokens.prompt(prompt) for prompt in group]
            for tokens in inputs:
                self._check_length(len(tokens))
            ids, counts = padded(inputs, self._decoder.device)
            cache = self._decoder.start([None] * len(group), [0] * len(group))
            self._decoder.advance(ids, counts, cache)
            for row, (prompt, tokens) in enumerate(zip(group, inputs, strict=True)):
                kept[prompt] = Kept(tokens, cache.row(row, len(tokens)))
                self._store.put((prompt, ()), kept[prompt])
        return kept, {prompt: len(self._tokens.prompt(prompt)) for prompt in fresh}

    def _compute(self, works: Sequence[_Work]) -> list[tuple[float, ...]]:
        """All step scores of each, those of its kept prefix first."""
        rows = [work for work in works if work.new]
        if not rows:
            return [work.kept.scores for work in works]
        for work in rows:
            self._check_length(len(work.kept.ids) + len(work.new))
        ids, counts = padded([work.new for work in rows], self._decoder.device)
        cache = self._decoder.start([work.kept for work in rows], [work.kept.length for work in rows])
        hidden = self._decoder.advance(ids, counts, cache)
        places = torch.tensor([(row, tag) for row, work in enumerate(rows) for tag in work.tags], device=hidden.device)
        chances = iter(self._read_out(hidden[places[:, 0], places[:, 1]]).tolist())
        scores, row = list[tuple[float, ...]](), 0
        for work in works:
            if not work.new:
                scores.append(work.kept.scores)
                continue
            scores.append(work.kept.scores + tuple(next(chances) for _ in work.tags))
            # Nothing follows a final answer, so its keys and values are not worth their memory.
            if extract_answer(work.request.steps[-1]) is None:
                tokens = work.kept.ids + work.new
                kept = Kept(tokens, cache.row(row, len(tokens)), scores[-1])
                self._store.put((work.request.prompt, work.request.steps), kept)
            row += 1
        return scores

    def _read_out(self, hidden: Tensor) -> Tensor:
        """Scores (steps,) in [0, 1] from the hidden states (steps, width) at the tags."""
        if self._head is not None:
            return self._head(hidden)
        return self._decoder.logits(hidden)[:, self._tokens.signs].softmax(-1)[:, 1]

    def _check_length(self, tokens: int) -> None:
        if tokens > self._limit:
            raise VerifierError(f"{self._info.name}: an input of {tokens} tokens is longer than its {self._limit}")


def _passes(items: Sequence[T], length: Callable[[T], int]) -> Iterator[list[T]]:
    """The items in order, in groups that padded to their longest hold at most `_PASS_TOKENS`, or in single ones."""
    group, longest = list[T](), 0
    for item in items:
        widest = max(longest, length(item))
        if group and widest * (len(group) + 1) > _PASS_TOKENS:
            yield group
            group, widest = [], length(item)
        group.append(item)
        longest = widest
    if group:
        yield group
