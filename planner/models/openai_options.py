"""What the engine for OpenAI-compatible servers can be told, and what a server was found to be able to do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from planner.errors import InputError
from planner.models.cost import ModelShape
from planner.models.published import find_published

__all__ = ["Capabilities", "Endpoint", "OpenAIOptions"]

Endpoint: TypeAlias = Literal["completions", "chat"]

_ENDPOINTS = ("auto", "completions", "chat")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a server does, as the probe found it.

    `token_prompts`: takes a prompt as token ids, so that input is exactly what was counted. `continues`: goes on with a
    partial answer, its trailing step separator included. `stops_told`: a stop string can be told from the end token
    (`stop_in_output`: it is kept in the text; else the server names it). `seeds`: the same seed gives the same text.
    `reports_cached`: says how many prompt tokens it found in its prefix cache. `counts`: where `count_tokens` comes
    from. `max_context_tokens` None: the server does not say. `notes` are sentences for a person.
    """

    endpoint: Endpoint
    token_prompts: bool = False
    continues: bool = False
    seeds: bool = False
    logprobs: bool = False
    stop_in_output: bool = False
    stops_told: bool = False
    usage: bool = False
    reports_cached: bool = False
    counts: Literal["tokenizer", "server", "estimate"] = "estimate"
    max_context_tokens: int | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"notes": list(self.notes)}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIOptions:
    """How to reach a server and what to ask of it.

    `base_urls` usually end in `/v1`; requests are spread over them. `model` None: the only one that the server lists.
    `tokenizer` is a local folder (exact counts, chat template applied here). `config` prices tokens in FLOPs: a
    config.json, or the name or Hub id of a published model. `endpoint` "auto" takes completions where the template can
    be applied here or by the server's tokenizer, else chat. `system` is put before every prompt. `revision` tells apart
    weights that a server serves under one name. `api_key_env` names the environment variable that holds the key.
    `timeout` is for one try of one request, in seconds; `retries` further tries follow a failure that may pass.
    `concurrency` requests are open at once. `prefix_cache` None: what the probe finds. `max_context_tokens` None: what
    the server or the config says.
    """

    base_urls: tuple[str, ...]
    model: str | None = None
    tokenizer: Path | None = None
    config: Path | str | None = None
    endpoint: Literal["auto", "completions", "chat"] = "auto"
    system: str | None = None
    revision: str | None = None
    api_key_env: str | None = None
    timeout: float = 600.0
    retries: int = 4
    concurrency: int = 64
    prefix_cache: bool | None = None
    max_context_tokens: int | None = None

    def __post_init__(self) -> None:
        if not self.base_urls:
            raise _wrong("base_urls", None, "at least one http:// or https:// address")
        for url in self.base_urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise _wrong("base_urls", url, "an http:// or https:// address such as http://127.0.0.1:8000/v1")
            if parts.username or parts.password:
                raise InputError(
                    "credentials do not belong in an address", where="engine", field="base_urls",
                    value=parts.hostname, hint="Put the key into an environment variable and name it: api_key_env=NAME",
                )  # fmt: skip
        if self.endpoint not in _ENDPOINTS:
            raise _wrong("endpoint", self.endpoint, " or ".join(_ENDPOINTS))
        if not 0 < self.timeout < float("inf"):
            raise _wrong("timeout", self.timeout, "a positive number of seconds")
        if self.retries < 0:
            raise _wrong("retries", self.retries, "0 or more")
        for name in ("concurrency", "max_context_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise _wrong(name, value, "1 or more")
        if self.tokenizer is not None and not self.tokenizer.is_dir():
            raise _wrong("tokenizer", str(self.tokenizer), "a folder that holds a tokenizer")
        if self.config is not None and not Path(self.config).is_file():
            if isinstance(self.config, Path) or self.config.endswith(".json"):
                raise _wrong("config", str(self.config), _READERS["config"][1])
            find_published(self.config, field="config")
        if self.api_key_env is not None and not os.environ.get(self.api_key_env):
            raise InputError(
                "no such environment variable is set", where="engine", field="api_key_env", value=self.api_key_env,
                hint=f"export {self.api_key_env}=... with the server's API key",
            )  # fmt: skip

    def shape(self) -> ModelShape | None:
        """The model's shape by its `config`, None where none is given. Raises InputError where it cannot be used."""
        if self.config is None:
            return None
        path = Path(self.config)
        if not path.is_file():
            return find_published(str(self.config), field="config").shape
        try:
            config: Any = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"not JSON: {error}", where=str(path)) from None
        if not isinstance(config, dict):
            raise InputError("not an object", where=str(path), expected="a model's config.json")
        return ModelShape.from_config(config, where=str(path))

    @classmethod
    def from_spec(cls, spec: str) -> OpenAIOptions:
        """Read `http://HOST/v1?model=NAME&tokenizer=FOLDER&...`; further servers of the same model as `also=URL`.

        Raises InputError naming the option, its value and what was expected.
        """
        parts = urlsplit(spec)
        base = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
        urls, given = [base], dict[str, Any]()
        for name, text in parse_qsl(parts.query, keep_blank_values=True):
            if name == "also":
                urls.append(text.rstrip("/"))
                continue
            if name not in _READERS:
                raise InputError(
                    "no such option", where=base, field=name, value=text,
                    expected=", ".join(sorted([*_READERS, "also"])),
                )  # fmt: skip
            if name in given:
                raise InputError("given twice", where=base, field=name, value=text, expected="it once")
            if not text:
                raise InputError("is empty", where=base, field=name, expected="a value")
            read, expected = _READERS[name]
            try:
                given[name] = read(text)
            except ValueError:
                raise InputError("cannot be read", where=base, field=name, value=text, expected=expected) from None
        return cls(base_urls=tuple(urls), **given)


def _wrong(field: str, value: object, expected: str) -> InputError:
    return InputError("cannot be used", where="engine", field=field, value=value, expected=expected)


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "model": (str, "the name under which the server serves the model"),
    "tokenizer": (Path, "a folder that holds a tokenizer"),
    "config": (str, "a model's config.json, or the name of a published one (`planner models` lists them)"),
    "endpoint": (str, " or ".join(_ENDPOINTS)),
    "system": (str, "a system prompt"),
    "revision": (str, "a name for the weights"),
    "api_key_env": (str, "the name of an environment variable"),
    "timeout": (float, "a number of seconds"),
    "retries": (int, "a whole number"),
    "concurrency": (int, "a whole number"),
    "prefix_cache": (_flag, "true or false"),
    "max_context_tokens": (int, "a whole number of tokens"),
}
