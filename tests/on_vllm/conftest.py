"""A real vLLM, started once for all tests here: a server for each laboratory model, and both in this process.

    sh scripts/vllm_env.sh && .venv-vllm/bin/python -m pytest tests/on_vllm

(The folder is not called `vllm`: the main suite has `tests` on its path, where that name would hide the package.)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

# What the main suite's tests share, and how benchmarks start a server.
sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "benchmarks")]

from vllm_servers import SETTINGS
from vllm_servers import servers as started

EAGER = "dtype=float32&enforce_eager=true"

if find_spec("vllm") is not None:
    os.environ.update(SETTINGS)  # before vLLM is imported


@pytest.fixture(scope="session")
def lab():
    """The folder of a laboratory model."""
    from planner.models.shipped import shipped

    return lambda name: shipped("models", f"lab/{name}")


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses by model."""
    logs = tmp_path_factory.mktemp("servers")
    with started(Path(sys.executable), logs, "lab-small", "lab-prm") as both:
        yield {server.name: server.url for server in both}


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
