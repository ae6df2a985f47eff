"""Server-sent events that stop working when the client goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.types import Receive, Scope, Send

from planner.serve.failures import ApiError, error_response
from planner.serve.gateway import Decision, Gateway
from planner.serve.responses import choices, chunk, event, pieces, planner_part, usage_part
from planner.serve.watched import Progress

__all__ = ["EventStream", "until_gone"]

_COMMENT = b": working\n\n"


async def until_gone(receive: Receive) -> None:
    """Returns when the client has disconnected; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream:
    """An answer as events. The status is sent with the first event, so a failure before it has a status of its own."""

    def __init__(self, gateway: Gateway, decision: Decision) -> None:
        self._gateway, self._decision = gateway, decision

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(scope, receive, send))
        leaving = asyncio.ensure_future(until_gone(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not sending.done():
                sending.cancel()
        # A client that went away gets no more events, and needs no error.
        if not sending.cancelled() and sending.done():
            sending.result()

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        try:
            async for piece in self._events():
                if not started:
                    started = True
                    await send(
                        {
                            "type": "http.response.start",
                            "status": 200,
                            "headers": [
                                (b"content-type", b"text/event-stream; charset=utf-8"),
                                (b"cache-control", b"no-store"),
                                (b"x-planner-decision", self._decision.id.encode()),
                            ],
                        }
                    )
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except ApiError as error:
            if not started:
                await error_response(error)(scope, receive, send)
                return
            await send({"type": "http.response.body", "body": event(error.body()), "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    async def _events(self) -> AsyncIterator[bytes]:
        call, decision = self._decision.call, self._decision
        news: asyncio.Queue[Progress] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def notify(done: Progress) -> None:
            loop.call_soon_threadsafe(news.put_nowait, done)

        answering = asyncio.ensure_future(self._gateway.answer(decision, notify if call.progress else None))
        try:
            if call.progress:
                plan = None if decision.plan is None else decision.plan.to_dict()
                yield event({**chunk(decision, None), "planner": {"event": "plan", "plan": plan}})
            while not answering.done():
                waiting = asyncio.ensure_future(news.get())
                done, _ = await asyncio.wait(
                    (answering, waiting),
                    timeout=self._gateway.settings.keep_alive_seconds,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if waiting in done:
                    yield event({**chunk(decision, None), "planner": _progress(waiting.result())})
                else:
                    waiting.cancel()
                if not done:
                    yield _COMMENT
            while not news.empty():
                yield event({**chunk(decision, None), "planner": _progress(news.get_nowait())})
            answered = await answering
        finally:
            answering.cancel()
        rows = choices(answered)
        for index, (text, reason) in enumerate(rows):
            yield event(chunk(decision, "", index=index, first=True))
            for piece in pieces(text):
                yield event(chunk(decision, piece, index=index))
            last = chunk(decision, "", index=index, reason=reason)
            if index == len(rows) - 1:
                last["planner"] = planner_part(answered)
            yield event(last)
        if call.include_usage:
            yield event({**chunk(decision, None), "usage": usage_part(answered.run.usage)})


def _progress(done: Progress) -> dict[str, object]:
    return {
        "event": "progress",
        "rounds": done.rounds,
        "completions": done.completions,
        "generated_tokens": done.generated_tokens,
        "scored": done.scored,
    }
