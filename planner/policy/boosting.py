"""Gradient-boosted trees over prompt features, grown on some problems and judged on the others.

How many leaves and rounds, and whether the hashed n-grams are looked at, is chosen on out-of-fold predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.policy.calibrate import splits
from planner.policy.features import COUNTS
from planner.policy.trees import Trees

__all__ = ["Grown", "Trial", "choose_trees", "grow", "out_of_fold"]

ROUNDS = 160

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trial:
    """One way to grow trees. `objective` is LightGBM's: `cross_entropy` takes success shares in [0, 1] as labels."""

    objective: str
    leaves: int
    hashed: bool
    fewest_problems: int = 0

    def parameters(self, problems: int, seed: int) -> dict[str, Any]:
        return {
            "objective": self.objective,
            "num_leaves": self.leaves,
            "learning_rate": 0.08,
            "min_data_in_leaf": max(5, min(20, problems // 20)),
            "lambda_l2": 5.0,
            "feature_fraction": 0.4 if self.hashed else 0.7,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "max_bin": 63,
            "use_missing": False,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }

    @classmethod
    def all_of(cls, objective: str) -> tuple[Trial, ...]:
        return cls(objective, 4, False), cls(objective, 4, True), cls(objective, 15, True, 600)


@dataclass(frozen=True, slots=True)
class Grown:
    """What did best on held-out problems: `oof` [P] raw predictions out of fold after `rounds` trees, and their
    loss."""

    trial: Trial
    rounds: int
    oof: Floats
    loss: float


def choose_trees(
    matrix: Floats, label: Floats, weight: Floats, fold: Ints, *, objective: str, loss: Callable[[Floats], float],
    seed: int,
) -> Grown:  # fmt: skip
    """Try every way to grow trees on P problems; `loss` judges raw predictions [P]."""
    found: list[Grown] = []
    for trial in Trial.all_of(objective):
        if len(label) < trial.fewest_problems:
            continue
        raw = out_of_fold(matrix, label, weight, fold, trial, ROUNDS, seed)
        losses = [loss(each) for each in raw]
        at = int(np.argmin(losses))
        found.append(Grown(trial, at + 1, raw[at], losses[at]))
    return min(found, key=lambda grown: grown.loss)


def out_of_fold(
    matrix: Floats, label: Floats, weight: Floats, fold: Ints, trial: Trial, rounds: int, seed: int
) -> Floats:
    """Raw predictions of held-out problems after each tree, [rounds, P]; trees that could not be grown repeat the
    last."""
    raw = np.empty((rounds, len(label)))
    for train, test in splits(fold):
        text = grow(matrix[train], label[train], weight[train], trial, rounds, seed)
        staged = Trees.from_text(text).leaves(matrix[test]).cumsum(axis=1).T
        raw[:, test] = np.concatenate((staged, np.repeat(staged[-1:], rounds - len(staged), axis=0)))
    return raw


def grow(matrix: Floats, label: Floats, weight: Floats, trial: Trial, rounds: int, seed: int) -> str:
    """The model's text, as `Trees.from_text` reads it."""
    import lightgbm

    if not trial.hashed:  # a constant column is never split on, and the model keeps its number of features
        matrix = matrix.copy()
        matrix[:, len(COUNTS) :] = 0
    parameters = trial.parameters(len(label), seed)
    data = lightgbm.Dataset(matrix, label, weight=weight, params=parameters)
    text: str = lightgbm.train(parameters, data, num_boost_round=rounds).model_to_string()
    return text
