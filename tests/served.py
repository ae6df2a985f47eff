"""FOR TESTS ONLY: a real uvicorn server on a loopback port, in a thread, with scripted engines behind it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn
from scripted import END, ScriptedEngine, ScriptedVerifier, drawn, judged

from planner.api import Planner
from planner.core import Completion, GenerationRequest
from planner.errors import EngineError
from planner.serve import Gateway, Settings, create_app


class Moody(ScriptedEngine):
    """An engine that can be made slow or broken while it serves."""

    def __init__(self, script=drawn, *, name: str = "small") -> None:  # type: ignore[no-untyped-def]
        super().__init__(script, name=name)
        self.seconds, self.broken, self.calls = 0.0, False, 0

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        self.calls += 1
        if self.broken:
            raise EngineError("connection refused", retryable=True)
        time.sleep(self.seconds)
        self.batches.clear()  # a long load test would keep every request
        return super().generate(requests)


class Served:
    """Where the server is, and what is behind it."""

    def __init__(self, url: str, gateway: Gateway, engine: Moody) -> None:
        self.url, self.gateway, self.engine = url, gateway, engine


def gateway_of(planner: Planner, engine: Moody, settings: Settings) -> Gateway:
    return Gateway(planner, {"small": engine}, ScriptedVerifier(judged), settings)


@contextmanager
def serving(planner: Planner, settings: Settings | None = None, engine: Moody | None = None) -> Iterator[Served]:
    moody = engine or Moody()
    gateway = gateway_of(planner, moody, settings or Settings())
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(create_app(gateway), log_level="error", access_log=False, timeout_graceful_shutdown=3)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", gateway, moody)
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


def finished(answer: str) -> str:
    return f"{answer}{END}"
