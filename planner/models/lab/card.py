"""A laboratory model's card (`card.json`): how it was made, what was measured, and whether that still holds.

Measuring never reads a card; a card is compared with figures that were measured without it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from planner.errors import InputError
from planner.models.lab import train_policy, train_prm
from planner.models.lab.prm_data import EACH, TEMPERATURES
from planner.models.lab.recipe import PolicyRecipe, Recipe, VerifierRecipe, recipe_of
from planner.models.lab.shapes import SHAPES
from planner.tasks.lab import FAMILIES

__all__ = ["CARD", "Disagreement", "compare_with_cards", "new_card", "read_card", "write_card", "write_measured"]

CARD = "card.json"
MOST_STANDARD_ERRORS = 3.0
_SETTINGS = ("split", "problems", "samples", "temperature", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A card's figure that measuring does not confirm; `standard_errors` is None where equality was expected."""

    model: str
    figure: str
    card: float
    measured: float
    standard_errors: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        far = "" if self.standard_errors is None else f", {self.standard_errors:.1f} standard errors away"
        return f"{self.model}: `{self.figure}` is {self.card:.6g} in its card and {self.measured:.6g} measured{far}"


def new_card(
    folder: Path, recipe: Recipe, *, minutes: float | None = None, tokens: int | None = None
) -> dict[str, Any]:
    """The card of a model that has not been measured; `minutes` and `tokens` are its training's, None if unknown."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = {
        key: config[key]
        for key in (
            "model_type",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "intermediate_size",
            "vocab_size",
            "tie_word_embeddings",
            "max_position_embeddings",
        )
    }
    training: dict[str, Any] = {
        "minutes": None if minutes is None else round(minutes, 2),
        "tokens": tokens,
    }
    if minutes is None or tokens is None:
        training["note"] = (
            "Minutes and tokens of this checkpoint's own training were not recorded; the recipe's minutes are those of "
            "one thread."
        )
    return {
        "name": recipe.name,
        "kind": "policy model" if isinstance(recipe, PolicyRecipe) else "process reward model",
        "architecture": architecture,
        "parameters": None,
        "data": _data(recipe),
        "recipe": {**recipe.to_dict(), **_hyperparameters(recipe)},
        "seed": recipe.seed,
        "training": training,
        "measured": None,
        "known_mistakes": None,
    }


def _data(recipe: Recipe) -> dict[str, Any]:
    data: dict[str, Any] = {
        "source": f"reasoning-gym {version('reasoning-gym')}",
        "families": list(FAMILIES),
        "split": "train: 80 % of all questions by a hash of their content; profile and held_out have 10 % each",
    }
    if isinstance(recipe, VerifierRecipe):
        data["attempts"] = (
            f"fresh in every round: {EACH} samples of each problem by one writer in turn, at temperatures "
            f"{TEMPERATURES[0]} to {TEMPERATURES[1]}, and worked solutions with one error put in that carries on to "
            "the answer"
        )
        data["labels"] = (
            "exact: a step is right while all steps so far are the worked ones; where another way led to the right "
            "answer, its steps are not labelled"
        )
    else:
        data["solutions"] = "worked exactly, one operation a line; no problem is drawn to be seen again"
    return data


def _hyperparameters(recipe: Recipe) -> dict[str, Any]:
    common = {"optimizer": "AdamW, betas 0.9 and 0.98, weight decay 0.05, gradient norm at most 1"}
    schedule = "warm-up over 2 %, then cosine to 2 % of the peak"
    if isinstance(recipe, VerifierRecipe):
        return common | {
            "learning_rate": train_prm.LEARNING_RATE,
            "schedule": schedule,
            "batch_tokens": train_prm.BATCH_TOKENS * train_prm.ACCUMULATE,
            "extra_layers": train_prm.EXTRA_LAYERS,
            "loss": f"cross-entropy of <+> and <-> at step tags, {train_prm.TOKEN_WEIGHT} x at tokens up to the first "
            f"wrong one, {train_prm.LANGUAGE_WEIGHT} x next-token on right solutions",
        }
    return common | {
        "learning_rate": SHAPES[recipe.name].learning_rate,
        "schedule": schedule,
        "batch_tokens": train_policy.BATCH_TOKENS * train_policy.ACCUMULATE,
        "loss": "next-token cross-entropy on the solution only",
    }


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Write `folder/card.json`."""
    (folder / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_card(folder: Path) -> dict[str, Any]:
    """Read `folder/card.json`. Raises InputError where it is missing or not a JSON object."""
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no card", where=str(path), hint="`planner lab evaluate --write-cards` writes one") from None
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error}", where=str(path)) from None
    if not isinstance(card, dict):
        raise InputError("not a card", where=str(path), expected="a JSON object")
    return card


