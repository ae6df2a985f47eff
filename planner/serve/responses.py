"""OpenAI's response objects from an answered call."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from planner.core import Outcome, Usage
from planner.serve.calls import Call
from planner.serve.gateway import Answered, Decision, flops_of

__all__ = ["Choice", "choices", "chunk", "completion", "event", "pieces", "planner_part", "usage_part"]

_PIECE = 48
Choice = tuple[str, str]
"""A text and its finish reason."""


def choices(answered: Answered) -> list[Choice]:
    """The chosen answer first, then the plan's other answers, at most n; a plain call's samples in their order.

    `stop` cuts each text at the first stop string, as OpenAI's does.
    """
    call, answer = answered.decision.call, answered.run.answer
    chosen = (answer.text, "length" if answer.outcome in (Outcome.TRUNCATED, Outcome.OUT_OF_BUDGET) else "stop")
    drawn = [(c.text, "stop" if c.finished else "length") for c in answer.candidates]
    if call.n == 1:
        texts = [chosen]
    elif answered.decision.plan is None:
        texts = drawn or [chosen]
        # At temperature 0 every answer is the same one.
        texts = texts * call.n if call.temperature == 0 else texts
    else:
        at = next((i for i, (text, _) in enumerate(drawn) if text == answer.text), None)
        texts = [chosen, *(choice for i, choice in enumerate(drawn) if i != at)]
    return [_cut(text, reason, call.stop) for text, reason in texts[: call.n]]


def _cut(text: str, reason: str, stop: tuple[str, ...]) -> Choice:
    places = [at for s in stop if (at := text.find(s)) >= 0]
    return (text[: min(places)], "stop") if places else (text, reason)


def usage_part(usage: Usage) -> dict[str, Any]:
    """The sum over all calls; what a verifier read is apart, since clients expect the total to be the sum of two."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.generated_tokens,
        "total_tokens": usage.prompt_tokens + usage.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "verifier_tokens": usage.scored_tokens,
        "requests": usage.requests,
    }


def planner_part(answered: Answered) -> dict[str, Any]:
    """What was decided and what it cost."""
    decision, run = answered.decision, answered.run
    warnings = list(decision.plan.warnings) if decision.plan is not None else []
    if decision.call.messages > 1:
        warnings.append(f"{decision.call.messages} messages were joined into one prompt")
    return {
        "decision_id": decision.id,
        "plan": None if decision.plan is None else decision.plan.to_dict(),
        "outcome": str(run.answer.outcome),
        "answer": run.answer.answer,
        "flops": flops_of(run.cost),
        "usage": asdict(run.usage),
        "seconds": round(answered.seconds, 6),
        "warnings": warnings,
    }


def completion(answered: Answered) -> dict[str, Any]:
    """A whole `chat.completion` or `text_completion`."""
    call = answered.decision.call
    rows = []
    for i, (text, reason) in enumerate(choices(answered)):
        row: dict[str, Any] = {"index": i, "finish_reason": reason, "logprobs": None}
        if call.kind == "chat":
            row["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            row["text"] = text
        rows.append(row)
    return {
        **_head(answered.decision, "chat.completion" if call.kind == "chat" else "text_completion"),
        "choices": rows,
        "usage": usage_part(answered.run.usage),
        "planner": planner_part(answered),
    }


def chunk(
    decision: Decision, text: str | None, *, index: int = 0, reason: str | None = None, first: bool = False
) -> dict[str, Any]:
    """One piece of a streamed answer; `text` None: a chunk without choices."""
    chat = decision.call.kind == "chat"
    row: dict[str, Any] = {"index": index, "finish_reason": reason, "logprobs": None}
    if chat:
        row["delta"] = {**({"role": "assistant"} if first else {}), **({"content": text} if text or first else {})}
    else:
        row["text"] = text or ""
    head = _head(decision, "chat.completion.chunk" if chat else "text_completion")
    return {**head, "choices": [] if text is None else [row]}


def pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), _PIECE):
        yield text[start : start + _PIECE]


def event(document: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(document, ensure_ascii=False, allow_nan=False).encode() + b"\n\n"


def _head(decision: Decision, kind: str) -> dict[str, Any]:
    prefix = "chatcmpl" if decision.call.kind == "chat" else "cmpl"
    call: Call = decision.call
    return {"id": f"{prefix}-{decision.id}", "object": kind, "created": int(time.time()), "model": call.model}
