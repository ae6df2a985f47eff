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
from typing import Any, TypeAlias

from planner.errors import InputError
from planner.models.lab import train_policy, train_prm
from planner.models.lab.deepen import EXTRA_LAYERS
from planner.models.lab.measure import auc_within, policy_figures
from planner.models.lab.prm_data import EACH, TEMPERATURES
from planner.models.lab.recipe import PolicyRecipe, Recipe, VerifierRecipe, recipe_of
from planner.models.lab.shapes import SHAPES
from planner.tasks.lab import FAMILIES

__all__ = ["CARD", "Disagreement", "compare_with_cards", "new_card", "read_card", "write_card", "write_measured"]

CARD = "card.json"
MOST_STANDARD_ERRORS = 3.0
_ROUNDING = 1e-4
"""Numbers in cards are rounded: to six decimals, in lists to four."""
_SETTINGS = ("split", "problems", "samples", "temperature", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A card's figure that is not what it should be.

    `expected` is what was measured or, where `standard_errors` is None, what had to be met exactly: the model's
    parameters, or what the card's own list of problems gives.
    """

    model: str
    figure: str
    card: float
    expected: float
    standard_errors: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        head = f"{self.model}: `{self.figure}` is {self.card:.6g} in its card"
        if self.standard_errors is not None:
            return f"{head} and {self.expected:.6g} measured, {self.standard_errors:.1f} standard errors away"
        source = "the model has" if self.figure == "parameters" else "the card's own list of problems gives"
        return f"{head}, but {source} {self.expected:.6g}"


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
        "split": "a tenth of the templates is held out whole (held_out_templates); of all other questions, by a hash "
        "of their content, train has 80 %, profile and held_out 10 % each",
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
        data["revisions"] = (
            "a share of the problems (revised_share) shows one to four earlier attempts, most of them with one error "
            "that carries on"
        )
    return data


def _hyperparameters(recipe: Recipe) -> dict[str, Any]:
    decay = 0.0 if isinstance(recipe, VerifierRecipe) else 0.05
    common = {"optimizer": f"AdamW, betas 0.9 and 0.98, weight decay {decay:g}, gradient norm at most 1"}
    schedule = "warm-up over 2 %, then cosine to 2 % of the peak"
    if isinstance(recipe, VerifierRecipe):
        return common | {
            "learning_rate": recipe.learning_rate,
            "schedule": schedule,
            "batch_tokens": train_prm.BATCH_TOKENS * train_prm.ACCUMULATE,
            "trained": f"{EXTRA_LAYERS} layers on top, which begin with the attempt's likelihood, last norm and "
            "read-out; the policy model below stays as it is",
            "loss": f"cross-entropy of <+> and <-> at step tags, {train_prm.TOKEN_WEIGHT} x at tokens up to the first "
            "wrong one",
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
        if "right_by_problem" in measured:
            measured["right_by_problem"] = _packed(measured["right_by_problem"])
        else:
            measured["auc_by_problem"] = {key: _packed(values) for key, values in measured["auc_by_problem"].items()}
        card["measured"] = {**{key: result[key] for key in _SETTINGS}, **_rounded(measured)}
        card["known_mistakes"] = _rounded(figures["mistakes"])
        write_card(home, card)
        paths.append(home / CARD)
    return paths


def compare_with_cards(result: Mapping[str, Any], folder: Path) -> list[Disagreement]:
    """Figures of the cards under `folder` that `result` (from `evaluate_laboratory`) does not confirm.

    A figure is off where it is more than three standard errors away. Cards keep what every problem contributed, so
    with the same seed only the problems that both measured are compared: a few hundred problems more or less are
    easier or harder ones by chance. With another seed the problems are others, and both sets' errors count. Pooled AUC
    cannot be cut to common problems; there the smaller set's error bounds the difference. Bucket shares depend on the
    number of samples and are compared only where that is the same.

    A card's figure must also follow from its own list, and its parameters must be the model's.

    Raises:
        InputError: a card that is missing, has not been measured, lacks a figure, or was measured on another split or
            at another temperature.
    """
    return [
        disagreement
        for figures in _models(result)
        for disagreement in _compare(result, figures, folder / str(figures["name"]))
    ]


def _compare(result: Mapping[str, Any], figures: Mapping[str, Any], home: Path) -> list[Disagreement]:
    where, name, card = str(home / CARD), str(figures["name"]), read_card(home)
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
    found: list[Disagreement] = []

    def hold(path: tuple[str, ...], on_card: float, expected: float, error: float | None) -> None:
        far = abs(on_card - expected)
        if far <= (_ROUNDING if error is None else MOST_STANDARD_ERRORS * error):
            return
        away = far / error if error else None
        found.append(
            Disagreement(model=name, figure=".".join(path), card=on_card, expected=expected, standard_errors=away)
        )

    ours, theirs = int(result["problems"]), int(_number(measured, ("problems",), where))
    if theirs < 1:
        raise InputError("no problems were measured", where=where, field="measured.problems", value=theirs)
    nested = measured.get("seed") == result["seed"]
    common = min(ours, theirs) if nested else max(ours, theirs)
    independent = math.sqrt(1 + ours / theirs)
    hold(("parameters",), _number(card, ("parameters",), where), figures["parameters"], None)
    samples = int(_number(measured, ("samples",), where))
    lists = _lists(figures)
    card_lists = {key: _unpacked(measured, key, theirs, where) for key in lists}
    for path, (value, _) in _from_lists(card_lists, samples, theirs).items():
        hold(path, _number(measured, path, where), value, None)
    on_card = _from_lists(card_lists, samples, common)
    for path, (value, error) in _from_lists(lists, int(result["samples"]), common).items():
        if path in on_card and (path[0] != "buckets" or samples == result["samples"]):
            hold(path, on_card[path][0], value, error if nested else error * independent)
    for policy, value in figures.get("auc_pooled", {}).items():
        if value is not None:
            error = figures["standard_errors"]["auc_pooled"][policy]
            path = ("auc_pooled", policy)
            hold(
                path,
                _number(measured, path, where),
                value,
                error * (math.sqrt(ours / common) if nested else independent),
            )
    return found


def _models(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*result["policies"], *result["verifiers"]]


_Path: TypeAlias = tuple[str, ...]


def _lists(figures: Mapping[str, Any]) -> dict[_Path, list[float | None]]:
    """What every problem contributed, by where it stands."""
    if "right_by_problem" in figures:
        return {("right_by_problem",): list(figures["right_by_problem"])}
    return {("auc_by_problem", policy): list(values) for policy, values in figures["auc_by_problem"].items()}


def _from_lists(
    lists: Mapping[_Path, Sequence[float | None]], samples: int, problems: int
) -> dict[_Path, tuple[float, float]]:
    """(value, standard error) of every figure that follows from the lists' first `problems` entries."""
    figures: dict[_Path, tuple[float, float]] = {}
    for path, values in lists.items():
        cut = values[:problems]
        if path == ("right_by_problem",):
            families = [FAMILIES[place % len(FAMILIES)] for place in range(len(cut))]
            of_policy = policy_figures([int(value or 0) for value in cut], samples, families)
            errors = of_policy.pop("standard_errors")
            figures[("pass_at_1",)] = (of_policy["pass_at_1"], errors["pass_at_1"])
            for group in ("buckets", "families"):
                for key, value in of_policy[group].items():
                    figures[group, key] = (value, errors[group][key])
        else:
            mean, error, _ = auc_within(cut)
            if mean is not None and error is not None:
                figures["auc_within_problem", path[1]] = (mean, error)
    return figures


def _packed(values: Sequence[float | None]) -> str:
    """One line of a card: numbers to four decimals, `-` for none."""
    return " ".join("-" if value is None else f"{value:.4f}".rstrip("0").rstrip(".") for value in values)


def _unpacked(measured: Mapping[str, Any], path: _Path, count: int, where: str) -> list[float | None]:
    line = _dig(measured, path)
    words = line.split() if isinstance(line, str) else []
    try:
        values = [None if word == "-" else float(word) for word in words]
    except ValueError:
        values = []
    if len(values) != count or not all(value is None or math.isfinite(value) for value in values):
        raise InputError(
            "the card's list cannot be read",
            where=where,
            field=".".join(path),
            value=line,
            expected=f"a line of {count} numbers, `-` for none",
        )
    return values


def _dig(document: Any, path: Sequence[str]) -> Any:
    for key in path:
        document = document.get(key) if isinstance(document, Mapping) else None
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
