"""What waits for engines and verifier, across all running flows, and how it is batched."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from planner.core import Completion, StepScores
from planner.errors import EngineError, VerifierError
from planner.models.protocols import Engine, Verifier
from planner.runtime.session import GenerationTicket, ScoreTicket, Session

__all__ = ["Answered", "Batch", "Queues", "Ticket"]

Ticket: TypeAlias = GenerationTicket | ScoreTicket
Answered: TypeAlias = tuple[Ticket, Completion | StepScores]

_VERIFIER = ""  # the verifier's queue; no policy model has an empty name
_PATIENCE = 16  # batches after which a shorter queue goes first: no flow starves while new ones keep arriving


@dataclass(frozen=True, slots=True)
class Batch:
    """Tickets for one engine (`name`) or the verifier, the earliest jobs first."""

    name: str
    tickets: tuple[Ticket, ...]


class Queues:
    """Tickets by engine, each queue ordered by job, then by position."""

    def __init__(self, engines: Mapping[str, Engine], verifier: Verifier | None, max_batch: int) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch is {max_batch}")
        self.engines, self.verifier, self.max_batch = engines, verifier, max_batch
        self._waiting: dict[str, list[tuple[int, int, Ticket]]] = {}
        self._passed: dict[str, int] = {}

    def add(self, tickets: Sequence[GenerationTicket] | Sequence[ScoreTicket]) -> None:
        for ticket in tickets:
            name = ticket.model if isinstance(ticket, GenerationTicket) else _VERIFIER
            heapq.heappush(self._waiting.setdefault(name, []), (ticket.session.number, ticket.position, ticket))

    def drop(self, session: Session) -> None:
        """Forget what a flow that was given up waits for."""
        for name, queue in list(self._waiting.items()):
            left = [row for row in queue if row[2].session is not session]
            heapq.heapify(left)
            self._waiting[name] = left
            if not left:
                self._forget(name)

    def take(self) -> Batch | None:
        """The next batch, None where nothing waits: of the fullest queue, or of one that was passed over too often."""
        if not self._waiting:
            return None
        name = max(self._waiting, key=lambda n: (self._passed.get(n, 0) >= _PATIENCE, len(self._waiting[n])))
        queue = self._waiting[name]
        tickets = tuple(heapq.heappop(queue)[2] for _ in range(min(self.max_batch, len(queue))))
        for other in self._waiting:
            self._passed[other] = 0 if other == name else self._passed.get(other, 0) + 1
        if not queue:
            self._forget(name)
        return Batch(name, tickets)

    def answer(self, batch: Batch) -> list[Answered]:
        """Ask the engine or verifier. Raises what it raises, and EngineError or VerifierError for a wrong number of
        results."""
        results: Sequence[Completion | StepScores]
        if batch.name == _VERIFIER:
            assert self.verifier is not None
            results = self.verifier.score([t.request for t in batch.tickets if isinstance(t, ScoreTicket)])
            if len(results) != len(batch.tickets):
                raise VerifierError(f"{len(results)} results for {len(batch.tickets)} requests")
        else:
            engine = self.engines[batch.name]
            results = engine.generate([t.request for t in batch.tickets if isinstance(t, GenerationTicket)])
            if len(results) != len(batch.tickets):
                raise EngineError(f"engine {batch.name!r}: {len(results)} results for {len(batch.tickets)} requests")
        return list(zip(batch.tickets, results, strict=True))

    def _forget(self, name: str) -> None:
        del self._waiting[name]
        self._passed.pop(name, None)
