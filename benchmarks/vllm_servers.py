"""Real vLLM servers of laboratory models, for benchmarks and tests/on_vllm, and what a server itself counts of what it
did."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from planner.models.cards import load_card
from planner.models.pooling_verifier import vllm_flags
from planner.models.shipped import shipped

# Nothing is fetched or reported, and nothing is compiled, which would take longer than it saves.
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_SERVER_DEV_MODE": "1",  # lets the prefix cache be emptied between passes
}
PATIENCE = 900.0  # seconds until a server must be up; on a free core it takes half a minute
SETTLED, LONGEST_SETTLING = 0.3, 10.0  # seconds: counters follow answers by a moment

_COUNTERS = {
    "sequences": "vllm:request_success_total",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "cached_tokens": "vllm:prefix_cache_hits_total",
    "generated_tokens": "vllm:generation_tokens_total",
}


@dataclass(frozen=True, slots=True)
class Counts:
    """What a server has done since it started, by its own `/metrics`; a request with n = 8 is 8 sequences."""

    sequences: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int

    def since(self, before: Counts) -> Counts:
        return Counts(*(getattr(self, name) - getattr(before, name) for name in _COUNTERS))


@dataclass(frozen=True, slots=True)
class Server:
    """`url` ends in /v1; `name` is the model's."""

    url: str
    name: str
    folder: Path

    def counts(self) -> Counts:
        """Read once they stand still."""
        end, last = time.monotonic() + LONGEST_SETTLING, self._counts()
        while time.monotonic() < end:
            time.sleep(SETTLED)
            now = self._counts()
            if now == last:
                return now
            last = now
        raise RuntimeError(
            f"{self.name}: the server's counters still move {LONGEST_SETTLING:g} s after the last answer"
        )

    def forget(self) -> None:
        """Empty the prefix cache, so that no pass profits from the one before."""
        httpx.post(self._root + "/reset_prefix_cache", timeout=60).raise_for_status()

    @property
    def _root(self) -> str:
        return self.url.removesuffix("/v1")

    def _counts(self) -> Counts:
        text = httpx.get(self._root + "/metrics", timeout=60).raise_for_status().text
        found = {}
        for field, name in _COUNTERS.items():
            values = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
            if not values:
                raise RuntimeError(f"{self.name}: /metrics has no {name}; it was written for vLLM 0.32")
            found[field] = round(sum(float(value) for value in values))
        return Counts(**found)


@contextmanager
def servers(python: Path, logs: Path, policy: str, verifier: str) -> Iterator[tuple[Server, Server]]:
    """(the policy's, the verifier's), both up; they end with the context. `python` is an environment's with vLLM."""
    folders = [shipped("models", f"lab/{name}") for name in (policy, verifier)]
    flags = [
        # Prompts whole: vLLM 0.32 on a CPU ends where a seeded request's prompt is read in parts.
        [
            "--block-size",
            "32",
            "--generation-config",
            "vllm",
            "--enable-prompt-tokens-details",
            "--no-enable-chunked-prefill",
        ],
        vllm_flags(load_card(folders[1] / "verifier.toml"), folders[1]),
    ]
    with ExitStack() as stack:
        started = [
            stack.enter_context(_serving(python, folder, logs / f"{folder.name}.log", more))
            for folder, more in zip(folders, flags, strict=True)
        ]
        yield started[0](), started[1]()


@contextmanager
def _serving(python: Path, folder: Path, log: Path, flags: list[str]) -> Iterator[Callable[[], Server]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name",
        folder.name, "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager",
        "--distributed-executor-backend", "uni", *flags,
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "VLLM_ENABLE_V1_MULTIPROCESSING"} | SETTINGS
    with (
        log.open("wb") as out,
        subprocess.Popen(  # noqa: S603 # of this file's own making
            command, stdout=out, stderr=out, env=environment
        ) as process,
    ):

        def up() -> Server:
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end and process.poll() is None:
                try:
                    if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).is_success:
                        return Server(f"http://127.0.0.1:{port}/v1", folder.name, folder)
                except httpx.TransportError:
                    pass
                time.sleep(0.5)
            raise RuntimeError(f"vLLM for {folder.name} is not up:\n{log.read_text()[-3000:]}")

        try:
            yield up
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
