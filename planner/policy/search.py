"""Optuna's search for good configurations: one study for each bucket, accuracy against cost as two objectives.

A trial costs a look at the replayed outcomes. Where the space is no larger than the number of trials every
configuration is tried.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from planner.errors import CapabilityError, InputError
from planner.policy.space import Space

if TYPE_CHECKING:
    import optuna

__all__ = ["front", "open_storage", "open_study", "quiet", "search"]

Floats = NDArray[np.float64]


def open_storage(where: str | None) -> optuna.storages.BaseStorage | None:
    """Where a study is kept: None in memory, a database's URL (`sqlite:///FILE`, `postgresql://...`), or
    `journal:FILE`, which several processes may write over a network drive.

    Raises InputError for another form, CapabilityError where the database's driver is not installed.
    """
    if where is None:
        return None
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    kind, _, rest = where.partition(":")
    if kind == "journal" and rest:
        return JournalStorage(JournalFileBackend(rest))
    if not rest.startswith("//"):
        raise InputError(
            "no such storage", field="storage", value=where,
            expected="sqlite:///FILE, postgresql://USER@HOST/DATABASE or journal:FILE",
        )  # fmt: skip
    try:
        return RDBStorage(where)
    except ImportError as error:
        raise CapabilityError(
            f"the driver of this database is not installed ({error})", field="storage", value=kind,
            hint="pip install psycopg2-binary" if kind.startswith("postgresql") else None,
        ) from error  # fmt: skip


def open_study(where: str | None, name: str, *, seed: int, trials: int) -> optuna.Study:
    """A study of accuracy (to raise) against log-cost (to lower); one of that name in the storage is gone on with."""
    import optuna

    # A third of the trials explores; TPE's two-objective form then goes on from the fronts they found.
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(10, trials // 3))
    return optuna.create_study(
        study_name=name, storage=open_storage(where), directions=["maximize", "minimize"], sampler=sampler,
        load_if_exists=True,
    )  # fmt: skip


def search(
    space: Space, accuracy: Floats, cost: Floats, *, trials: int, seed: int, storage: str | None = None,
    name: str = "replayed",
) -> list[int]:  # fmt: skip
    """Configurations tried, in the order first seen.

    `accuracy` and `cost` are means over problems, [C]. In memory the same seed gives the same list. With `storage` (see
    `open_storage`) every trial is kept under the study's `name`, and what it holds counts among the `trials`.
    """
    if storage is None and len(space) <= trials:
        return list(space.members)  # trying each is fewer looks than sampling would take
    seen: dict[int, None] = {}

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        at = space.suggest(trial)
        seen[at] = None
        trial.set_user_attr("configuration", space.labels[at])
        return float(accuracy[at]), float(np.log(max(cost[at], 1.0)))

    with quiet():
        study = open_study(storage, name, seed=seed, trials=trials)
        place = {label: i for i, label in space.labels.items()}
        before = [t.user_attrs.get("configuration") for t in study.get_trials(deepcopy=False)]
        seen.update((place[label], None) for label in before if label in place)
        study.optimize(objective, n_trials=max(0, trials - len(before)))
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
def quiet() -> Iterator[None]:
    """Optuna without its log and its warnings about what is experimental."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
