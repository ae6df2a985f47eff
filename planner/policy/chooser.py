"""From prompts to plans with a fitted policy: difficulty, units, the choice, exploration, and why.

A Chooser reads no file and changes nothing, so any number of threads may share one.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.budget import Budget
from planner.errors import BudgetError, CapabilityError, InputError
from planner.models.cost import ModelShape
from planner.models.latency import LatencyModel
from planner.policy.allocate import allocate
from planner.policy.choose import FITS, PlanTable, choose_one, choose_plans, mean_over
from planner.policy.deadline import in_time, refuse_slow
from planner.policy.decisions import Decisions, both
from planner.policy.features import COUNTS, extract
from planner.policy.open_ended import looks_open_ended
from planner.policy.plan import amount_text, describe
from planner.policy.predictor import DifficultyPredictor
from planner.strategies import Strategy, from_dict

__all__ = ["Chooser", "Look", "Outlook", "flops_per_token", "share_budget"]

_CHUNK = 128
"""Prompts whose features are taken together: few enough for their arrays to stay in the processor's cache."""

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def flops_per_token(shape: ModelShape) -> float:
    """One generated token at a short context, logits included."""
    return float(shape.flops_per_token + shape.flops_per_logits)


@dataclass(frozen=True, slots=True)
class Look:
    """Success probability `predicted` [P], `strangeness` [P] (NaN unknown), cost `scale` [P] and whether each prompt
    seems open-ended [P]."""

    predicted: Floats
    strangeness: Floats
    scale: Floats
    open_ended: Mask


@dataclass(frozen=True, slots=True)
class Outlook:
    """What plans are chosen by: bucket `distribution` [P, B], cost `scale` [P] in multiples of a typical prompt's,
    `strangeness` [P] (NaN unknown) and whether each prompt seems open-ended [P]."""

    distribution: Floats
    scale: Floats
    strangeness: Floats
    open_ended: Mask


