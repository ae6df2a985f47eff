"""A recipe cut into chunks: which requests each makes, and the bank's rows that come of them.

A chunk is a fixed set of problems under one unit of work. Its batches, and what engines remember while it runs, depend
on the chunk alone, so a run that was killed and resumed computes exactly what an uninterrupted one does.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from planner.core import (
    REVISION_TEMPLATE,
    Completion,
    GenerationRequest,
    Outcome,
    Problem,
    Sampling,
    ScoreRequest,
    split_steps,
    stable_hash,
)
from planner.models.protocols import ContinuousEngine, Engine, Verifier
from planner.profiling.recipe import Recipe
from planner.runtime.driver import Job, run_flows
from planner.strategies import Strategy, paths_in_flight, to_dict
from planner.strategies.scoring import candidate
from planner.tasks.answers import canonical
from planner.tasks.task import Task

__all__ = ["DIFFICULTY_INDEX", "Chunk", "Makers", "RunUnit", "SampleUnit", "Unit", "chunks_of", "units_of"]

DIFFICULTY_INDEX = 1_000_000
"""First index of samples that bucket a problem: other random streams than those that are scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleUnit:
    """Independent answers of one model at one temperature; index from `first_index`."""

    policy_model: str
    temperature: float
    top_p: float
    role: str
    first_index: int
    count: int
    scored: bool

    @property
    def label(self) -> str:
        what = "greedy" if self.temperature == 0 else f"{self.role}-t{self.temperature:g}"
        return f"{self.policy_model}-{what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunUnit:
    """Live runs of one strategy with one model."""

    policy_model: str
    spec: Strategy

    @property
    def label(self) -> str:
        return f"{self.policy_model}-{self.spec.name}-n{paths_in_flight(to_dict(self.spec)['hyperparameters'])}"


Unit: TypeAlias = SampleUnit | RunUnit


@dataclass(frozen=True, slots=True, kw_only=True)
class Makers:
    """Who generates, scores and judges."""

    engines: Mapping[str, Engine]
    verifier: Verifier | None
    task: Task
    max_batch: int

    def reset(self) -> None:
        for engine in self.engines.values():
            engine.reset()
        if self.verifier is not None:
            self.verifier.reset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some problems under one unit; `number` is its place among the unit's chunks."""

    unit: Unit
    number: int
    problems: tuple[Problem, ...]

    @property
    def table(self) -> str:
        return "samples" if isinstance(self.unit, SampleUnit) else "runs"

    def missing(self, makers: Makers, known: Collection[str]) -> list[tuple[str, Problem, int]]:
        """(key, problem, index) of what the bank does not hold yet, in order; index 0 for runs."""
        engine = makers.engines[self.unit.policy_model]
        if isinstance(self.unit, SampleUnit):
            indices = range(self.unit.first_index, self.unit.first_index + self.unit.count)
            wanted = [
                (_request(self.unit, p, i).key(engine.info.fingerprint), p, i) for p in self.problems for i in indices
            ]
        else:
            wanted = [(_run_key(self.unit, p, makers), p, 0) for p in self.problems]
        return [row for row in wanted if row[0] not in known]

    def part(self, missing: Sequence[tuple[str, Problem, int]]) -> str:
        """Name of the part that holds the missing rows; tells what is in it."""
        return (
            f"{self.unit.label.replace('/', '_')}-{self.number:04d}-{stable_hash([key for key, _, _ in missing])[:8]}"
        )

    def make(self, missing: Sequence[tuple[str, Problem, int]], makers: Makers) -> list[dict[str, Any]]:
        """Generate, score and judge what is missing; returns the bank's rows. Engines' errors pass."""
        makers.reset()
        if isinstance(self.unit, SampleUnit):
            return _samples(self.unit, missing, makers)
        return _runs(self.unit, missing, makers)


