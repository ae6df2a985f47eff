"""Time limits of a connection that uvicorn has none for: a head that trickles in, an answer that nobody reads.

A body's limit is the application's (planner.serve.app), which can still answer 408 in its own words.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from planner.serve.settings import Settings

__all__ = ["guarded"]

_TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 39\r\n\r\nThe request's head did not come in time"
)


def guarded(settings: Settings) -> type[H11Protocol]:
    """A protocol class for `uvicorn.Config(http=...)` that holds these settings' limits."""

    class Guarded(_Guarded):
        head_seconds = settings.head_timeout_seconds
        read_seconds = settings.read_timeout_seconds

    return Guarded


class _Guarded(H11Protocol):
    head_seconds: float
    read_seconds: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = self.loop.call_later(self.head_seconds, self._refuse)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._head = _stopped(self._head)
        elif self._head is None:
            # The next request of a kept connection has begun, and uvicorn has stopped its own clock.
            self._head = self.loop.call_later(self.head_seconds, self._refuse)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread = _stopped(self._unread)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head, self._unread = _stopped(self._head), _stopped(self._unread)
        super().connection_lost(exc)

    def _refuse(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(_TOO_SLOW)
            self.transport.close()


def _stopped(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """No timer, after this one was cancelled."""
    if timer is not None:
        timer.cancel()
    return None
