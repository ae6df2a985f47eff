"""The planner as a program uses it: load a policy, choose a plan for a prompt under a budget, and run it.

After `load` a Planner reads no file and changes nothing, so any number of threads may share one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from planner.budget import Budget
from planner.core import Problem, stable_hash
from planner.errors import CapabilityError, InputError
from planner.policy.chooser import Chooser, share_budget
from planner.policy.equipment import models_of, name_engine, require_runnable
from planner.policy.folder import read_policy
from planner.policy.plan import Plan, Solution
from planner.policy.predictor import DifficultyPredictor
from planner.policy.probe import Probe, ProbedSolve

if TYPE_CHECKING:
    from planner.models.protocols import Engine, Verifier
    from planner.runtime.driver import Run

__all__ = ["Plan", "Planner", "Solution", "choose", "choose_many", "default_planner", "load", "solution_of", "solve"]

_LABORATORY = (
    "planned with the laboratory's policy, which is about its own toy models: "
    "name yours with PLANNER_POLICY or planner.load"
)


class Planner:
    """A fitted policy, ready to choose. Make it with `planner.load`."""

    def __init__(
        self, document: Mapping[str, Any], predictor: DifficultyPredictor, *, warning: str | None = None
    ) -> None:
        self.document = document
        self.predictor = predictor
        self.chooser = Chooser(document, predictor, warning)
        self.probe = Probe.from_policy(document, predictor, warning, where="policy.json")

    @property
    def unit(self) -> str:
        """`flops` or `tokens`: what the policy's costs are in."""
        return self.chooser.unit

    def choose(self, prompt: str, budget: str | float | Budget) -> Plan:
        """The plan for one prompt under a budget (a hard cap; a bare number means FLOPs, `8x` multiples of greedy,
        `3 s` wall-clock seconds, of which a plan's 99th percentile has to fit).

        Raises BudgetError where the budget cannot be read, converted, or pays for no plan; for seconds, where the
        policy's engines were not timed.
        """
        return Plan(self.chooser.decide((prompt,), Budget.parse(budget), probing=True), 0)

    def choose_many(
        self,
        prompts: Sequence[str],
        budget: str | float | Budget | None = None,
        *,
        total_budget: str | float | Budget | None = None,
    ) -> list[Plan]:
        """A plan for each prompt, each under the same `budget`: the same plans as `choose` gives one by one.

        With `total_budget` instead, all prompts share it: each gets what buys most expected accuracy (METHODS section
        7), and their plans' budgets (hard caps) add up to at most the total. Raises InputError where not exactly one
        of the two is given.
        """
        if (budget is None) == (total_budget is None):
            raise InputError("give either", field="budget", expected="a budget for each prompt, or `total_budget`")
        if not prompts:
            return []
        if budget is not None:
            return self.chooser.decide(prompts, Budget.parse(budget), probing=True).plans()
        assert total_budget is not None
        return share_budget(self.chooser, prompts, Budget.parse(total_budget)).plans()

    async def achoose(self, prompt: str, budget: str | float | Budget) -> Plan:
        """`choose`; it takes less than a millisecond, so the event loop is not left."""
        return self.choose(prompt, budget)

    async def asolve(
        self,
        prompt: str | Problem,
        budget: str | float | Budget,
        *,
        engine: Engine | Mapping[str, Engine] | None = None,
        verifier: Verifier | None = None,
    ) -> Solution:
        """`solve` in a thread of its own. For many concurrent prompts on one engine, `planner serve` batches them."""
        return await asyncio.to_thread(self.solve, prompt, budget, engine=engine, verifier=verifier)

    def solve(
        self,
        prompt: str | Problem,
        budget: str | float | Budget,
        *,
        engine: Engine | Mapping[str, Engine] | None = None,
        verifier: Verifier | None = None,
    ) -> Solution:
        """Choose a plan and run it; what it spends, verifier and probe included, never exceeds the budget. Seconds
        count from when the plan has been chosen; an answer that is not there in time has outcome `out_of_budget`.

        Where the plan begins with a probe (`Plan.probe`), its samples are drawn first and the plan is chosen again by
        what they show; they are the first samples of the new plan where it draws such. `Solution.plan` is the new one.

        Without `engine` the laboratory's models named by the policy are loaded. With one, only plans for it (or for
        the engines of the mapping, by policy model) are considered, and without `verifier` only plans that need none.
        Raises CapabilityError where no plan of the policy can run on what was given.
        """
        from planner.runtime.driver import Job, run_flows

        problem = prompt if isinstance(prompt, Problem) else self.problem(prompt)
        parsed = Budget.parse(budget)
        engines, verifier, allowed = self.equip(engine, verifier)
        plan = Plan(self.chooser.decide((problem.prompt,), parsed, allowed=allowed, probing=True), 0)
        probed = self._probed(plan, parsed, engines, verifier)
        runner = engines.get(plan.policy_model)
        if runner is None:
            raise CapabilityError("no engine for the plan's policy model", field="engine", value=plan.policy_model)
        cap = self.chooser.cap_flops(parsed, runner.info.shape)
        spec, asks = (plan.spec, plan.verifier is not None) if probed is None else (probed, probed.needs_verifier)
        job = Job(problem=problem, spec=spec, budget_flops=cap, budget_seconds=parsed.seconds)
        run = run_flows(
            [job],
            engines,
            verifier if asks else None,
            default_policy_model=plan.policy_model,
            latency=self.chooser.latency,
        )[0]
        return solution_of(plan if probed is None else probed.plan, run)

    def _probed(
        self, plan: Plan, budget: Budget, engines: Mapping[str, Engine], verifier: Verifier | None
    ) -> ProbedSolve | None:
        """The plan's probe with what may follow it on these engines; None where it has none, or none can run."""
        if self.probe is None or not plan.probe:
            return None
        allowed = self.probe.runs_on(engines, verifier)
        if allowed is None or not self.probe.fits(self.chooser.amount(budget) / plan.cost_scale, allowed):
            return None
        return ProbedSolve(self.probe, plan, budget, allowed)

    # --- engines --------------------------------------------------------------------------------------------------

    def problem(self, prompt: str) -> Problem:
        """The prompt as the policy's task asks for it to be answered (step separator, token limit)."""
        task = self.document.get("task") or {}
        known = {key: task[key] for key in ("step_separator", "max_tokens") if task.get(key) is not None}
        return Problem(problem_id=stable_hash(prompt), prompt=prompt, **known)

    def equip(
        self, engine: Engine | Mapping[str, Engine] | None, verifier: Verifier | None
    ) -> tuple[Mapping[str, Engine], Verifier | None, NDArray[np.bool_] | None]:
        """Engines by policy model, the verifier, and which of the policy's plans can run on them ([C]; None: all).

        Without `engine` the laboratory's are loaded. Raises CapabilityError where no plan can run.
        """
        plans = self.document["plans"]
        if engine is None:
            from planner.models.shipped import lab_engine, lab_verifier

            names = dict.fromkeys(model for plan in plans for model in models_of(plan))
            named = next((plan["verifier"] for plan in plans if plan["verifier"]), None)
            if verifier is None and named is not None:
                verifier = lab_verifier(named)
            return {name: lab_engine(name) for name in names}, verifier, None
        engines = engine if isinstance(engine, Mapping) else {name_engine(plans, engine.info.name): engine}
        return engines, verifier, require_runnable(plans, engines, verifier)