def chunks_of(recipe: Recipe, makers: Makers) -> list[Chunk]:
    """All chunks of a recipe, in the order in which they are worked off."""
    problems, size = makers.task.problems, recipe.run.chunk_problems
    return [
        Chunk(unit=unit, number=start // size, problems=problems[start : start + size])
        for unit in units_of(recipe, list(makers.engines), makers.verifier is not None)
        for start in range(0, len(problems), size)
    ]


def units_of(recipe: Recipe, models: Sequence[str], verified: bool) -> Iterator[Unit]:
    """All units of a recipe, in the order in which they are worked off."""
    s = recipe.samples
    for model in models:
        yield SampleUnit(
            policy_model=model, temperature=0.0, top_p=1.0, role="score", first_index=0, count=1, scored=False
        )
        for temperature in s.temperatures:
            yield SampleUnit(
                policy_model=model, temperature=temperature, top_p=s.top_p, role="score", first_index=0, count=s.count,
                scored=s.score and verified,
            )  # fmt: skip
        yield SampleUnit(
            policy_model=model, temperature=s.temperatures[0], top_p=s.top_p, role="difficulty",
            first_index=DIFFICULTY_INDEX, count=s.difficulty_count, scored=False,
        )  # fmt: skip
        for spec, wanted in recipe.runs:
            if not wanted or model in wanted:
                yield RunUnit(policy_model=model, spec=spec)


def _request(unit: SampleUnit, problem: Problem, index: int) -> GenerationRequest:
    """What `planner.strategies.sampling.draw` asks for, so that banks and live runs share keys."""
    sampling = Sampling(temperature=unit.temperature, top_p=unit.top_p, max_tokens=problem.max_tokens)
    return GenerationRequest(prompt=problem.prompt, sampling=sampling, index=index)


def _run_key(unit: RunUnit, problem: Problem, makers: Makers) -> str:
    verifier = makers.verifier.info.fingerprint if makers.verifier and unit.spec.needs_verifier else None
    # What most runs do not depend on enters only where it is not the default.
    more: list[Any] = []
    if problem.revision_template != REVISION_TEMPLATE:
        more.append(problem.revision_template)
    if second := getattr(unit.spec, "second_policy_model", None):
        more.append(makers.engines[second].info.fingerprint)
    return stable_hash(
        "run", makers.engines[unit.policy_model].info.fingerprint, verifier, to_dict(unit.spec), problem.problem_id,
        problem.prompt, problem.max_tokens, problem.step_separator, 0, *more,
    )  # fmt: skip


def _samples(unit: SampleUnit, missing: Sequence[tuple[str, Problem, int]], makers: Makers) -> list[dict[str, Any]]:
    engine = makers.engines[unit.policy_model]
    requests = [_request(unit, problem, index) for _, problem, index in missing]
    completions: list[Completion] = []
    # A continuous engine's running batch is its own affair: in batches, each would wait for the last of the one before.
    size = max(len(requests), 1) if isinstance(engine, ContinuousEngine) else makers.max_batch
    for start in range(0, len(requests), size):
        completions += engine.generate(requests[start : start + size])
    rows, to_score = list[dict[str, Any]](), list[tuple[int, ScoreRequest]]()
    for (key, problem, index), request, made in zip(missing, requests, completions, strict=True):
        found = candidate(made)
        steps = split_steps(made.text, problem.step_separator)
        if unit.scored and found.finished and steps:
            to_score.append((len(rows), ScoreRequest(prompt=problem.prompt, steps=steps)))
        rows.append(
            {
                "key": key, "problem_id": problem.problem_id, "policy_model": unit.policy_model,
                "temperature": unit.temperature, "top_p": unit.top_p, "max_tokens": problem.max_tokens, "index": index,
                "seed": request.seed(engine.info.fingerprint), "text": made.text, "answer": found.answer,
                "answer_key": found.key, "correct": _judge(found.answer, problem, makers.task),
                "finish": made.finish, "finished": found.finished, "prompt_tokens": made.prompt_tokens,
                "generated_tokens": made.generated_tokens, "mean_logprob": made.mean_logprob, "role": unit.role,
            }
        )  # fmt: skip
    verifier = makers.verifier
    for start in range(0, len(to_score), makers.max_batch):
        assert verifier is not None
        batch = to_score[start : start + makers.max_batch]
        for (place, _), scored in zip(batch, verifier.score([request for _, request in batch]), strict=True):
            rows[place] |= {
                "verifier": verifier.info.name,
                "scores": list(scored.scores) or None,  # a judge may not tell
                "verifier_tokens": scored.tokens,
            }
    return rows


def _runs(unit: RunUnit, missing: Sequence[tuple[str, Problem, int]], makers: Makers) -> list[dict[str, Any]]:
    jobs = [Job(problem, unit.spec) for _, problem, _ in missing]
    done = run_flows(
        jobs, makers.engines, makers.verifier, default_policy_model=unit.policy_model, max_batch=makers.max_batch
    )
    hyperparameters = json.dumps(to_dict(unit.spec)["hyperparameters"], sort_keys=True)
    verifier = makers.verifier.info.name if makers.verifier and unit.spec.needs_verifier else None
    rows = []
    for (key, problem, _), run in zip(missing, done, strict=True):
        answer, finished = run.answer.answer, run.answer.outcome is Outcome.FINISHED
        rows.append(
            {
                "key": key, "problem_id": problem.problem_id, "policy_model": unit.policy_model, "verifier": verifier,
                "strategy": unit.spec.name, "hyperparameters": hyperparameters, "repeat": 0, "answer": answer,
                "answer_key": None if answer is None else canonical(answer),
                "correct": _judge(answer, problem, makers.task) if finished else False,
                "outcome": run.answer.outcome.value, "text": run.answer.text, "requests": run.usage.requests,
                "prompt_tokens": run.usage.prompt_tokens, "cached_tokens": run.usage.cached_tokens,
                "generated_tokens": run.usage.generated_tokens, "scored_tokens": run.usage.scored_tokens,
                "computed_prompt_tokens": run.usage.computed_prompt_tokens,
                "computed_scored_tokens": run.usage.computed_scored_tokens, "rounds": run.usage.rounds,
                "scoring_rounds": run.usage.scoring_rounds, "decode_steps": run.usage.decode_steps,
                "prefill_flops": run.cost.prefill_flops, "decode_flops": run.cost.decode_flops,
                "verifier_flops": run.cost.verifier_flops,
            }
        )  # fmt: skip
    return rows


def _judge(answer: str | None, problem: Problem, task: Task) -> bool | None:
    """An answerless text is wrong; without a gold answer nothing is known."""
    if problem.gold is None:
        return None
    return answer is not None and bool(task.check(answer, problem.gold))
