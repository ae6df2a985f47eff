"""Runs many flows at once on engines and a verifier, without a barrier between their steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from planner.core import Answer, Cost, Problem, Usage
from planner.models.protocols import Engine, Verifier
from planner.runtime.queues import Queues
from planner.runtime.session import Session
from planner.strategies import Strategy

__all__ = ["Job", "Run", "iter_runs", "run_flow", "run_flows"]


@dataclass(frozen=True, slots=True)
class Job:
    """A problem, how to solve it, and at what cost at most (None: no limit)."""

    problem: Problem
    spec: Strategy
    budget_flops: float | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """What became of a job. `cost` is NaN in the parts whose model's config is unknown; `usage` is always known."""

    problem_id: str
    spec: Strategy
    answer: Answer
    usage: Usage
    cost: Cost

    @classmethod
    def of(cls, job: Job, session: Session) -> Run:
        """The Run of a job whose session has ended."""
        assert session.answer is not None
        return cls(job.problem.problem_id, job.spec, session.answer, session.meter.usage, session.meter.cost)


def run_flows(
    jobs: Sequence[Job],
    engines: Mapping[str, Engine],
    verifier: Verifier | None,
    *,
    default_policy_model: str,
    max_batch: int = 256,
) -> list[Run]:
    """One Run for each job, in order; a job's run is the same among others as alone. Raises as `iter_runs` does."""
    done = dict(iter_runs(jobs, engines, verifier, default_policy_model=default_policy_model, max_batch=max_batch))
    return [done[i] for i in range(len(jobs))]


def run_flow(
    problem: Problem,
    spec: Strategy,
    engines: Mapping[str, Engine],
    verifier: Verifier | None = None,
    *,
    default_policy_model: str,
    budget_flops: float | None = None,
) -> Run:
    """Run a single job."""
    job = Job(problem, spec, budget_flops)
    return run_flows([job], engines, verifier, default_policy_model=default_policy_model)[0]


def iter_runs(
    jobs: Sequence[Job],
    engines: Mapping[str, Engine],
    verifier: Verifier | None,
    *,
    default_policy_model: str,
    max_batch: int = 256,
) -> Iterator[tuple[int, Run]]:
    """(job's index, its Run) as jobs end. Whatever waits for one engine is batched, the earliest jobs first.

    Raises CapabilityError before anything is asked for, where an engine or verifier that a job needs is missing;
    EngineError or VerifierError of a batch ends all jobs: a failure never becomes data.
    """
    queues = Queues(engines, verifier, max_batch)
    sessions = [
        Session.open(i, job.problem, job.spec, job.budget_flops, engines, verifier, default_policy_model)
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
        for session in sessions:
            session.close()
