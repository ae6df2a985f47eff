"""The server's OpenAPI document, written out: what `calls.py` accepts and `responses.py` returns."""

from __future__ import annotations

from typing import Any

from planner import __version__
from planner.serve.calls import MAX_CHOICES, MAX_STOPS
from planner.serve.settings import Settings

__all__ = ["document"]

_BUDGET: dict[str, Any] = {
    "description": "Hard cap for this prompt, verifier too: FLOPs, or `2 GFLOPs`, `4000 tokens`, `8x`, `8x and 3 s`.",
    "anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "minLength": 1}, {"type": "null"}],
}
_TEXT_PARTS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    },
}
_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {"anyOf": [{"type": "string"}, _TEXT_PARTS]},
    },
}
_MESSAGES = {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/Message"}}
_STOP = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "maxItems": MAX_STOPS, "items": {"type": "string", "minLength": 1}},
        {"type": "null"},
    ]
}


def document(settings: Settings, names: tuple[str, ...]) -> dict[str, Any]:
    """OpenAPI 3.1 of a server with these settings and models."""
    shared = _shared(names)
    chat = {"messages": _MESSAGES, **shared}
    text = {"prompt": {"type": "string", "minLength": 1}, **shared}
    plan = {
        "prompt": {"type": "string", "minLength": 1},
        "messages": _MESSAGES,
        "model": shared["model"],
        "budget": _BUDGET,
    }
    feedback = {
        "decision_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "correct": {"type": "boolean"},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
    }
    plan_body = _object(plan, []) | {"anyOf": [{"required": ["prompt"]}, {"required": ["messages"]}]}
    feedback_body = _object(feedback, ["decision_id"]) | {"oneOf": [{"required": ["correct"]}, {"required": ["score"]}]}
    paths: dict[str, Any] = {
        "/v1/chat/completions": _post(
            "Answer a conversation within a budget", _object(chat, ["model", "messages"]), "ChatCompletion", stream=True
        ),
        "/v1/completions": _post(
            "Answer a prompt within a budget", _object(text, ["model", "prompt"]), "TextCompletion", stream=True
        ),
        "/v1/plan": _post("Choose a plan, generate nothing", plan_body, "Plan"),
        "/v1/feedback": _post("Say how good an answer was", feedback_body, "Feedback"),
        "/v1/models": _get("Models, plain and with budgets", "Models"),
        "/health": _get("The process answers", "Status"),
        "/ready": _get("The engine can be asked", "Status", (503,)),
        "/metrics": _get("Prometheus metrics", None),
        "/openapi.json": _get("This document", "Object"),
    }
    if settings.api_key is not None:
        for path, operations in paths.items():
            for operation in operations.values() if path not in ("/health", "/ready") else ():
                operation["security"] = [{"key": []}]
                operation["responses"]["401"] = _error("No key, or another one")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "compute-planner",
            "version": __version__,
            "description": "OpenAI-compatible answers, each planned within its budget. The same request gets the same "
            "answer; `temperature`, `top_p` and `seed` apply to calls without a budget, `stop` cuts the chosen answer.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _shared(names: tuple[str, ...]) -> dict[str, Any]:
    choices = "|".join(name.replace(".", r"\.") for name in names)
    return {
        "model": {
            "type": "string",
            "description": f"One of {', '.join(names)}, plain or with a budget: `NAME@8x`.",
            "pattern": f"^({choices})(@[0-9.]+x)?$",
        },
        "budget": _BUDGET,
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_CHOICES},
        "stop": _STOP,
        "max_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": 10**9},
        "max_completion_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": 10**9},
        "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
        "top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
        "seed": {"type": ["integer", "null"], "minimum": -(2**63), "maximum": 2**63 - 1},
        "stream": {"type": ["boolean", "null"]},
        "stream_options": {
            "type": ["object", "null"],
            "properties": {"include_usage": {"type": "boolean"}, "include_progress": {"type": "boolean"}},
        },
        "progress": {"type": ["boolean", "null"], "description": "Progress events in the stream."},
    }


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _content(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _error(description: str) -> dict[str, Any]:
    return {"description": description, "content": _content("Error")}


def _post(summary: str, body: dict[str, Any], schema: str, *, stream: bool = False) -> dict[str, Any]:
    content = _content(schema)
    responses: dict[str, Any] = {
        "200": {"description": "Done", "content": content},
        "400": _error("Something in the request cannot be used"),
        "408": _error("The body did not arrive in time"),
        "413": _error("The body is too large"),
    }
    header = {
        "name": "X-Planner-Budget",
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "As `budget`, for clients that cannot change the body.",
    }
    operation: dict[str, Any] = {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": responses,
    }
    if schema != "Feedback":
        operation["parameters"] = [header]
        responses["404"] = _error("No such model")
    if stream:
        content["text/event-stream"] = {"schema": {"type": "string"}}
        responses["429"] = _error("Too much is being answered; Retry-After says when to come back")
        responses["503"] = _error("The engine failed; Retry-After says when to come back")
        responses["504"] = _error("The answer took too long")
    return {"post": operation}


def _get(summary: str, schema: str | None, errors: tuple[int, ...] = ()) -> dict[str, Any]:
    content = {"text/plain": {"schema": {"type": "string"}}} if schema is None else _content(schema)
    responses: dict[str, Any] = {"200": {"description": "Done", "content": content}}
    responses |= {str(status): _error("Not now; Retry-After says when to come back") for status in errors}
    return {"get": {"summary": summary, "responses": responses}}


def _schemas() -> dict[str, Any]:
    whole = {"type": "integer", "minimum": 0}
    counts = ("prompt_tokens", "completion_tokens", "total_tokens", "verifier_tokens")
    usage = _object(dict.fromkeys(counts, whole), ["total_tokens"])
    part = {"type": ["number", "null"]}
    planner = _object(
        {
            "decision_id": {"type": "string"},
            "plan": {"anyOf": [{"$ref": "#/components/schemas/Plan"}, {"type": "null"}]},
            "outcome": {"enum": ["finished", "truncated", "out_of_budget", "failed"]},
            "answer": {"type": ["string", "null"]},
            "flops": _object(dict.fromkeys(("policy", "verifier", "probe", "total"), part), ["total"]),
            "warnings": {"type": "array", "items": {"type": "string"}},
        },
        ["decision_id", "plan", "outcome", "flops"],
    )
    plan = _object(
        {
            "strategy": {"type": "string"},
            "hyperparameters": {"type": "object"},
            "policy_model": {"type": "string"},
            "verifier": {"type": ["string", "null"]},
            "expected_accuracy": {"type": "number"},
            "difficulty": {"type": "object"},
            "cost_scale": {"type": "number"},
            "propensity": {"type": "number"},
            "reason": {"type": "string"},
            "decision_id": {"type": "string"},
        },
        ["strategy", "hyperparameters", "policy_model", "reason", "decision_id"],
    )
    error = _object(
        {
            "message": {"type": "string"},
            "type": {"type": "string"},
            "param": {"type": ["string", "null"]},
            "code": {"type": ["string", "null"]},
        },
        ["message", "type", "param", "code"],
    )
    answer = {
        "id": {"type": "string"},
        "object": {"type": "string"},
        "created": whole,
        "model": {"type": "string"},
        "choices": {"type": "array", "items": {"type": "object"}},
        "usage": usage,
        "planner": planner,
    }
    return {
        "Message": _MESSAGE,
        "ChatCompletion": _object(answer, list(answer)),
        "TextCompletion": _object(answer, list(answer)),
        "Plan": plan,
        "Models": _object(
            {"object": {"const": "list"}, "data": {"type": "array", "items": {"type": "object"}}}, ["data"]
        ),
        "Feedback": _object(
            {"decision_id": {"type": "string"}, "logged": {"type": "boolean"}}, ["decision_id", "logged"]
        ),
        "Status": _object({"status": {"type": "string"}}, ["status"]),
        "Object": {"type": "object"},
        "Error": _object({"error": error}, ["error"]),
    }
