"""An engine and a verifier that remember: what several runs ask for in common is generated and scored once.

A request's result depends on the request alone, so a remembered one is what asking again would give, up to the rounding
of another batch. Meters see no difference: logical tokens are charged to every run, `fresh_tokens` counts what was
really made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from planner.core import Completion, GenerationRequest, ScoreRequest, StepScores
from planner.models.protocols import Engine, EngineInfo, Verifier, VerifierInfo

__all__ = ["RememberingEngine", "RememberingVerifier"]


class RememberingEngine:
    """`engine`, asked once for each request. `fresh_tokens`: generated tokens that were not remembered ones. `asked`
    hears of every request, remembered or not."""

    def __init__(self, engine: Engine, *, asked: Callable[[GenerationRequest, Completion], None] | None = None) -> None:
        self.engine, self._asked = engine, asked
        self.fresh_tokens = 0
        self._known: dict[str, Completion] = {}

    @property
    def info(self) -> EngineInfo:
        return self.engine.info

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """One completion for each request, in order. Raises what the engine raises."""
        keys = [request.key(self.info.fingerprint) for request in requests]
        new = {key: request for key, request in zip(keys, requests, strict=True) if key not in self._known}
        if new:
            made = self.engine.generate(list(new.values()))
            self._known.update(zip(new, made, strict=True))
            self.fresh_tokens += sum(completion.generated_tokens for completion in made)
        # Only the first one was computed; to the others the whole input was at hand.
        first = set(new)
        found = []
        for key in keys:
            completion = self._known[key]
            if key not in first:
                completion = replace(completion, cached_tokens=completion.prompt_tokens)
            first.discard(key)
            found.append(completion)
        if self._asked is not None:
            for request, completion in zip(requests, found, strict=True):
                self._asked(request, completion)
        return found

    def count_tokens(self, prompt: str, prefix: str = "") -> int:
        return self.engine.count_tokens(prompt, prefix)

    def reset(self) -> None:
        """Forget the engine's kept prefixes; results stay."""
        self.engine.reset()


class RememberingVerifier:
    """`verifier`, asked once for each answer."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier
        self._known: dict[tuple[str, tuple[str, ...]], StepScores] = {}

    @property
    def info(self) -> VerifierInfo:
        return self.verifier.info

    def score(self, requests: Sequence[ScoreRequest]) -> list[StepScores]:
        """Step scores for each request, in order. Raises what the verifier raises."""
        keys = [(request.prompt, request.steps) for request in requests]
        new = {key: request for key, request in zip(keys, requests, strict=True) if key not in self._known}
        if new:
            self._known.update(zip(new, self.verifier.score(list(new.values())), strict=True))
        first = set(new)
        found = []
        for key in keys:
            scores = self._known[key]
            if key not in first:
                scores = replace(scores, new_tokens=0, computed_tokens=0)
            first.discard(key)
            found.append(scores)
        return found

    def count_tokens(self, prompt: str, steps: Sequence[str]) -> int:
        return self.verifier.count_tokens(prompt, steps)

    def reset(self) -> None:
        """Forget the verifier's kept prefixes; scores stay."""
        self.verifier.reset()
