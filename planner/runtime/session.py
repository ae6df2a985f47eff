"""One running flow: its generator, its meter, its ledger, and what it waits for."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from planner.core import Answer, Completion, GenerationRequest, Outcome, Problem, ScoreRequest, StepScores
from planner.effects import Effect, Flow, Generate
from planner.errors import CapabilityError, OutOfBudget
from planner.models.cost import ModelShape
from planner.models.protocols import Engine, EngineInfo, Verifier, VerifierInfo
from planner.runtime.ledger import Ledger
from planner.runtime.meter import GenerationQuote, Meter, ScoreQuote
from planner.strategies import Strategy

__all__ = ["GenerationTicket", "ScoreTicket", "Session"]


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


@dataclass(slots=True, eq=False)
class Session:
    """Runs one flow. `tickets` gives what it waits for, `settle` takes the results; neither calls an engine.

    Requests of one effect whose worst cases the balance does not cover at once go out in waves: what the first ones
    give back may pay for the others. A request is cut short or refused only when nothing more can come back. Waves
    depend on this flow's results alone, so a flow run among others ends as it would alone.
    """

    number: int
    flow: Flow[Answer]
    meter: Meter
    ledger: Ledger
    default_policy_model: str
    answer: Answer | None = None
    _effect: Effect | None = None
    _replies: list[Completion | StepScores | None] = field(default_factory=list)
    _waiting: deque[int] = field(default_factory=deque)
    _unpaid: bool = False
    _in_flight: int = 0

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
    ) -> Session:
        """Raises CapabilityError where engine, verifier or their prices are not there for what the strategy needs."""
        models = {"policy_model": spec.policy_model or default_policy_model}
        if second := getattr(spec, "second_policy_model", None):
            models["second_policy_model"] = second
        for field_name, model in models.items():
            if model not in engines:
                raise CapabilityError(
                    "no such engine", where=spec.name, field=field_name, value=model, expected=", ".join(engines)
                )
        if spec.needs_verifier and verifier is None:
            raise CapabilityError("needs a verifier", where=spec.name, hint="Give one, or choose a vote instead")
        infos: list[EngineInfo | VerifierInfo] = [engines[model].info for model in models.values()]
        if verifier is not None and spec.needs_verifier:
            infos.append(verifier.info)
        session = cls(number, spec.solve(problem), Meter(engines, verifier), Ledger(budget_flops), default_policy_model)
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

    def settle(self, ticket: GenerationTicket | ScoreTicket, result: Completion | StepScores) -> bool:
        """Take one result; True when all that was in flight has come back."""
        if isinstance(ticket, GenerationTicket):
            assert isinstance(result, Completion)
            spent = self.meter.generated(ticket.model, ticket.request, ticket.quote, result)
            if ticket.capped and result.finish == "length":
                result = replace(result, finish="budget")
        else:
            assert isinstance(result, StepScores)
            spent = self.meter.scored(ticket.quote, result)
        self.ledger.settle(ticket.reserved_flops, spent)
        self._replies[ticket.position] = result
        self._in_flight -= 1
        return not self._in_flight

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
                    self.meter.round_done()
                self._effect = self.flow.send(tuple(self._replies))
        except StopIteration as stop:
            self.answer = stop.value
        except OutOfBudget:
            # A strategy without anything to show may let it pass.
            self.answer = Answer(answer=None, text="", outcome=Outcome.OUT_OF_BUDGET)
        else:
            self._replies = [None] * len(self._effect.requests)
            self._waiting = deque(range(len(self._effect.requests)))
            self._unpaid = False

    def _admit(self) -> list[GenerationTicket] | list[ScoreTicket]:
        if isinstance(self._effect, Generate):
            return self._admit_generation(self._effect)
        assert self._effect is not None
        return self._admit_scores(self._effect.requests)

    def _admit_generation(self, effect: Generate) -> list[GenerationTicket]:
        model, wave = effect.policy_model or self.default_policy_model, list[GenerationTicket]()
        while self._waiting:
            position = self._waiting[0]
            request = effect.requests[position]
            quote = self.meter.quote_generation(model, request)
            self._require_price(quote.shape, model)
            asked = allowed = request.sampling.max_tokens
            reserved = self.ledger.reserve(quote.total_flops(asked)) if self.ledger.limited else 0
            if reserved is None and wave:
                break
            self._waiting.popleft()
            if reserved is None:
                allowed = quote.affordable_tokens(self.ledger.balance_flops or 0, asked)
                reserved = self.ledger.reserve(quote.total_flops(allowed)) if allowed else None
            if reserved is None:
                tokens = quote.prefix_tokens + quote.prefill_tokens
                self._replies[position] = Completion(text="", finish="budget", prompt_tokens=tokens, generated_tokens=0)
                continue
            self.meter.admit(model, request)
            request = replace(request, sampling=replace(request.sampling, max_tokens=allowed))
            wave.append(GenerationTicket(self, position, model, request, quote, reserved, allowed < asked))
        return wave

    def _admit_scores(self, requests: tuple[ScoreRequest, ...]) -> list[ScoreTicket]:
        """All or nothing: prices are exact, so there is nothing to be given back that could pay for the rest."""
        self._waiting.clear()
        quotes = self.meter.quote_scores(requests)
        self._require_price(self.meter.equipped.info.shape, "verifier")
        # Each charge is rounded up to whole FLOPs, and so is what is reserved for it.
        amounts = [math.ceil(quote.flops) if self.ledger.limited else 0 for quote in quotes]
        if self.ledger.reserve(sum(amounts)) is None:
            self._unpaid = True
            return []
        self.meter.admit_scores(requests)
        rows = enumerate(zip(requests, quotes, amounts, strict=True))
        return [ScoreTicket(self, i, request, quote, amount) for i, (request, quote, amount) in rows]


def _refused(reply: Completion | StepScores | None) -> bool:
    return isinstance(reply, Completion) and reply.finish == "budget" and not reply.generated_tokens
