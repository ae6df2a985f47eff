"""The OpenAI dialect: what a request's body says and how an answer is read, vLLM's and SGLang's additions included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from planner.core import Finish, Sampling
from planner.models.openai_options import Endpoint
from planner.models.openai_wire import Unreadable

__all__ = ["SEEDS", "Prompt", "Reply", "ended_text", "make_body", "read_completion", "read_models", "reader"]

Prompt: TypeAlias = "str | Sequence[int] | Sequence[Mapping[str, str]]"
"""Text or token ids for completions, messages for chat."""

SEEDS = 1 << 31
"""Seeds are reduced modulo this: all known servers take them (llama.cpp's are 32 bits, with one reserved)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One choice. `stop_reason` is the stop string that ended it where the server says so; counts are None where it
    does not report them."""

    text: str
    finish_reason: str
    stop_reason: str | None = None
    mean_logprob: float | None = None
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    cached_tokens: int | None = None


def make_body(
    model: str,
    endpoint: Endpoint,
    prompt: Prompt,
    sampling: Sampling,
    *,
    seed: int | None = None,
    logprobs: bool = False,
    keep_stop: bool = False,
    continued: bool = False,
) -> dict[str, Any]:
    """The body of one request. `continued`: the last message is the assistant's and goes on."""
    body: dict[str, Any] = {
        "model": model,
        "prompt" if endpoint == "completions" else "messages": prompt,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
    }
    if continued:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if seed is not None:
        body["seed"] = seed
    if logprobs:
        body["logprobs"] = 1 if endpoint == "completions" else True
    if sampling.stop:
        body["stop"] = list(sampling.stop)
        if keep_stop:
            body["include_stop_str_in_output"] = True
    return body


def reader(endpoint: Endpoint) -> Any:
    """The function that makes a Reply of a decoded answer and raises Unreadable where it cannot."""
    return read_completion if endpoint == "completions" else _read_chat


def read_completion(document: Any) -> Reply:
    """Read a completions answer."""
    choice = _choice(document)
    return _reply(document, choice, choice.get("text"), _numbers(choice, "token_logprobs"))


def _read_chat(document: Any) -> Reply:
    choice = _choice(document)
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise Unreadable("no `message`")
    text = message.get("content")
    if text is None and (message.get("reasoning_content") or message.get("reasoning")):
        text = ""  # cut off while still thinking, by a server that keeps thoughts apart
    return _reply(document, choice, text, _numbers(choice, "content"))


def read_models(document: Any) -> list[tuple[str, int | None]]:
    """(name, context in tokens where it is said) of each served model."""
    rows = document.get("data") if isinstance(document, Mapping) else None
    if not isinstance(rows, list) or not all(isinstance(r, Mapping) and isinstance(r.get("id"), str) for r in rows):
        raise Unreadable("no list `data` of models")
    return [(row["id"], _count(row, "max_model_len")) for row in rows]


def ended_text(reply: Reply, stops: Sequence[str]) -> tuple[str, Finish] | None:
    """(text, why it ended), the text cut right after its first stop string, which is put back where the server took it
    away. None where the server ended for a reason that is not an ending ("abort", "content_filter")."""
    text = reply.text
    if reply.finish_reason == "stop" and reply.stop_reason in stops and not _ends(text, stops):
        text += str(reply.stop_reason)
    ends = _ends(text, stops)
    if ends:
        return text[: min(ends)], "stop"
    if reply.finish_reason in ("stop", "length"):
        return text, "end" if reply.finish_reason == "stop" else "length"
    return None


def _ends(text: str, stops: Sequence[str]) -> list[int]:
    return [at + len(stop) for stop in stops if (at := text.find(stop)) >= 0]


def _choice(document: Any) -> Mapping[str, Any]:
    choices = document.get("choices") if isinstance(document, Mapping) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], Mapping):
        raise Unreadable("not one of `choices`")
    return choices[0]


def _reply(document: Mapping[str, Any], choice: Mapping[str, Any], text: Any, logprobs: list[float]) -> Reply:
    reason = choice.get("finish_reason")
    if not isinstance(text, str) or not isinstance(reason, str):
        raise Unreadable("no text with a `finish_reason`")
    usage = document.get("usage")
    counts: Mapping[str, Any] = usage if isinstance(usage, Mapping) else {}
    details = counts.get("prompt_tokens_details")
    stop = choice.get("stop_reason", choice.get("matched_stop"))
    return Reply(
        text=text,
        finish_reason=reason,
        stop_reason=stop if isinstance(stop, str) else None,
        mean_logprob=min(0.0, sum(logprobs) / len(logprobs)) if logprobs else None,
        prompt_tokens=_count(counts, "prompt_tokens"),
        generated_tokens=_count(counts, "completion_tokens"),
        cached_tokens=_count(details, "cached_tokens") if isinstance(details, Mapping) else None,
    )


def _count(counts: Mapping[str, Any], name: str) -> int | None:
    value = counts.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _numbers(choice: Mapping[str, Any], name: str) -> list[float]:
    """Log-probabilities of the generated tokens: a list of numbers, or of objects that hold one."""
    logprobs = choice.get("logprobs")
    rows = logprobs.get(name) if isinstance(logprobs, Mapping) else None
    if not isinstance(rows, list):
        return []
    values = [row.get("logprob") if isinstance(row, Mapping) else row for row in rows]
    return [float(value) for value in values if isinstance(value, int | float)]
