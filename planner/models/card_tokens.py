"""A process reward model's input as its card writes it: token ids, and where the steps' tags stand among them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from planner.errors import InputError, VerifierError
from planner.models.cards import VerifierCard, fill_in

__all__ = ["CardTokens"]


class CardTokens:
    """Encodes questions and steps for a card. `tag` is the tag's id, `signs` the ids of (negative, positive), empty
    where the card has a head.

    The prompt and every step are encoded apart from each other, so that a prefix's tokens never change.

    Raises InputError at construction where the tokenizer has no single token for tag, positive or negative.
    """

    def __init__(self, card: VerifierCard, tokenizer: Any, name: str) -> None:
        self._card, self._tokenizer, self._name = card, tokenizer, name
        signs = [(card.negative, "negative"), (card.positive, "positive")]
        self.signs = [self._single(sign, field) for sign, field in signs if sign is not None]
        self.tag = self._single(card.tag, "tag")
        self._bos = self._begin()
        self._encode = lru_cache(maxsize=65536)(self._encoded)
        self._piece = lru_cache(maxsize=65536)(self._encoded_piece)

    def format(self) -> list[object]:
        """What the card changes in the model's input and read-out, JSON-able."""
        c = self._card
        known = ("prompt", "step", "joiner", "tag", "positive", "negative", "name", "models", "source")
        further = {name: value for name, value in c.to_dict().items() if name not in known}
        return [c.prompt, c.step, c.joiner, *self.signs, *([further, self.tag] if further else [])]

    def prompt(self, prompt: str) -> tuple[int, ...]:
        text = fill_in(self._card.prompt, {"bos": self._bos, "question": prompt})
        return self._encode(text, self._card.special_tokens)

    def step(self, prompt: str, step: str, *, first: bool) -> tuple[int, ...]:
        """A step's own tokens, its tag the last one. Raises VerifierError where the tag merges with the step."""
        c = self._card
        shown = step.strip() if c.strip else step
        if c.newline is not None:
            shown = c.newline.join(shown.splitlines())
        text = fill_in(c.first if first else c.step, {"bos": self._bos, "question": prompt, "step": shown})
        if first:
            ids = self._encode(text)
        elif c.behind:
            ids = self._piece(c.joiner + text)
        else:
            ids = self._encode(c.joiner) + self._encode(text)
        if c.tag_apart:
            return (*ids, self.tag)
        if ids[-1] != self.tag:
            raise VerifierError(f"{self._name}: the tag {c.tag!r} merged with the step {step!r}")
        return ids

    def whole(self, prompt: str, steps: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(ids of prompt and steps, positions of the steps' tags among them)."""
        ids, tags = list(self.prompt(prompt)), list[int]()
        for number, step in enumerate(steps):
            ids += self.step(prompt, step, first=not number)
            tags.append(len(ids) - 1)
        return tuple(ids), tuple(tags)

    def count(self, prompt: str, steps: Sequence[str]) -> int:
        total = len(self.prompt(prompt))
        return total + sum(len(self.step(prompt, step, first=not number)) for number, step in enumerate(steps))

    def _encoded(self, text: str, special_tokens: bool = False) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=special_tokens)["input_ids"])

    def _encoded_piece(self, text: str) -> tuple[int, ...]:
        """A later step's tokens, as they are behind another step."""
        before = self._encode(self._card.behind)
        ids = self._encode(self._card.behind + text)
        if ids[: len(before)] != before:
            raise VerifierError(f"{self._name}: {self._card.behind!r} merged with the step {text!r}")
        return ids[len(before) :]

    def _begin(self) -> str:
        bos = self._tokenizer.bos_token
        if bos is None and "{bos}" in self._card.prompt + self._card.first:
            raise InputError(
                "the tokenizer has no token that begins a text", where="verifier card", field="prompt",
                value=self._card.prompt, expected="no {bos}", hint="Is this the card of another model?",
            )  # fmt: skip
        return str(bos or "")

    def _single(self, text: str, field: str) -> int:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 and not (ids and self._card.last_token):
            raise InputError(
                f"is {len(ids)} tokens for this tokenizer", where="verifier card", field=field, value=text,
                expected="one token", hint="Is this the card of another model?",
            )  # fmt: skip
        return int(ids[-1])
