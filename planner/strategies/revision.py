"""Sequential revision: answers that are drawn in sight of earlier ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from planner.core import Answer, Candidate, Completion, GenerationRequest, Problem, Sampling
from planner.effects import Flow, Generate
from planner.errors import InputError, OutOfBudget
from planner.strategies.base import require, validate
from planner.strategies.sampling import keep_paid, score_finished
from planner.strategies.scoring import Aggregation, Selection, conclude

__all__ = ["Revision", "revision_prompt"]

_REMEMBERED = 4  # earlier attempts in sight, as Snell et al. train and run their revision models
_FIELD = re.compile(r"\{(prompt|attempts)\}")


def revision_prompt(problem: Problem, attempts: Sequence[str]) -> str:
    """The prompt that asks to revise `attempts` (oldest first; the last four are shown), by the problem's template.

    Raises InputError where the template has no `{attempts}`.
    """
    if "{attempts}" not in problem.revision_template:
        raise InputError(
            "no place for the earlier answers", where=problem.problem_id, field="revision_template",
            value=problem.revision_template, expected="a text with {prompt} and {attempts}",
        )  # fmt: skip
    shown = "\n\n".join(attempt.strip() for attempt in attempts[-_REMEMBERED:])
    # One pass, so that braces within a prompt or an attempt stay as they are.
    return _FIELD.sub(lambda m: problem.prompt if m[1] == "prompt" else shown, problem.revision_template)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """Chains of one answer and so many revisions of it each, chains * (revisions + 1) answers in all.

    Snell et al. (arXiv 2408.03314). The sequential to parallel ratio is (revisions + 1) : chains. One answer is chosen
    among all of all chains: by majority where `aggregation` is None, else by a verifier as in best-of-N.
    """

    name: ClassVar[str] = "revision"
    replayable: ClassVar[bool] = False

    chains: int
    revisions: int
    temperature: float = 0.8
    top_p: float = 1.0
    aggregation: Aggregation | None = None
    selection: Selection = "vote"
    policy_model: str | None = None

    def __post_init__(self) -> None:
        validate(self)
        unscored = self.aggregation is None and self.selection == "max"
        require(self, not unscored, "selection", "needs scores", "vote, or an aggregation of a verifier's scores")

    @property
    def needs_verifier(self) -> bool:
        return self.aggregation is not None

    def solve(self, problem: Problem) -> Flow[Answer]:
        found, short, chains = list[Candidate](), False, [list[str]() for _ in range(self.chains)]
        for number in range(self.revisions + 1):
            reply = yield from self._attempt(problem, chains, number)
            paid, short = keep_paid(reply)
            found += paid
            if short or not reply:
                short = True
                break
            for chain, completion in zip(chains, reply, strict=True):
                chain.append(completion.text)
        if self.aggregation is not None:
            found, unscored = yield from score_finished(problem, found)
            short = short or unscored
        return conclude(found, self.aggregation or "last", self.selection, out_of_budget=short)

    def _attempt(self, problem: Problem, chains: Sequence[Sequence[str]], number: int) -> Flow[tuple[Completion, ...]]:
        """One further answer for each chain; none where the budget does not pay for any."""
        sampling = Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=problem.max_tokens)
        requests = tuple(
            GenerationRequest(
                prompt=revision_prompt(problem, attempts) if attempts else problem.prompt,
                sampling=sampling,
                index=number * self.chains + i,
            )
            for i, attempts in enumerate(chains)
        )
        try:
            reply: tuple[Completion, ...] = yield Generate(requests=requests, policy_model=self.policy_model)
        except OutOfBudget:
            return ()
        return reply
