"""Running a probe: the first samples of a stream, a refined prediction, another choice, and on with what it chose.

The whole is one flow on one ledger. The probe's samples and scores are kept: what the chosen strategy asks for that is
there already is answered from them and costs nothing again.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from planner.budget import Budget
from planner.core import (
    Answer,
    Candidate,
    Completion,
    GenerationRequest,
    Problem,
    Sampling,
    ScoreRequest,
    StepScores,
    split_steps,
)  # fmt: skip
from planner.effects import Effect, Flow, Generate, Score
from planner.errors import OutOfBudget, PolicyError
from planner.models.protocols import Engine, Verifier
from planner.policy.choose import choose_one
from planner.policy.chooser import Chooser, Outlook
from planner.policy.decisions import Decisions
from planner.policy.equipment import runnable
from planner.policy.plan import Plan
from planner.policy.predictor import DifficultyPredictor
from planner.policy.refine import Refinement, candidate_features
from planner.strategies import Strategy
from planner.strategies.sampling import keep_paid

__all__ = ["Probe", "ProbedSolve", "continued"]

_DEFAULTS = {"temperature": 0.8, "top_p": 1.0}  # the strategies' own, where a bank does not say


@dataclass(frozen=True, slots=True)
class Probe:
    """The `probe` of policy.json. `after` chooses among the plans that follow, whose costs have the probe's in them, by
    bins of the refined prediction; `edges` are the inner bounds of the bins."""

    samples: int
    policy_model: str
    temperature: float
    top_p: float
    verifier: str | None
    refinement: Refinement
    edges: NDArray[np.float64]
    after: Chooser

    @classmethod
    def from_policy(
        cls, policy: Mapping[str, Any], predictor: DifficultyPredictor, warning: str | None, *, where: str
    ) -> Probe | None:
        """None where the policy has none. Raises PolicyError where it is damaged."""
        document = policy.get("probe")
        if document is None:
            return None
        try:
            rest = {key: document[key] for key in ("bucket_edges", "plans", "table")}
            bounds = [float(low) for low, _ in document["bucket_edges"].values()]
            given = {key: document.get(key) for key in _DEFAULTS}
            sampling = {key: float(_DEFAULTS[key] if value is None else value) for key, value in given.items()}
            samples, name = int(document["samples"]), str(document["policy_model"])
            verifier = document["verifier"]
            refinement = Refinement.from_dict(document["refinement"], where=where)
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(
                f"damaged ({error!r})", where=where, field="probe", hint="Fit the policy again"
            ) from error
        after = Chooser({**policy, **rest, "after_probe": samples, "latency": None, "probe": None}, predictor, warning)
        return cls(
            samples, name, sampling["temperature"], sampling["top_p"], verifier, refinement,
            np.array(bounds[1:]), after,
        )  # fmt: skip

    def runs_on(self, engines: Mapping[str, Engine], verifier: Verifier | None) -> NDArray[np.bool_] | None:
        """The plans [C] that may follow on these engines; None where the probe itself or no plan at all can run."""
        if self.policy_model not in engines or (self.verifier is not None and verifier is None):
            return None
        allowed = runnable(self.after.document["plans"], engines, verifier)
        return allowed if allowed.any() else None

    def fits(self, amount: float, allowed: NDArray[np.bool_]) -> bool:
        """Whether a typical prompt's budget (the policy's unit) lets a plan follow whatever the probe shows."""
        dearest = float(self.after.table.p95[allowed].min(axis=0).max())
        return amount >= dearest * (1 - 1e-9)

    def choose(
        self, prompt: str, found: Sequence[Candidate], budget: Budget, allowed: NDArray[np.bool_]
    ) -> Plan | None:
        """The plan after a probe that showed `found`; None where none fits."""
        chooser = self.after
        look = chooser.look((prompt,))
        told = self.refinement.predict(look.predicted, candidate_features(found, self.samples)[None])
        table = chooser.table
        bins = np.zeros((1, len(table.buckets)))
        bins[0, int(self.edges.searchsorted(float(told[0])))] = 1.0
        amount = chooser.amount(budget)
        index = choose_one(table, bins[0], amount / float(look.scale[0]), allowed)
        if index < 0:
            return None
        chosen, ones, token = np.array([index]), np.ones(1), os.urandom(12).hex()
        return Plan(
            Decisions(
                chooser, budget, np.array([amount]), Outlook(bins, look.scale, look.strangeness, look.open_ended),
                allowed, chosen, chosen, ones, token,
            ),
            0,
        )  # fmt: skip


@dataclass(slots=True)
class ProbedSolve:
    """A probe and what follows it, to be run once, as a strategy; `plan` becomes the one that was followed."""

    name: ClassVar[str] = "probe"
    replayable: ClassVar[bool] = False

    probe: Probe
    plan: Plan
    budget: Budget
    allowed: NDArray[np.bool_]
    policy_model: str | None = field(init=False)
    needs_verifier: bool = field(init=False)

    def __post_init__(self) -> None:
        plans = self.probe.after.document["plans"]
        followed = [p for p, may in zip(plans, self.allowed.tolist(), strict=True) if may]
        self.policy_model = self.probe.policy_model
        self.needs_verifier = (
            self.probe.verifier is not None
            or self.plan.verifier is not None
            or any(p["verifier"] is not None for p in followed)
        )

    def solve(self, problem: Problem) -> Flow[Answer]:
        probe = self.probe
        sampling = Sampling(temperature=probe.temperature, top_p=probe.top_p, max_tokens=problem.max_tokens)
        requests = [
            GenerationRequest(prompt=problem.prompt, sampling=sampling, index=index) for index in range(probe.samples)
        ]
        kept: dict[GenerationRequest, Completion] = {}
        scores: dict[ScoreRequest, StepScores] = {}
        try:
            reply: Sequence[Completion] = yield Generate(requests=tuple(requests), policy_model=probe.policy_model)
            kept = dict(zip(requests, reply, strict=True))
            found, short = keep_paid(reply)
            if probe.verifier is not None and not short:
                found = yield from _scored(problem, found, scores)
        except OutOfBudget:
            short = True
        if not short:
            self.plan = probe.choose(problem.prompt, found, self.budget, self.allowed) or self.plan
        spec: Strategy = self.plan.spec
        return (yield from continued(spec.solve(problem), probe.policy_model, kept, scores))


def _scored(
    problem: Problem, found: Sequence[Candidate], scores: dict[ScoreRequest, StepScores]
) -> Generator[Effect, Any, list[Candidate]]:
    """The candidates with scores for the finished ones; `scores` gets what was asked."""
    steps = [split_steps(c.text, problem.step_separator) if c.finished else () for c in found]
    requests = {s: ScoreRequest(prompt=problem.prompt, steps=s) for s in dict.fromkeys(steps) if s}
    if requests:
        reply = yield Score(requests=tuple(requests.values()))
        scores |= dict(zip(requests.values(), reply, strict=True))
    return [
        replace(c, scores=scores[requests[s]].scores) if s in requests else c for c, s in zip(found, steps, strict=True)
    ]


def continued(
    flow: Flow[Answer],
    policy_model: str,
    kept: Mapping[GenerationRequest, Completion],
    scores: Mapping[ScoreRequest, StepScores],
) -> Flow[Answer]:
    """The flow, whose requests to `policy_model` and scores are answered from `kept` and `scores` where they are there;
    only the others go on to the driver."""
    try:
        effect = next(flow)
        while True:
            try:
                if isinstance(effect, Score):
                    reply = yield from _answered(effect, scores, None)
                elif effect.policy_model == policy_model:
                    reply = yield from _answered(effect, kept, _REFUSED)
                else:
                    reply = yield effect
            except OutOfBudget as error:
                effect = flow.throw(error)
            else:
                effect = flow.send(reply)
    except StopIteration as end:
        answer: Answer = end.value
        return answer


_REFUSED = Completion(text="", finish="budget", prompt_tokens=0, generated_tokens=0)
"""As a driver answers what the balance cannot pay for while it pays for others."""


def _answered(
    effect: Any, known: Mapping[Any, Any], refused: Completion | None
) -> Generator[Effect, Any, tuple[Any, ...]]:
    missing = tuple(request for request in effect.requests if request not in known)
    more: dict[Any, Any] = {}
    if missing:
        try:
            more = dict(zip(missing, (yield replace(effect, requests=missing)), strict=True))
        except OutOfBudget:
            if refused is None or len(missing) == len(effect.requests):
                raise
            more = dict.fromkeys(missing, refused)
    return tuple(known[request] if request in known else more[request] for request in effect.requests)
