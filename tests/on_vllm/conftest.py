"""A real vLLM, started once for all tests here: a server for each laboratory model, and both in this process.

    sh scripts/vllm_env.sh && .venv-vllm/bin/python -m pytest tests/on_vllm

(The folder is not called `vllm`: the main suite has `tests` on its path, where that name would hide the package.)
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # what the main suite's tests share

# Before vLLM is imported: nothing is fetched or reported, and nothing is compiled, which would take longer than it saves.
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
    "TORCH_COMPILE_DISABLE": "1",
}
EAGER = "dtype=float32&enforce_eager=true"
PATIENCE = 900.0  # seconds until a server must be up; on a free core it takes half a minute

if find_spec("vllm") is not None:
    os.environ.update(SETTINGS)


@contextmanager
def serving(folder: Path, log: Path, *flags: str) -> Iterator[str]:
    """The address of vLLM's server for a folder's model, which is started and not waited for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name",
        folder.name, "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager",
        "--distributed-executor-backend", "uni", *flags,
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process:
        try:
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_until_up(address: str, log: Path) -> str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(address.removesuffix("/v1") + "/health", timeout=5):
                return address
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.5)
    raise AssertionError(f"vLLM did not start within {PATIENCE:.0f} s:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def lab():
    """The folder of a laboratory model."""
    from planner.models.shipped import shipped

    return lambda name: shipped("models", f"lab/{name}")


@pytest.fixture(scope="session")
def servers(lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses by model; both start while the engines in this process do."""
    from planner.models.cards import load_card
    from planner.models.pooling_verifier import vllm_flags

    logs = tmp_path_factory.mktemp("servers")
    flags = {
        "lab-small": ["--block-size", "32", "--generation-config", "vllm", "--enable-prompt-tokens-details"],
        "lab-prm": vllm_flags(load_card(lab("lab-prm") / "verifier.toml"), lab("lab-prm")),
    }
    with ExitStack() as stack:
        started = {name: stack.enter_context(serving(lab(name), logs / name, *more)) for name, more in flags.items()}
        yield {name: wait_until_up(address, logs / name) for name, address in started.items()}


@pytest.fixture(scope="session")
def engine(lab):
    """lab-small in this process."""
    from planner.models.shipped import load_engine

    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    made = load_engine(f"vllm:{lab('lab-small')}?{EAGER}")
    yield made
    made.close()


@pytest.fixture(scope="session")
def verifier(lab):
    """lab-prm in this process."""
    from planner.models.shipped import load_verifier

    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    made = load_verifier(f"vllm:{lab('lab-prm')}?{EAGER}")
    yield made
    made.close()
