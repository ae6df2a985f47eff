"""Runs a Python program that a model wrote, in a process of its own with limits.

What holds: wall-clock and processor time, memory, size of written files, no core dump, an empty folder to run in, an
environment without the caller's variables (no keys), no standard input, and the end of everything that it started.
What does not: this is no prison. The program may read what its user may read, and may reach the network. Run it in a
container or under a user of its own where the model is not trusted.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

__all__ = ["Limits", "Verdict", "run_program"]

Verdict: TypeAlias = Literal["passed", "failed", "timed out"]

# The program comes as a file and not as an argument, whose length is limited. Limits are set before it is read.
_START = """
import resource, sys
seconds, memory, written = map(int, sys.argv[1:4])
for kind, most in (
    (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, written),
    (resource.RLIMIT_CORE, 0),
):
    resource.setrlimit(kind, (most, most))
program, verdict, word = sys.argv[4:7]
del sys.argv[1:]
source = open(program, encoding="utf-8").read()
exec(compile(source, "program.py", "exec"), {"__name__": "__main__"})
open(verdict, "w").write(word)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """For one program: seconds of wall-clock (and whole seconds of processor time), bytes of memory and of a file."""

    seconds: float = 5.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20


def run_program(source: str, limits: Limits) -> Verdict:
    """Whether the program runs to its end without an exception; leaving early, by `sys.exit` too, is a failure."""
    word = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="planner-program-") as folder:
        # Beside the folder that the program runs in, so that it does not find them by looking around.
        home, program, verdict = Path(folder) / "home", Path(folder) / "program.py", Path(folder) / "verdict"
        home.mkdir()
        program.write_text(source, encoding="utf-8", errors="replace")
        sizes = [max(1, round(limits.seconds)), limits.memory_bytes, limits.file_bytes]
        process = subprocess.Popen(  # noqa: S603 # running it is the purpose, and the caller has asked for it
            [sys.executable, "-I", "-c", _START, *map(str, sizes), str(program), str(verdict), word],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=home,
            env={"PATH": os.defpath, "HOME": str(home), "OMP_NUM_THREADS": "1"}, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(limits.seconds)
        except subprocess.TimeoutExpired:
            return "timed out"
        finally:
            _end_group(process)
        # SIGXCPU and SIGKILL are what the limit of processor time ends in.
        if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            return "timed out"
        said = verdict.read_text(encoding="utf-8", errors="replace") if verdict.is_file() else ""
        return "passed" if said == word else "failed"


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it left running in its session."""
    with contextlib.suppress(ProcessLookupError):  # all of it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
