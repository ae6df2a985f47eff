"""What a noisy verifier may not be asked for: configurations that measurably do worse for asking it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.policy.statistics import paired_p_value
from planner.profiling.columns import Configuration

__all__ = ["best_of_n_families", "stops_at", "unfit"]

Floats = NDArray[np.float64]

_SIGNIFICANT = 0.01
"""Stricter than for a gain: what is masked is not looked at again."""


def best_of_n_families(configurations: Sequence[Configuration]) -> Mapping[tuple[Any, ...], list[int]]:
    """Best-of-N configurations that differ in N alone, by rising N."""
    families: dict[tuple[Any, ...], list[int]] = {}
    for i, c in enumerate(configurations):
        if c.strategy == "best_of_n":
            rest = tuple(sorted((k, str(v)) for k, v in c.hyperparameters.items() if k != "n"))
            families.setdefault((c.policy_model, c.verifier, rest), []).append(i)
    return {key: sorted(found, key=lambda i: configurations[i].samples) for key, found in families.items()}


def stops_at(values: Floats) -> int | None:
    """Place of the N beyond which accuracy falls significantly, None where it does not; `values` [problems, N]."""
    peak = int(values.mean(axis=0).argmax())
    falls = any(paired_p_value(values[:, peak] - values[:, n]) < _SIGNIFICANT for n in range(peak + 1, values.shape[1]))
    return peak if falls else None


def unfit(
    configurations: Sequence[Configuration], values: Floats, cost: Floats, buckets: Sequence[Floats]
) -> dict[int, str]:
    """Places of configurations that ask the verifier and should not, with the reason.

    Best-of-N beyond the N from which more samples lower its accuracy; and whatever is significantly less accurate than
    a configuration that asks no verifier, costs no more, and is no worse in any bucket. `values` [problems, C] are
    outcomes, `cost` [C] means, `buckets` each bucket's mean accuracy [C].
    """
    masked: dict[int, str] = {}
    mean = values.mean(axis=0)
    for members in best_of_n_families(configurations).values():
        stop = stops_at(values[:, members])
        if stop is None:
            continue
        best = members[stop]
        n = configurations[best].samples
        for i in members[stop + 1 :]:
            if all(part[i] <= part[best] for part in buckets):
                masked[i] = f"more samples lower its accuracy: {mean[best]:.3f} at {n}, {mean[i]:.3f} here"
    asks = np.array([c.verifier is not None for c in configurations])
    free = np.flatnonzero(~asks)
    for i in np.flatnonzero(asks).tolist():
        rivals = free[cost[free] <= cost[i]]
        if i in masked or not len(rivals):
            continue
        rival = int(rivals[mean[rivals].argmax()])
        worse = paired_p_value(values[:, rival] - values[:, i]) < _SIGNIFICANT
        if worse and all(part[i] <= part[rival] for part in buckets):
            masked[i] = (
                f"the verifier is too noisy for it: {mean[i]:.3f}, and {mean[rival]:.3f} without it by "
                f"{configurations[rival].label}"
            )
    return masked
