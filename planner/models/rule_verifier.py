"""The verifier that is a rule: the task's own checker against its gold answers, or a user's function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TypeAlias

from planner.core import ScoreRequest, StepScores, join_steps, stable_hash
from planner.errors import VerifierError
from planner.models.architectures import NO_MODEL
from planner.models.cost import ModelShape
from planner.models.protocols import VerifierInfo
from planner.tasks.answers import extract_answer
from planner.tasks.checkers import load_function
from planner.tasks.task import Task

__all__ = ["FREE", "Rule", "RuleVerifier"]

Rule: TypeAlias = Callable[[str, str], float | None]
"""(prompt, answer text) -> a score in [0, 1] (or true, false), None where the rule does not apply."""

FREE = ModelShape.from_config({"model_type": NO_MODEL})
"""Prices what no model computes: 0 FLOPs."""

_SEPARATOR = "\n\n"


class RuleVerifier:
    """One score for the answer as a whole, at no FLOPs. `fingerprint` changes whenever a score could.

    Raises VerifierError for a score outside [0, 1]; whatever the rule itself raises passes.
    """

    def __init__(self, rule: Rule, *, name: str, fingerprint: str) -> None:
        self._rule = rule
        self._info = VerifierInfo(
            name=name, fingerprint=stable_hash("rule", fingerprint), shape=FREE, incremental=False, outcome=True
        )

    @classmethod
    def named(cls, place: str) -> RuleVerifier:
        """A user's function, at `module:function` or `path/file.py:function`. Raises InputError where there is none."""
        rule = load_function(place, field="verifier")
        try:
            source = inspect.getsource(rule)
        except (OSError, TypeError):  # not written in Python
            source = ""
        return cls(rule, name=place, fingerprint=stable_hash(place, source))

    @classmethod
    def of_task(cls, task: Task) -> RuleVerifier:
        """The task's own checker: 1 for the gold answer, 0 for another one, no score while there is no answer.

        It knows the gold answers, so what it selects is an upper bound for any other verifier.
        """
        golds = {problem.prompt: problem.gold for problem in task.problems}

        def rule(prompt: str, text: str) -> float | None:
            if golds.get(prompt) is None:
                raise VerifierError(f"the task {task.name} has no gold answer for the prompt {prompt[:60]!r}")
            answer = extract_answer(text)
            return None if answer is None else float(task.check(answer, golds[prompt] or ""))

        return cls(rule, name=f"checker of {task.name}", fingerprint=stable_hash(task.name, sorted(golds.items())))

    @property
    def info(self) -> VerifierInfo:
        return self._info

    def count_tokens(self, prompt: str, steps: Sequence[str]) -> int:
        return 0

    def reset(self) -> None:
        pass

    def score(self, requests: Sequence[ScoreRequest]) -> list[StepScores]:
        """One score for each request or none, in order."""
        return [self._one(request) for request in requests]

    def _one(self, request: ScoreRequest) -> StepScores:
        score = self._rule(request.prompt, join_steps(request.steps, _SEPARATOR))
        if score is not None and not 0 <= score <= 1:
            raise VerifierError(f"{self._info.name}: a score of {score!r} (expected a number in [0, 1], or None)")
        return StepScores(scores=() if score is None else (float(score),), tokens=0, new_tokens=0, computed_tokens=0)
