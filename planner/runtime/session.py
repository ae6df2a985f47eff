"""One running flow: its generator, its meter, its ledger, and what it waits for."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TypeAlias

from planner.core import Answer, Completion, GenerationRequest, Outcome, Problem, ScoreRequest, StepScores
from planner.effects import Effect, Flow, Generate
from planner.errors import CapabilityError, OutOfBudget
from planner.models.cost import ModelShape
from planner.models.latency import LatencyModel
from planner.models.protocols import Engine, EngineInfo, Verifier, VerifierInfo
from planner.runtime.ledger import Clock, Ledger
from planner.runtime.meter import GenerationQuote, Meter, ScoreQuote
from planner.strategies import Strategy

__all__ = ["Dropped", "GenerationTicket", "Result", "ScoreTicket", "Session", "Ticket"]


class Dropped(Enum):
    """What comes back instead of a result when its flow's seconds have run out."""

    UNSENT = auto()
    """It still waited: nothing was spent."""
    CANCELLED = auto()
    """It ran, and was cancelled: it is charged its worst case."""


Result: TypeAlias = Completion | StepScores | Dropped


@dataclass(frozen=True, slots=True)
class GenerationTicket:
    """A paid request on its way to an engine; `capped` where the balance covers fewer tokens than were asked for."""

    session: Session
    position: int
    model: str
    request: GenerationRequest
    quote: GenerationQuote
    reserved_flops: int
    capped: bool


@dataclass(frozen=True, slots=True)
class ScoreTicket:
    session: Session
    position: int
    request: ScoreRequest
    quote: ScoreQuote
    reserved_flops: int


Ticket: TypeAlias = GenerationTicket | ScoreTicket


