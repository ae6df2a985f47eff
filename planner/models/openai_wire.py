"""JSON over HTTP to one or several servers: pooled, concurrent, retried, cancelled together.

Requests of a batch run on one event loop in a thread of their own, so that callers may be plain functions or run
inside a loop themselves. Every failure names the endpoint, the request and what to do.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import threading
import time
import weakref
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, TypeVar

import httpx

from planner.errors import EngineError
from planner.models.openai_connections import Connections

__all__ = ["Call", "Refused", "Unreadable", "Wire"]

T = TypeVar("T")

_FIRST_WAIT, _LONGEST_WAIT = 0.2, 8.0  # seconds between tries, doubling from one to the other
_LONGEST_ASKED = 60.0  # seconds; a server that asks for a longer pause is reported instead
_PASSING = (408, 425, 429, 500, 502, 503, 504, 529)
_SILENCES = 2  # tries that may end in a timeout: each costs the whole timeout
_REMEDIES = {
    400: "the server does not take this request: see its message",
    401: "name the environment variable that holds the server's key: api_key_env=NAME",
    403: "name the environment variable that holds the server's key: api_key_env=NAME",
    404: "check the address (most servers' end in /v1) and the model's name",
    413: "the request is too long for the server",
    429: "the server limits the rate: lower `concurrency`, raise `retries`, or add servers with also=URL",
}


class Unreadable(ValueError):
    """Raised by a call's `read` for an answer that is not what it should be."""


class Refused(EngineError):
    """A server said no for good; `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request. `body` None: GET. `path` follows the base URL, or its root where `at_root` (a last `/v1` dropped).

    `read` makes the result from the decoded JSON and raises Unreadable where it cannot. Calls with one `affinity` go to
    one server while it is not busier than the others, since that one may have kept their prefix. `label` is for errors.
    `optional`: an answer that cannot be read means that the server does not know the request (Refused, no retry).
    """

    path: str
    read: Callable[[Any], T]
    label: str
    body: Mapping[str, Any] | None = None
    at_root: bool = False
    affinity: str = ""
    optional: bool = False


@dataclass(slots=True)
class _Server:
    url: str
    open: int = 0


@dataclass(slots=True)
class _Trouble(Exception):
    """A try that failed in a way that may pass. `wait` is the pause the server asked for, in seconds."""

    what: str
    remedy: str
    wait: float = 0.0
    silent: bool = False


@dataclass(slots=True)
class _Tries:
    count: int = 0
    silences: int = 0
    avoid: _Server | None = field(default=None)


