"""Connections that are kept for further requests, each a client of its own: httpx's pool looks through all of its
connections at every request, which at 64 of them takes longer than the request itself."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx

__all__ = ["Connections"]

_KEEP_ALIVE = 3.0  # seconds; vLLM drops idle connections after 5


class Connections:
    """Of one event loop, to servers at `urls`; as many as are used at once, and the last one used goes first."""

    def __init__(self, urls: Sequence[str], *, api_key: str | None, timeout: float) -> None:
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # Reading the certificates takes longer than a small model's answer: once for all, and never for plain http.
        secure = any(url.startswith("https:") for url in urls)
        self._verify = httpx.create_ssl_context() if secure else False
        self._timeout = httpx.Timeout(timeout, connect=min(timeout, 10.0), pool=None)
        self._idle: dict[str, deque[tuple[float, httpx.AsyncClient]]] = {url: deque() for url in urls}
        self._open = set[httpx.AsyncClient]()
        self._closing = set[asyncio.Task[None]]()

    @asynccontextmanager
    async def one(self, url: str) -> AsyncIterator[httpx.AsyncClient]:
        """A connection to a server, for requests one after the other. Where the block does not end well (a failure, a
        cancellation) the connection is closed, so that the server stops working on what it was asked."""
        client, whole = self._take(url), False
        try:
            yield client
            whole = True
        finally:
            if whole:
                self._idle[url].append((time.monotonic(), client))
            else:
                self._end(client)

    async def aclose(self) -> None:
        """Close all of them, those in use too."""
        for idle in self._idle.values():
            while idle:
                self._end(idle.pop()[1])
        for client in self._open:
            self._end(client)
        if self._closing:
            await asyncio.wait(self._closing)

    def _take(self, url: str) -> httpx.AsyncClient:
        oldest = time.monotonic() - _KEEP_ALIVE
        for idle in self._idle.values():
            while idle and idle[0][0] < oldest:
                self._end(idle.popleft()[1])
        if self._idle[url]:
            return self._idle[url].pop()[1]
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)
        client = httpx.AsyncClient(headers=self._headers, verify=self._verify, timeout=self._timeout, limits=limits)
        self._open.add(client)
        return client

    def _end(self, client: httpx.AsyncClient) -> None:
        """Close it without waiting: who gives it up may be cancelled."""
        task = asyncio.create_task(self._close(client))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, client: httpx.AsyncClient) -> None:
        await client.aclose()
        self._open.discard(client)
