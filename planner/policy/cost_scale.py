"""What one answer to a prompt will cost, in multiples of a typical prompt's: foretold from the prompt, like difficulty.

Long prompts and long answers make every plan dear. Plans are therefore measured per unit of scale, and a prompt of
scale s has its plan chosen as a typical prompt's under a budget of 1/s. numpy only; `fit_cost_scale` needs LightGBM.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from planner.errors import PolicyError
from planner.policy.trees import Trees

__all__ = ["CostScale", "fit_cost_scale", "relative_log_cost", "remove"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MODEL, _MAP = "model_cost.txt", "cost.json"
_NUMBERS = ("intercept", "slope", "low", "high", "explained")
_LEAST_EXPLAINED, _SURE = 0.1, 2.0
"""Share of the variance of log-cost, and its standard errors from 0, below which all prompts are taken as typical."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostScale:
    """Scale = exp(intercept + slope * trees), kept within [low, high], what profiled prompts showed.

    `explained` is the share of the variance of log-cost on held-out problems. `oof_` [P] are the out-of-fold scales of
    the problems it was fitted on, whose mean is 1; not saved.
    """

    trees: Trees
    model_text: str
    intercept: float
    slope: float
    low: float
    high: float
    explained: float
    oof_: Floats | None = None

    def __call__(self, matrix: Floats) -> Floats:
        """Scale of each prompt from its features [P, F], [P]."""
        raw = self.trees.raw(matrix)
        if len(raw) == 1:  # the same operations on a plain number
            value = float(np.exp(self.intercept + self.slope * float(raw[0])))
            return np.array([min(max(value, self.low), self.high)])
        return np.minimum(np.maximum(np.exp(self.intercept + self.slope * raw), self.low), self.high)

    def save(self, folder: Path) -> None:
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        (folder / _MODEL).write_text(self.model_text, encoding="utf-8")
        (folder / _MAP).write_text(json.dumps(numbers) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, features: int) -> CostScale | None:
        """None where the policy has none. Raises PolicyError naming the file that is damaged."""
        path = folder / _MAP
        if not path.exists():
            return None
        try:
            numbers = json.loads(path.read_text(encoding="utf-8"))
            found = {name: float(numbers[name]) for name in _NUMBERS}
            text = (folder / _MODEL).read_text(encoding="utf-8")
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise PolicyError(f"damaged ({error!r})", where=str(path), hint="Fit the policy again") from error
        if not 0 < found["low"] <= found["high"] or not np.isfinite(list(found.values())).all():
            raise PolicyError(
                "scales must be positive and finite", where=str(path), field="low", value=found["low"],
                hint="Fit the policy again",
            )  # fmt: skip
        trees = Trees.from_text(text, where=str(folder / _MODEL))
        if trees.n_features != features:
            raise PolicyError("the model and features.json disagree on the number of features", where=str(path))
        return cls(
            trees=trees, model_text=text, intercept=found["intercept"], slope=found["slope"], low=found["low"],
            high=found["high"], explained=found["explained"],
        )  # fmt: skip


def remove(folder: Path) -> None:
    """Take an earlier one's files away."""
    for name in (_MODEL, _MAP):
        (folder / name).unlink(missing_ok=True)


def relative_log_cost(costs: Floats) -> Floats:
    """Mean over models of log(cost), each less its mean over problems, [P], from what one sample costs [P, M]; one that
    costs hardly anything counts as a thousandth of the model's median."""
    floored = np.maximum(costs, np.maximum(np.median(costs, axis=0) / 1000, 1e-300))
    log_cost = np.log(floored)
    relative: Floats = (log_cost - log_cost.mean(axis=0)).mean(axis=1)
    return relative


def fit_cost_scale(matrix: Floats, costs: Floats, fold: Ints, *, seed: int) -> CostScale | None:
    """From features [P, F] and what one sample costs [P, M] with each of M policy models; None where prompts do not
    tell.

    The trees predict the mean over models of log(cost), each less its mean over problems: lengths of one prompt's
    answers go together, whoever writes them. `fold` [P] keeps predictions out of fold.
    """
    from planner.policy.boosting import choose_trees, grow

    label = relative_log_cost(costs)
    variance, weight = float(label.var()), np.ones(len(label))
    if not variance > 1e-12:
        return None
    best = choose_trees(
        matrix, label, weight, fold, objective="regression", seed=seed,
        loss=lambda raw: float(np.mean((raw - label) ** 2)),
    )  # fmt: skip
    explained = 1 - best.loss / variance
    gain = (label - label.mean()) ** 2 - (label - best.oof) ** 2
    if explained < _LEAST_EXPLAINED or gain.mean() < _SURE * gain.std() / len(gain) ** 0.5:
        return None
    centred = best.oof - best.oof.mean()
    slope = float(np.clip((centred @ label) / max(float(centred @ centred), 1e-12), 0.0, 1.0))
    scale = np.exp(slope * best.oof)
    text = grow(matrix, label, weight, best.trial, best.rounds, seed)
    mean = float(scale.mean())
    oof = scale / mean
    return CostScale(
        trees=Trees.from_text(text), model_text=text, intercept=-float(np.log(mean)), slope=slope,
        low=float(oof.min()), high=float(oof.max()), explained=float(explained), oof_=oof,
    )  # fmt: skip
