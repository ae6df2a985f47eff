"""Runs jobs as they arrive: the driver of `planner.runtime.driver` for an event loop that never ends.

Two kinds of coroutines share one worker thread, in which alone flows are advanced and engines and verifier are asked. A
job's own coroutine takes its results, advances its flow and puts what it asks for into the queues; the pump takes
whatever waits, has it answered and hands the results out. The worker takes calls in the order they come, so every flow
that has its results asks on before the next batch is put together.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from planner.errors import EngineError, InputError, VerifierError
from planner.models.latency import LatencyModel
from planner.models.protocols import Engine, Verifier
from planner.runtime.driver import Job, Run
from planner.runtime.ledger import Clock
from planner.runtime.queues import Answered, Batch, Queues
from planner.runtime.session import Session

__all__ = ["FlowService"]

T = TypeVar("T")
_Delivery: TypeAlias = list[Answered] | BaseException


class FlowService:
    """Runs any number of jobs at once on shared engines, for one event loop.

    A job's run is the one that `run_flows` gives; `latency` and `clock` are its own. An engine's failure reaches the
    jobs with requests in the failed batch and no other; a request that an engine or verifier refuses, its own job.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        verifier: Verifier | None,
        *,
        default_policy_model: str,
        max_batch: int = 256,
        latency: LatencyModel | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._latency, self._clock = latency, clock
        self._queues = Queues(engines, verifier, max_batch)
        self._default_policy_model = default_policy_model
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="flows")
        self._numbers = itertools.count()
        self._inboxes: dict[Session, asyncio.Queue[_Delivery]] = {}
        self._asked = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None
        self._closed = False

    async def run(self, job: Job) -> Run:
        """The job's Run. Cancelling gives its flow up and drops what it still waits for.

        Raises CapabilityError where an engine or verifier that it needs is missing, EngineError or VerifierError (or
        whatever else they raise) of a batch with one of its requests, and RuntimeError after `aclose`.
        """
        if self._closed:
            raise RuntimeError("the flow service is closed")
        if self._pump is None:
            self._pump = asyncio.create_task(self._answer_forever())
        queues, number = self._queues, next(self._numbers)
        session = Session.open(
            number, job.problem, job.spec, job.budget_flops, queues.engines, queues.verifier,
            self._default_policy_model, budget_seconds=job.budget_seconds, latency=self._latency, clock=self._clock,
        )  # fmt: skip
        inbox = self._inboxes[session] = asyncio.Queue()
        try:
            results: list[Answered] = []
            while True:
                await self._call(self._advance, session, results)
                if session.answer is not None:
                    return Run.of(job, session)
                self._asked.set()
                delivery = await inbox.get()
                if isinstance(delivery, BaseException):
                    raise delivery
                results = delivery
        finally:
            del self._inboxes[session]
            # Not awaited: the worker does it after all that it was asked before, and a cancelled job does not wait.
            if session.answer is None and not self._closed:
                self._worker.submit(self._give_up, session)

    async def aclose(self) -> None:
        """Stop. Jobs that still run get an EngineError that a retry elsewhere may mend; the batch on an engine ends
        first."""
        if self._closed:
            return
        self._closed = True
        if self._pump is not None:
            self._pump.cancel()
        left = list(self._inboxes)
        for inbox in self._inboxes.values():
            inbox.put_nowait(_closed())
        await asyncio.to_thread(self._worker.shutdown)
        self._queues.close()
        for session in left:
            session.close()

    async def _answer_forever(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            while True:
                taken = await self._tried(self._queues.take)
                failure = taken.exception()
                if failure is not None:  # of something that was sent off: nobody knows whose it was
                    self._deliver(dict.fromkeys(self._inboxes, failure))
                    break
                batch = taken.result()
                if batch is None:
                    break
                await self._answer(batch)
                await asyncio.sleep(0)  # what was just handed out is taken before the next batch is put together

    async def _answer(self, batch: Batch) -> None:
        """Hand the batch's results out. One that is refused is asked again in halves, since the others' requests are
        not what was wrong with it; a failure that may pass, or that nobody foresaw, is all its flows'."""
        waiting = [batch]
        while waiting:
            asked = waiting.pop()
            answer = await self._tried(self._queues.answer, asked)
            failure = answer.exception()
            if failure is None:
                self._deliver(_by_session(answer.result()))
            elif _refused(failure) and (halves := asked.halves()):
                waiting += reversed(halves)
            else:
                self._deliver({ticket.session: failure for ticket in asked.tickets})

    async def _tried(self, function: Callable[..., T], *args: object) -> asyncio.Future[T]:
        """The ended call; its failure is not raised here."""
        call = asyncio.ensure_future(self._call(function, *args))
        await asyncio.wait([call])
        return call

    def _deliver(self, deliveries: Mapping[Session, _Delivery]) -> None:
        for session, delivery in deliveries.items():
            if session in self._inboxes:  # else it was given up meanwhile
                self._inboxes[session].put_nowait(delivery)

    def _advance(self, session: Session, results: Sequence[Answered]) -> None:
        for ticket, result in results:
            session.settle(ticket, result)
        self._queues.add(session.tickets())

    def _give_up(self, session: Session) -> None:
        self._queues.drop(session)
        session.close()

    async def _call(self, function: Callable[..., T], *args: object) -> T:
        """Run in the worker thread."""
        if self._closed:
            raise _closed()
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *args)


def _refused(failure: BaseException) -> bool:
    """Whether something was asked that cannot be done (as an input too long), instead of something having failed."""
    if isinstance(failure, EngineError):
        return not failure.retryable
    return isinstance(failure, InputError | VerifierError)


def _by_session(answered: Sequence[Answered]) -> dict[Session, _Delivery]:
    rows: dict[Session, list[Answered]] = {}
    for ticket, result in answered:
        rows.setdefault(ticket.session, []).append((ticket, result))
    return dict(rows)


def _closed() -> EngineError:
    return EngineError("the flow service was closed while the job ran", retryable=True)