class Chooser:
    """A fitted policy with its difficulty predictor, as `planner.api.Planner` uses it."""

    def __init__(self, document: Mapping[str, Any], predictor: DifficultyPredictor, warning: str | None) -> None:
        self.document, self.predictor, self.warning = document, predictor, warning
        self.table = PlanTable.from_document(document)
        timed = document.get("latency")
        self.latency = None if timed is None else LatencyModel.from_dict(timed, where="latency in policy.json")
        self.specs: tuple[Strategy, ...] = tuple(_spec(plan) for plan in document["plans"])
        self.names = tuple(describe(plan) for plan in document["plans"])
        self.unit = str(document["unit"])
        self._buckets = predictor.distribution_of(predictor.spread.q, document["bucket_edges"])

    # --- choosing -------------------------------------------------------------------------------------------------

    def decide(
        self,
        prompts: Sequence[str],
        budget: Budget,
        *,
        allowed: Mask | None = None,
        explore: float = 0.0,
        draw: random.Random | None = None,
        probing: bool = False,
    ) -> Decisions:
        """A plan for each prompt, each within `budget`; `allowed` [C] leaves plans out; with `probing` the plans say
        where they begin with the policy's probe.

        With `explore` the plan is, with that probability, drawn evenly from all that fit the budget. Raises InputError
        for what is no text, BudgetError where the budget pays for no plan, CapabilityError where none is allowed.
        """
        require_texts(prompts)
        amounts = np.full(len(prompts), self.amount(budget))
        outlook = self.outlook(prompts)
        index = self._best(outlook, amounts, allowed, budget)
        usual, propensity = index, np.ones(len(index))
        if explore > 0:
            index, propensity = self._explore(
                outlook, amounts, allowed, budget, usual, explore, draw or random.Random()
            )
        token = os.urandom(12).hex()
        return Decisions(self, budget, amounts, outlook, allowed, index, usual, propensity, token, probing)

    def outlook(self, prompts: Sequence[str]) -> Outlook:
        """What the prompts tell; those unlike anything profiled get the profiled base rates."""
        if self.predictor.trees is None and self.predictor.familiarity is None:
            base, ones = np.repeat(self.base_rates[None], len(prompts), axis=0), np.ones(len(prompts))
            return Outlook(base, ones, ones * np.nan, np.array([looks_open_ended(p) for p in prompts], np.bool_))
        if len(prompts) <= _CHUNK:
            return self._predict(prompts)
        pieces = [self._predict(prompts[i : i + _CHUNK]) for i in range(0, len(prompts), _CHUNK)]
        return Outlook(
            np.concatenate([piece.distribution for piece in pieces]),
            np.concatenate([piece.scale for piece in pieces]),
            np.concatenate([piece.strangeness for piece in pieces]),
            np.concatenate([piece.open_ended for piece in pieces]),
        )

    def describe_prompt(self, prompt: str) -> dict[str, Any]:
        """What a log may keep of a prompt, no text: its counts that are not 0, its strangeness (None unknown)."""
        extracted = extract((prompt,), self.predictor.spec)
        familiarity = self.predictor.familiarity
        return {
            "features": {name: float(x) for name, x in zip(COUNTS, extracted.matrix[0], strict=False) if x},
            "strangeness": None if familiarity is None else float(familiarity.measure(extracted)[0]),
        }

    def look(self, prompts: Sequence[str]) -> Look:
        """What the prompts' texts tell."""
        predictor = self.predictor
        extracted = extract(prompts, predictor.spec)
        # The features know already which prompts hold none of its words, as far as these are ASCII.
        open_ended = extracted.open_worded
        for row, (worded, prompt) in enumerate(zip(open_ended.tolist(), prompts, strict=True)):
            if worded or not prompt.isascii():
                open_ended[row] = looks_open_ended(prompt)
        told, strangeness = predictor.look(extracted, prompts)
        return Look(told, strangeness, predictor.scale(extracted, strangeness), open_ended)

    def _predict(self, prompts: Sequence[str]) -> Outlook:
        predictor, found = self.predictor, self.look(prompts)
        if predictor.constant:
            distribution = np.repeat(self.base_rates[None], len(prompts), axis=0)
        else:
            distribution = predictor.spread.between(self._buckets, found.predicted)
        if predictor.familiarity is not None:
            strange = found.strangeness > 1
            if strange.any():
                distribution[strange] = self.base_rates
        return Outlook(distribution, found.scale, found.strangeness, found.open_ended)

    def mask(self, allowed: Mask | None, open_ended: bool) -> Mask | None:
        """The plans [C] that may be chosen; a prompt without a checkable answer gets no vote, where there is another
        plan."""
        if not open_ended or self.table.votes.all():
            return allowed
        without = ~self.table.votes if allowed is None else allowed & ~self.table.votes
        return without if without.any() else allowed

    def _best(self, outlook: Outlook, amounts: Floats, allowed: Mask | None, budget: Budget) -> NDArray[np.int64]:
        distribution, open_ended = outlook.distribution, outlook.open_ended
        quick = in_time(self.table, distribution, budget)
        if len(distribution) == 1:
            mask = self.mask(allowed, bool(open_ended[0]))
            typical = float(amounts[0]) / float(outlook.scale[0])
            only = choose_one(self.table, distribution[0], typical, both(mask, None if quick is None else quick[0]))
            if only < 0:
                self._refuse(outlook, 0, mask, budget)
            return np.array([only])
        index, typically = np.full(len(distribution), -1), amounts / outlook.scale
        for is_open in (False, True):
            rows = np.flatnonzero(open_ended == is_open)
            if not len(rows):
                continue
            mask = self.mask(allowed, is_open)
            left = both(mask, None if quick is None else quick[rows])
            plan = choose_plans(self.table, distribution[rows], typically[rows], allowed=left).plan
            if plan.min() < 0:
                self._refuse(outlook, int(rows[plan < 0][0]), mask, budget)
            index[rows] = plan
        return index

    def _explore(
        self,
        outlook: Outlook,
        amounts: Floats,
        allowed: Mask | None,
        budget: Budget,
        usual: NDArray[np.int64],
        share: float,
        draw: random.Random,
    ) -> tuple[NDArray[np.int64], Floats]:
        index, propensity = usual.copy(), np.ones(len(usual))
        fits = mean_over(outlook.distribution, self.table.p95) <= (amounts / outlook.scale)[:, None] * FITS
        quick = in_time(self.table, outlook.distribution, budget)
        fits = fits if quick is None else fits & quick
        for row in range(len(usual)):
            mask = self.mask(allowed, bool(outlook.open_ended[row]))
            pool = np.flatnonzero(fits[row] if mask is None else fits[row] & mask)
            if draw.random() < share:
                index[row] = draw.choice(pool.tolist())
            propensity[row] = share / len(pool) + (1 - share) * (index[row] == usual[row])
        return index, propensity

    def _refuse(self, outlook: Outlook, row: int, allowed: Mask | None, budget: Budget) -> None:
        distribution = outlook.distribution[row]
        p95 = self.table.p95 @ distribution * outlook.scale[row]
        if allowed is not None:
            if not allowed.any():
                raise CapabilityError("no plan of this policy can run here", hint="Give its engine and verifier")
            p95 = np.where(allowed, p95, np.inf)
        quick = in_time(self.table, distribution[None], budget)
        if quick is not None:
            refuse_slow(self.table, self.names, distribution, allowed, budget)
            p95 = np.where(quick[0], p95, np.inf)
        cheapest = int(p95.argmin())
        needed = float(p95[cheapest])
        reference = self.document.get("reference_cost")
        multiple = f" ({needed / reference:.2f}x)" if reference else ""
        raise BudgetError(
            f"no plan fits: the cheapest, {self.names[cheapest]}, needs {amount_text(needed, self.unit)}{multiple}",
            field="budget",
            value=str(budget),
            hint=f"Give at least {needed:.4g} {self.unit}",
        )

    @cached_property
    def base_rates(self) -> Floats:
        """The profiled share of each bucket, [B]."""
        counts = self.document.get("bucket_counts") or {}
        shares = np.array([float(counts.get(bucket) or 0) for bucket in self.table.buckets])
        if shares.sum() > 0:
            base: Floats = shares / shares.sum()
            return base
        rate = np.array([self.predictor.base_rate])
        only: Floats = self.predictor.distribution_of(rate, self.document["bucket_edges"])[0]
        return only

    @property
    def most(self) -> float:
        """What pays for every plan and prompt, in the policy's unit."""
        scale = self.predictor.cost_scale
        return float(max(self.table.p95.max(), *self.table.budgets[-1:])) * (1.0 if scale is None else scale.high)

    # --- units ----------------------------------------------------------------------------------------------------

    @cached_property
    def token_flops(self) -> float | None:
        """One token of the first policy model; None where its config is unknown."""
        models = list((self.document.get("policy_models") or {}).values())
        config = models[0].get("config") if models else None
        return flops_per_token(ModelShape.from_dict(config)) if config else None

    def amount(self, budget: Budget) -> float:
        """The budget in the policy's unit, infinite where only seconds are limited. Raises BudgetError where it cannot
        be converted."""
        reference = self.document.get("reference_cost")
        rate = None if budget.unit in (self.unit, "x", "seconds") else self.token_flops
        if self.unit == "flops":
            return budget.to_flops(reference_flops=reference, flops_per_token=rate)
        return budget.to_tokens(reference_tokens=reference, flops_per_token=rate)

    def cap_flops(self, budget: Budget, shape: ModelShape | None) -> float | None:
        """The budget in FLOPs, as a ledger holds it, None where only seconds are limited; `shape` is the engine's,
        whose tokens are priced."""
        if budget.unit == "seconds":
            return None
        if self.unit == "flops":
            return self.amount(budget)
        if budget.unit == "flops":
            return budget.amount
        rate = self.token_flops if shape is None else flops_per_token(shape)
        return Budget(self.amount(budget), "tokens").to_flops(flops_per_token=rate)


