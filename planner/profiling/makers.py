"""Loads the models of a recipe: policy models as the recipe describes them, and the verifier."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from planner.errors import InputError
from planner.models.protocols import Engine, Verifier
from planner.models.wrapped import Thinking, priced, thinking_apart
from planner.profiling.recipe import ModelRecipe, Recipe
from planner.tasks.task import Task

__all__ = ["TASK_CHECKER", "load_makers"]

TASK_CHECKER = "task"
"""The verifier that is the task's own checker: an upper bound, since it knows the gold answers."""


def load_makers(
    recipe: Recipe, task: Task, engines: Mapping[str, Engine] | None, verifier: Verifier | None
) -> tuple[dict[str, Engine], Verifier | None]:
    """(engines by the recipe's names, verifier). Those given replace what the recipe would load.

    Raises InputError where one is missing or cannot be used, and what loading raises.
    """
    found: dict[str, Engine] = {}
    for model in recipe.policy_models:
        name = model.name or model.engine
        if engines is not None and name not in engines:
            raise InputError("no such engine was given", field="engines", value=name, expected=", ".join(engines))
        engine = engines[name] if engines is not None else _load_engine(model)
        found[name] = _dressed(engine, model, splits=recipe.task.step_separator is not None)
    if recipe.verifier is None:
        return found, None
    if verifier is None and (engines is None or recipe.verifier.engine == TASK_CHECKER):
        verifier = _load_verifier(recipe.verifier, task)
    if verifier is None:
        raise InputError("the recipe has a verifier, but none was given", field="verifier")
    return found, verifier


def _dressed(engine: Engine, model: ModelRecipe, *, splits: bool) -> Engine:
    if model.published is not None:
        engine = priced(engine, model.published.shape)
    if model.delimiters is not None:
        opening, closing = model.delimiters
        thinking = Thinking(opening=opening, closing=closing, opened=model.thinking_opened, splits=splits)
        engine = thinking_apart(engine, thinking)
    return engine


def _load_engine(model: ModelRecipe) -> Engine:
    from planner.models.shipped import load_engine

    if model.system is None:
        return load_engine(model.engine)
    # All kinds of names take options behind a question mark.
    mark = "&" if "?" in model.engine else "?"
    return load_engine(f"{model.engine}{mark}system={quote(model.system, safe='')}")


def _load_verifier(model: ModelRecipe, task: Task) -> Verifier:
    if model.engine == TASK_CHECKER:
        from planner.models.rule_verifier import RuleVerifier

        return RuleVerifier.of_task(task)
    from planner.models.shipped import load_verifier

    return load_verifier(model.engine)
