"""What waits for engines and verifier, across all running flows, and how it is batched."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from planner.core import Completion, StepScores
from planner.errors import EngineError, PlannerError, VerifierError
from planner.models.protocols import ContinuousEngine, ContinuousVerifier, Engine, Pending, Verifier
from planner.runtime.flights import Flights
from planner.runtime.session import Dropped, GenerationTicket, Result, ScoreTicket, Session, Ticket

__all__ = ["Answered", "Batch", "Queues", "Ticket"]

Answered: TypeAlias = tuple[Ticket, Result]
_Queue: TypeAlias = list[tuple[int, int, Ticket]]

_VERIFIER = ""  # the verifier's queue; no policy model has an empty name
_LANDED = "\n"  # stands for what continuous engines and verifiers have done; no policy model has such a name either
_PATIENCE = 16  # batches after which a shorter queue goes first: no flow starves while new ones keep arriving
_GLANCE = 0.005  # seconds that a driver waits at a time for what is under way, to see to its other work


@dataclass(frozen=True, slots=True)
class Batch:
    """Tickets for one engine (`name`) or the verifier, the earliest jobs first; or those that continuous ones have done
    (none, where they still work)."""

    name: str
    tickets: tuple[Ticket, ...]

    def halves(self) -> tuple[Batch, ...]:
        """Two batches with half of its flows each; none where it is one flow's."""
        flows = list(dict.fromkeys(ticket.session for ticket in self.tickets))
        if len(flows) < 2:
            return ()
        first = set(flows[: len(flows) // 2])
        return tuple(
            Batch(self.name, tuple(t for t in self.tickets if (t.session in first) == is_first))
            for is_first in (True, False)
        )


class Queues:
    """Tickets by engine, each queue ordered by job, then by position.

    A batch ends with its longest request, so requests that were cut to fit their flow's seconds are not batched with
    others that were not: they have queues of their own, which go first. A continuous engine or verifier has no batches:
    what waits for it is sent off at once, and lands when it is done.
    """

    def __init__(self, engines: Mapping[str, Engine], verifier: Verifier | None, max_batch: int) -> None:
        if max_batch < 1:
            raise ValueError(f"max_batch is {max_batch}")
        self.engines, self.verifier, self.max_batch = engines, verifier, max_batch
        self._flights = Flights()
        self._waiting: dict[tuple[str, bool], _Queue] = {}
        self._passed: dict[tuple[str, bool], int] = {}

    def add(self, tickets: Sequence[GenerationTicket] | Sequence[ScoreTicket]) -> None:
        for ticket in tickets:
            name = ticket.model if isinstance(ticket, GenerationTicket) else _VERIFIER
            queue = self._waiting.setdefault((name, _has_deadline(ticket)), [])
            heapq.heappush(queue, (ticket.session.number, ticket.position, ticket))

    def drop(self, session: Session) -> None:
        """Forget what a flow that was given up waits for."""
        for key, queue in list(self._waiting.items()):
            self._keep(key, [row for row in queue if row[2].session is not session])
        self._flights.drop(session)

    def close(self) -> None:
        """Cancel what is still under way."""
        self._flights.drop(None)

    def take(self) -> Batch | None:
        """The next batch, None where nothing waits: of the fullest queue, or of one that was passed over too often; but
        first whatever waits for a flow whose seconds have run out, which no engine is asked for, and what has landed.
        What waits for a continuous engine or verifier is sent off meanwhile."""
        for key, queue in self._waiting.items():
            # Asked once each, since time goes on.
            late = [row[2].session.ledger.late for row in queue] if key[1] else []
            if any(late):
                self._keep(key, [row for row, is_late in zip(queue, late, strict=True) if not is_late])
                return Batch(key[0], tuple(row[2] for row, is_late in zip(queue, late, strict=True) if is_late))
        for key, queue in list(self._waiting.items()):
            if (asked := self._continuous(key[0])) is not None:
                self._forget(key)
                self._send_off(asked, [row[2] for row in sorted(queue, key=lambda row: row[:2])])
        landed = self._flights.landed(0.0 if self._waiting else _GLANCE)
        if landed or not self._waiting:
            return Batch(_LANDED, landed) if landed or self._flights else None
        key = max(self._waiting, key=lambda k: (self._passed.get(k, 0) >= _PATIENCE, k[1], len(self._waiting[k])))
        queue = self._waiting[key]
        tickets = tuple(heapq.heappop(queue)[2] for _ in range(min(self.max_batch, len(queue))))
        for other in self._waiting:
            self._passed[other] = 0 if other == key else self._passed.get(other, 0) + 1
        if not queue:
            self._forget(key)
        return Batch(key[0], tickets)

    def _keep(self, key: tuple[str, bool], left: _Queue) -> None:
        heapq.heapify(left)
        self._waiting[key] = left
        if not left:
            self._forget(key)

    def answer(self, batch: Batch) -> list[Answered]:
        """Ask the engine or verifier; flows whose seconds have run out are not asked for. Raises what it raises, and
        EngineError or VerifierError for a wrong number of results."""
        if batch.name == _LANDED:
            return list(zip(batch.tickets, self._flights.results(batch.tickets), strict=True))
        dropped, tickets = list[Answered](), list[Ticket]()
        for ticket in batch.tickets:
            if ticket.session.ledger.late:
                dropped.append((ticket, Dropped.UNSENT))
            else:
                tickets.append(ticket)
        if not tickets:
            return dropped
        results: list[Result]
        if batch.name == _VERIFIER:
            assert self.verifier is not None
            results = list(self.verifier.score([t.request for t in tickets if isinstance(t, ScoreTicket)]))
            if len(results) != len(tickets):
                raise VerifierError(f"{len(results)} results for {len(tickets)} requests")
        else:
            requests = [t.request for t in tickets if isinstance(t, GenerationTicket)]
            results = list(self.engines[batch.name].generate(requests))
            if len(results) != len(tickets):
                raise EngineError(f"engine {batch.name!r}: {len(results)} results for {len(tickets)} requests")
        return [*zip(tickets, results, strict=True), *dropped]

    def _continuous(self, name: str) -> ContinuousEngine | ContinuousVerifier | None:
        asked = self.verifier if name == _VERIFIER else self.engines.get(name)
        return asked if isinstance(asked, ContinuousEngine | ContinuousVerifier) else None

    def _send_off(self, asked: ContinuousEngine | ContinuousVerifier, tickets: Sequence[Ticket]) -> None:
        """A request that is refused fails its own flow alone."""
        try:
            self._flights.add(tickets, _submitted(asked, tickets))
        except PlannerError as refusal:
            flows: dict[Session, list[Ticket]] = {}
            for ticket in tickets:
                flows.setdefault(ticket.session, []).append(ticket)
            if len(flows) == 1:
                self._flights.refuse(tickets, refusal)
                return
            for mine in flows.values():
                self._send_off(asked, mine)

    def _forget(self, key: tuple[str, bool]) -> None:
        del self._waiting[key]
        self._passed.pop(key, None)


def _submitted(
    asked: ContinuousEngine | ContinuousVerifier, tickets: Sequence[Ticket]
) -> list[Pending[Completion]] | list[Pending[StepScores]]:
    if isinstance(asked, ContinuousVerifier):
        return asked.submit([ticket.request for ticket in tickets if isinstance(ticket, ScoreTicket)])
    return asked.submit([ticket.request for ticket in tickets if isinstance(ticket, GenerationTicket)])


def _has_deadline(ticket: Ticket) -> bool:
    return ticket.session.ledger.budget_seconds is not None
