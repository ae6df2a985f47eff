"""What a profiling run does, read from TOML.

    [task]                      # name = "lab" (with split), "MATH-500", ... or a file; count, checker, max_tokens
                                # and step_separator
    [[policy_models]]           # engine = "lab:lab-small", name (else the engine's own), model, system, thinking
    [verifier]                  # engine = "lab:lab-prm", or "task" for its own checker; model; without the table: none
    [samples]                   # temperatures, top_p, count, difficulty_count, score
    [[runs]]                    # strategy and its fields; lists make a grid; policy_models (else all)
    [run]                       # chunk_problems, seed, max_batch, threads, time_engines
    [estimate]                  # answer_tokens, steps, prompt_tokens, gpu_tflops: what `--dry-run` assumes of models
                                # that are not loaded for it

Strategies that replay from samples (majority, best_of_n, ...) need no `[[runs]]`; one listed is checked to be covered.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from planner.errors import InputError
from planner.models.published import PublishedModel, find_published
from planner.strategies import REGISTRY, Strategy, from_dict, to_dict
from planner.strategies.paths import StepSearch

__all__ = ["EstimateRecipe", "ModelRecipe", "Recipe", "RunRecipe", "SamplesRecipe", "TaskRecipe", "load_recipe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecipe:
    name: str = "lab"
    split: str | None = None
    count: int | None = None
    checker: str | None = None
    max_tokens: int | None = None
    step_separator: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecipe:
    """A policy model or verifier: `engine` says where it comes from, `name` what it is called in the bank.

    `model` is its name in the table of published models, which prices its tokens where the engine does not know its
    config, and tells a dry run its cost without loading it. `system` is put before every prompt. `thinking`: the
    delimiters of a reasoning model (None: the table's; empty: none); `thinking_opened`: its chat template writes the
    first of them.
    """

    engine: str
    name: str | None = None
    model: str | None = None
    system: str | None = None
    thinking: tuple[str, ...] | None = None
    thinking_opened: bool = True

    @property
    def published(self) -> PublishedModel | None:
        """The table's row. Raises InputError where `model` is not in it."""
        return None if self.model is None else find_published(self.model)

    @property
    def delimiters(self) -> tuple[str, str] | None:
        """Of the thinking; None for a model that does not reason apart from its answer."""
        if self.thinking is None:
            return self.published.thinking if self.published else None
        return (self.thinking[0], self.thinking[1]) if self.thinking else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesRecipe:
    """`count` samples are evaluated and `difficulty_count` others bucket the problem, at each temperature and at the
    first one. One greedy answer comes with them."""

    temperatures: tuple[float, ...] = (0.8,)
    top_p: float = 1.0
    count: int = 16
    difficulty_count: int = 16
    score: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecipe:
    """How work is cut: results do not depend on `max_batch` and `threads` but for rounding.

    One thread by default: a small model gains little from a second one, and loses a multiple where that core is busy.
    `time_engines` measures what budgets in seconds need, by some hundred short requests to each model.
    """

    chunk_problems: int = 50
    seed: int = 0
    max_batch: int = 256
    threads: int = 1
    time_engines: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateRecipe:
    """What a dry run assumes where it loads no model: an answer's tokens and steps, a prompt's tokens (None: what the
    published task's take), and the TFLOP/s that one GPU achieves over prefill and batched decoding."""

    answer_tokens: int = 512
    steps: int = 10
    prompt_tokens: int | None = None
    gpu_tflops: float = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A validated recipe. `runs` are the live strategies, each with the models that run it (empty: all)."""

    name: str
    task: TaskRecipe
    policy_models: tuple[ModelRecipe, ...]
    verifier: ModelRecipe | None
    samples: SamplesRecipe
    runs: tuple[tuple[Strategy, tuple[str, ...]], ...]
    run: RunRecipe
    estimate: EstimateRecipe = field(default_factory=EstimateRecipe)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "task": asdict(self.task),
            "policy_models": [_said(model) for model in self.policy_models],
            "verifier": _said(self.verifier) if self.verifier else None,
            "samples": asdict(self.samples),
            "runs": [{**to_dict(spec), "policy_models": list(models)} for spec, models in self.runs],
            "run": asdict(self.run),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
        """Inverse of `to_dict`, as a bank's manifest keeps it. Raises InputError where it is not one."""
        try:
            verifier = data["verifier"]
            return cls(
                name=data["name"],
                task=TaskRecipe(**data["task"]),
                policy_models=tuple(_made(row) for row in data["policy_models"]),
                verifier=_made(verifier) if verifier else None,
                samples=SamplesRecipe(**{**data["samples"], "temperatures": tuple(data["samples"]["temperatures"])}),
                runs=tuple((from_dict(row), tuple(row["policy_models"])) for row in data["runs"]),
                run=RunRecipe(**data["run"]),
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"is no recipe ({error!r})", where=where, hint="Give the recipe's file") from error


def _said(model: ModelRecipe) -> dict[str, Any]:
    """Without what has not been said, so that a field that is new changes no manifest."""
    values = asdict(model)
    always = {"engine": values["engine"], "name": values["name"]}
    return always | {k: v for k, v in values.items() if v is not None and not (k == "thinking_opened" and v)}


def _made(values: Mapping[str, Any]) -> ModelRecipe:
    thinking = values.get("thinking")
    return ModelRecipe(**{**values, "thinking": None if thinking is None else tuple(thinking)})


_TEXT, _COUNT, _NUMBER, _FLAG, _NUMBERS, _PAIR = (
    "a text",
    "a whole number >= 1",
    "a number",
    "true or false",
    "a list of numbers",
    "a list of two texts, the opening and the closing one, or an empty list",
)
_FIELDS: Mapping[str, Mapping[str, str]] = {
    "task": {
        "name": _TEXT, "split": _TEXT, "count": _COUNT, "checker": _TEXT, "max_tokens": _COUNT, "step_separator": _TEXT,
    },
    "policy_models": {
        "engine": _TEXT, "name": _TEXT, "model": _TEXT, "system": _TEXT, "thinking": _PAIR, "thinking_opened": _FLAG,
    },
    "verifier": {"engine": _TEXT, "name": _TEXT, "model": _TEXT},
    "samples": {
        "temperatures": _NUMBERS, "top_p": _NUMBER, "count": _COUNT, "difficulty_count": _COUNT, "score": _FLAG,
    },
    "run": {
        "chunk_problems": _COUNT, "seed": "a whole number", "max_batch": _COUNT, "threads": _COUNT,
        "time_engines": _FLAG,
    },
    "estimate": {"answer_tokens": _COUNT, "steps": _COUNT, "prompt_tokens": _COUNT, "gpu_tflops": _NUMBER},
}  # fmt: skip


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe; paths in it are relative to its file. Raises InputError naming file, table, field and what is
    allowed there."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path), expected="a recipe (TOML)") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not TOML: {error}", where=str(path)) from error
    allowed = {*_FIELDS, "runs", "name"}
    if unknown := sorted(set(data) - allowed):
        raise InputError("no such table", where=str(path), field=unknown[0], expected=", ".join(sorted(allowed)))
    task = TaskRecipe(**_table(data, "task", path))
    if task.name != "lab" and (path.parent / task.name).exists():
        task = TaskRecipe(**{**asdict(task), "name": str(path.parent / task.name)})
    models = tuple(_model(_fields(row, "policy_models", path), path) for row in _rows(data, "policy_models", path))
    if not models:
        raise InputError("there is none", where=str(path), field="policy_models", expected="[[policy_models]] engine")
    names = [model.name or model.engine for model in models]
    if len(set(names)) < len(names):
        raise InputError("two have one name", where=str(path), field="policy_models.name", value=names)
    verifier = _model(_table(data, "verifier", path), path) if "verifier" in data else None
    values = _table(data, "samples", path)
    if "temperatures" in values:
        values["temperatures"] = tuple(float(t) for t in values["temperatures"])
    samples = SamplesRecipe(**values)
    if not samples.temperatures or not all(t > 0 for t in samples.temperatures):
        raise InputError(
            "samples at temperature 0 are all the same", where=f"{path} [samples]", field="temperatures",
            value=list(samples.temperatures), expected="numbers > 0 (one greedy answer comes anyway)",
        )  # fmt: skip
    runs = tuple(
        found for row in _rows(data, "runs", path) for found in _grid(row, samples, verifier is not None, names, path)
    )
    assumed = EstimateRecipe(**_table(data, "estimate", path))
    if assumed.gpu_tflops <= 0:
        raise InputError("not allowed", where=f"{path} [estimate]", field="gpu_tflops", value=assumed.gpu_tflops,
                         expected="a number > 0")  # fmt: skip
    recipe = Recipe(
        name=str(data.get("name", path.stem)), task=task, policy_models=models, verifier=verifier, samples=samples,
        runs=runs, run=RunRecipe(**_table(data, "run", path)), estimate=assumed,
    )  # fmt: skip
    _refuse_steps_of_thinking(recipe, path)
    return recipe


