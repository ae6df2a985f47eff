"""A verifier's card: how answers are shown to it and where its scores are read. Data, so that a quirk is never code.

A card's `kind` says what it is of: a process reward model (`process`, where it says nothing), an outcome reward model
(`outcome`), or a language model that is asked to judge (`judge`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from planner.errors import InputError

__all__ = [
    "Card",
    "JudgeCard",
    "OutcomeCard",
    "VerifierCard",
    "fill_in",
    "load_card",
    "published_cards",
    "read_card",
    "shipped_cards",
]

_FOLDER = Path(__file__).with_name("verifier_cards")
_PLACES = re.compile(r"\{(bos|question|step|answer)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierCard:
    """A process reward model that judges a step at the step's tag (METHODS section 3).

    Input: `prompt`, then each step as `step` (the first as `first_step`, where that is given), joined by `joiner`.
    `{question}` and `{step}` are filled in, `{bos}` is the tokenizer's own. `step` ends in `tag`, and the score is read
    at the tag's last token: what a model is shown after its judgement, as RLHFlow's "+", belongs into `joiner`.

    Read-out, one of two:
        tokens: P(+) is the softmax over the logits of the tokens `positive` and `negative`.
        head: linear layers by their names in the checkpoint, with ReLU between them; the sigmoid of a single output,
            or the softmax's second class of two.

    Tokens: the prompt and every step are encoded apart, so that a prefix's tokens never change. `special_tokens`: the
    tokenizer adds its own to the prompt. `tag_apart`: `step` has no tag, its token is appended. `behind`: later steps
    are encoded behind this text, whose tokens are then taken away (SentencePiece puts a blank before a text's first
    word). `last_token`: of a tag or sign that is several tokens, the last one counts; else it is an error.
    Steps: `strip` takes off surrounding blanks; `newline` stands for line breaks inside a step.

    `models` are published models that the card fits, `source` says where the format is from.
    """

    kind: ClassVar[str] = "process"

    prompt: str
    step: str
    tag: str
    positive: str | None = None
    negative: str | None = None
    head: tuple[str, ...] = ()
    joiner: str = ""
    first_step: str | None = None
    behind: str = ""
    special_tokens: bool = False
    last_token: bool = False
    tag_apart: bool = False
    strip: bool = False
    newline: str | None = None
    name: str | None = None
    models: tuple[str, ...] = ()
    source: str | None = None

    def __post_init__(self) -> None:
        first = self.first
        if "{question}" not in self.prompt + first:
            raise _wrong("prompt", self.prompt, "has no {question}", "{question} here or in first_step")
        for field, text in (("step", self.step), ("first_step", first)):
            if "{step}" not in text:
                raise _wrong(field, text, "has no {step}", "{step}")
            if not self.tag or text.endswith(self.tag) == self.tag_apart:
                does = "ends in the tag, which is to stand apart" if self.tag_apart else "does not end in the tag"
                raise _wrong(field, text, does, repr(self.tag))
        signs = self.positive is not None and self.negative is not None
        if signs == bool(self.head) or (self.head and (self.positive or self.negative)):
            raise _wrong("head", list(self.head), "no single read-out", "either positive and negative, or head")

    @property
    def first(self) -> str:
        return self.step if self.first_step is None else self.first_step

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, JSON-able; `read_card` reads it back from TOML."""
        return _given(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeCard:
    """An outcome reward model: one scalar for the whole answer, read at the input's last token.

    Input: a chat of `system` (where it is given), the question and the answer, as the tokenizer's own chat template
    writes it; with `template`, that text instead, {bos}, {question} and {answer} filled in. The answer's steps are
    joined by `separator`. `head`: as a process card's; the scalar becomes a score by the sigmoid, so that the order is
    the model's own.
    """

    kind: ClassVar[str] = "outcome"

    head: tuple[str, ...] = ("score",)
    system: str | None = None
    template: str | None = None
    separator: str = "\n\n"
    name: str | None = None
    models: tuple[str, ...] = ()
    source: str | None = None

    def __post_init__(self) -> None:
        if self.template is not None and ("{question}" not in self.template or "{answer}" not in self.template):
            raise _wrong("template", self.template, "lacks a place", "{question} and {answer}")
        if not self.head:
            raise _wrong("head", [], "no read-out", "the names of linear layers")

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **_given(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeCard:
    """A language model asked for its judgement, greedily, in at most `max_tokens` tokens.

    `prompt` has places for {question} and {answer}; the answer's steps are joined by `separator`. `read`:
        probability: the first token is `positive` or `negative`, and its log-probability tells the score: p of
            "positive", 1 - p of "negative".
        number: the last match of the regular expression `pattern`, whose one group is a number from `low` (score 0) to
            `high` (score 1).
    What can be read neither way is no score at all.
    """

    kind: ClassVar[str] = "judge"

    prompt: str
    read: Literal["probability", "number"]
    max_tokens: int = 1
    positive: str | None = None
    negative: str | None = None
    pattern: str | None = None
    low: int = 0
    high: int = 1
    separator: str = "\n\n"
    name: str | None = None
    models: tuple[str, ...] = ()
    source: str | None = None

    def __post_init__(self) -> None:
        if "{question}" not in self.prompt or "{answer}" not in self.prompt:
            raise _wrong("prompt", self.prompt, "lacks a place", "{question} and {answer}")
        if self.max_tokens < 1:
            raise _wrong("max_tokens", self.max_tokens, "nothing could be said", "1 or more")
        if self.read not in ("probability", "number"):
            raise _wrong("read", self.read, "no such read-out", "probability or number")
        if self.read == "probability":
            words = [(word or "").strip().lower() for word in (self.positive, self.negative)]
            if not all(words) or words[0].startswith(words[1]) or words[1].startswith(words[0]):
                raise _wrong("positive", words, "cannot be told apart", "two words in positive and negative")
            return
        if self.low >= self.high:
            raise _wrong("high", self.high, "not above low", f"more than {self.low}")
        try:
            groups = re.compile(self.pattern or "").groups
        except re.error as error:
            raise _wrong("pattern", self.pattern, f"no regular expression ({error})", "one with one group") from None
        if groups != 1:
            raise _wrong("pattern", self.pattern, f"has {groups} groups", "one, around the number")

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **_given(self)}


Card: TypeAlias = VerifierCard | OutcomeCard | JudgeCard

_KINDS: Mapping[str, type[Card]] = {card.kind: card for card in (VerifierCard, OutcomeCard, JudgeCard)}


def fill_in(template: str, values: Mapping[str, str]) -> str:
    """Fill in a card's places; what is filled in is not looked through again."""
    return _PLACES.sub(lambda place: values.get(place[1], place[0]), template)


def shipped_cards() -> dict[str, Card]:
    """All shipped cards by name."""
    return {file.stem: read_card(file) for file in sorted(_FOLDER.glob("*.toml"))}


def published_cards() -> dict[str, VerifierCard]:
    """The shipped cards of published process reward models, by name."""
    return {name: card for name, card in shipped_cards().items() if isinstance(card, VerifierCard)}


def load_card(file: str | Path) -> VerifierCard:
    """As `read_card`, of a process reward model. Raises InputError for a card of another kind too."""
    card = read_card(file)
    if not isinstance(card, VerifierCard):
        raise InputError(
            "not a process reward model's card", where=str(file), field="kind", value=card.kind, expected="process"
        )
    return card


def read_card(file: str | Path) -> Card:
    """Read a card (TOML), or a shipped one by its name. Raises InputError naming the file and what is wrong with it."""
    path = Path(file)
    if (_FOLDER / f"{file}.toml").is_file() and path.name == str(file):
        path = _FOLDER / f"{file}.toml"
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            "no such card", where=str(path), expected=", ".join(p.stem for p in sorted(_FOLDER.glob("*.toml"))),
            hint="A verifier's folder holds a verifier.toml that tells its format, or a published format is named",
        ) from None  # fmt: skip
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not TOML: {error}", where=str(path)) from None
    kind = document.pop("kind", "process")
    if kind not in _KINDS:
        raise InputError("no such kind", where=str(path), field="kind", value=kind, expected=", ".join(_KINDS))
    known = {f.name: f for f in fields(_KINDS[kind])}
    wrong = [name for name, value in document.items() if name not in known or not _fits(known[name].default, value)]
    required = [f.name for f in known.values() if f.default is MISSING]
    if kind == "process" and "head" not in document:
        required += ["positive", "negative"]
    missing = [name for name in required if name not in document]
    if wrong or missing:
        raise InputError(
            f"unknown or of another type: {', '.join(wrong) or 'none'}; missing: {', '.join(missing) or 'none'}",
            where=str(path),
            expected=f"fields named {', '.join(sorted(known))}",
        )
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
    return _KINDS[kind](**values)


def _given(card: Card) -> dict[str, Any]:
    given = {f.name: getattr(card, f.name) for f in fields(card) if getattr(card, f.name) != f.default}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def _fits(default: object, value: object) -> bool:
    """Whether a TOML value is of a field's type, which its default tells (text where there is none)."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, int):
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(default, tuple):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, str)


def _wrong(field: str, value: object, does: str, expected: str) -> InputError:
    return InputError(does, where="verifier card", field=field, value=value, expected=expected)
