"""What one flow's requests cost, from the flow's own history alone.

A charge must not depend on what other flows left in a cache, so logical tokens are counted here and not taken from
engines: a prompt's prefill is charged once in a flow, a search step's prefix is free where the engine keeps prefixes
and this flow generated it, and an incremental verifier's input is charged beyond its longest prefix scored before.
Computed tokens are what engines and verifiers report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from planner.core import Completion, Cost, GenerationRequest, ScoreRequest, StepScores, Usage
from planner.errors import CapabilityError, EngineError
from planner.models.cost import ModelShape, scoring_cost
from planner.models.protocols import Engine, Verifier

__all__ = ["GenerationQuote", "Meter", "ScoreQuote"]

_Scored: TypeAlias = tuple[str, tuple[str, ...]]
"""A prompt and the steps of an answer that were scored; no steps is the prompt alone."""


@dataclass(frozen=True, slots=True)
class GenerationQuote:
    """Price of one request before it goes out. `prefill_tokens` new ones follow `prefix_tokens` that are free."""

    shape: ModelShape | None
    prefix_tokens: int
    prefill_tokens: int

    @property
    def prefill_flops(self) -> float:
        if not self.prefill_tokens:
            return 0.0
        return math.nan if self.shape is None else self.shape.prefill_flops(self.prefill_tokens, self.prefix_tokens)

    def decode_flops(self, generated_tokens: int) -> float:
        context = self.prefix_tokens + self.prefill_tokens
        return math.nan if self.shape is None else self.shape.decode_flops(context, generated_tokens)

    def total_flops(self, generated_tokens: int) -> float:
        return self.prefill_flops + self.decode_flops(generated_tokens)

    def affordable_tokens(self, balance_flops: int, at_most: int) -> int:
        """The most generated tokens whose total price the balance covers, 0 for none; the price grows with tokens."""
        low, high = 0, at_most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.total_flops(middle) <= balance_flops else (low, middle - 1)
        return low


@dataclass(frozen=True, slots=True)
class ScoreQuote:
    """Price of one score request; exact, since nothing is drawn."""

    tokens: int
    flops: float


@dataclass(slots=True)
class Meter:
    """One flow's history, usage and cost. Both are counted in place, since every result of a search adds to them."""

    engines: Mapping[str, Engine]
    verifier: Verifier | None
    _usage: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Usage.__slots__, 0))
    _cost: dict[str, float] = field(default_factory=lambda: dict.fromkeys(Cost.__slots__, 0.0))
    _known: set[tuple[str, str, str]] = field(default_factory=set)
    _scored: set[_Scored] = field(default_factory=set)

    @property
    def usage(self) -> Usage:
        """What has been counted up to now."""
        return Usage(**self._usage)

    @property
    def cost(self) -> Cost:
        """FLOPs up to now, NaN in the parts of a model whose config is unknown."""
        return Cost(**self._cost)

    def quote_generation(self, model: str, request: GenerationRequest) -> GenerationQuote:
        """What the request would be charged now; `admit` makes its input known to the requests after it."""
        if model not in self.engines:
            raise CapabilityError("no such engine", field="policy_model", value=model, expected=", ".join(self.engines))
        engine = self.engines[model]
        total = engine.count_tokens(request.prompt, request.prefix)
        free = 0
        if (model, request.prompt, request.prefix) in self._known:
            free = total
        elif request.prefix and engine.info.caches_prefixes and (model, request.prompt, "") in self._known:
            free = engine.count_tokens(request.prompt)
        return GenerationQuote(engine.info.shape, free, total - free)

    def unread_tokens(self, model: str, request: GenerationRequest) -> int:
        """What the engine has to read for the request: all where it keeps nothing, although that is charged once."""
        quote = self.quote_generation(model, request)
        kept = self.engines[model].info.caches_prefixes
        return quote.prefill_tokens if kept else quote.prefix_tokens + quote.prefill_tokens

    def admit(self, model: str, request: GenerationRequest) -> None:
        self._known.add((model, request.prompt, request.prefix))

    def quote_scores(self, requests: Sequence[ScoreRequest]) -> list[ScoreQuote]:
        """What these requests would be charged now, in order; `admit_scores` makes them known to those after them."""
        known, quotes = set(self._scored), list[ScoreQuote]()
        for request in requests:
            quotes.append(self._quote_score(request, known))
            known |= _prefixes(request)
        return quotes

    def admit_scores(self, requests: Sequence[ScoreRequest]) -> None:
        for request in requests:
            self._scored |= _prefixes(request)

    def _quote_score(self, request: ScoreRequest, known: set[_Scored]) -> ScoreQuote:
        verifier, steps = self.equipped, request.steps
        total, free, kept = verifier.count_tokens(request.prompt, steps), 0, 0
        if verifier.info.incremental and (request.prompt, ()) in known:
            kept = max(k for k in range(len(steps) + 1) if (request.prompt, steps[:k]) in known)
            free = min(verifier.count_tokens(request.prompt, steps[:kept]), total)
        if free == total:
            return ScoreQuote(0, 0.0)
        shape, new = verifier.info.shape, total - free
        flops = math.nan if shape is None else scoring_cost(shape, new, free, len(steps) - kept)
        return ScoreQuote(new, flops)

    @property
    def equipped(self) -> Verifier:
        if self.verifier is None:
            raise CapabilityError("scores were asked for, but there is no verifier", field="verifier")
        return self.verifier

    def generated(
        self, model: str, request: GenerationRequest, quote: GenerationQuote, completion: Completion
    ) -> float:
        """Count one completion and return its FLOPs. Raises EngineError where it exceeds the tokens asked for."""
        if completion.generated_tokens > request.sampling.max_tokens:
            raise EngineError(f"engine {model!r} returned more tokens than the {request.sampling.max_tokens} asked for")
        if self.engines[model].info.caches_prefixes:
            self._known.add((model, request.prompt, request.prefix + completion.text))
        prefill_flops, decode_flops = quote.prefill_flops, quote.decode_flops(completion.generated_tokens)
        self._count(
            requests=1,
            prompt_tokens=quote.prefill_tokens,
            cached_tokens=completion.cached_tokens,
            generated_tokens=completion.generated_tokens,
            computed_prompt_tokens=completion.prompt_tokens - completion.cached_tokens,
        )
        self._charge(prefill_flops=prefill_flops, decode_flops=decode_flops)
        return prefill_flops + decode_flops

    def scored(self, quote: ScoreQuote, result: StepScores | None) -> float:
        """Count one scored answer, or one that was cancelled while it was scored (None), and return its FLOPs."""
        computed = 0 if result is None else result.computed_tokens
        self._count(requests=1, scored_tokens=quote.tokens, computed_scored_tokens=computed)
        self._charge(verifier_flops=quote.flops)
        return quote.flops

    def cancelled(self, quote: GenerationQuote, max_tokens: int) -> float:
        """Count a request that was cancelled while it ran as all that it may have generated, and return its FLOPs:
        what it did generate is not known."""
        self._count(requests=1, prompt_tokens=quote.prefill_tokens, generated_tokens=max_tokens)
        self._charge(prefill_flops=quote.prefill_flops, decode_flops=quote.decode_flops(max_tokens))
        return quote.total_flops(max_tokens)

    def wave_done(self, decode_steps: int) -> None:
        """All that was in flight has come back; the longest completion took so many steps."""
        self._count(decode_steps=decode_steps)

    def round_done(self, *, scoring: bool) -> None:
        self._count(rounds=1, scoring_rounds=int(scoring))

    def _count(self, **more: int) -> None:
        for name, number in more.items():
            self._usage[name] += number

    def _charge(self, **more_flops: float) -> None:
        for name, flops in more_flops.items():
            self._cost[name] += flops


def _prefixes(request: ScoreRequest) -> set[_Scored]:
    return {(request.prompt, request.steps[:k]) for k in range(len(request.steps) + 1)}
