"""What a recipe will take, from the table of published models alone: nothing is loaded, and no network is touched."""

from __future__ import annotations

import math

from planner.core import Usage
from planner.models.cost import ModelShape, sampling_cost, scoring_cost
from planner.profiling.estimate import Estimate
from planner.profiling.recipe import ModelRecipe, Recipe
from planner.profiling.work import RunUnit, SampleUnit, units_of
from planner.strategies import paths_in_flight, to_dict
from planner.strategies.paths import StepSearch
from planner.tasks.published import find_task
from planner.tasks.task import load_task

__all__ = ["is_published", "offline_estimate"]

_CHARACTERS_PER_TOKEN = 3.5


def is_published(recipe: Recipe) -> bool:
    """Whether the table knows all of the recipe's models."""
    models = [*recipe.policy_models, *([recipe.verifier] if recipe.verifier else [])]
    return all(model.model is not None for model in models)


def offline_estimate(recipe: Recipe, *, gpu_tflops: float | None = None) -> Estimate:
    """The recipe's requests, tokens, FLOPs and GPU time under its [estimate] table; `gpu_tflops` (TFLOP/s that one GPU
    achieves) replaces the table's. `assumptions` say in sentences what was taken for granted.

    A published task is not fetched, a local file is read. Raises InputError for a file that cannot be used.
    """
    assumed, speed = recipe.estimate, gpu_tflops or recipe.estimate.gpu_tflops
    problems = _problems(recipe)
    task = find_task(recipe.task.name)
    prompt = assumed.prompt_tokens or (task.prompt_tokens if task else 120)
    systems = {model.name or model.engine: math.ceil(len(model.system or "") / _CHARACTERS_PER_TOKEN) for model in
               recipe.policy_models}  # fmt: skip
    shapes = {model.name or model.engine: _shape(model) for model in recipe.policy_models}
    verifier = _shape(recipe.verifier) if recipe.verifier else None
    requests = tokens = 0
    flops, units = 0.0, list(units_of(recipe, list(shapes), verifier is not None))
    for unit in units:
        name = unit.policy_model
        cost, usage = _unit(unit, shapes[name], verifier, prompt + systems[name], recipe)
        flops += cost * problems
        requests += usage.requests * problems
        tokens += usage.generated_tokens * problems
    chunks = len(units) * math.ceil(problems / recipe.run.chunk_problems)
    seconds = flops / (speed * 1e12)
    return Estimate(
        requests=requests, generated_tokens=tokens, flops=flops, seconds=seconds, remaining_generated_tokens=tokens,
        remaining_seconds=seconds, done_chunks=0, total_chunks=chunks, gpu_hours=seconds / 3600,
        assumptions=_assumptions(recipe, problems, prompt, speed),
    )  # fmt: skip


def _problems(recipe: Recipe) -> int:
    task = find_task(recipe.task.name)
    size = task.count if task else len(load_task(recipe.task.name, split=recipe.task.split).problems)
    return min(size, recipe.task.count or size)


def _shape(model: ModelRecipe) -> ModelShape:
    assert model.published is not None
    return model.published.shape


def _unit(
    unit: SampleUnit | RunUnit, shape: ModelShape, verifier: ModelShape | None, prompt: int, recipe: Recipe
) -> tuple[float, Usage]:
    """(FLOPs, requests and generated tokens) of one problem."""
    answer, steps = recipe.estimate.answer_tokens, recipe.estimate.steps
    answer = min(answer, recipe.task.max_tokens or answer)
    searches = ahead = 1
    again = 0.0
    if isinstance(unit, SampleUnit):
        answers, scored = unit.count, unit.scored
    else:
        spec, fields = unit.spec, to_dict(unit.spec)["hyperparameters"]
        answers, scored = paths_in_flight(fields) + fields.get("second_n", 0), spec.needs_verifier
        if isinstance(spec, StepSearch):
            searches, ahead = steps, 1 + fields.get("lookahead_steps", 0)
        # Each revision is shown the answers before it.
        revisions = range(1, fields.get("revisions", 0) + 1)
        again = fields.get("chains", 1) * sum(shape.prefill_flops(float(prompt + k * answer)) for k in revisions)
    prefill, decode = sampling_cost(shape, float(prompt), float(answer))
    flops = prefill + again + answers * ahead * decode
    requests = answers * searches * ahead
    if scored and verifier is not None:
        flops += answers * ahead * scoring_cost(verifier, float(prompt + answer), 0.0, float(steps))
        requests += answers * searches
    return flops, Usage(requests=requests, generated_tokens=answers * ahead * answer)


def _assumptions(recipe: Recipe, problems: int, prompt: int, speed: float) -> tuple[str, ...]:
    assumed = recipe.estimate
    said = [
        f"{problems} problems of {prompt} tokens and the system prompt's; answers of {assumed.answer_tokens} tokens, "
        f"{assumed.steps} steps each",
        f"a GPU achieves {speed:g} TFLOP/s over prefill and batched decoding; one that holds the model, or several "
        "together counted as one",
        "every path of a search is drawn to its end, prefixes are kept, and the verifier reads every step once",
    ]
    for model in recipe.policy_models:
        shape = _shape(model)
        if prompt + assumed.answer_tokens > shape.max_context_tokens:
            said.append(
                f"{model.name or model.engine} holds {shape.max_context_tokens} tokens: such answers would be truncated"
            )
    return tuple(said)