@dataclass(slots=True, eq=False)
class Session:
    """Runs one flow. `tickets` gives what it waits for, `settle` takes the results; neither calls an engine.

    Requests of one effect whose worst cases the balance does not cover at once go out in waves: what the first ones
    give back may pay for the others. A request is cut short or refused only when nothing more can come back. Waves
    depend on this flow's results alone, so a flow run among others ends as it would alone; unless its seconds are
    limited. Then `latency` cuts requests to the tokens that fit in the time left, where the engine was measured, and an
    answer that is there after the deadline is out of budget. `seconds` is how long the flow took, once it has ended.
    """

    number: int
    flow: Flow[Answer]
    meter: Meter
    ledger: Ledger
    default_policy_model: str
    latency: LatencyModel | None = None
    answer: Answer | None = None
    seconds: float = math.nan
    _effect: Effect | None = None
    _replies: list[Completion | StepScores | None] = field(default_factory=list)
    _waiting: deque[int] = field(default_factory=deque)
    _unpaid: bool = False
    _in_flight: int = 0
    _longest: int = 0

    @classmethod
    def open(
        cls,
        number: int,
        problem: Problem,
        spec: Strategy,
        budget_flops: float | None,
        engines: Mapping[str, Engine],
        verifier: Verifier | None,
        default_policy_model: str,
        *,
        budget_seconds: float | None = None,
        latency: LatencyModel | None = None,
        clock: Clock = time.monotonic,
    ) -> Session:
        """Its seconds count from now on.

        Raises CapabilityError where engine, verifier or their prices are not there for what the strategy needs.
        """
        models = {"policy_model": spec.policy_model or default_policy_model}
        if second := getattr(spec, "second_policy_model", None):
            models["second_policy_model"] = second
        for field_name, model in models.items():
            if model not in engines:
                raise CapabilityError(
                    "no such engine", where=spec.name, field=field_name, value=model, expected=", ".join(engines)
                )
        if spec.needs_verifier and verifier is None:
            raise CapabilityError(
                "needs a verifier", where=spec.name, field="verifier", hint="Give one, or choose a vote instead"
            )
        infos: list[EngineInfo | VerifierInfo] = [engines[model].info for model in models.values()]
        if verifier is not None and spec.needs_verifier:
            infos.append(verifier.info)
        ledger = Ledger(budget_flops, budget_seconds, clock)
        session = cls(number, spec.solve(problem), Meter(engines, verifier), ledger, default_policy_model, latency)
        for info in infos:
            session._require_price(info.shape, info.name)
        return session

    def tickets(self) -> list[GenerationTicket] | list[ScoreTicket]:
        """What must be answered before the flow can go on; empty when it has ended or still waits for results."""
        if self._in_flight:
            return []
        while self.answer is None:
            if self._waiting:
                wave = self._admit()
                if wave:
                    self._in_flight = len(wave)
                    return wave
            if not self._waiting:
                self._advance()
        return []

    def settle(self, ticket: Ticket, result: Result) -> bool:
        """Take one result; True when all that was in flight has come back."""
        if isinstance(ticket, GenerationTicket):
            spent = self._settle_generation(ticket, result)
        elif isinstance(result, Dropped):
            spent = self.meter.scored(ticket.quote, None) if result is Dropped.CANCELLED else 0.0
            self._unpaid = True
        else:
            assert isinstance(result, StepScores)
            spent = self.meter.scored(ticket.quote, result)
            self._replies[ticket.position] = result
        self.ledger.settle(ticket.reserved_flops, spent)
        self._in_flight -= 1
        if not self._in_flight:
            self.meter.wave_done(self._longest)
            self._longest = 0
        return not self._in_flight

    def _settle_generation(self, ticket: GenerationTicket, result: Result) -> float:
        quote, allowed = ticket.quote, ticket.request.sampling.max_tokens
        if isinstance(result, Dropped):
            self._replies[ticket.position] = _refusal(quote)
            return self.meter.cancelled(quote, allowed) if result is Dropped.CANCELLED else 0.0
        assert isinstance(result, Completion)
        spent = self.meter.generated(ticket.model, ticket.request, quote, result)
        self._longest = max(self._longest, result.generated_tokens)
        if ticket.capped and result.finish == "length":
            result = replace(result, finish="budget")
        self._replies[ticket.position] = result
        return spent

    def close(self) -> None:
        self.flow.close()

    def _require_price(self, shape: ModelShape | None, name: str) -> None:
        if self.ledger.limited and shape is None:
            raise CapabilityError(
                "a budget in FLOPs cannot be held without the model's config", field="model", value=name
            )

    def _advance(self) -> None:
        """Answer the effect that is complete (or cannot be paid) and take up the flow's next one."""
        try:
            if self._effect is None:
                self._effect = next(self.flow)
            elif self._unpaid or (self._replies and all(_refused(r) for r in self._replies)):
                self._effect = self.flow.throw(OutOfBudget("the balance does not cover the request"))
            else:
                if self._replies:
                    self.meter.round_done(scoring=not isinstance(self._effect, Generate))
                self._effect = self.flow.send(tuple(self._replies))
        except StopIteration as stop:
            self._end(stop.value)
        except OutOfBudget:
            # A strategy without anything to show may let it pass.
            self._end(Answer(answer=None, text="", outcome=Outcome.OUT_OF_BUDGET))
        else:
            self._replies = [None] * len(self._effect.requests)
            self._waiting = deque(range(len(self._effect.requests)))
            self._unpaid = False

    def _end(self, answer: Answer) -> None:
        self.seconds = self.ledger.spent_seconds
        late = self.ledger.late and answer.outcome is not Outcome.FAILED
        self.answer = replace(answer, outcome=Outcome.OUT_OF_BUDGET) if late else answer

    def _admit(self) -> list[GenerationTicket] | list[ScoreTicket]:
        if isinstance(self._effect, Generate):
            return self._admit_generation(self._effect)
        assert self._effect is not None
        return self._admit_scores(self._effect.requests)

    def _admit_generation(self, effect: Generate) -> list[GenerationTicket]:
        model, wave = effect.policy_model or self.default_policy_model, list[GenerationTicket]()
        left, rows = self.ledger.balance_seconds, len(self._waiting)
        input_tokens = 0 if left is None else self._input_tokens(model, effect)
        while self._waiting:
            position = self._waiting[0]
            request = effect.requests[position]
            quote = self.meter.quote_generation(model, request)
            self._require_price(quote.shape, model)
            asked = request.sampling.max_tokens
            in_time = self._tokens_in_time(model, left, rows, input_tokens, asked)
            allowed, reserved = in_time, None
            if in_time:
                reserved = self.ledger.reserve(quote.total_flops(in_time)) if self.ledger.limited else 0
                if reserved is None and wave:
                    break
            self._waiting.popleft()
            if in_time and reserved is None:
                allowed = quote.affordable_tokens(self.ledger.balance_flops or 0, in_time)
                reserved = self.ledger.reserve(quote.total_flops(allowed)) if allowed else None
            if reserved is None:
                self._replies[position] = _refusal(quote)
                continue
            self.meter.admit(model, request)
            if allowed < asked:
                request = replace(request, sampling=replace(request.sampling, max_tokens=allowed))
            wave.append(GenerationTicket(self, position, model, request, quote, reserved, allowed < asked))
        return wave

    def _input_tokens(self, model: str, effect: Generate) -> int:
        """What all requests that still wait must have read before the first token of any comes."""
        waiting = {(r.prompt, r.prefix): r for r in (effect.requests[position] for position in self._waiting)}
        return sum(self.meter.unread_tokens(model, request) for request in waiting.values())

    def _tokens_in_time(self, model: str, left: float | None, rows: int, input_tokens: int, asked: int) -> int:
        """The tokens, of those `asked` for, that each of `rows` requests can generate in the seconds that are left."""
        if left is None:
            return asked
        latency = self.latency.engines.get(model) if self.latency is not None else None
        if latency is None:
            return asked if left > 0 else 0
        return latency.affordable_tokens(left, input_tokens=input_tokens, rows=rows, at_most=asked)

    def _scored_in_time(self, tokens: int) -> bool:
        left, latency = self.ledger.balance_seconds, self.latency.verifier if self.latency is not None else None
        if left is None or latency is None:
            return left is None or left > 0
        return latency.seconds(tokens) <= left

    def _admit_scores(self, requests: tuple[ScoreRequest, ...]) -> list[ScoreTicket]:
        """All or nothing: prices are exact, so there is nothing to be given back that could pay for the rest."""
        self._waiting.clear()
        quotes = self.meter.quote_scores(requests)
        self._require_price(self.meter.equipped.info.shape, "verifier")
        # Each charge is rounded up to whole FLOPs, and so is what is reserved for it.
        amounts = [math.ceil(quote.flops) if self.ledger.limited else 0 for quote in quotes]
        if not self._scored_in_time(sum(q.tokens for q in quotes)) or self.ledger.reserve(sum(amounts)) is None:
            self._unpaid = True
            return []
        self.meter.admit_scores(requests)
        rows = enumerate(zip(requests, quotes, amounts, strict=True))
        return [ScoreTicket(self, i, request, quote, amount) for i, (request, quote, amount) in rows]


def _refusal(quote: GenerationQuote) -> Completion:
    tokens = quote.prefix_tokens + quote.prefill_tokens
    return Completion(text="", finish="budget", prompt_tokens=tokens, generated_tokens=0)


def _refused(reply: Completion | StepScores | None) -> bool:
    return isinstance(reply, Completion) and reply.finish == "budget" and not reply.generated_tokens
