"""What a profiling run does, read from TOML.

    [task]                      # name = "lab" (with split) or a file's path; count, checker, max_tokens, step_separator
    [[policy_models]]           # engine = "lab:lab-small", name (else the engine's own)
    [verifier]                  # engine = "lab:lab-prm"; leave the table out for none
    [samples]                   # temperatures, top_p, count, difficulty_count, score
    [[runs]]                    # strategy and its fields; lists make a grid; policy_models (else all)
    [run]                       # chunk_problems, seed, max_batch, threads

Strategies that replay from samples (majority, best_of_n, ...) need no `[[runs]]`; one listed is checked to be covered.
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from planner.errors import InputError
from planner.strategies import Strategy, from_dict, to_dict

__all__ = ["ModelRecipe", "Recipe", "RunRecipe", "SamplesRecipe", "TaskRecipe", "load_recipe"]


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
    """A policy model or verifier: `engine` says where it comes from, `name` what it is called in the bank."""

    engine: str
    name: str | None = None


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
    """

    chunk_problems: int = 50
    seed: int = 0
    max_batch: int = 256
    threads: int = 1


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

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "task": asdict(self.task),
            "policy_models": [asdict(model) for model in self.policy_models],
            "verifier": asdict(self.verifier) if self.verifier else None,
            "samples": asdict(self.samples),
            "runs": [{**to_dict(spec), "policy_models": list(models)} for spec, models in self.runs],
            "run": asdict(self.run),
        }


_TEXT, _COUNT, _NUMBER, _FLAG, _NUMBERS = (
    "a text",
    "a whole number >= 1",
    "a number",
    "true or false",
    "a list of numbers",
)
_FIELDS: Mapping[str, Mapping[str, str]] = {
    "task": {
        "name": _TEXT, "split": _TEXT, "count": _COUNT, "checker": _TEXT, "max_tokens": _COUNT, "step_separator": _TEXT,
    },
    "policy_models": {"engine": _TEXT, "name": _TEXT},
    "verifier": {"engine": _TEXT, "name": _TEXT},
    "samples": {
        "temperatures": _NUMBERS, "top_p": _NUMBER, "count": _COUNT, "difficulty_count": _COUNT, "score": _FLAG,
    },
    "run": {"chunk_problems": _COUNT, "seed": "a whole number", "max_batch": _COUNT, "threads": _COUNT},
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
    models = tuple(ModelRecipe(**_fields(row, "policy_models", path)) for row in _rows(data, "policy_models", path))
    if not models:
        raise InputError("there is none", where=str(path), field="policy_models", expected="[[policy_models]] engine")
    names = [model.name or model.engine for model in models]
    if len(set(names)) < len(names):
        raise InputError("two have one name", where=str(path), field="policy_models.name", value=names)
    verifier = ModelRecipe(**_table(data, "verifier", path)) if "verifier" in data else None
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
    return Recipe(
        name=str(data.get("name", path.stem)), task=task, policy_models=models, verifier=verifier, samples=samples,
        runs=runs, run=RunRecipe(**_table(data, "run", path)),
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
    if rule == _NUMBERS:
        return isinstance(value, list) and all(_holds(v, _NUMBER) for v in value)
    return number if rule == _NUMBER else whole and (rule != _COUNT or value >= 1)
