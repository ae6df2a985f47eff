"""The verifier for outcome reward models: a local checkpoint with a scalar head, one score for the whole answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch

from planner.core import ScoreRequest, StepScores, join_steps, stable_hash
from planner.errors import InputError, VerifierError
from planner.models.cards import OutcomeCard, fill_in
from planner.models.checkpoint import open_checkpoint
from planner.models.keyvalues import Decoder, padded
from planner.models.protocols import VerifierInfo
from planner.models.score_head import ScoreHead

__all__ = ["OutcomeVerifier"]

_ROWS = 64
"""Inputs computed at a time, those of like length together."""


class OutcomeVerifier:
    """The score of an answer at the last token of the chat that holds it (METHODS section 3).

    The chat's end follows the answer, so nothing of it serves a longer answer: every one costs all its tokens.

    Raises InputError at construction where the checkpoint has not the card's head, or the tokenizer no chat template
    and the card no other; VerifierError for an input longer than the model's context (it is never cut).
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        card: OutcomeCard,
        name: str | None = None,
        device: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._card = card
        opened = open_checkpoint(folder, device=device, dtype=dtype)
        self._decoder, self._tokenizer = Decoder(opened.model), opened.tokenizer
        self._head = ScoreHead(folder, card.head, self._decoder.device, opened.shape.hidden)
        if card.template is None and not self._tokenizer.chat_template:
            raise InputError(
                "the tokenizer has no chat template", where=str(opened.folder), field="template",
                hint="Give the card a `template` with {question} and {answer}",
            )  # fmt: skip
        changes = {k: v for k, v in card.to_dict().items() if k not in ("name", "models", "source")}
        self._info = VerifierInfo(
            name=name or card.name or opened.folder.name,
            fingerprint=stable_hash("outcome", opened.digest, changes),
            shape=opened.shape,
            incremental=False,
            outcome=True,
        )
        self._limit = opened.shape.max_context_tokens
        self._ids = lru_cache(maxsize=4096)(self._encoded)

    @property
    def info(self) -> VerifierInfo:
        return self._info

    def count_tokens(self, prompt: str, steps: Sequence[str]) -> int:
        return len(self._ids(prompt, tuple(steps)))

    def reset(self) -> None:
        self._ids.cache_clear()

    @torch.inference_mode()
    def score(self, requests: Sequence[ScoreRequest]) -> list[StepScores]:
        """One score for each request, in order."""
        inputs = [self._ids(request.prompt, request.steps) for request in requests]
        for tokens in inputs:
            if len(tokens) > self._limit:
                raise VerifierError(
                    f"{self._info.name}: an input of {len(tokens)} tokens is longer than its {self._limit}"
                )
        order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
        scores: dict[int, float] = {}
        for start in range(0, len(order), _ROWS):
            group = order[start : start + _ROWS]
            scores.update(zip(group, self._compute([inputs[i] for i in group]), strict=True))
        return [
            StepScores(scores=(scores[i],), tokens=len(ids), new_tokens=len(ids), computed_tokens=len(ids))
            for i, ids in enumerate(inputs)
        ]

    def _compute(self, inputs: Sequence[tuple[int, ...]]) -> list[float]:
        ids, counts = padded(inputs, self._decoder.device)
        cache = self._decoder.start([None] * len(inputs), [0] * len(inputs))
        hidden = self._decoder.advance(ids, counts, cache)
        last = hidden[torch.arange(len(inputs), device=hidden.device), counts - 1]
        return [float(score) for score in self._head(last).tolist()]

    def _encoded(self, prompt: str, steps: tuple[str, ...]) -> tuple[int, ...]:
        card, answer = self._card, join_steps(steps, self._card.separator)
        if card.template is not None:
            places = {"bos": str(self._tokenizer.bos_token or ""), "question": prompt, "answer": answer}
            return tuple(self._tokenizer(fill_in(card.template, places), add_special_tokens=False)["input_ids"])
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        if card.system is not None:
            turns.insert(0, {"role": "system", "content": card.system})
        written = str(self._tokenizer.apply_chat_template(turns, tokenize=False))
        return tuple(self._tokenizer(written, add_special_tokens=False)["input_ids"])
