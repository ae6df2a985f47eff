"""What choosing and solving return.

A Plan is a view of one row of the arrays that its call decided; what is not looked at is not computed, so that choosing
for many prompts costs arrays and no sentences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from planner.budget import Budget
from planner.core import Candidate, Cost, Outcome, Usage
from planner.policy.choose import FITS, TIE, PlanTable, choose_plans, mean_over
from planner.strategies import Strategy

if TYPE_CHECKING:
    from planner.policy.decisions import Decisions

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
    """What `Plan.explain` looks things up in: the policy and this prompt's distribution [B], cost scale and allowed
    plans [C]; the table's costs are those of a prompt of scale 1."""

    document: Mapping[str, Any]
    table: PlanTable
    distribution: NDArray[np.float64]
    scale: float
    allowed: NDArray[np.bool_] | None
    amount: float
    index: int


class Plan:
    """How to answer one prompt within a budget. Read-only.

    `strategy`, `hyperparameters`, `policy_model`, `verifier` and `spec` (the frozen strategy) say what to run;
    `expected_accuracy` with `accuracy_interval` (95 %), `expected_cost`, `expected_seconds` and `seconds_p99` (for a
    prompt answered alone; None where the policy's engines were not timed) what to expect; `difficulty` maps each
    bucket to its probability, hardest first; `cost_scale` is how much dearer this prompt's plans are foretold to be
    than a typical prompt's; `propensity` is the probability with which this plan was chosen (1 unless exploring). Plans
    are equal when all of that is; `decision_id` is each plan's own.
    """

    __slots__ = ("_decisions", "_row")

    def __init__(self, decisions: Decisions, row: int) -> None:
        self._decisions, self._row = decisions, row

    @property
    def index(self) -> int:
        """The plan's place in the policy's list of plans."""
        return int(self._decisions.index[self._row])

    @property
    def _document(self) -> Mapping[str, Any]:
        plan: Mapping[str, Any] = self._decisions.chooser.document["plans"][self.index]
        return plan

    @property
    def strategy(self) -> str:
        return str(self._document["strategy"])

    @property
    def hyperparameters(self) -> Mapping[str, Any]:
        fields: Mapping[str, Any] = self._document["hyperparameters"]
        return fields

    @property
    def spec(self) -> Strategy:
        return self._decisions.chooser.specs[self.index]

    @property
    def policy_model(self) -> str:
        return str(self._document["policy_model"])

    @property
    def verifier(self) -> str | None:
        name: str | None = self._document["verifier"]
        return name

    @property
    def budget(self) -> Budget:
        return self._decisions.budget_of(self._row)

    @property
    def expected_accuracy(self) -> float:
        return self._mean(self._decisions.chooser.table.accuracy)

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        table = self._decisions.chooser.table
        return self._mean(table.low), self._mean(table.high)

    @property
    def expected_cost(self) -> ExpectedCost:
        chooser = self._decisions.chooser
        policy, verifier, probe = (self.cost_scale * (self._weights @ chooser.table.parts[self.index])).tolist()
        p95 = self.cost_scale * self._mean(chooser.table.p95)
        return ExpectedCost(policy=policy, verifier=verifier, probe=probe, p95=p95, unit=chooser.unit)

    @property
    def expected_seconds(self) -> float | None:
        return self._seconds(self._decisions.chooser.table.seconds)

    @property
    def seconds_p99(self) -> float | None:
        """99th percentile, which fits a budget in seconds."""
        return self._seconds(self._decisions.chooser.table.seconds_p99)

    @property
    def difficulty(self) -> Mapping[str, float]:
        return dict(zip(self._decisions.chooser.table.buckets, self._weights.tolist(), strict=True))

    @property
    def cost_scale(self) -> float:
        """What this prompt's plans are foretold to cost, in multiples of a typical prompt's."""
        return float(self._decisions.outlook.scale[self._row])

    @property
    def reason(self) -> str:
        return self._decisions.reason(self._row)

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._decisions.warnings(self._row)

    @property
    def probe(self) -> int:
        """Samples that `solve` draws before it chooses again, 0 for none."""
        return self._decisions.probe(self._row)

    @property
    def propensity(self) -> float:
        return float(self._decisions.propensity[self._row])

    @property
    def decision_id(self) -> str:
        return f"{self._decisions.token}{self._row:08x}"

    @property
    def context(self) -> PlanContext:
        decisions, row = self._decisions, self._row
        chooser = decisions.chooser
        return PlanContext(
            chooser.document,
            chooser.table,
            self._weights,
            self.cost_scale,
            decisions.mask_of(row),
            float(decisions.amounts[row]),
            self.index,
        )

    @property
    def _weights(self) -> NDArray[np.float64]:
        weights: NDArray[np.float64] = self._decisions.outlook.distribution[self._row]
        return weights

    def _seconds(self, values: NDArray[np.float64]) -> float | None:
        mean = self._mean(values)
        return None if np.isnan(mean) else mean

    def _mean(self, values: NDArray[np.float64]) -> float:
        return float(mean_over(self._weights[None], values[self.index][None])[0, 0])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        return self._comparable() == other._comparable()

    __hash__ = None  # type: ignore[assignment]  # equal by value, and its mappings are not hashable

    def __repr__(self) -> str:
        fields = ", ".join(f"{k}={v!r}" for k, v in self._comparable().items())
        return f"Plan({fields}, decision_id={self.decision_id!r})"

    def _comparable(self) -> dict[str, Any]:
        document = self.to_dict()
        del document["decision_id"]
        return document

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the names of DESIGN's conventions."""
        expected, budget = self.expected_cost, self.budget
        return {
            "strategy": self.strategy,
            "hyperparameters": dict(self.hyperparameters),
            "policy_model": self.policy_model,
            "verifier": self.verifier,
            "budget": {"amount": budget.amount, "unit": budget.unit}
            | ({} if budget.and_seconds is None else {"and_seconds": budget.and_seconds}),
            "expected_accuracy": self.expected_accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "expected_cost": asdict(expected) | {"total": expected.total},
            "expected_seconds": self.expected_seconds,
            "seconds_p99": self.seconds_p99,
            "difficulty": dict(self.difficulty),
            "cost_scale": self.cost_scale,
            "propensity": self.propensity,
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
        if self._decisions.chooser.predictor.cost_scale is not None:
            lines.append(f"cost: {c.scale:.2f} times a typical prompt's")
        lines += ["", "alternatives within the budget (expected accuracy, mean cost, 95th percentile):"]
        expected = c.table.accuracy @ c.distribution
        cost, p95 = (c.scale * (values @ c.distribution) for values in (c.table.cost, c.table.p95))
        seen: set[str] = set()
        plans = c.document["plans"]
        for i in sorted(range(len(plans)), key=lambda i: (i != c.index, -expected[i])):
            allowed = c.allowed is None or bool(c.allowed[i])
            if p95[i] > c.amount * FITS or not allowed or plans[i]["strategy"] in seen:
                continue
            seen.add(plans[i]["strategy"])
            mark = "*" if i == c.index else " "
            figures = f"{expected[i]:.3f}  {amount_text(cost[i], unit)}  {amount_text(p95[i], unit)}"
            lines.append(f" {mark} {figures}  {describe(plans[i])}")
        lines += ["", self._next_better()]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])

    def _next_better(self) -> str:
        c = self.context
        # A plan comes into reach where its cost fits, or where the table first names it.
        p95 = mean_over(c.distribution[None], c.table.p95)[0]
        named = c.table.named_from[np.isfinite(c.table.named_from)]
        steps = c.scale * np.unique(np.concatenate((named, p95)))
        dearer = steps[steps > c.amount * FITS]
        if len(dearer):
            rows = np.broadcast_to(c.distribution, (len(dearer), len(c.distribution)))
            choice = choose_plans(c.table, rows, dearer / c.scale, allowed=c.allowed)
            better = np.flatnonzero(choice.expected_accuracy > self.expected_accuracy + TIE)
            if len(better):
                i = int(better[0])
                needed = amount_text(float(dearer[i]), self.expected_cost.unit)
                plan = describe(c.document["plans"][int(choice.plan[i])])
                return f"next better: {needed} would buy {plan}, expected {choice.expected_accuracy[i]:.3f}"
        return "next better: no budget of the table buys a plan that is expected to do better"


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """An answer with the plan that gave it, what it really cost and the seconds that it took. Only outcome `finished`
    can be correct."""

    answer: str | None
    text: str
    outcome: Outcome
    plan: Plan
    usage: Usage
    cost: Cost
    seconds: float = field(compare=False)
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
            "seconds": self.seconds,
            "candidates": [asdict(candidate) for candidate in self.candidates],
        }