def share_budget(chooser: Chooser, prompts: Sequence[str], total: Budget, *, allowed: Mask | None = None) -> Decisions:
    """A plan for each prompt from one `total`; the amounts, which are hard caps, add up to at most that.

    What a plan gets is its 95th-percentile cost, and its share of what nothing could buy. Raises BudgetError where the
    total does not pay for the cheapest plans.
    """
    require_texts(prompts)
    if total.seconds is not None:
        raise BudgetError(
            "seconds cannot be shared out: prompts are answered side by side", field="total_budget", value=str(total),
            hint="Give each prompt its own seconds, or the total in another unit",
        )  # fmt: skip
    table, amount = chooser.table, chooser.amount(total)
    outlook = chooser.outlook(prompts)
    p95 = mean_over(outlook.distribution, table.p95) * outlook.scale[:, None]
    for is_open in (False, True):
        mask = chooser.mask(allowed, is_open)
        rows = np.flatnonzero(outlook.open_ended == is_open)
        if mask is not None:
            p95[np.ix_(rows, np.flatnonzero(~mask))] = np.inf
    # As for single prompts, only what the table names, so that nothing comes in that was not significant; beside each
    # prompt's cheapest plan.
    shut = np.broadcast_to(np.isnan(table.named_from), p95.shape).copy()
    shut[np.arange(len(p95)), p95.argmin(axis=1)] = False
    p95[shut] = np.inf
    found = allocate(mean_over(outlook.distribution, table.accuracy), p95, amount)
    amounts = p95[np.arange(len(prompts)), found.plan] * max(1.0, amount / found.cost)
    ones, token = np.ones(len(prompts)), os.urandom(12).hex()
    return Decisions(chooser, None, amounts, outlook, allowed, found.plan, found.plan, ones, token)


def require_texts(prompts: Sequence[str]) -> None:
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise InputError("a prompt is a text", field="prompt", expected="str")


def _spec(plan: Mapping[str, Any]) -> Strategy:
    fields = {**plan["hyperparameters"], "policy_model": plan["policy_model"]}
    return from_dict({"strategy": plan["strategy"], "hyperparameters": fields})
