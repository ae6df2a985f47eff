"""Requests under way on continuous engines, across all running flows: each is handed back when it ends, and no flow
waits for another's."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from planner.models.protocols import ContinuousEngine, Pending
from planner.runtime.session import Dropped, GenerationTicket, Result, Session

__all__ = ["Flights"]


@dataclass(slots=True)
class Flights:
    """Not thread-safe, but for the engines' threads that end the futures."""

    _open: dict[Future[Any], tuple[GenerationTicket, Pending]] = field(default_factory=dict)
    _limited: dict[Future[Any], GenerationTicket] = field(default_factory=dict)
    _landed: dict[int, Pending] = field(default_factory=dict)
    _ended: SimpleQueue[Future[Any]] = field(default_factory=SimpleQueue)
    _set_aside: deque[Future[Any]] = field(default_factory=deque)

    def __bool__(self) -> bool:
        return bool(self._open)

    def launch(self, engine: ContinuousEngine, tickets: Sequence[GenerationTicket]) -> None:
        """Start the tickets' requests. Raises what `submit` raises."""
        for ticket, pending in zip(tickets, engine.submit([t.request for t in tickets]), strict=True):
            self._open[pending.future] = ticket, pending
            if ticket.session.ledger.budget_seconds is not None:
                self._limited[pending.future] = ticket
            pending.future.add_done_callback(self._ended.put)

    def landed(self, patience_seconds: float) -> tuple[GenerationTicket, ...]:
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

    def results(self, tickets: Sequence[GenerationTicket]) -> list[Result]:
        """What became of tickets that have landed. Raises the engine's failure."""
        ended = [self._landed.pop(id(ticket)) for ticket in tickets]
        return [Dropped.CANCELLED if each.future.cancelled() else each.completion() for each in ended]

    def drop(self, session: Session | None) -> None:
        """Cancel a flow's requests, all flows' where there is no session."""
        for future, (ticket, _) in list(self._open.items()):
            if session is None or ticket.session is session:
                del self._open[future]
                self._limited.pop(future, None)
                future.cancel()

    def _land(self, future: Future[Any]) -> GenerationTicket:
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