def solution_of(plan: Plan, run: Run) -> Solution:
    """The run of a plan as its solution."""
    return Solution(
        answer=run.answer.answer,
        text=run.answer.text,
        outcome=run.answer.outcome,
        plan=plan,
        usage=run.usage,
        cost=run.cost,
        seconds=run.seconds,
        candidates=run.answer.candidates,
    )


def load(path: str | os.PathLike[str]) -> Planner:
    """The planner of a policy folder. Raises PolicyError where it is missing, damaged or of another schema version."""
    return _load(Path(path), None)


def _load(path: Path, warning: str | None) -> Planner:
    document = read_policy(path).policy
    return Planner(document, DifficultyPredictor.load(path / "predictor"), warning=warning)


@lru_cache(maxsize=4)
def _default(named: str | None) -> Planner:
    if named:
        return _load(Path(named), None)
    from planner.models.shipped import shipped

    return _load(shipped("models", "lab/policy"), _LABORATORY)


def default_planner() -> Planner:
    """The planner of the folder that PLANNER_POLICY names, else the laboratory's (its plans say so)."""
    return _default(os.environ.get("PLANNER_POLICY") or None)


def choose(prompt: str, budget: str | float | Budget) -> Plan:
    """`default_planner().choose`."""
    return default_planner().choose(prompt, budget)


def choose_many(
    prompts: Sequence[str],
    budget: str | float | Budget | None = None,
    *,
    total_budget: str | float | Budget | None = None,
) -> list[Plan]:
    """`default_planner().choose_many`."""
    return default_planner().choose_many(prompts, budget, total_budget=total_budget)


def solve(
    prompt: str | Problem,
    budget: str | float | Budget,
    *,
    engine: Engine | Mapping[str, Engine] | None = None,
    verifier: Verifier | None = None,
) -> Solution:
    """`default_planner().solve`."""
    return default_planner().solve(prompt, budget, engine=engine, verifier=verifier)