def write_measured(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Put the figures of `evaluate_laboratory` into the cards under `folder`, making those that are missing; returns
    their paths.

    Raises:
        InputError: a model without a card for which there is no recipe either.
    """
    paths = []
    for figures in _models(result):
        home = folder / str(figures["name"])
        if (home / CARD).exists():
            card = read_card(home)
        else:
            recipe = recipe_of(figures["name"])
            if recipe is None:
                raise InputError("neither card nor recipe", where=str(home), field="name", value=figures["name"])
            card = new_card(home, recipe)
        card["parameters"] = figures["parameters"]
        measured = {key: value for key, value in figures.items() if key not in ("name", "parameters", "mistakes")}
        card["measured"] = {**{key: result[key] for key in _SETTINGS}, **_rounded(measured)}
        card["known_mistakes"] = _rounded(figures["mistakes"])
        write_card(home, card)
        paths.append(home / CARD)
    return paths


def compare_with_cards(result: Mapping[str, Any], folder: Path) -> list[Disagreement]:
    """Figures of the cards under `folder` that `result` (from `evaluate_laboratory`) does not confirm.

    A figure is off by more than three standard errors of the difference, judged by the measured spread over problems
    and both numbers of problems. With the same seed the smaller set of problems is a part of the larger one, so the
    smaller one's error bounds the difference; with other seeds both count. Bucket shares depend on the number of
    samples and are compared only where that is the same. Parameters must be equal.

    Raises:
        InputError: a card that is missing, has not been measured, lacks a figure, or was measured on another split or
            at another temperature.
    """
    found: list[Disagreement] = []
    for figures in _models(result):
        home = folder / str(figures["name"])
        where = str(home / CARD)
        card = read_card(home)
        measured = card.get("measured")
        if not isinstance(measured, dict):
            raise InputError(
                "not measured yet", where=where, field="measured", hint="`planner lab evaluate --write-cards` does it"
            )
        for key in ("split", "temperature"):
            if measured.get(key) != result[key]:
                raise InputError(
                    "cannot be compared", where=where, field=key, value=measured.get(key), expected=repr(result[key])
                )
        spread = _spread(result, measured, where)
        if card.get("parameters") != figures["parameters"]:
            number = _number(card, ("parameters",), where)
            found.append(_disagreement(figures["name"], "parameters", number, figures["parameters"], None))
        for path in _compared(figures, same_samples=measured.get("samples") == result["samples"]):
            value, error = _dig(figures, path), _dig(figures["standard_errors"], path)
            if value is None or error is None:
                continue  # no problem had right and wrong answers
            on_card = _number(measured, path, where)
            far = abs(on_card - value) / (error * spread) if error else math.inf if on_card != value else 0.0
            if not far <= MOST_STANDARD_ERRORS:
                found.append(_disagreement(figures["name"], ".".join(path), on_card, value, far))
    return found


def _models(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*result["policies"], *result["verifiers"]]


def _compared(figures: Mapping[str, Any], *, same_samples: bool) -> list[tuple[str, ...]]:
    """Paths of the figures that have a standard error, all of them compared with the card."""
    paths: list[tuple[str, ...]] = []
    for name, errors in figures["standard_errors"].items():
        if name == "buckets" and not same_samples:
            continue
        paths += [(name, key) for key in errors] if isinstance(errors, Mapping) else [(name,)]
    return paths


def _spread(result: Mapping[str, Any], measured: Mapping[str, Any], where: str) -> float:
    """What turns the measured standard error into that of the difference to the card."""
    ours, theirs = result["problems"], _number(measured, ("problems",), where)
    if theirs < 1:
        raise InputError("no problems were measured", where=where, field="measured.problems", value=theirs)
    if measured.get("seed") == result["seed"]:
        return math.sqrt(ours / min(ours, theirs))
    return math.sqrt(1 + ours / theirs)


def _dig(document: Any, path: Sequence[str]) -> Any:
    for key in path:
        document = document.get(key, math.nan) if isinstance(document, Mapping) else math.nan
    return document


def _number(document: Mapping[str, Any], path: Sequence[str], where: str) -> float:
    value = _dig(document, path)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(
            "the card lacks a figure", where=where, field=".".join(path), value=value, expected="a finite number"
        )
    return value


def _rounded(document: Any) -> Any:
    """Numbers to six decimals: far below any standard error, and cards stay readable."""
    if isinstance(document, float):
        return round(document, 6)
    if isinstance(document, Mapping):
        return {key: _rounded(value) for key, value in document.items()}
    if isinstance(document, list):
        return [_rounded(value) for value in document]
    return document


def _disagreement(model: str, figure: str, card: float, measured: float, far: float | None) -> Disagreement:
    finite = far if far is not None and math.isfinite(far) else None
    return Disagreement(model=model, figure=figure, card=card, measured=measured, standard_errors=finite)