def _model(values: dict[str, Any], path: Path) -> ModelRecipe:
    model = _made(values)
    try:
        _ = model.published
    except InputError as error:
        raise InputError(str(error), where=str(path)) from error
    return model


_SEARCHES = frozenset(name for name, kind in REGISTRY.items() if issubclass(kind, StepSearch))


def _refuse_steps_of_thinking(recipe: Recipe, path: Path) -> None:
    """A reasoning model thinks in no blank-line steps that a verifier was trained on: a search by steps needs a step
    separator that was chosen for it."""
    if recipe.task.step_separator is not None:
        return
    for spec, wanted in recipe.runs:
        searches = spec.name in _SEARCHES or getattr(spec, "second", None) in _SEARCHES
        for model in recipe.policy_models:
            name = model.name or model.engine
            if searches and model.delimiters and (not wanted or name in wanted):
                raise InputError(
                    f"{name} is a reasoning model: what stands between {' and '.join(model.delimiters)} is not made of "
                    "the steps that this search scores", where=f"{path} [[runs]]", field="strategy", value=spec.name,
                    hint="Leave it to other policy_models, use strategies that sample whole answers, or give [task] a "
                    "step_separator of its own",
                )  # fmt: skip


def _grid(
    row: Mapping[str, Any], samples: SamplesRecipe, verified: bool, names: list[str], path: Path
) -> list[tuple[Strategy, tuple[str, ...]]]:
    """The live specifications of one `[[runs]]` table; replayable ones are checked and left to the samples."""
    where = f"{path} [[runs]]"
    models = tuple(row.get("policy_models", ()))
    if unknown := [model for model in models if model not in names]:
        raise InputError(
            "no such policy model", where=where, field="policy_models", value=unknown, expected=", ".join(names)
        )
    grid = {k: v if isinstance(v, list) else [v] for k, v in row.items() if k not in {"strategy", "policy_models"}}
    found: list[tuple[Strategy, tuple[str, ...]]] = []
    for values in itertools.product(*grid.values()):
        try:
            spec = from_dict({"strategy": row.get("strategy"), "hyperparameters": dict(zip(grid, values, strict=True))})
        except InputError as error:
            raise InputError(str(error), where=where) from error
        if spec.needs_verifier and not verified:
            raise InputError("needs a verifier", where=where, field="strategy", value=spec.name, hint="Add [verifier]")
        second = getattr(spec, "second_policy_model", None)
        if second is not None and second not in names:
            raise InputError(
                "no such policy model", where=where, field="second_policy_model", value=second,
                expected=", ".join(names),
            )  # fmt: skip
        if not spec.replayable:
            found.append((spec, models))
            continue
        fields = to_dict(spec)["hyperparameters"]
        drawn, temperature = fields.get("n", fields.get("max_n", 1)), fields.get("temperature")
        if drawn > samples.count or temperature not in (None, *samples.temperatures):
            raise InputError(
                f"{spec.name} with {drawn} samples at temperature {temperature} is not covered by [samples]",
                where=where, hint="Raise `count` or add the temperature there",
            )  # fmt: skip
    return found


