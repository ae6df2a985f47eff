"""Profiles with scripted models, slowly: run in a process of its own by test_profile, which kills it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scripted import ScriptedEngine, ScriptedVerifier, drawn, judged

from planner.core import Completion, GenerationRequest
from planner.profiling.run import ProfileReport, profile


class SlowEngine(ScriptedEngine):
    """Its results depend on what it remembers and on the batch's size in the last digits, as real ones do."""

    delay = 0.0

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        time.sleep(self.delay)
        return super().generate(requests)


class RoundingVerifier(ScriptedVerifier):
    def __init__(self) -> None:
        super().__init__(judged)
        self.calls = 0

    def reset(self) -> None:
        self.calls = 0

    def score(self, requests: Sequence) -> list:  # type: ignore[type-arg]
        from dataclasses import replace

        self.calls += 1
        shift = 1e-3 * len(requests) + 1e-2 * self.calls
        return [replace(s, scores=tuple(v + shift for v in s.scores)) for s in super().score(requests)]


def run(recipe: Path, bank: Path, *, delay: float = 0.0, **options: bool) -> ProfileReport:
    engines = {name: SlowEngine(drawn, name=name) for name in ("small", "large")}
    for engine in engines.values():
        engine.delay = delay
    return profile(recipe, bank, engines=engines, verifier=RoundingVerifier(), **options)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), delay=float(sys.argv[3]))
