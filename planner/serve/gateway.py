"""Between HTTP and the planner: which plan a call gets, running it, and keeping the books."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, cast

import numpy as np

from planner.api import Planner
from planner.budget import Budget
from planner.core import Cost, Problem
from planner.errors import BudgetError, CapabilityError, EngineError, PlannerError, VerifierError
from planner.models.protocols import Engine, Verifier
from planner.policy.chooser import Mask
from planner.policy.plan import Plan
from planner.runtime.driver import Job, Run
from planner.serve.calls import Call
from planner.serve.decision_log import DecisionLog
from planner.serve.failures import ApiError, as_api_error
from planner.serve.metrics import Metrics
from planner.serve.plain import Plain
from planner.serve.settings import Settings
from planner.serve.watched import Notify, Watched
from planner.strategies import Greedy, Strategy

__all__ = ["AUTO", "Answered", "Decision", "Gateway", "Runner"]

AUTO = "auto"
"""The model name under which every plan of the policy is considered, whatever its policy model."""
_MOST_CHARACTERS_PER_TOKEN = 64
_log = logging.getLogger("planner.serve")


class Runner(Protocol):
    """What runs jobs as they arrive: `planner.runtime.service.FlowService`."""

    async def run(self, job: Job) -> Run: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """What will be done for a call: with a plan, or (None) plain sampling as the call asks."""

    id: str
    call: Call
    plan: Plan | None
    job: Job


@dataclass(frozen=True, slots=True)
class Answered:
    decision: Decision
    run: Run
    seconds: float


class Gateway:
    """One policy on its engines, shared by all requests of one event loop."""

    def __init__(
        self, planner: Planner, engines: Mapping[str, Engine], verifier: Verifier | None, settings: Settings
    ) -> None:
        self.planner, self.engines, self.verifier, self.settings = planner, engines, verifier, settings
        # Which of the policy's plans can run on these engines.
        _, _, runnable = planner.equip(engines, verifier)
        self._runnable = np.ones(len(planner.chooser.specs), np.bool_) if runnable is None else runnable
        self.metrics = Metrics()
        self._draws = np.array([int(plan["hyperparameters"].get("n") or 1) for plan in self._plans])
        self._most = planner.chooser.amount(Budget.parse(settings.max_budget))
        self._random = random.Random()
        self._service: Runner | None = None
        self._decisions: DecisionLog | None = None
        self._failed_at: float | None = None
        self.in_flight = 0

    @property
    def _plans(self) -> list[Mapping[str, Any]]:
        plans: list[Mapping[str, Any]] = self.planner.document["plans"]
        return plans

    @property
    def names(self) -> tuple[str, ...]:
        """Models that can be asked for, each plain or with a budget after `@`."""
        return (*self.engines, AUTO)

    def open(self) -> None:
        """Start the flow service in the running event loop, and the decision log."""
        from planner.runtime.service import FlowService

        first = next(iter(self.engines))
        self._service = FlowService(
            self.engines,
            self.verifier,
            default_policy_model=first,
            max_batch=self.settings.max_batch,
            latency=self.planner.chooser.latency,
        )
        if self.settings.decision_log is not None:
            self._decisions = DecisionLog(
                self.settings.decision_log,
                max_bytes=self.settings.decision_log_bytes,
                files=self.settings.decision_log_files,
            )

    async def aclose(self) -> None:
        if self._service is not None:
            await self._service.aclose()
            self._service = None
        if self._decisions is not None:
            self._decisions.close()
            self._decisions = None

    @property
    def ready(self) -> bool:
        """Running, and its engine has not just failed."""
        recent = self._failed_at is not None and time.monotonic() - self._failed_at < self.settings.retry_after_seconds
        return self._service is not None and not recent

    # --- deciding -------------------------------------------------------------------------------------------------

    def decide(self, call: Call) -> Decision:
        """Choose for a call. Raises ApiError, BudgetError and CapabilityError."""
        budget = call.budget
        if budget is None and (call.kind == "plan" or call.model == AUTO or self.settings.default_budget is not None):
            budget = Budget.parse(self.settings.default_budget or self._enough())
        return self._plain(call) if budget is None else self._planned(call, budget)

    def _planned(self, call: Call, budget: Budget) -> Decision:
        chooser = self.planner.chooser
        if budget.unit == "seconds":
            # Time alone would let a request have any amount of work.
            budget = Budget(self._most, "tokens" if self.planner.unit == "tokens" else "flops", budget.amount)
        amount = chooser.amount(budget)
        if not math.isfinite(amount) or amount > self._most * (1 + 1e-9):
            raise BudgetError(
                "above this server's maximum", field="budget", value=str(budget), expected=f"<= {self._maximum}"
            )
        plan = Plan(
            chooser.decide(
                (call.prompt,), budget, allowed=self._allowed(call), explore=self.settings.explore, draw=self._random
            ),
            0,
        )
        self.metrics.planned(plan)
        engine = self.engines[plan.policy_model]
        problem = self._problem(call, engine, planned=True)
        job = Job(problem, plan.spec, chooser.cap_flops(budget, engine.info.shape), budget.seconds)
        return Decision(plan.decision_id, call, plan, job)

    def _plain(self, call: Call) -> Decision:
        engine = self.engines[call.model]
        shape = engine.info.shape
        cap = None if shape is None else self.planner.chooser.cap_flops(Budget.parse(self.settings.max_budget), shape)
        spec: Strategy
        if call.temperature == 0:
            spec = Greedy(policy_model=call.model)
        else:
            spec = Plain(
                n=call.n, temperature=call.temperature, top_p=call.top_p, seed=call.seed, policy_model=call.model
            )
        return Decision(uuid.uuid4().hex, call, None, Job(self._problem(call, engine, planned=False), spec, cap))

    def _problem(self, call: Call, engine: Engine, *, planned: bool) -> Problem:
        problem = self.planner.problem(call.prompt)
        limit = engine.info.max_context_tokens
        if len(call.prompt) > limit * _MOST_CHARACTERS_PER_TOKEN:
            raise _too_long(limit)
        if call.max_tokens is not None:
            # A plan was profiled with the task's limit, which is therefore the most; a plain call may ask for more.
            most = problem.max_tokens if planned else limit
            problem = replace(problem, max_tokens=min(call.max_tokens, most))
        return problem

    def _allowed(self, call: Call) -> Mask | None:
        mask = self._runnable
        if call.model != AUTO:
            mask = mask & np.array([plan["policy_model"] == call.model for plan in self._plans])
        if call.n > 1:
            # n choices are n of the plan's own answers, so a plan must draw that many.
            mask = mask & (self._draws >= call.n)
            if not mask.any():
                raise CapabilityError(
                    "no plan draws so many answers", field="n", value=call.n, expected=f"<= {self._draws.max()}"
                )
        return None if mask.all() else mask

    @property
    def _maximum(self) -> Budget:
        return Budget.parse(self.settings.max_budget)

    def _enough(self) -> str:
        """What pays for every plan of the policy, within the server's maximum: no budget was given at all."""
        return f"{min(self.planner.chooser.most, self._most)!r} {self.planner.unit}"

    # --- running --------------------------------------------------------------------------------------------------

    async def answer(self, decision: Decision, notify: Notify | None = None) -> Answered:
        """Run a decision; cancelling this drops its flow. Raises ApiError: 400 for what the engine cannot take, 429
        when too much is in flight, 503 where an engine failed, 504 after the time limit."""
        assert self._service is not None
        job = decision.job
        started = time.perf_counter()
        with self._counted():
            await self._check_length(job)
            if notify is not None:
                # Structurally a strategy; its class variables are instance variables here.
                job = replace(job, spec=cast(Strategy, Watched(job.spec, notify)))
            try:
                async with asyncio.timeout(self.settings.request_timeout_seconds):
                    run = await self._service.run(job)
            except TimeoutError as error:
                self._record(decision, "timeout", None, started)
                raise ApiError(504, "the answer took too long", code="timeout") from error
            except PlannerError as error:
                if isinstance(error, EngineError | VerifierError):
                    self._failed(error)
                self._record(decision, "error", None, started)
                raise as_api_error(error, self.settings.retry_after_seconds) from error
            except asyncio.CancelledError:
                self.metrics.cancelled.inc()
                self._record(decision, "cancelled", None, started)
                raise
        if self._failed_at is not None:
            self._failed_at = None
            _log.warning("answering again")
        self.metrics.answered(run.answer.outcome, run.cost, self._fixed_flops(decision.plan))
        self._record(decision, str(run.answer.outcome), run, started)
        return Answered(decision, run, time.perf_counter() - started)

    def _failed(self, error: EngineError | VerifierError) -> None:
        """Note a failure; the log tells of the first one until an answer succeeds."""
        if self._failed_at is None:
            shown = error if self.settings.log_prompts else "its message may quote prompts: --log-prompts shows it"
            _log.warning("an engine or verifier failed: %s (%s)", type(error).__name__, shown)
        self._failed_at = time.monotonic()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self.in_flight >= self.settings.max_in_flight:
            raise ApiError(429, "too many requests are being answered", code="overloaded", retry_after_seconds=1)
        self.in_flight += 1
        self.metrics.in_flight.set(self.in_flight)
        try:
            yield
        finally:
            self.in_flight -= 1
            self.metrics.in_flight.set(self.in_flight)

    async def _check_length(self, job: Job) -> None:
        """A prompt that fills the context would fail in the engine, together with the requests of its batch."""
        engine = self.engines[job.spec.policy_model or next(iter(self.engines))]
        limit = engine.info.max_context_tokens
        if len(job.problem.prompt) < limit // 8:
            return
        try:
            tokens = await asyncio.to_thread(engine.count_tokens, job.problem.prompt)
        except EngineError as error:
            self._failed(error)
            raise as_api_error(error, self.settings.retry_after_seconds) from error
        if tokens >= limit:
            raise _too_long(limit)

    def _fixed_flops(self, plan: Plan | None) -> float | None:
        """What the best fixed strategy within the same budget was expected to cost this prompt."""
        if plan is None or self.planner.unit != "flops":
            return None
        context = plan.context
        row = context.table.row(context.amount)
        fixed = int(context.table.best_fixed[row]) if row >= 0 else -1
        if fixed < 0:
            return None
        return context.scale * float(context.distribution @ context.table.cost[fixed])

    # --- books ----------------------------------------------------------------------------------------------------

    def note_plan(self, decision: Decision) -> None:
        """Log a decision that is not run here."""
        self._record(decision, None, None, time.perf_counter())

    def feedback(self, record: Mapping[str, Any]) -> bool:
        """Log feedback; False where no log is kept."""
        if self._decisions is None:
            return False
        self._decisions.write({"kind": "feedback", "time": time.time(), **record})
        return True

    def _record(self, decision: Decision, outcome: str | None, run: Run | None, started: float) -> None:
        seconds, call, plan = time.perf_counter() - started, decision.call, decision.plan
        name = plan.strategy if plan is not None else "plain"
        _log.info(
            "decision %s model=%s %s %s %.0f ms", decision.id, call.model, name, outcome or "planned", seconds * 1e3
        )
        if self._decisions is None:
            return
        record: dict[str, Any] = {
            "kind": "decision",
            "decision_id": decision.id,
            "time": time.time(),
            "policy": self.planner.document.get("name"),
            "model": call.model,
            "endpoint": call.kind,
            "outcome": outcome,
            "seconds": round(seconds, 6),
            "plan": None,
        }
        if plan is not None:
            context = plan.context
            record |= {
                "plan": {
                    "index": plan.index,
                    "strategy": plan.strategy,
                    "hyperparameters": dict(plan.hyperparameters),
                    "policy_model": plan.policy_model,
                    "verifier": plan.verifier,
                },
                "propensity": plan.propensity,
                "amount": context.amount,
                "unit": self.planner.unit,
                "expected_accuracy": plan.expected_accuracy,
                "expected_cost": plan.expected_cost.total,
                "difficulty": dict(plan.difficulty),
                "cost_scale": plan.cost_scale,
                **self.planner.chooser.describe_prompt(call.prompt),
            }
        if run is not None:
            record |= {
                "flops": flops_of(run.cost),
                "usage": asdict(run.usage),
                "answered": run.answer.answer is not None,
            }
        if self.settings.log_prompts:
            record |= {"prompt": call.prompt, "text": run.answer.text if run is not None else None}
        self._decisions.write(record)


def flops_of(cost: Cost) -> dict[str, float | None]:
    """FLOPs by part; None where a model's config is unknown."""
    parts = {
        "policy": cost.prefill_flops + cost.decode_flops,
        "verifier": cost.verifier_flops,
        "probe": cost.probe_flops,
        "total": cost.total_flops,
    }
    return {name: value if math.isfinite(value) else None for name, value in parts.items()}


def _too_long(limit: int) -> ApiError:
    return ApiError(
        400, f"the prompt does not fit the model's {limit} tokens", param="prompt", code="context_length_exceeded"
    )