def _rows(data: Mapping[str, Any], table: str, path: Path) -> list[dict[str, Any]]:
    rows = data.get(table, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError("not an array of tables", where=str(path), field=table, expected=f"[[{table}]]")
    return rows


def _table(data: Mapping[str, Any], table: str, path: Path) -> dict[str, Any]:
    values = data.get(table, {})
    if not isinstance(values, dict):
        raise InputError("not a table", where=str(path), field=table, expected=f"[{table}]")
    return _fields(values, table, path)


def _fields(values: dict[str, Any], table: str, path: Path) -> dict[str, Any]:
    where, allowed = f"{path} [{table}]", _FIELDS[table]
    for name, value in values.items():
        if name not in allowed:
            raise InputError("no such field", where=where, field=name, expected=", ".join(allowed))
        if not _holds(value, allowed[name]):
            raise InputError("not allowed", where=where, field=name, value=value, expected=allowed[name])
    if "engine" in allowed and "engine" not in values:
        raise InputError(
            "missing", where=where, field="engine", expected="where the model comes from, as lab:lab-small"
        )
    return dict(values)


def _holds(value: Any, rule: str) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    number = whole or isinstance(value, float)
    if rule == _TEXT:
        return isinstance(value, str) and value != ""
    if rule == _FLAG:
        return isinstance(value, bool)
    if rule == _PAIR:
        return isinstance(value, list) and len(value) in (0, 2) and all(_holds(v, _TEXT) for v in value)
    if rule == _NUMBERS:
        return isinstance(value, list) and all(_holds(v, _NUMBER) for v in value)
    return number if rule == _NUMBER else whole and (rule != _COUNT or value >= 1)
