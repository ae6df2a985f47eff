"""The planner as a program uses it: load a policy, choose a plan for a prompt under a budget, and run it.

After `load` a Planner reads no file and changes nothing, so any number of threads may share one.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from planner.budget import Budget
from planner.core import Problem, stable_hash
from planner.errors import BudgetError, CapabilityError, InputError
from planner.models.cost import ModelShape
from planner.policy.choose import Choice, PlanTable, choose_plans
from planner.policy.features import extract, looks_open_ended
from planner.policy.folder import read_policy
from planner.policy.plan import ExpectedCost, Plan, PlanContext, Solution, amount_text, describe
from planner.policy.predictor import DifficultyPredictor
from planner.strategies import Strategy, from_dict

if TYPE_CHECKING:
    from planner.models.protocols import Engine, Verifier

__all__ = ["Plan", "Planner", "Solution", "choose", "choose_many", "default_planner", "load", "solve"]

_UNFAMILIAR = (
    "this prompt is unlike anything profiled ({:.1f} times the limit): it is planned by the profiled base rates"
)
_OPEN_ENDED = (
    "this prompt seems open-ended, without an answer to check or vote on: expected accuracy does not apply to it"
)
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
        self._warning = warning
        self._table = PlanTable.from_document(document)
        self._edges = document["bucket_edges"]
        self._buckets = predictor.distribution_of(predictor.spread.q, self._edges)
        self._specs = tuple(_spec(plan) for plan in document["plans"])
        self._names = tuple(describe(plan) for plan in document["plans"])

    @property
    def unit(self) -> str:
        """`flops` or `tokens`: what the policy's costs are in."""
        return str(self.document["unit"])

    def choose(self, prompt: str, budget: str | float | Budget) -> Plan:
        """The plan for one prompt under a budget (a hard cap; a bare number means FLOPs, `8x` multiples of greedy).

        Raises BudgetError where the budget cannot be read, converted, or pays for no plan.
        """
        return self.choose_many([prompt], budget)[0]

    def choose_many(self, prompts: Sequence[str], budget: str | float | Budget) -> list[Plan]:
        """A plan for each prompt, each under the same budget; the same plans as `choose` gives one by one."""
        return self._plans(prompts, Budget.parse(budget), None)

    def solve(
        self,
        prompt: str | Problem,
        budget: str | float | Budget,
        *,
        engine: Engine | Mapping[str, Engine] | None = None,
        verifier: Verifier | None = None,
    ) -> Solution:
        """Choose a plan and run it; what it spends, verifier included, never exceeds the budget.

        Without `engine` the laboratory's models named by the policy are loaded. With one, only plans for it (or for
        the engines of the mapping, by policy model) are considered, and without `verifier` only plans that need none.
        Raises CapabilityError where no plan of the policy can run on what was given.
        """
        from planner.runtime.driver import Job, run_flows

        problem = prompt if isinstance(prompt, Problem) else self._problem(prompt)
        parsed = Budget.parse(budget)
        engines, verifier, allowed = self._equip(engine, verifier)
        plan = self._plans([problem.prompt], parsed, allowed)[0]
        runner = engines.get(plan.policy_model)
        if runner is None:
            raise CapabilityError("no engine for the plan's policy model", field="engine", value=plan.policy_model)
        cap = self._cap_flops(parsed, runner)
        job = Job(problem=problem, spec=plan.spec, budget_flops=cap)
        run = run_flows([job], engines, verifier if plan.verifier else None, default_policy_model=plan.policy_model)[0]
        return Solution(
            answer=run.answer.answer,
            text=run.answer.text,
            outcome=run.answer.outcome,
            plan=plan,
            usage=run.usage,
            cost=run.cost,
            candidates=run.answer.candidates,
        )

    # --- choosing -------------------------------------------------------------------------------------------------

    def _plans(self, prompts: Sequence[str], budget: Budget, allowed: NDArray[np.bool_] | None) -> list[Plan]:
        if not all(isinstance(prompt, str) for prompt in prompts):
            raise InputError("a prompt is a text", field="prompt", expected="str")
        if not prompts:
            return []
        amount = self._amount(budget)
        distribution, strangeness = self._difficulty(prompts)
        open_ended = np.array([looks_open_ended(prompt) for prompt in prompts])
        out: list[Plan | None] = [None] * len(prompts)
        for is_open in (False, True):
            rows = np.flatnonzero(open_ended == is_open)
            if not len(rows):
                continue
            mask = allowed
            if is_open and not self._table.votes.all():
                mask = ~self._table.votes if allowed is None else allowed & ~self._table.votes
            choice = choose_plans(self._table, distribution[rows], amount, allowed=mask)
            if choice.plan.min() < 0:
                self._refuse(distribution[rows[choice.plan < 0][0]], mask, budget)
            row = self._table.row(amount)
            for i, r in enumerate(rows):
                warnings = self._warnings(float(strangeness[r]), is_open)
                context = PlanContext(self.document, self._table, distribution[r], mask, amount, int(choice.plan[i]))
                out[r] = self._plan(choice, i, row, budget, context, warnings)
        return [plan for plan in out if plan is not None]

    def _difficulty(self, prompts: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Bucket distribution [P, B] and strangeness [P]; unfamiliar prompts get the profiled base rates."""
        predictor = self.predictor
        if predictor.trees is None and predictor.familiarity is None:
            return np.repeat(self._base[None], len(prompts), axis=0), np.full(len(prompts), np.nan)
        extracted = extract(prompts, predictor.spec)
        if predictor.trees is None:
            distribution = np.repeat(self._base[None], len(prompts), axis=0)
        else:
            distribution = predictor.spread.between(self._buckets, predictor.predict_features(extracted))
        if predictor.familiarity is None:
            return distribution, np.full(len(prompts), np.nan)
        strangeness = predictor.familiarity.measure(extracted)
        distribution[strangeness > 1] = self._base
        return distribution, strangeness

    @cached_property
    def _base(self) -> NDArray[np.float64]:
        counts = self.document.get("bucket_counts") or {}
        shares = np.array([float(counts.get(bucket) or 0) for bucket in self._table.buckets])
        if shares.sum() > 0:
            base: NDArray[np.float64] = shares / shares.sum()
            return base
        base = self.predictor.distribution_of(np.array([self.predictor.base_rate]), self._edges)[0]
        return base

    def _plan(
        self, choice: Choice, i: int, row: int, budget: Budget, context: PlanContext, warnings: tuple[str, ...]
    ) -> Plan:
        index, weights, table = context.index, context.distribution, self._table
        plan = self.document["plans"][index]
        policy, verifier, probe = (weights @ table.parts[index]).tolist()
        return Plan(
            strategy=plan["strategy"],
            hyperparameters=plan["hyperparameters"],
            spec=self._specs[index],
            policy_model=plan["policy_model"],
            verifier=plan["verifier"],
            budget=budget,
            expected_accuracy=float(choice.expected_accuracy[i]),
            accuracy_interval=(float(weights @ table.low[index]), float(weights @ table.high[index])),
            expected_cost=ExpectedCost(
                policy=policy, verifier=verifier, probe=probe, p95=float(choice.p95[i]), unit=self.unit
            ),
            difficulty=dict(zip(table.buckets, weights.tolist(), strict=True)),
            reason=self._reason(choice, i, row, budget, context),
            warnings=warnings,
            decision_id=uuid.uuid4().hex,
            context=context,
        )

    def _reason(self, choice: Choice, i: int, row: int, budget: Budget, context: PlanContext) -> str:
        table, index, weights = self._table, context.index, context.distribution
        expected = float(choice.expected_accuracy[i])
        likely = int(weights.argmax())
        prompt = f"a prompt that is {table.buckets[likely]} with {weights[likely]:.0%} probability"
        cost = amount_text(float(choice.expected_cost[i]), self.unit)
        head = f"{self._names[index]} is expected to answer {prompt} correctly {expected:.1%} of the time for {cost}"
        if choice.hopeless[i]:
            return f"{head}: success is hopeless within {budget} whatever is tried, so this is the cheapest plan."
        fixed = int(table.best_fixed[row]) if row >= 0 else -1
        if fixed < 0:
            return f"{head}: the best of the plans that fit {budget}, which is less than the policy's table starts at."
        if row >= 0 and table.fallback[row, likely] and index == int(table.cells[row, likely]):
            return f"{head}: no other gain was significant there, so this is the best fixed strategy within {budget}."
        if index == fixed:
            return f"{head}: it is also the best fixed strategy within {budget}."
        gain = expected - float(weights @ table.accuracy[fixed])
        saved = float(weights @ table.cost[fixed]) / max(float(choice.expected_cost[i]), 1e-30)
        if gain < 0.005 and saved > 1:
            return f"{head}: more is not expected to help, {self._names[fixed]} would cost {saved:.1f} times as much."
        return (
            f"{head}: {100 * gain:+.1f} points against the best fixed strategy within {budget}, {self._names[fixed]}."
        )

    def _warnings(self, strangeness: float, open_ended: bool) -> tuple[str, ...]:
        return tuple(
            text
            for text in (
                self._warning,
                self.predictor.note,
                _UNFAMILIAR.format(strangeness) if strangeness > 1 else None,
                _OPEN_ENDED if open_ended else None,
            )
            if text
        )

    def _refuse(self, distribution: NDArray[np.float64], allowed: NDArray[np.bool_] | None, budget: Budget) -> None:
        p95 = self._table.p95 @ distribution
        if allowed is not None:
            if not allowed.any():
                raise CapabilityError("no plan of this policy can run here", hint="Give its engine and verifier")
            p95 = np.where(allowed, p95, np.inf)
        cheapest = int(p95.argmin())
        needed = float(p95[cheapest])
        reference = self.document.get("reference_cost")
        multiple = f" ({needed / reference:.2f}x)" if reference else ""
        raise BudgetError(
            f"no plan fits: the cheapest, {self._names[cheapest]}, needs {amount_text(needed, self.unit)}{multiple}",
            field="budget",
            value=str(budget),
            hint=f"Give at least {needed:.4g} {self.unit}",
        )

    # --- units and engines ----------------------------------------------------------------------------------------

    @cached_property
    def _flops_per_token(self) -> float | None:
        """One token of the first policy model at a short context, logits included; None where its config is unknown."""
        models = list((self.document.get("policy_models") or {}).values())
        config = models[0].get("config") if models else None
        return _per_token(ModelShape.from_dict(config)) if config else None

    def _amount(self, budget: Budget) -> float:
        """The budget in the policy's unit."""
        reference = self.document.get("reference_cost")
        rate = None if budget.unit in (self.unit, "x") else self._flops_per_token
        if self.unit == "flops":
            return budget.to_flops(reference_flops=reference, flops_per_token=rate)
        return budget.to_tokens(reference_tokens=reference, flops_per_token=rate)

    def _cap_flops(self, budget: Budget, engine: Engine) -> float:
        if self.unit == "flops":
            return self._amount(budget)
        shape = engine.info.shape
        rate = self._flops_per_token if shape is None else _per_token(shape)
        if budget.unit == "flops":
            return budget.amount
        return Budget(self._amount(budget), "tokens").to_flops(flops_per_token=rate)

    def _problem(self, prompt: str) -> Problem:
        task = self.document.get("task") or {}
        known = {key: task[key] for key in ("step_separator", "max_tokens") if task.get(key) is not None}
        return Problem(problem_id=stable_hash(prompt), prompt=prompt, **known)

    def _equip(
        self, engine: Engine | Mapping[str, Engine] | None, verifier: Verifier | None
    ) -> tuple[Mapping[str, Engine], Verifier | None, NDArray[np.bool_] | None]:
        plans = self.document["plans"]
        if engine is None:
            from planner.models.shipped import lab_engine, lab_verifier

            names = {plan["policy_model"] for plan in plans}
            named = next((plan["verifier"] for plan in plans if plan["verifier"]), None)
            if verifier is None and named is not None:
                verifier = lab_verifier(named)
            return {name: lab_engine(name) for name in names}, verifier, None
        if isinstance(engine, Mapping):
            engines: Mapping[str, Engine] = engine
        else:
            models = {plan["policy_model"] for plan in plans}
            own = engine.info.name
            engines = {own if own in models or len(models) > 1 else models.pop(): engine}
        runs = [p["policy_model"] in engines and (p["verifier"] is None or verifier is not None) for p in plans]
        if not any(runs):
            raise CapabilityError(
                "no plan of this policy can run on it",
                field="engine",
                value=sorted(engines),
                expected=" or ".join(sorted({p["policy_model"] for p in plans})),
                hint="A policy holds for its own policy models: profile and fit yours",
            )
        return engines, verifier, np.array(runs)


def _per_token(shape: ModelShape) -> float:
    return float(shape.flops_per_token + shape.flops_per_logits)


def _spec(plan: Mapping[str, Any]) -> Strategy:
    fields = {**plan["hyperparameters"], "policy_model": plan["policy_model"]}
    return from_dict({"strategy": plan["strategy"], "hyperparameters": fields})


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


def choose_many(prompts: Sequence[str], budget: str | float | Budget) -> list[Plan]:
    """`default_planner().choose_many`."""
    return default_planner().choose_many(prompts, budget)


def solve(
    prompt: str | Problem,
    budget: str | float | Budget,
    *,
    engine: Engine | Mapping[str, Engine] | None = None,
    verifier: Verifier | None = None,
) -> Solution:
    """`default_planner().solve`."""
    return default_planner().solve(prompt, budget, engine=engine, verifier=verifier)
