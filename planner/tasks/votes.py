"""Votes over canonical answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["majority"]


def majority(keys: Sequence[str | None], weights: Sequence[float] | None = None) -> str | None:
    """The key with the most votes, or the largest sum of `weights`; None never votes, ties go to the first seen.

    Returns None where nobody votes. Sums are exactly rounded, so that they do not depend on the voters' order.
    """
    ballots: dict[str, list[float]] = {}
    for key, weight in zip(keys, [1.0] * len(keys) if weights is None else weights, strict=True):
        if key is not None:
            ballots.setdefault(key, []).append(weight)
    return max(ballots, key=lambda key: math.fsum(ballots[key]), default=None)
