"""Runs many flows at once on engines and a verifier, without a barrier between their steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from planner.core import Answer, Cost, Problem, Usage
from planner.models.latency import LatencyModel
from planner.models.protocols import Engine, Verifier
from planner.runtime.ledger import Clock
from planner.runtime.queues import Queues
from planner.runtime.session import Session
from planner.strategies import Strategy

__all__ = ["Job", "Run", "iter_runs", "run_flow", "run_flows"]


@dataclass(frozen=True, slots=True)
class Job:
    """A problem, how to solve it, and at what cost at most (None: no limit).

    `budget_seconds` count from when the driver takes the job up, waiting for other jobs' requests included.
    """

    problem: Problem
    spec: Strategy
    budget_flops: float | None = None
    budget_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a job. `cost` is NaN in the parts whose model's config is unknown; `usage` is always known.

    `seconds` went by from when the driver took the job up; runs are equal whatever they took.
    """

    problem_id: str
    spec: Strategy
    answer: Answer
    usage: Usage
    cost: Cost
    seconds: float = field(compare=False)

    @classmethod
    def of(cls, job: Job, session: Session) -> Run:
        """The Run of a job whose session has ended."""
        assert session.answer is not None
        return cls(
            job.problem.problem_id, job.spec, session.answer, session.meter.usage, session.meter.cost, session.seconds
        )


def run_flows(
    jobs: Sequence[Job],
    engines: Mapping[str, Engine],
    verifier: Verifier | None,
    *,
    default_policy_model: str,
    max_batch: int = 256,
    latency: LatencyModel | None = None,
    clock: Clock = time.monotonic,
) -> list[Run]:
    """One Run for each job, in order; a job's run is the same among others as alone, unless its seconds are limited.
    Raises as `iter_runs` does."""
    done = dict(
        iter_runs(
            jobs, engines, verifier, default_policy_model=default_policy_model, max_batch=max_batch, latency=latency,
            clock=clock,
        )
    )  # fmt: skip
    return [done[i] for i in range(len(jobs))]


def run_flow(
    problem: Problem,
    spec: Strategy,
    engines: Mapping[str, Engine],
    verifier: Verifier | None = None,
    *,
    default_policy_model: str,
    budget_flops: float | None = None,
    budget_seconds: float | None = None,
    latency: LatencyModel | None = None,
    clock: Clock = time.monotonic,
) -> Run:
    """Run a single job."""
    job = Job(problem, spec, budget_flops, budget_seconds)
    return run_flows([job], engines, verifier, default_policy_model=default_policy_model, latency=latency, clock=clock)[
        0
    ]


def iter_runs(
    jobs: Sequence[Job],
    engines: Mapping[str, Engine],
    verifier: Verifier | None,
    *,
    default_policy_model: str,
    max_batch: int = 256,
    latency: LatencyModel | None = None,
    clock: Clock = time.monotonic,
) -> Iterator[tuple[int, Run]]:
    """(job's index, its Run) as jobs end. Whatever waits for one engine is batched, the earliest jobs first.

    `latency` cuts the requests of jobs with limited seconds to what fits in them; without it they are only held to
    their deadline, which then may pass by one call of an engine.

    Raises CapabilityError before anything is asked for, where an engine or verifier that a job needs is missing;
    EngineError or VerifierError of a batch ends all jobs: a failure never becomes data.
    """
    queues = Queues(engines, verifier, max_batch)
    sessions = [
        Session.open(
            i,
            job.problem,
            job.spec,
            job.budget_flops,
            engines,
            verifier,
            default_policy_model,
            budget_seconds=job.budget_seconds,
            latency=latency,
            clock=clock,
        )
        for i, job in enumerate(jobs)
    ]
    try:
        ready = sessions
        while True:
            for session in ready:
                queues.add(session.tickets())
                if session.answer is not None:
                    yield session.number, Run.of(jobs[session.number], session)
            batch = queues.take()
            if batch is None:
                return
            ready = [ticket.session for ticket, result in queues.answer(batch) if ticket.session.settle(ticket, result)]
    finally:
        queues.close()
        for session in sessions:
            session.close()
