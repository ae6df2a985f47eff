"""A strategy that tells what it asks for and gets: the source of progress events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from planner.core import Answer, Completion, Problem
from planner.effects import Flow, Generate
from planner.errors import OutOfBudget
from planner.strategies import Strategy

__all__ = ["Notify", "Progress", "Watched"]


@dataclass(frozen=True, slots=True)
class Progress:
    """What a flow has done: rounds answered, answers or steps drawn, tokens generated, candidates scored."""

    rounds: int = 0
    completions: int = 0
    generated_tokens: int = 0
    scored: int = 0


Notify: TypeAlias = Callable[[Progress], None]


class Watched:
    """Runs `spec` unchanged and calls `notify` after each round, in the thread that runs the flow."""

    needs_verifier: bool
    name: str

    def __init__(self, spec: Strategy, notify: Notify) -> None:
        self._spec, self._notify = spec, notify
        self.name, self.needs_verifier, self.replayable = spec.name, spec.needs_verifier, spec.replayable
        self.policy_model = spec.policy_model

    def solve(self, problem: Problem) -> Flow[Answer]:
        flow, done = self._spec.solve(problem), Progress()
        try:
            effect = next(flow)
            while True:
                try:
                    reply = yield effect
                except OutOfBudget as error:
                    effect = flow.throw(error)
                    continue
                drawn = [r for r in reply if isinstance(r, Completion)]
                done = Progress(
                    done.rounds + 1,
                    done.completions + len(drawn),
                    done.generated_tokens + sum(r.generated_tokens for r in drawn),
                    done.scored + (0 if isinstance(effect, Generate) else len(reply)),
                )
                self._notify(done)
                effect = flow.send(reply)
        except StopIteration as stop:
            answer: Answer = stop.value
            return answer
        finally:
            flow.close()
