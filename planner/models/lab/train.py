"""Train the laboratory again, from nothing, as `planner.models.lab.recipe` says."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from planner.errors import InputError
from planner.models.lab.card import CARD, new_card, read_card, write_card
from planner.models.lab.progress import Limit, Position, Tell
from planner.models.lab.recipe import RECIPES, PolicyStage, Recipe, VerifierRecipe
from planner.models.lab.train_policy import train_policy
from planner.models.lab.train_prm import train_prm

__all__ = ["VERIFIER_TOML", "train_laboratory"]

VERIFIER_TOML = """\
# P(<+>) against P(<->) at each step's tag.
prompt = "<bos><user>{question}<assistant>"
step = "{step}<step>"
tag = "<step>"
joiner = ""
positive = "<+>"
negative = "<->"
"""
"""How a verifier's input is written and read out, as `encode_steps` does it in training; `verifier.toml` beside it."""

WEIGHTS = "model.safetensors"

_MINUTE_OF_TOKENS = 300_000
"""A bar's length for a run that is limited by tokens: about what one thread sees in a minute."""

Progress = Callable[[int, int, str], None]


def train_laboratory(
    output: Path,
    *,
    threads: int = 1,
    scale: float = 1.0,
    recipes: Sequence[Recipe] = RECIPES,
    checkpoint_minutes: float = 3.0,
    progress: Progress | None = None,
) -> Path:
    """Train every model of `recipes` in turn under `output` and return the folder of finished models.

    A run resumes from its last checkpoint, so starting again after an interruption repeats `checkpoint_minutes` at
    most, and starting again after the end trains nothing. `output/NAME` holds a run, `output/models/NAME` its model
    with a card that has not been measured yet. `scale` makes every run that many times as long; keep it when resuming.
    `progress` is called with (minutes done, minutes in all, what is going on); tokens count as minutes at a fixed rate.

    Raises:
        InputError: a scale that is not positive.
    """
    if not (scale > 0 and math.isfinite(scale)):
        raise InputError("cannot scale a run", field="scale", value=scale, expected="a positive number")
    scaled = [recipe.scaled(scale) for recipe in recipes]
    total = sum(_minutes(recipe.stages[-1].limit) for recipe in scaled)
    before = 0.0
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for recipe in scaled:
            length = _minutes(recipe.stages[-1].limit)

            def tell(share: float, line: str, *, start: float = before, length: float = length) -> None:
                if progress is not None:
                    progress(round(start + share * length), max(1, round(total)), line)

            tell(0.0, f"{recipe.name} begins")
            position = _train(recipe, output, checkpoint_minutes, tell)
            _publish(recipe, position, output)
            before += length
            tell(1.0, f"{recipe.name} is trained")
    finally:
        torch.set_num_threads(threads_before)
    return output / "models"


def _train(recipe: Recipe, output: Path, checkpoint_minutes: float, tell: Tell) -> Position:
    position = Position()
    length = _minutes(recipe.stages[-1].limit)
    for stage in recipe.stages:
        part = _minutes(stage.limit) / length

        def tell_of_all(share: float, line: str, *, part: float = part) -> None:
            tell(share * part, line)

        if isinstance(stage, PolicyStage):
            position = train_policy(
                recipe.name,
                output,
                stage.limit,
                revised=stage.revised,
                seed=recipe.seed,
                checkpoint_minutes=checkpoint_minutes,
                tell=tell_of_all,
            )
            continue
        assert isinstance(recipe, VerifierRecipe)
        position = train_prm(
            output / recipe.start / "export",
            {name: output / name / "export" for name in recipe.writers},
            output,
            stage.limit,
            name=recipe.name,
            learning_rate=recipe.learning_rate,
            seed=recipe.seed,
            sampled=stage.sampled,
            corrupted=stage.corrupted,
            checkpoint_minutes=checkpoint_minutes,
            tell=tell_of_all,
        )
    return position


def _publish(recipe: Recipe, position: Position, output: Path) -> None:
    """Copy a finished model to where finished models lie, its weights in half precision: half the size, and what is
    measured and shipped is the same. The config says float32, in which every engine then computes."""
    folder, export = output / "models" / recipe.name, output / recipe.name / "export"
    shutil.copytree(export, folder, dirs_exist_ok=True)
    weights = {name: weight.half() for name, weight in load_file(export / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    if isinstance(recipe, VerifierRecipe):
        (folder / "verifier.toml").write_text(VERIFIER_TOML, encoding="utf-8")
    card = new_card(folder, recipe, minutes=position.seconds / 60, tokens=position.tokens)
    path = folder / CARD
    # The same run's card may have been measured since.
    if not path.exists() or read_card(folder)["training"] != card["training"]:
        write_card(folder, card)


def _minutes(limit: Limit) -> float:
    return min(limit.minutes, limit.tokens / _MINUTE_OF_TOKENS)
