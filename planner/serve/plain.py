"""What a call without a budget gets: samples, as it asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from planner.core import Answer, Problem
from planner.effects import Flow
from planner.serve.calls import MAX_CHOICES
from planner.strategies.sampling import draw
from planner.strategies.scoring import conclude

__all__ = ["Plain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """`n` samples of the stream `seed`; no two seeds share a draw."""

    name: ClassVar[str] = "plain"
    needs_verifier: ClassVar[bool] = False
    replayable: ClassVar[bool] = False

    n: int
    temperature: float
    top_p: float
    seed: int
    policy_model: str | None = None

    def solve(self, problem: Problem) -> Flow[Answer]:
        found, short = yield from draw(
            problem, self.n, temperature=self.temperature, top_p=self.top_p, policy_model=self.policy_model,
            first_index=self.seed * MAX_CHOICES,
        )  # fmt: skip
        return conclude(found, "last", "vote", out_of_budget=short)
