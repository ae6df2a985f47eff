"""Requests under way on continuous engines and verifiers, across all running flows: each is handed back when it ends,
and no flow waits for another's."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from planner.core import Completion, StepScores
from planner.errors import PlannerError
from planner.models.protocols import Pending
from planner.runtime.session import Dropped, Result, Session, Ticket

__all__ = ["Flights"]

_Pending: TypeAlias = Pending[Completion] | Pending[StepScores]


@dataclass(slots=True)
class Flights:
    """Not thread-safe, but for the threads that end the futures."""

    _open: dict[Future[Any], tuple[Ticket, _Pending]] = field(default_factory=dict)
    _limited: dict[Future[Any], Ticket] = field(default_factory=dict)
    _landed: dict[int, _Pending] = field(default_factory=dict)
    _ended: SimpleQueue[Future[Any]] = field(default_factory=SimpleQueue)
    _set_aside: deque[Future[Any]] = field(default_factory=deque)

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self, tickets: Sequence[Ticket], started: Sequence[_Pending]) -> None:
        """Tickets whose requests are under way."""
        for ticket, pending in zip(tickets, started, strict=True):
            self._open[pending.future] = ticket, pending
            if ticket.session.ledger.budget_seconds is not None:
                self._limited[pending.future] = ticket
            pending.future.add_done_callback(self._ended.put)

    def refuse(self, tickets: Sequence[Ticket], failure: PlannerError) -> None:
        """Tickets whose requests could not be started: they land at once, as what failed under way does."""
        futures: list[Future[Any]] = [Future() for _ in tickets]
        self.add(tickets, [Pending(future, lambda raw: raw) for future in futures])
        for future in futures:
            future.set_exception(failure)

    def landed(self, patience_seconds: float) -> tuple[Ticket, ...]:
        """The tickets of requests that have ended, or whose flow's seconds ran out, waiting for the first one if need
        be; one that failed comes alone, so that its failure is nobody else's."""
        for limited, ticket in list(self._limited.items()):
            if ticket.session.ledger.late:
                limited.cancel()  # does nothing to what has ended
        found = list[Future[Any]]()
        while (future := self._next(0.0 if found else patience_seconds)) is not None:
            if future not in self._open:
                continue  # its flow was given up
            if not future.cancelled() and future.exception() is not None:
                if found:
                    self._set_aside.append(future)
                else:
                    found.append(future)
                break
            found.append(future)
        return tuple(self._land(future) for future in found)

    def results(self, tickets: Sequence[Ticket]) -> list[Result]:
        """What became of tickets that have landed. Raises the engine's or verifier's failure."""
        ended = [self._landed.pop(id(ticket)) for ticket in tickets]
        return [Dropped.CANCELLED if each.future.cancelled() else each.result() for each in ended]

    def drop(self, session: Session | None) -> None:
        """Cancel a flow's requests, all flows' where there is no session."""
        for future, (ticket, _) in list(self._open.items()):
            if session is None or ticket.session is session:
                del self._open[future]
                self._limited.pop(future, None)
                future.cancel()

    def _land(self, future: Future[Any]) -> Ticket:
        ticket, pending = self._open.pop(future)
        self._limited.pop(future, None)
        self._landed[id(ticket)] = pending
        return ticket

    def _next(self, patience_seconds: float) -> Future[Any] | None:
        if self._set_aside:
            return self._set_aside.popleft()
        try:
            return self._ended.get(timeout=patience_seconds) if patience_seconds else self._ended.get_nowait()
        except Empty:
            return None
