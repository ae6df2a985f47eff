"""How the engine for OpenAI-compatible servers counts tokens: a local tokenizer, the server's, or an estimate."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from planner.errors import CapabilityError, InputError
from planner.models.openai_wire import Call, Refused, Unreadable, Wire

__all__ = ["EstimatedTokens", "LocalTokens", "ServerTokens", "Text", "TokenCounter", "turns"]

Text: TypeAlias = tuple[Literal["prompt", "prefix"], str]

_BYTES_PER_TOKEN = 4
_REMEMBERED = 1 << 16
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja")


class TokenCounter(Protocol):
    """Counts the input of a prompt and of a partial answer; the two add up."""

    kind: Literal["tokenizer", "server", "estimate"]

    def prepare(self, texts: Sequence[Text]) -> None:
        """Make what follows quick for these texts."""
        ...

    def ids(self, text: Text) -> tuple[int, ...] | None:
        """Token ids (a prompt's with its template), None where only counts are known."""
        ...

    def count(self, text: Text) -> int: ...

    def plain(self, prompt: str) -> str:
        """The prompt as the text that a completions endpoint should be sent where it takes no token ids."""
        ...


def turns(prompt: str, system: str | None, answer: str = "") -> list[dict[str, str]]:
    """A chat's messages; `answer` is the assistant's turn so far."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": prompt})
    if answer:
        messages.append({"role": "assistant", "content": answer})
    return messages


class LocalTokens:
    """A tokenizer's folder; exact. The prompt goes through its chat template (plain where it has none).

    Raises CapabilityError without the package transformers, InputError where the folder holds no tokenizer.
    """

    kind: Literal["tokenizer", "server", "estimate"] = "tokenizer"

    def __init__(self, folder: Path, system: str | None) -> None:
        try:
            from transformers import AutoTokenizer
        except ModuleNotFoundError as error:
            raise CapabilityError(
                f"counting with a tokenizer needs the package {error.name}", field="tokenizer", value=str(folder),
                hint="pip install transformers, or leave `tokenizer` out",
            ) from error  # fmt: skip
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(
                f"no tokenizer can be loaded ({str(error)[:120]})", where="engine", field="tokenizer",
                value=str(folder), expected="a folder with tokenizer.json and tokenizer_config.json",
            ) from None  # fmt: skip
        self._system = system
        self.ids: Callable[[Text], tuple[int, ...]] = lru_cache(maxsize=_REMEMBERED)(self._encode)
        files = [folder / name for name in _TOKENIZER_FILES]
        self.digest = hashlib.blake2b(
            b"".join(file.read_bytes() for file in files if file.is_file()), digest_size=16
        ).hexdigest()

    def prepare(self, texts: Sequence[Text]) -> None:
        pass

    def count(self, text: Text) -> int:
        return len(self.ids(text))

    def text(self, ids: Sequence[int]) -> str:
        """What the token ids spell, special tokens left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def plain(self, prompt: str) -> str:
        if not self._tokenizer.chat_template:
            return _untemplated(prompt, self._system)
        written = self._written(prompt)
        # The server's tokenizer puts its own begin token before a text, if it is one that does.
        adds_begin = self._tokenizer("x")["input_ids"][:1] == [self._tokenizer.bos_token_id]
        return written.removeprefix(self._tokenizer.bos_token) if adds_begin else written

    def _written(self, prompt: str) -> str:
        messages = turns(prompt, self._system)
        return str(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def _encode(self, text: Text) -> tuple[int, ...]:
        part, words = text
        if part == "prefix":
            return tuple(self._tokenizer(words, add_special_tokens=False)["input_ids"])
        if not self._tokenizer.chat_template:
            return tuple(self._tokenizer(_untemplated(words, self._system))["input_ids"])
        return tuple(self._tokenizer(self._written(words), add_special_tokens=False)["input_ids"])


class ServerTokens:
    """The server's `/tokenize` (vLLM's dialect); exact, one request for each new text, the answers kept.

    Raises Refused at construction where the server has none, or one of another dialect.
    """

    kind: Literal["tokenizer", "server", "estimate"] = "server"

    def __init__(self, wire: Wire, model: str, system: str | None) -> None:
        self._wire, self._model, self._system = wire, model, system
        self._kept: dict[Text, tuple[int, ...]] = {}
        self._templated = True
        try:
            self._try_out()
        except Refused as refusal:
            if "chat template" not in str(refusal):
                raise
            self._templated = False  # a base model
            self._try_out()

    def prepare(self, texts: Sequence[Text]) -> None:
        missing = [text for text in dict.fromkeys(texts) if text not in self._kept]
        if len(self._kept) + len(missing) > _REMEMBERED:
            self._kept.clear()
            missing = list(dict.fromkeys(texts))
        self._kept.update(zip(missing, self._wire.ask([self._call(text) for text in missing]), strict=True))

    def ids(self, text: Text) -> tuple[int, ...]:
        if text not in self._kept:
            self.prepare([text])
        return self._kept[text]

    def count(self, text: Text) -> int:
        return len(self.ids(text))

    def plain(self, prompt: str) -> str:
        return _untemplated(prompt, self._system)

    def _try_out(self) -> None:
        texts: list[Text] = [("prompt", "1 + 1"), ("prefix", "1 + 1")]
        # A dialect that does not know these fields counts nothing, without an error.
        counted = self._wire.ask([replace(self._call(text), optional=True) for text in texts])
        if not all(counted):
            raise Refused("the server's /tokenize is of another dialect", 200)

    def _call(self, text: Text) -> Call[tuple[int, ...]]:
        part, words = text
        body: dict[str, Any] = {"model": self._model}
        if part == "prefix":
            body |= {"prompt": words, "add_special_tokens": False}
        elif self._templated:
            body |= {"messages": turns(words, self._system), "add_generation_prompt": True}
        else:
            body |= {"prompt": _untemplated(words, self._system), "add_special_tokens": True}
        label = f"token count of {words[:60]!r}"
        return Call(path="tokenize", body=body, at_root=True, read=_read_ids, label=label)


class EstimatedTokens:
    """The stated rule where nothing can count: one token for every four bytes of UTF-8, rounded up, and at least one.

    A server's own counts of a prompt differ from it, so an engine that estimates does not hold the contract's
    `usage_is_true`.
    """

    kind: Literal["tokenizer", "server", "estimate"] = "estimate"

    def __init__(self, system: str | None) -> None:
        self._system = system

    def prepare(self, texts: Sequence[Text]) -> None:
        pass

    def ids(self, text: Text) -> None:
        return None

    def plain(self, prompt: str) -> str:
        return _untemplated(prompt, self._system)

    def count(self, text: Text) -> int:
        part, words = text
        whole = self.plain(words) if part == "prompt" else words
        return max(1, -(-len(whole.encode()) // _BYTES_PER_TOKEN))


def _untemplated(prompt: str, system: str | None) -> str:
    return prompt if system is None else f"{system}\n\n{prompt}"


def _read_ids(document: Any) -> tuple[int, ...]:
    ids = document.get("tokens") if isinstance(document, Mapping) else None
    if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
        raise Unreadable("no list `tokens`")
    return tuple(ids)
