"""What every engine and every verifier is: batches in, batches out.

An implementation must hold these obligations; `planner.models.contract` checks them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from planner.core import Completion, GenerationRequest, ScoreRequest, StepScores
from planner.models.cost import ModelShape

__all__ = [
    "ContinuousEngine",
    "ContinuousVerifier",
    "Engine",
    "EngineInfo",
    "Pending",
    "Verifier",
    "VerifierInfo",
    "collected",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """Who generates. `fingerprint` changes whenever the same request could give another text.

    `shape` (None where the model's config is unknown) prices tokens in FLOPs. `caches_prefixes`: the keys and values of
    a prefix generated before are reused, so a search step pays for its own tokens only.
    """

    name: str
    fingerprint: str
    shape: ModelShape | None
    caches_prefixes: bool
    max_context_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierInfo:
    """Who scores. `incremental`: a step costs its own tokens because the prefix's keys and values are kept.

    `outcome`: one score for the (partial) answer as a whole, instead of one for each step.
    """

    name: str
    fingerprint: str
    shape: ModelShape | None
    incremental: bool
    outcome: bool = False


@runtime_checkable
class Engine(Protocol):
    """Generates text."""

    @property
    def info(self) -> EngineInfo: ...

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """One completion for each request, in order. A request's result depends on the request alone."""
        ...

    def count_tokens(self, prompt: str, prefix: str = "") -> int:
        """Tokens of the model's input for this prompt and partial answer, special tokens included."""
        ...

    def reset(self) -> None:
        """Forget kept prefixes, so that what follows does not depend on what came before."""
        ...


@dataclass(frozen=True, slots=True)
class Pending(Generic[T]):
    """A request under way. `future` ends when its answer is there; cancelling it drops the request."""

    future: Future[Any]
    read: Callable[[Any], T]

    def result(self) -> T:
        """Waits for it. Raises what `Engine.generate` or `Verifier.score` raises."""
        return self.read(self.future.result())


def collected(pending: Sequence[Pending[T]]) -> list[T]:
    """All results, in order. Raises a failure as soon as there is one; the other requests are then dropped."""
    try:
        done = wait([each.future for each in pending], return_when=FIRST_EXCEPTION).done
        for each in pending:
            if each.future in done and (failure := each.future.exception()) is not None:
                raise failure
        return [each.result() for each in pending]
    finally:
        for each in pending:
            each.future.cancel()  # does nothing to those that are done


@runtime_checkable
class ContinuousEngine(Engine, Protocol):
    """An engine whose running batch requests may join and leave at any time, so that nobody waits for others' ends."""

    def submit(self, requests: Sequence[GenerationRequest]) -> list[Pending[Completion]]:
        """Start each request, in order, and return at once. Raises InputError or CapabilityError as `generate` does
        before it asks."""
        ...


@runtime_checkable
class Verifier(Protocol):
    """Scores partial answers."""

    @property
    def info(self) -> VerifierInfo: ...

    def score(self, requests: Sequence[ScoreRequest]) -> list[StepScores]:
        """Step scores for each request, in order. A request's scores depend on the request alone."""
        ...

    def count_tokens(self, prompt: str, steps: Sequence[str]) -> int:
        """Tokens of the verifier's input for this prompt and these steps."""
        ...

    def reset(self) -> None:
        """Forget kept prefixes."""
        ...


@runtime_checkable
class ContinuousVerifier(Verifier, Protocol):
    """A verifier that is asked anew while it still scores what it was asked before."""

    def submit(self, requests: Sequence[ScoreRequest]) -> list[Pending[StepScores]]:
        """Start each request, in order, and return at once. Raises VerifierError as `score` does before it asks."""
        ...
