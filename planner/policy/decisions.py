"""What one call decided, as arrays, and the words for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from planner.budget import Budget
from planner.policy.choose import choose_plans, mean_over
from planner.policy.deadline import in_time, seconds_text
from planner.policy.plan import Plan, amount_text

if TYPE_CHECKING:
    from planner.policy.chooser import Chooser, Outlook

__all__ = ["Decisions", "both"]

_UNFAMILIAR = (
    "this prompt is unlike anything profiled ({:.1f} times the limit): it is planned by the profiled base rates"
)
_OPEN_ENDED = (
    "this prompt seems open-ended, without an answer to check or vote on: expected accuracy does not apply to it"
)

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Decisions:
    """What one call decided for P prompts, as arrays; `planner.policy.plan.Plan` is a view of one row.

    `amounts` [P] are the budgets in the policy's unit, `shared` the one budget they all came from (None: each its own).
    `index` [P] is the plan, `usual` [P] what is chosen without exploring, `propensity` [P] the probability of `index`.
    `probing`: solving would draw the policy's probe, where it has one.
    """

    chooser: Chooser
    shared: Budget | None
    amounts: Floats
    outlook: Outlook
    allowed: Mask | None
    index: NDArray[np.int64]
    usual: NDArray[np.int64]
    propensity: Floats
    token: str
    probing: bool = False

    def typical(self, row: int) -> float:
        """The budget that the table is read at: what this prompt's is worth to a typical prompt."""
        return float(self.amounts[row]) / float(self.outlook.scale[row])

    def budget_of(self, row: int) -> Budget:
        if self.shared is not None:
            return self.shared
        return Budget(float(self.amounts[row]), "tokens" if self.chooser.unit == "tokens" else "flops")

    def mask_of(self, row: int) -> Mask | None:
        quick = in_time(self.chooser.table, self.outlook.distribution[row][None], self.shared)
        return both(
            self.chooser.mask(self.allowed, bool(self.outlook.open_ended[row])), None if quick is None else quick[0]
        )

    def plans(self) -> list[Plan]:
        return [Plan(self, row) for row in range(len(self.index))]

    def warnings(self, row: int) -> tuple[str, ...]:
        strangeness = float(self.outlook.strangeness[row])
        texts = (
            self.chooser.warning,
            self.chooser.predictor.note,
            _UNFAMILIAR.format(strangeness) if strangeness > 1 else None,
            _OPEN_ENDED if self.outlook.open_ended[row] else None,
        )
        return tuple(text for text in texts if text)

    def probe(self, row: int) -> int:
        """Samples that solving draws before it chooses again, 0 for none: not for seconds, and not where there is no
        answer to agree on."""
        document = self.chooser.document.get("probe") if self.probing else None
        if (
            document is None
            or self.outlook.open_ended[row]
            or (self.shared is not None and self.shared.seconds is not None)
        ):
            return 0
        pays = self.amounts[row] >= document["from_budget"] * (1 - 1e-9)
        return int(document["samples"]) if pays and self.typical(row) >= document.get("least", 0) * (1 - 1e-9) else 0

    def reason(self, row: int) -> str:
        """A sentence, and another where the plan begins with a probe."""
        first = self.probe(row)
        if not first:
            return self._reason(row)
        probe = self.chooser.document["probe"]
        return (
            f"{self._reason(row)} Solving begins with a probe: what {first} samples of {probe['policy_model']} show "
            "may change the plan, and they are kept."
        )

    def _reason(self, row: int) -> str:
        chooser, table = self.chooser, self.chooser.table
        index, weights, budget = int(self.index[row]), self.outlook.distribution[row], self.budget_of(row)
        expected, cost = (
            float(mean_over(weights[None], values[index][None])[0, 0]) for values in (table.accuracy, table.cost)
        )
        scale, likely = float(self.outlook.scale[row]), int(weights.argmax())
        prompt = f"a prompt that is {table.buckets[likely]} with {weights[likely]:.0%} probability"
        price = amount_text(cost * scale, chooser.unit)
        if budget.seconds is not None:
            price += f" in {seconds_text(float(weights @ table.seconds[index]))}"
        head = f"{chooser.names[index]} is expected to answer {prompt} correctly {expected:.1%} of the time for {price}"
        if index != self.usual[row]:
            usual = chooser.names[int(self.usual[row])]
            return f"{head}: drawn at random to explore within {budget}, where {usual} would have been chosen."
        line = table.row(float(self.amounts[row]))
        if self._hopeless(row):
            return f"{head}: success is hopeless within {budget} whatever is tried, so this is the cheapest plan."
        if budget.seconds is not None:
            return f"{head}: the best of the plans that fit {budget} 99 times in 100."
        if seen := chooser.document.get("after_probe"):
            return f"{head}: the best of the plans that fit {budget} after a probe of {seen} samples."
        fixed = int(table.best_fixed[line]) if line >= 0 else -1
        if fixed < 0 and line >= 0:
            return f"{head}: the best of the plans that fit {budget}; none fits it for every prompt."
        if fixed < 0:
            return f"{head}: the best of the plans that fit {budget}, which is less than the policy's table starts at."
        if index == fixed:
            return f"{head}: it is also the best fixed strategy within {budget}."
        own = table.row(self.typical(row))
        if own >= 0 and table.fallback[own, likely] and index == int(table.cells[own, likely]):
            return (
                f"{head}: no other gain was significant there; of the plans that fit, it is the best over all prompts."
            )
        gain = expected - float(weights @ table.accuracy[fixed])
        saved = float(weights @ table.cost[fixed]) / max(cost, 1e-30)
        if gain < 0.005 and saved > 1:
            return f"{head}: more is not expected to help, {chooser.names[fixed]} would cost {saved:.1f} times as much."
        return (
            f"{head}: {100 * gain:+.1f} points against the best fixed strategy within {budget}, {chooser.names[fixed]}."
        )

    def _hopeless(self, row: int) -> bool:
        choice = choose_plans(
            self.chooser.table, self.outlook.distribution[row][None], self.typical(row), allowed=self.mask_of(row)
        )
        return bool(choice.hopeless[0])


def both(mask: Mask | None, quick: Mask | None) -> Mask | None:
    """Plans that both leave in."""
    if mask is None or quick is None:
        return mask if quick is None else quick
    left: Mask = mask & quick
    return left
