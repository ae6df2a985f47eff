"""Timed calls of a recipe's engines and verifier, for the latency model that the bank's manifest keeps."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from planner.core import GenerationRequest, Problem, Sampling, ScoreRequest, split_steps
from planner.models.latency import Timing, fit_latency
from planner.models.protocols import Engine, Verifier
from planner.profiling.work import Makers
from planner.runtime.ledger import Clock

__all__ = ["measure_latency"]

_ROWS = (1, 4, 16, 64)
_LENGTHS = (1, 8, 32)
_WHOLE_ROWS = 4
_ANSWERS = 16
_FEWEST_PASSES, _MOST_PASSES = 2, 6
_SECONDS = 6.0
"""After the fewest passes no further one is begun where the ones before took so long."""
_TEMPERATURE = 0.8

S = TypeVar("S")


def measure_latency(
    makers: Makers, known: Mapping[str, Any] | None = None, *, clock: Clock = time.perf_counter
) -> dict[str, Any]:
    """Time every engine and the verifier and fit their latencies: `{"engines": {name: ...}, "verifier": ...}` (JSON).

    Each entry is a `planner.models.latency.Latency` with the `fingerprint` that it holds for; those of `known` with the
    same fingerprint, and of other engines, are kept. What is generated is thrown away. Raises what engines and verifier
    raise.
    """
    known, problems, most = known or {}, makers.task.problems, makers.max_batch
    engines = dict(known.get("engines") or {})
    for name, engine in makers.engines.items():
        entry, fingerprint = engines.get(name), engine.info.fingerprint
        if not _holds(entry, fingerprint):
            entry = fit_latency(_time_engine(engine, problems, most, clock)).to_dict() | {"fingerprint": fingerprint}
        engines[name] = entry
    entry = None
    if makers.verifier is not None:
        entry, fingerprint = known.get("verifier"), makers.verifier.info.fingerprint
        if not _holds(entry, fingerprint):
            timings = _time_verifier(makers.verifier, next(iter(makers.engines.values())), problems, most, clock)
            # Answers without a step leave nothing to be timed.
            entry = fit_latency(timings).to_dict() | {"fingerprint": fingerprint} if timings else None
    makers.reset()
    return {"engines": engines, "verifier": entry}


def _holds(entry: Mapping[str, Any] | None, fingerprint: str) -> bool:
    return entry is not None and entry.get("fingerprint") == fingerprint


def _time_engine(engine: Engine, problems: Sequence[Problem], most: int, clock: Clock) -> list[Timing]:
    """Calls of few and many rows, of short pieces and whole answers, to one prompt and to several."""
    fits, rng = [rows for rows in _ROWS if rows <= most], random.Random(0)
    shapes: list[tuple[int, int | None, bool]] = [
        (rows, length, shared) for rows in fits for length in _LENGTHS for shared in sorted({True, rows == 1})
    ]
    shapes += [(rows, None, True) for rows in fits if rows <= _WHOLE_ROWS]

    def call(shape: tuple[int, int | None, bool]) -> Timing:
        rows, length, shared = shape
        chosen = rng.choices(problems, k=1) * rows if shared else rng.choices(problems, k=rows)
        asked = [_request(problem, length, index) for index, problem in enumerate(chosen)]
        engine.reset()
        started = clock()
        made = engine.generate(asked)
        seconds = clock() - started
        # Of rows that share a prompt, the first one's prefill may count as the others' cache.
        inputs = dict.fromkeys((request.prompt for request in asked), 0)
        for request, c in zip(asked, made, strict=True):
            inputs[request.prompt] = max(inputs[request.prompt], c.prompt_tokens - c.cached_tokens)
        return Timing(seconds, sum(inputs.values()), tuple(c.generated_tokens for c in made))

    return list(_passes(shapes, call, rng, clock))


def _time_verifier(
    verifier: Verifier, engine: Engine, problems: Sequence[Problem], most: int, clock: Clock
) -> list[Timing]:
    """Calls of few and many rows, of first steps and of whole answers that the engine gives."""
    rng = random.Random(0)
    chosen = rng.choices(problems, k=_ANSWERS)
    made = engine.generate([_request(problem, None, index) for index, problem in enumerate(chosen)])
    answers = [(p.prompt, split_steps(c.text, p.step_separator)) for p, c in zip(chosen, made, strict=True)]
    answers = [(prompt, steps) for prompt, steps in answers if steps]
    if not answers:
        return []

    def call(shape: tuple[int, bool]) -> Timing:
        rows, whole = shape
        asked = [
            ScoreRequest(prompt=p, steps=steps if whole else steps[:1]) for p, steps in rng.choices(answers, k=rows)
        ]
        verifier.reset()
        started = clock()
        scored = verifier.score(asked)
        return Timing(clock() - started, sum(s.computed_tokens for s in scored))

    shapes = [(rows, whole) for rows in _ROWS if rows <= most for whole in (False, True)]
    return list(_passes(shapes, call, rng, clock))


def _passes(shapes: Sequence[S], call: Callable[[S], Timing], rng: random.Random, clock: Clock) -> Iterator[Timing]:
    """Each shape once in a pass, in another order each time, so that a pause of the machine hits none in particular."""
    call(shapes[0])  # the first call of all is like no other
    began = clock()
    for number in range(_MOST_PASSES):
        if number >= _FEWEST_PASSES and clock() - began > _SECONDS:
            return
        for shape in rng.sample(shapes, len(shapes)):
            yield call(shape)


def _request(problem: Problem, length: int | None, index: int) -> GenerationRequest:
    tokens = problem.max_tokens if length is None else min(length, problem.max_tokens)
    sampling = Sampling(temperature=_TEMPERATURE, max_tokens=tokens)
    return GenerationRequest(prompt=problem.prompt, sampling=sampling, index=index)
