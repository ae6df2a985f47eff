"""A verifier's card: how answers are shown to it and where its scores are read. Data, so that a quirk is never code."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from planner.errors import InputError

__all__ = ["VerifierCard", "load_card"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierCard:
    """A process reward model that judges a step by two tokens' logits at the step's tag (METHODS section 3).

    Input: `prompt` with `{question}` filled in, then each step as `step` with `{step}` filled in (it must end in
    `tag`), joined by `joiner`. P(+) of a step is the softmax over the logits of the tokens `positive` and `negative`
    at its tag.
    """

    prompt: str
    step: str
    tag: str
    positive: str
    negative: str
    joiner: str = ""
    name: str | None = None

    def __post_init__(self) -> None:
        for name, needs in (("prompt", "{question}"), ("step", "{step}")):
            if needs not in getattr(self, name):
                raise InputError(f"has no {needs}", where="verifier card", field=name, value=getattr(self, name))
        if not self.tag or not self.step.endswith(self.tag):
            raise InputError(
                "does not end in the tag", where="verifier card", field="step", value=self.step, expected=self.tag
            )


def load_card(file: str | Path) -> VerifierCard:
    """Read a card (TOML). Raises InputError naming the file and what is wrong with it."""
    path = Path(file)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            "no such card", where=str(path), hint="A verifier's folder holds a verifier.toml that tells its format"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not TOML: {error}", where=str(path)) from None
    known = {f.name for f in fields(VerifierCard)}
    wrong = [k for k, v in document.items() if k not in known or not isinstance(v, str)]
    missing = [k for k in ("prompt", "step", "tag", "positive", "negative") if k not in document]
    if wrong or missing:
        raise InputError(
            f"unknown or no text: {', '.join(wrong) or 'none'}; missing: {', '.join(missing) or 'none'}",
            where=str(path),
            expected=f"texts named {', '.join(sorted(known))}",
        )
    return VerifierCard(**document)
