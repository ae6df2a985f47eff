"""FOR TESTS ONLY: real servers on loopback ports: in a thread, with scripted engines behind it, and `planner serve` in a
process of its own, which can be killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from scripted import END, ScriptedEngine, ScriptedVerifier, drawn, judged

from planner.api import Planner
from planner.core import Completion, GenerationRequest
from planner.errors import EngineError
from planner.serve import Gateway, Settings
from planner.serve.start import make_server


class Moody(ScriptedEngine):
    """An engine that can be made slow or broken while it serves."""

    def __init__(self, script=drawn, *, name: str = "small") -> None:  # type: ignore[no-untyped-def]
        super().__init__(script, name=name)
        self.seconds, self.broken, self.calls = 0.0, False, 0

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        self.calls += 1
        if self.broken:
            raise EngineError(f"connection refused; request: {requests[0].prompt!r}", retryable=True)
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
        server = make_server(gateway)
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


class ServerProcess:
    """`planner serve WORDS...` on a port that it keeps when it is started again; what it says goes to the file `said`."""

    def __init__(self, said: Path, *words: object) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url, self.said = f"http://127.0.0.1:{self.port}", said
        self._words = [sys.executable, "-m", "planner.cli", "serve", "--port", str(self.port), *map(str, words)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
        with self.said.open("ab") as file:
            self._process = subprocess.Popen(self._words, env=environment, stdout=file, stderr=file)

    @property
    def ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.said.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/ready", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def wait_until_ready(self, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not self.ready:
            assert time.monotonic() < deadline, self.said.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @property
    def resident_bytes(self) -> int:
        assert self._process is not None
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def __enter__(self) -> ServerProcess:
        self.start()
        self.wait_until_ready()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(30)
        if kind is None:
            said = self.said.read_text()
            assert code == 0, said
            assert "Traceback" not in said


def finished(answer: str) -> str:
    return f"{answer}{END}"