class Wire:
    """A pool of connections to servers that are taken to be alike. Thread-safe. `close` it, or let it be collected."""

    def __init__(
        self, base_urls: Sequence[str], *, api_key: str | None, timeout: float, retries: int, concurrency: int
    ) -> None:
        self._servers = [_Server(url.rstrip("/")) for url in base_urls]
        self._key, self._timeout, self._retries = api_key, timeout, retries
        urls = [server.url for server in self._servers]
        self._connections = Connections(urls, api_key=api_key, timeout=timeout)
        self._slots = asyncio.Semaphore(concurrency)
        self._jitter = random.Random()  # of pauses only; no result depends on it
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(
            target=_serve, args=(self._loop, self._connections), name="openai-engine", daemon=True
        )  # fmt: skip
        thread.start()
        self._end = weakref.finalize(self, _stop, self._loop, thread)

    def close(self) -> None:
        """Close all connections. The wire cannot be used afterwards."""
        self._end()

    def ask(self, calls: Sequence[Call[T]]) -> list[T]:
        """Results in the order of the calls, which run at once.

        Raises:
            EngineError: of the first call that failed for good (the others are cancelled, which closes their
                connections, so that servers stop working on them); `retryable` says whether the failure may pass.
        """
        if not calls:
            return []
        self._require_open()
        future = asyncio.run_coroutine_threadsafe(self._all(calls), self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # does nothing once it is done; stops everything when the caller was interrupted

    def start(self, calls: Sequence[Call[T]]) -> list[Future[T]]:
        """Start each call by itself and return at once. A future fails as `ask` does; cancelling it closes its
        connection."""
        self._require_open()
        return [asyncio.run_coroutine_threadsafe(self._one(call), self._loop) for call in calls]

    def _require_open(self) -> None:
        if not self._end.alive:
            raise EngineError("the engine's connections were closed")

    async def _all(self, calls: Sequence[Call[T]]) -> list[T]:
        tasks = [asyncio.ensure_future(self._one(call)) for call in calls]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, call: Call[T]) -> T:
        tries = _Tries()
        async with self._slots:
            while True:
                server = self._choose(call, tries.avoid)
                server.open += 1
                try:
                    return await self._try(server, call)
                except _Trouble as trouble:
                    await self._pause(server, call, trouble, tries)
                finally:
                    server.open -= 1

    def _choose(self, call: Call[Any], avoid: _Server | None) -> _Server:
        """The least busy server, another one than that which just failed if there is one."""
        home = zlib.crc32(call.affinity.encode()) % len(self._servers)
        ordered = self._servers[home:] + self._servers[:home]
        return min(ordered, key=lambda server: (server is avoid, server.open))

    async def _pause(self, server: _Server, call: Call[Any], trouble: _Trouble, tries: _Tries) -> None:
        """Wait before the next try, or raise where there is none."""
        tries.count += 1
        tries.silences += trouble.silent
        tries.avoid = server
        if tries.count > self._retries or tries.silences >= _SILENCES or trouble.wait > _LONGEST_ASKED:
            asked = f", which asks for a pause of {trouble.wait:.0f} s" if trouble.wait > _LONGEST_ASKED else ""
            self._fail(server, call, f"{trouble.what}{asked} (try {tries.count})", trouble.remedy)
        backoff = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (tries.count - 1)) * self._jitter.uniform(0.5, 1.0)
        await asyncio.sleep(trouble.wait + backoff)

    async def _try(self, server: _Server, call: Call[T]) -> T:
        url = f"{_root(server.url) if call.at_root else server.url}/{call.path}"
        limit = f"{self._timeout:g} s"
        silence = "is the server up, or is `timeout` too short for this many tokens?"
        try:
            # The client's own timeout is between two bytes; a server that drips would never reach it.
            async with asyncio.timeout(self._timeout), self._connections.one(server.url) as client:
                response = await client.request("GET" if call.body is None else "POST", url, json=call.body)
        except TimeoutError:
            raise _Trouble(f"no whole answer within {limit}", silence, silent=True) from None
        except httpx.TimeoutException as error:
            raise _Trouble(f"{type(error).__name__} within {limit}", silence, silent=True) from None
        except httpx.ConnectError as error:
            raise _Trouble(f"cannot connect ({error})", "start the server, or correct its address") from None
        except httpx.TransportError as error:
            raise _Trouble(f"the connection was lost ({type(error).__name__})", "is the server still up?") from None
        if response.status_code in _PASSING:
            said = f"HTTP {response.status_code} {self._said(response)}".rstrip()
            remedy = _REMEDIES.get(response.status_code, "see the server's log")
            raise _Trouble(said, remedy, wait=_asked_pause(response.headers.get("Retry-After")))
        if response.status_code != 200:
            said = f"HTTP {response.status_code} {self._said(response)}".rstrip()
            remedy = _REMEDIES.get(response.status_code, "is this the address of an OpenAI-compatible server?")
            self._fail(server, call, said, remedy, status=response.status_code)
        try:
            return call.read(json.loads(response.content))
        except (Unreadable, UnicodeDecodeError, json.JSONDecodeError) as error:
            reason = str(error) if isinstance(error, Unreadable) else "not JSON"
            said = f"an answer that cannot be read ({reason}): {self._shown(response.text)}"
            remedy = "is this an OpenAI-compatible server, or did a proxy answer in its place?"
            if call.optional:
                self._fail(server, call, said, remedy, status=response.status_code)
            raise _Trouble(said, remedy) from None

    def _fail(self, server: _Server, call: Call[Any], what: str, remedy: str, *, status: int | None = None) -> NoReturn:
        message = f"{server.url} ({call.path}): {what}; request: {call.label}. What to do: {remedy}"
        raise EngineError(message, retryable=True) if status is None else Refused(message, status)

    def _said(self, response: httpx.Response) -> str:
        """The server's own message, wherever its dialect puts it."""
        try:
            document = response.json()
        except (UnicodeDecodeError, json.JSONDecodeError):
            return self._shown(response.text)
        error = document.get("error", document) if isinstance(document, dict) else document
        message = error.get("message", error) if isinstance(error, dict) else error
        return self._shown(message if isinstance(message, str) else json.dumps(message))

    def _shown(self, text: str) -> str:
        """A short form that never holds the key: some servers echo it."""
        clean = text.replace(self._key, "***") if self._key else text
        return repr(clean[:200] + ("..." if len(clean) > 200 else ""))


def _root(url: str) -> str:
    return url.removesuffix("/v1")


def _asked_pause(text: str | None) -> float:
    """Seconds of a Retry-After header: a number or an HTTP date; 0 where it is missing or unreadable."""
    if not text:
        return 0.0
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def _serve(loop: asyncio.AbstractEventLoop, connections: Connections) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(_settled(left, connections.aclose()))
    finally:
        loop.close()


async def _settled(tasks: set[asyncio.Task[Any]], then: Awaitable[None]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
    await then


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    if threading.current_thread() is not thread:  # a collection may run in any thread
        thread.join()
