"""What a recipe will take, from a short calibration: a few problems are run under each kind of work and timed."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from planner.core import Problem
from planner.profiling.work import Chunk, Makers, RunUnit, SampleUnit, Unit
from planner.runtime.driver import Job, run_flows
from planner.strategies import BestOfN, Greedy, Majority, Strategy, paths_in_flight, to_dict

__all__ = ["Estimate", "Rate", "calibrate", "estimate", "kind_of"]

_PROBLEMS = 8
_SAMPLES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Means for one path (sample, or path in flight) on one problem. `flops` None where a model's config is unknown."""

    requests: float
    generated_tokens: float
    flops: float | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The whole recipe; `remaining_*` is what the bank does not hold yet. `flops` None: a model's config is unknown.

    `gpu_hours` and `assumptions` (sentences) where nothing was loaded: nothing was timed then, `seconds` are a GPU's.
    """

    requests: int
    generated_tokens: int
    flops: float | None
    seconds: float
    remaining_generated_tokens: int
    remaining_seconds: float
    done_chunks: int
    total_chunks: int
    gpu_hours: float | None = None
    assumptions: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def kind_of(unit: Unit, makers: Makers) -> str:
    """Units of one kind cost the same for each path, so one of them is measured."""
    engine = makers.engines[unit.policy_model].info.fingerprint
    if isinstance(unit, RunUnit):
        return f"{engine} {unit.spec.name}"
    return f"{engine} {'greedy' if unit.temperature == 0 else 'scored' if unit.scored else 'sampled'}"


def paths_of(unit: Unit) -> int:
    """Samples or paths in flight on one problem."""
    return unit.count if isinstance(unit, SampleUnit) else _paths(unit.spec)


def calibrate(chunks: Sequence[Chunk], makers: Makers, known: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Rates by kind (JSON-able, to be kept in the manifest); kinds that are `known` are not measured again.

    Takes the cheapest unit of each kind. Its answers are thrown away.
    """
    rates: dict[str, dict[str, Any]] = dict(known)
    problems = makers.task.problems[:: max(1, len(makers.task.problems) // _PROBLEMS)][:_PROBLEMS]
    for chunk in sorted(chunks, key=lambda c: paths_of(c.unit)):
        kind = kind_of(chunk.unit, makers)
        if kind not in rates:
            rates[kind] = asdict(_measure(chunk.unit, problems, makers))
    return rates


def _measure(unit: Unit, problems: Sequence[Problem], makers: Makers) -> Rate:
    spec = _like(unit)
    makers.reset()
    started = time.perf_counter()
    runs = run_flows(
        [Job(problem, spec) for problem in problems], makers.engines, makers.verifier,
        default_policy_model=unit.policy_model, max_batch=makers.max_batch,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    paths = len(problems) * _paths(spec)
    flops = sum(run.cost.total_flops for run in runs) / paths
    return Rate(
        requests=sum(run.usage.requests for run in runs) / paths,
        generated_tokens=sum(run.usage.generated_tokens for run in runs) / paths,
        flops=None if math.isnan(flops) else flops,
        seconds=seconds / paths,
    )


def _paths(spec: Strategy) -> int:
    return paths_in_flight(to_dict(spec)["hyperparameters"])


def _like(unit: Unit) -> Strategy:
    """A strategy that does what the unit does, with few samples."""
    if isinstance(unit, RunUnit):
        return unit.spec
    if unit.temperature == 0:
        return Greedy()
    n = min(unit.count, _SAMPLES)
    if unit.scored:
        return BestOfN(n=n, temperature=unit.temperature, top_p=unit.top_p)
    return Majority(n=n, temperature=unit.temperature, top_p=unit.top_p)


def estimate(
    chunks: Sequence[Chunk], makers: Makers, rates: Mapping[str, Mapping[str, Any]], missing: Sequence[int]
) -> Estimate:
    """Sum the rates over all chunks; `missing` is the number of requests or runs that each chunk still lacks."""
    requests = tokens = seconds = left_tokens = left_seconds = 0.0
    flops: float | None = 0.0
    for chunk, lacking in zip(chunks, missing, strict=True):
        rate = Rate(**rates[kind_of(chunk.unit, makers)])
        paths = paths_of(chunk.unit) * len(chunk.problems)
        rows = len(chunk.problems) * (chunk.unit.count if isinstance(chunk.unit, SampleUnit) else 1)
        requests += paths * rate.requests
        tokens += paths * rate.generated_tokens
        seconds += paths * rate.seconds
        left_tokens += paths * rate.generated_tokens * lacking / rows
        left_seconds += paths * rate.seconds * lacking / rows
        flops = None if flops is None or rate.flops is None else flops + paths * rate.flops
    return Estimate(
        requests=round(requests), generated_tokens=round(tokens), flops=flops, seconds=seconds,
        remaining_generated_tokens=round(left_tokens), remaining_seconds=left_seconds,
        done_chunks=sum(lacking == 0 for lacking in missing), total_chunks=len(chunks),
    )  # fmt: skip
