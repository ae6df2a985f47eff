"""What choosing and solving return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.budget import Budget
from planner.core import Candidate, Cost, Outcome, Usage
from planner.policy.choose import TIE, PlanTable, choose_plans
from planner.strategies import Strategy

__all__ = ["ExpectedCost", "Plan", "PlanContext", "Solution", "amount_text", "describe"]


def amount_text(value: float, unit: str) -> str:
    """5.2e9 flops as `5.2 GFLOPs`, 8100 tokens as `8.1k tokens`."""
    for limit, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {letter}FLOPs" if unit == "flops" else f"{value / limit:.3g}{letter} {unit}"
    return f"{value:.3g} {'FLOPs' if unit == 'flops' else unit}"


def describe(plan: Mapping[str, Any]) -> str:
    """A plan of policy.json in one phrase: `best_of_n(n=8, temperature=0.8) with small-model`."""
    shown = {k: v for k, v in plan["hyperparameters"].items() if v is not None and k != "policy_model"}
    fields = ", ".join(f"{k}={v}" for k, v in shown.items())
    return f"{plan['strategy']}{f'({fields})' if fields else ''} with {plan['policy_model']}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedCost:
    """Mean cost of one prompt by part, in `unit` (`flops` or `tokens`); `p95` is its 95th percentile."""

    policy: float
    verifier: float
    probe: float
    p95: float
    unit: str

    @property
    def total(self) -> float:
        return self.policy + self.verifier + self.probe


@dataclass(frozen=True, slots=True)
class PlanContext:
    """What `Plan.explain` looks things up in: the policy and this prompt's distribution [B] and allowed plans [C]."""

    document: Mapping[str, Any]
    table: PlanTable
    distribution: NDArray[np.float64]
    allowed: NDArray[np.bool_] | None
    amount: float
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to answer one prompt within a budget. `difficulty` maps each bucket to its probability, hardest first."""

    strategy: str
    hyperparameters: Mapping[str, Any]
    spec: Strategy
    policy_model: str
    verifier: str | None
    budget: Budget
    expected_accuracy: float
    accuracy_interval: tuple[float, float]
    expected_cost: ExpectedCost
    difficulty: Mapping[str, float]
    reason: str
    warnings: tuple[str, ...] = ()
    decision_id: str = field(compare=False)
    context: PlanContext = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the names of DESIGN's conventions."""
        cost = asdict(self.expected_cost) | {"total": self.expected_cost.total}
        return {
            "strategy": self.strategy,
            "hyperparameters": dict(self.hyperparameters),
            "policy_model": self.policy_model,
            "verifier": self.verifier,
            "budget": {"amount": self.budget.amount, "unit": self.budget.unit},
            "expected_accuracy": self.expected_accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "expected_cost": cost,
            "difficulty": dict(self.difficulty),
            "reason": self.reason,
            "warnings": list(self.warnings),
            "decision_id": self.decision_id,
        }

    def explain(self) -> str:
        """Text: the reason, the difficulty distribution, each strategy's best plan within the budget, and the budget
        that would buy the next better plan."""
        c = self.context
        unit = self.expected_cost.unit
        lines = [
            self.reason,
            "",
            "difficulty: " + ", ".join(f"{b} {share:.0%}" for b, share in self.difficulty.items()),
        ]
        lines += ["", "alternatives within the budget (expected accuracy, mean cost, 95th percentile):"]
        expected, cost, p95 = (values @ c.distribution for values in (c.table.accuracy, c.table.cost, c.table.p95))
        seen: set[str] = set()
        plans = c.document["plans"]
        for i in sorted(range(len(plans)), key=lambda i: (i != c.index, -expected[i])):
            allowed = c.allowed is None or bool(c.allowed[i])
            if p95[i] > c.amount * (1 + 1e-9) or not allowed or plans[i]["strategy"] in seen:
                continue
            seen.add(plans[i]["strategy"])
            mark = "*" if i == c.index else " "
            figures = f"{expected[i]:.3f}  {amount_text(cost[i], unit)}  {amount_text(p95[i], unit)}"
            lines.append(f" {mark} {figures}  {describe(plans[i])}")
        lines += ["", self._next_better()]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])

    def _next_better(self) -> str:
        c = self.context
        dearer = c.table.budgets[c.table.budgets > c.amount]
        if len(dearer):
            rows = np.broadcast_to(c.distribution, (len(dearer), len(c.distribution)))
            choice = choose_plans(c.table, rows, dearer, allowed=c.allowed)
            better = np.flatnonzero(choice.expected_accuracy > self.expected_accuracy + TIE)
            if len(better):
                i = int(better[0])
                needed = amount_text(float(dearer[i]), self.expected_cost.unit)
                plan = describe(c.document["plans"][int(choice.plan[i])])
                return f"next better: {needed} would buy {plan}, expected {choice.expected_accuracy[i]:.3f}"
        return "next better: no budget of the table buys a plan that is expected to do better"


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """An answer with the plan that gave it and what it really cost. Only outcome `finished` can be correct."""

    answer: str | None
    text: str
    outcome: Outcome
    plan: Plan
    usage: Usage
    cost: Cost
    candidates: tuple[Candidate, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "answer": self.answer,
            "text": self.text,
            "outcome": str(self.outcome),
            "plan": self.plan.to_dict(),
            "usage": asdict(self.usage),
            "cost": asdict(self.cost) | {"total_flops": self.cost.total_flops},
            "candidates": [asdict(candidate) for candidate in self.candidates],
        }
