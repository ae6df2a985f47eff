"""Live runs of strategies on problems: those that the bank holds are read, the others are made and kept there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from planner.core import Completion, GenerationRequest, Problem, stable_hash
from planner.models.memo import RememberingEngine, RememberingVerifier
from planner.profiling.work import Chunk, Makers, RunUnit
from planner.strategies import Strategy

if TYPE_CHECKING:
    from planner.profiling.bank import Bank

__all__ = ["LiveRuns", "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run: `correct` is None where the problem has no gold answer; `cost` is FLOPs, or all tokens where a model's
    config is unknown."""

    correct: bool | None
    cost: float


@dataclass(slots=True)
class LiveRuns:
    """Runs on demand, kept in the bank. `generated_tokens`: what its searches have made so far, the `before` of earlier
    ones with it; a step that several runs ask for is made once."""

    makers: Makers
    bank: Bank
    before: int
    _rows: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _made: dict[RunUnit, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def open(
        cls, makers: Makers, bank: Bank, *, asked: Callable[[GenerationRequest, Completion], None] | None = None
    ) -> LiveRuns:
        """`makers` with engines and verifier that remember what they made; `asked` as in RememberingEngine."""
        engines = {name: RememberingEngine(engine, asked=asked) for name, engine in makers.engines.items()}
        verifier = None if makers.verifier is None else RememberingVerifier(makers.verifier)
        spent = int((bank.manifest.get("search") or {}).get("generated_tokens", 0))
        runs = cls(replace(makers, engines=engines, verifier=verifier), bank, spent)
        for row in bank.runs.to_dict("records"):
            runs._rows[str(row["key"])] = {str(name): value for name, value in row.items()}
        return runs

    @property
    def generated_tokens(self) -> int:
        fresh = sum(e.fresh_tokens for e in self.makers.engines.values() if isinstance(e, RememberingEngine))
        return self.before + fresh

    def mean_tokens(self, spec: Strategy, model: str) -> float:
        """What one run of this strategy generates on average: by those made here, shared steps aside, else by recorded
        ones; 0 where there is none."""
        unit = RunUnit(policy_model=model, spec=spec)
        if unit in self._made:
            tokens, count = self._made[unit]
            return tokens / count
        keys = [key for key, _, _ in self._chunk(unit, self.makers.task.problems).missing(self.makers, ())]
        known = [int(self._rows[key]["generated_tokens"]) for key in keys if key in self._rows]
        return sum(known) / len(known) if known else 0.0

    def missing(self, spec: Strategy, model: str, problems: Sequence[Problem]) -> int:
        """How many of these runs would have to be made."""
        chunk = self._chunk(RunUnit(policy_model=model, spec=spec), problems)
        return len(chunk.missing(self.makers, self._rows.keys()))

    def run(self, wanted: Sequence[tuple[Strategy, str, Problem]]) -> list[Outcome]:
        """The outcome of each (strategy, policy model, problem), in order. Raises what engines and verifier raise.

        What is missing is made and written to the bank at once, so a run that was killed loses one call's runs.
        """
        grouped: dict[RunUnit, dict[str, Problem]] = {}
        for spec, model, problem in wanted:
            grouped.setdefault(RunUnit(policy_model=model, spec=spec), {})[problem.problem_id] = problem
        keys: dict[tuple[RunUnit, str], str] = {}
        made: list[Mapping[str, Any]] = []
        for unit, problems in grouped.items():
            chunk = self._chunk(unit, list(problems.values()))
            everything = chunk.missing(self.makers, ())
            keys.update(((unit, problem.problem_id), key) for key, problem, _ in everything)
            missing = [row for row in everything if row[0] not in self._rows]
            if missing:
                before = self.generated_tokens
                rows = chunk.make(missing, self.makers)
                tokens, count = self._made.get(unit, (0, 0))
                self._made[unit] = tokens + self.generated_tokens - before, count + len(rows)
                self._rows.update((row["key"], row) for row in rows)
                made += rows
        if made:
            self.bank.append_runs(made, part=f"search-{stable_hash([row['key'] for row in made])[:12]}")
            self.bank.update_manifest({"search": {"generated_tokens": self.generated_tokens}})
        return [
            _outcome(self._rows[keys[RunUnit(policy_model=model, spec=spec), problem.problem_id]])
            for spec, model, problem in wanted
        ]

    @staticmethod
    def _chunk(unit: RunUnit, problems: Sequence[Problem]) -> Chunk:
        return Chunk(unit=unit, number=0, problems=tuple(problems))


def _outcome(row: Mapping[str, Any]) -> Outcome:
    cost = math.fsum(float(row[part]) for part in ("prefill_flops", "decode_flops", "verifier_flops"))
    if math.isnan(cost):
        cost = float(sum(int(row[part]) for part in ("prompt_tokens", "generated_tokens", "scored_tokens")))
    correct = row["correct"]
    return Outcome(None if pd.isna(correct) else bool(correct), cost)
