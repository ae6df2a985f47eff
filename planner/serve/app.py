"""The Starlette application: routes, the key, reading bodies within limits."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from planner.budget import Budget
from planner.errors import PlannerError
from planner.serve.calls import Kind, parse_call, parse_feedback, parse_json
from planner.serve.failures import ApiError, as_api_error, error_response, on_http_exception, on_unforeseen
from planner.serve.gateway import Decision, Gateway
from planner.serve.metrics import CONTENT_TYPE
from planner.serve.openapi import document as openapi_document
from planner.serve.responses import completion
from planner.serve.stream import EventStream, until_gone

__all__ = ["create_app"]

_OPEN = ("/health", "/ready")
"""Paths that need no key: load balancers ask them."""
_GONE = 499
_DRAINED = 16
"""A body up to this many times too large is read to its end and dropped: a client that still writes when the connection
is closed sees a reset instead of the refusal."""


def create_app(gateway: Gateway) -> Starlette:
    """The application of one gateway, which it opens and closes with its own lifespan."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        gateway.open()
        try:
            yield
        finally:
            await gateway.aclose()

    views = _Views(gateway)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", views.chat, methods=["POST"]),
            Route("/v1/completions", views.completions, methods=["POST"]),
            Route("/v1/plan", views.plan, methods=["POST"]),
            Route("/v1/feedback", views.feedback, methods=["POST"]),
            Route("/v1/models", views.models, methods=["GET"]),
            Route("/health", views.health, methods=["GET"]),
            Route("/ready", views.ready, methods=["GET"]),
            Route("/metrics", views.metrics, methods=["GET"]),
            Route("/openapi.json", views.openapi, methods=["GET"]),
        ],
        middleware=[Middleware(_Gate, gateway=gateway)],
        exception_handlers={HTTPException: on_http_exception, ApiError: _on_api_error, Exception: on_unforeseen},
        lifespan=lifespan,
    )


def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


class _Gate:
    """Checks the key in constant time, and counts requests and seconds by path."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app, self._gateway = app, gateway
        key = gateway.settings.api_key
        self._key = None if key is None else f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, status, started = scope["path"], 0, time.perf_counter()
        known = any(path == getattr(route, "path", None) for route in scope["app"].routes)
        label = path if known else "other"

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._admitted(path, scope):
                await self._app(scope, receive, counted)
            else:
                refused = ApiError(401, "a key is needed: `Authorization: Bearer KEY`", code="invalid_api_key")
                await error_response(refused)(scope, receive, counted)
        finally:
            metrics = self._gateway.metrics
            metrics.requests.labels(label, str(status or _GONE)).inc()
            metrics.seconds.labels(label).observe(time.perf_counter() - started)

    def _admitted(self, path: str, scope: Scope) -> bool:
        if self._key is None or path in _OPEN:
            return True
        given = Headers(scope=scope).get("authorization", "")
        return hmac.compare_digest(given.encode("latin-1", "replace"), self._key)


class _Views:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def chat(self, request: Request) -> Response | EventStream:
        return await self._answer("chat", request)

    async def completions(self, request: Request) -> Response | EventStream:
        return await self._answer("completion", request)

    async def plan(self, request: Request) -> Response:
        decision = await self._decide("plan", request)
        self._gateway.note_plan(decision)
        assert decision.plan is not None
        return JSONResponse(decision.plan.to_dict() | {"explanation": decision.plan.explain()})

    async def feedback(self, request: Request) -> Response:
        record = parse_feedback(parse_json(await self._body(request)))
        return JSONResponse({"decision_id": record["decision_id"], "logged": self._gateway.feedback(record)})

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(name) for name in _offered(self._gateway)]})

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        if self._gateway.ready:
            return JSONResponse({"status": "ready"})
        wait = self._gateway.settings.retry_after_seconds
        return error_response(
            ApiError(503, "the engine has just failed", code="engine_unavailable", retry_after_seconds=wait)
        )

    async def metrics(self, request: Request) -> Response:
        return Response(self._gateway.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(openapi_document(self._gateway.settings, self._gateway.names))

    async def _decide(self, kind: Kind, request: Request) -> Decision:
        body = parse_json(await self._body(request))
        try:
            call = parse_call(
                kind, body, header_budget=request.headers.get("x-planner-budget"), names=self._gateway.names
            )
            return self._gateway.decide(call)
        except PlannerError as error:
            raise as_api_error(error, self._gateway.settings.retry_after_seconds) from error

    async def _answer(self, kind: Kind, request: Request) -> Response | EventStream:
        decision = await self._decide(kind, request)
        if decision.call.stream:
            return EventStream(self._gateway, decision)
        answering = asyncio.ensure_future(self._gateway.answer(decision))
        leaving = asyncio.ensure_future(until_gone(request.receive))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                # The client went away: nobody reads this, and the work is dropped.
                return Response(status_code=_GONE)
            answered = answering.result()
        finally:
            leaving.cancel()
            answering.cancel()
        return JSONResponse(completion(answered), headers={"x-planner-decision": decision.id})

    async def _body(self, request: Request) -> bytes:
        """The body within the limits of size and time. Raises ApiError 413, 408 and 400 where it never came whole."""
        settings = self._gateway.settings
        too_large = ApiError(413, f"the body is larger than {settings.max_body_bytes} bytes", code="body_too_large")
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > _DRAINED * settings.max_body_bytes:
            raise too_large
        body, seen = bytearray(), 0
        try:
            async with asyncio.timeout(settings.body_timeout_seconds):
                async for piece in request.stream():
                    seen += len(piece)
                    if seen <= settings.max_body_bytes:
                        body += piece
                    elif seen > _DRAINED * settings.max_body_bytes:
                        raise too_large
        except TimeoutError as error:
            raise ApiError(408, "the body did not arrive in time", code="timeout") from error
        except ClientDisconnect as error:
            raise ApiError(400, "the body ended early", code="incomplete_body") from error
        if seen > settings.max_body_bytes:
            raise too_large
        return bytes(body)


def _offered(gateway: Gateway) -> list[str]:
    """Each model plain, and with the multiples of the policy's table within the maximum."""
    chooser = gateway.planner.chooser
    reference = float(gateway.planner.document["reference_cost"])
    most = chooser.amount(Budget.parse(gateway.settings.max_budget))
    multiples = [b / reference for b in chooser.table.budgets.tolist() if b <= most * (1 + 1e-9)]
    planned = [f"{name}@{multiple:.6g}x" for name in gateway.names for multiple in multiples]
    return [*gateway.names, *planned]


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "compute-planner"}
