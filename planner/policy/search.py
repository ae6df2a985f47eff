"""Optuna's search for good configurations: one study for each bucket, accuracy against cost as two objectives.

A trial costs a look at the replayed outcomes. Where the space is no larger than the number of trials every
configuration is tried.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from planner.policy.space import Space

__all__ = ["front", "search"]

Floats = NDArray[np.float64]


def search(space: Space, accuracy: Floats, cost: Floats, *, trials: int, seed: int) -> list[int]:
    """Configurations tried for one bucket, in the order first seen.

    `accuracy` and `cost` are means over the bucket's problems, [C]. In memory; the same seed gives the same list.
    """
    if len(space) <= trials:
        return list(space.members)  # trying each is fewer looks than sampling would take
    import optuna

    seen: dict[int, None] = {}

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        at = space.suggest(trial)
        seen[at] = None
        return float(accuracy[at]), float(np.log(max(cost[at], 1.0)))

    with _quiet():
        # Half of the trials explore; TPE's two-objective form then goes on from the fronts they found.
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(10, trials // 3))
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        study.optimize(objective, n_trials=trials)
    return list(seen)


def front(members: list[int], accuracy: Floats, cost: Floats) -> list[int]:
    """The members that no other beats in both accuracy and cost, by rising cost."""
    best, kept = -np.inf, []
    for i in sorted(members, key=lambda i: (cost[i], -accuracy[i])):
        if accuracy[i] > best:
            best = float(accuracy[i])
            kept.append(i)
    return kept


@contextmanager
def _quiet() -> Iterator[None]:
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
