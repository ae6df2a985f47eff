"""Errors as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}` with the right status."""

from __future__ import annotations

import math
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from planner.errors import BudgetError, CapabilityError, EngineError, InputError, PlannerError, VerifierError

__all__ = ["ApiError", "as_api_error", "error_response", "on_http_exception", "on_unforeseen"]

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """A refusal with its HTTP status; `retry_after_seconds` tells the client when to come back."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after_seconds = status, param, code, retry_after_seconds

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def as_api_error(error: PlannerError, retry_after_seconds: float) -> ApiError:
    """The status of an error of ours: bad input is 400, an engine that may recover 503 with a time to retry.

    What an engine says stays here: it reaches every request of its batch, and may quote another client's prompt.
    """
    match error:
        case BudgetError():
            return ApiError(400, str(error), param=error.field, code="invalid_budget")
        case CapabilityError():
            return ApiError(400, str(error), param=error.field, code="not_possible_here")
        case InputError():
            return ApiError(400, str(error), param=error.field, code="invalid_value")
        case EngineError() | VerifierError():
            what = "policy model's engine" if isinstance(error, EngineError) else "verifier"
            return ApiError(
                503, f"the {what} failed", code="engine_unavailable", retry_after_seconds=retry_after_seconds
            )
        case _:
            return ApiError(500, f"{type(error).__name__}: {error}", code="internal_error")


def error_response(error: ApiError) -> Response:
    headers = {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (408, 413):
        # What is left of the body is not read.
        headers["Connection"] = "close"
    return JSONResponse(error.body(), status_code=error.status, headers=headers)


def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own refusals (unknown path, wrong method)."""
    assert isinstance(error, HTTPException)
    response = error_response(ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}"))
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


def on_unforeseen(request: Request, error: Exception) -> Response:
    """A fault of ours; the message stays in the server's own log."""
    return error_response(ApiError(500, f"internal error ({type(error).__name__})", code="internal_error"))
