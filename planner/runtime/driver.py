"""Runs many flows at once on engines and a verifier, without a barrier between their steps."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from planner.core import Answer, Completion, Cost, Problem, StepScores, Usage
from planner.errors import EngineError, VerifierError
from planner.models.protocols import Engine, Verifier
from planner.runtime.session import GenerationTicket, ScoreTicket, Session
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
    if max_batch < 1:
        raise ValueError(f"max_batch is {max_batch}")
    sessions = [
        Session.open(i, job.problem, job.spec, job.budget_flops, engines, verifier, default_policy_model)
        for i, job in enumerate(jobs)
    ]
    queues = _Queues(engines, verifier, max_batch)
    try:
        ready = sessions
        while True:
            for session in ready:
                queues.add(session.tickets())
                if session.answer is not None:
                    job, meter = jobs[session.number], session.meter
                    yield session.number, Run(job.problem.problem_id, job.spec, session.answer, meter.usage, meter.cost)
            if not queues.waiting:
                return
            ready = [ticket.session for ticket, result in queues.answer() if ticket.session.settle(ticket, result)]
    finally:
        for session in sessions:
            session.close()


_VERIFIER = ""  # the verifier's queue; no policy model has an empty name


class _Queues:
    """Tickets by engine, each queue ordered by job, then by position."""

    def __init__(self, engines: Mapping[str, Engine], verifier: Verifier | None, max_batch: int) -> None:
        self.engines, self.verifier, self.max_batch = engines, verifier, max_batch
        self.waiting: dict[str, list[tuple[int, int, GenerationTicket | ScoreTicket]]] = {}

    def add(self, tickets: Sequence[GenerationTicket] | Sequence[ScoreTicket]) -> None:
        for ticket in tickets:
            name = ticket.model if isinstance(ticket, GenerationTicket) else _VERIFIER
            heapq.heappush(self.waiting.setdefault(name, []), (ticket.session.number, ticket.position, ticket))

    def answer(self) -> list[tuple[GenerationTicket | ScoreTicket, Completion | StepScores]]:
        """Answer one batch of the fullest queue."""
        name = max(self.waiting, key=lambda n: len(self.waiting[n]))
        queue = self.waiting[name]
        batch = [heapq.heappop(queue)[2] for _ in range(min(self.max_batch, len(queue)))]
        if not queue:
            del self.waiting[name]
        results: Sequence[Completion | StepScores]
        if name == _VERIFIER:
            assert self.verifier is not None
            results = self.verifier.score([t.request for t in batch if isinstance(t, ScoreTicket)])
            if len(results) != len(batch):
                raise VerifierError(f"{len(results)} results for {len(batch)} requests")
        else:
            results = self.engines[name].generate([t.request for t in batch if isinstance(t, GenerationTicket)])
            if len(results) != len(batch):
                raise EngineError(f"engine {name!r}: {len(results)} results for {len(batch)} requests")
        return list(zip(batch, results, strict=True))
