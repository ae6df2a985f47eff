"""Reading requests: bodies as OpenAI's clients send them into one checked `Call`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from planner.budget import Budget
from planner.serve.failures import ApiError

__all__ = ["MAX_CHOICES", "MAX_STOPS", "Call", "Kind", "parse_call", "parse_feedback", "parse_json", "split_model"]

Kind: TypeAlias = Literal["chat", "completion", "plan"]

MAX_CHOICES, MAX_STOPS = 128, 16
_SEEDS = 1 << 63
# Asking for these changes what an answer is; doing without them silently would be a wrong answer.
_NOT_OFFERED = ("tools", "functions", "audio", "logprobs", "top_logprobs", "suffix", "best_of", "logit_bias")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request that can be planned. `budget` None: no budget was named. `messages` is how many were joined."""

    kind: Kind
    model: str
    prompt: str
    messages: int = 1
    budget: Budget | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stream: bool = False
    include_usage: bool = False
    progress: bool = False


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object of a body. Raises ApiError 400 for anything else (invalid UTF-8 and NaN included)."""
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8 ({error.reason})", code="invalid_json") from error
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body cannot be read as JSON ({error})", code="invalid_json") from error
    if not isinstance(document, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return document


def parse_call(kind: Kind, body: Mapping[str, Any], *, header_budget: str | None, names: tuple[str, ...]) -> Call:
    """Check a body; `names` are the models that a budget may be added to (`NAME@8x`).

    A budget is taken from the body, else from the header, else from the model's suffix. Raises ApiError 400 (404 for
    an unknown model) and BudgetError.
    """
    for field in _NOT_OFFERED:
        if body.get(field) not in (None, False, [], {}, 0) and not (field == "best_of" and body.get(field) == 1):
            raise _bad(field, "is not offered here", code="unsupported_parameter")
    form = body.get("response_format")
    if form is not None and form != {"type": "text"}:
        raise _bad("response_format", "only text is offered", code="unsupported_parameter")
    name, suffix = split_model(_text(body, "model", "auto" if kind == "plan" else None), names)
    prompt, messages = _prompt(kind, body)
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _bad("stream_options", "must be an object")
    options = options or {}
    return Call(
        kind=kind,
        model=name,
        prompt=prompt,
        messages=messages,
        budget=_budget(body.get("budget"), header_budget, suffix),
        n=_whole(body, "n", 1, 1, MAX_CHOICES) or 1,
        stop=_stops(body.get("stop")),
        max_tokens=_max_tokens(body),
        temperature=_number(body, "temperature", 1.0, 0.0, 2.0),
        top_p=_number(body, "top_p", 1.0, 1e-6, 1.0),
        seed=(_whole(body, "seed", 0, -(2**63), 2**63 - 1) or 0) % _SEEDS,
        stream=_flag(body, "stream"),
        include_usage=_flag(options, "include_usage"),
        progress=_flag(options, "include_progress") or _flag(body, "progress"),
    )


def split_model(model: str, names: tuple[str, ...]) -> tuple[str, str | None]:
    """`NAME@8x` as (`NAME`, `8x`). Raises ApiError 404 where no such model is served."""
    if model in names:
        return model, None
    name, at, suffix = model.rpartition("@")
    if at and name in names:
        return name, suffix
    raise ApiError(
        404, f"no such model: {model[:200]!r} (GET /v1/models lists them)", param="model", code="model_not_found"
    )


def parse_feedback(body: Mapping[str, Any]) -> dict[str, Any]:
    """`decision_id` with `correct` (true or false) or `score` (0 to 1). Raises ApiError 400."""
    decision = _text(body, "decision_id", None)
    if len(decision) != 32 or not set(decision) <= set("0123456789abcdef"):
        raise _bad("decision_id", "must be the 32 hexadecimal digits of a decision")
    correct, score = body.get("correct"), body.get("score")
    if (correct is None) == (score is None):
        raise _bad("correct", "give either `correct` or `score`")
    if correct is not None:
        if not isinstance(correct, bool):
            raise _bad("correct", "must be true or false")
        return {"decision_id": decision, "score": float(correct)}
    return {"decision_id": decision, "score": _number(body, "score", 0.0, 0.0, 1.0)}


def _bad(field: str, message: str, *, code: str = "invalid_value") -> ApiError:
    return ApiError(400, f"`{field}` {message}", param=field, code=code)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _encodable(text: str, field: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _bad(field, "holds half of a surrogate pair, which is no text") from error
    return text


def _text(body: Mapping[str, Any], field: str, default: str | None) -> str:
    value = body.get(field, default)
    if not isinstance(value, str) or not value:
        raise _bad(field, "must be a text that is not empty")
    return _encodable(value, field)


def _flag(body: Mapping[str, Any], field: str) -> bool:
    value = body.get(field)
    if value is not None and not isinstance(value, bool):
        raise _bad(field, "must be true or false")
    return bool(value)


def _whole(body: Mapping[str, Any], field: str, default: int | None, low: int, high: int) -> int | None:
    value = body.get(field)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _bad(field, f"must be a whole number from {low} to {high}")
    return value


def _number(body: Mapping[str, Any], field: str, default: float, low: float, high: float) -> float:
    value = body.get(field)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _bad(field, f"must be a number from {low:g} to {high:g}")
    return float(value)


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    newer, older = (_whole(body, name, None, 1, 10**9) for name in ("max_completion_tokens", "max_tokens"))
    return older if newer is None else newer


def _stops(value: Any) -> tuple[str, ...]:
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or len(texts) > MAX_STOPS or not all(isinstance(t, str) and t for t in texts):
        raise _bad("stop", f"must be a text, or at most {MAX_STOPS} of them, none empty")
    return tuple(_encodable(text, "stop") for text in texts)


def _budget(body: Any, header: str | None, suffix: str | None) -> Budget | None:
    """The first that was given. Raises BudgetError."""
    if body is not None:
        if isinstance(body, bool) or not isinstance(body, str | int | float):
            raise _bad("budget", "must be a number of FLOPs or a text such as `8x`", code="invalid_budget")
        if isinstance(body, int | float) and not math.isfinite(_as_float(body)):
            raise _bad("budget", "is beyond any number", code="invalid_budget")
        return Budget.parse(body)
    given = header if header is not None else suffix
    return None if given is None else Budget.parse(given)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _prompt(kind: Kind, body: Mapping[str, Any]) -> tuple[str, int]:
    """The prompt, and of how many messages it was made."""
    messages = body.get("messages")
    if kind == "completion" or (kind == "plan" and messages is None):
        value = body.get("prompt")
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, str) or not value.strip():
            raise _bad("prompt", "must be one text that is not empty")
        return _encodable(value, "prompt"), 1
    if not isinstance(messages, list) or not messages:
        raise _bad("messages", "must be a list of messages")
    turns = [_turn(message, i) for i, message in enumerate(messages)]
    if turns[-1][0] != "user":
        raise _bad("messages", "must end with the user's message")
    if not turns[-1][1].strip():
        raise _bad("messages", "must end with a text that is not empty")
    instructions = [text for role, text in turns if role in ("system", "developer") and text.strip()]
    talk = [(role, text) for role, text in turns if role in ("user", "assistant")]
    if len(talk) == 1:
        said = talk[0][1]
    else:
        said = "\n\n".join(f"{'User' if role == 'user' else 'Assistant'}: {text}" for role, text in talk)
    return "\n\n".join([*instructions, said]), len(instructions) + len(talk)


def _turn(message: Any, place: int) -> tuple[str, str]:
    field = f"messages[{place}]"
    if not isinstance(message, dict):
        raise _bad(field, "must be an object")
    role, content = message.get("role"), message.get("content")
    if role not in ("system", "developer", "user", "assistant"):
        raise _bad(f"{field}.role", "must be system, developer, user or assistant")
    if isinstance(content, list):
        parts = []
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise _bad(f"{field}.content", "only text parts are offered", code="unsupported_parameter")
            parts.append(part["text"])
        content = "".join(parts)
    if not isinstance(content, str):
        raise _bad(f"{field}.content", "must be a text")
    return role, _encodable(content, f"{field}.content")
