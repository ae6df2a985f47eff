"""Is a prompt unlike anything that was profiled? Two plain measures against the profiled prompts.

`unseen` is the share of a prompt's character trigrams (digits as one symbol) that no profiled prompt had; `excess` says
how far a count (length, numbers, digits of the largest, ...) lies outside the profiled range, in units of that range.
Each is held against what profiled prompts themselves show when they are left out (METHODS section 6).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import PolicyError
from planner.policy.features import COUNTS, Extracted

__all__ = ["Familiarity", "held_out_shares"]

_BITS = 16
_QUANTILE, _MARGIN = 0.995, 1.25
_LEAST_UNSEEN, _LEAST_EXCESS = 0.1, 0.5


@dataclass(frozen=True)
class Familiarity:
    """`seen` [2**16] bool: trigram hashes of the profiled prompts; `low`, `high` [counts]: their range."""

    seen: NDArray[np.bool_]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    unseen_limit: float
    excess_limit: float

    def measure(self, extracted: Extracted) -> NDArray[np.float64]:
        """Strangeness of each prompt, [P]: above 1 means unlike anything profiled."""
        return self.strangeness(*self.shares(extracted))

    def shares(self, extracted: Extracted) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`unseen` and `excess` of each prompt, [P] each (see the module)."""
        return _measures(extracted, self.seen, self.low, self.high, self._range)

    def strangeness(self, unseen: NDArray[np.float64], excess: NDArray[np.float64]) -> NDArray[np.float64]:
        """`measure` from what `shares` gave."""
        if len(unseen) == 1:  # the same operations on plain numbers
            return np.array([max(float(unseen[0]) / self.unseen_limit, float(excess[0]) / self.excess_limit)])
        return np.maximum(unseen / self.unseen_limit, excess / self.excess_limit)

    @cached_property
    def _range(self) -> NDArray[np.float64]:
        return _range(self.low, self.high)

    @classmethod
    def fit(cls, extracted: Extracted, fold: NDArray[np.int64]) -> Familiarity:
        """`fold` [P]: each prompt is measured against the prompts of the other folds to set the limits."""
        unseen, excess = held_out_shares(extracted, fold)
        return cls(
            *_seen(extracted),
            max(_LEAST_UNSEEN, _MARGIN * float(np.quantile(unseen, _QUANTILE))),
            max(_LEAST_EXCESS, _MARGIN * float(np.quantile(excess, _QUANTILE))),
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "trigrams": base64.b64encode(np.packbits(self.seen).tobytes()).decode(),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "unseen_limit": self.unseen_limit,
            "excess_limit": self.excess_limit,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], *, where: str) -> Familiarity:
        """Raises PolicyError when the document is damaged."""
        try:
            packed = np.frombuffer(base64.b64decode(document["trigrams"], validate=True), np.uint8)
            low, high = (np.array(document[key], np.float64) for key in ("low", "high"))
            limits = float(document["unseen_limit"]), float(document["excess_limit"])
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise PolicyError(f"damaged ({error!r})", where=where, field="familiarity") from error
        if len(packed) * 8 != 1 << _BITS or low.shape != (len(COUNTS),) or high.shape != low.shape:
            raise PolicyError("arrays of the wrong size", where=where, field="familiarity")
        return cls(np.unpackbits(packed).astype(bool), low, high, *limits)


def held_out_shares(extracted: Extracted, fold: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`unseen` and `excess` of each prompt against the prompts of the other folds, [P] each."""
    shares = np.empty((2, len(fold)))
    for f in np.unique(fold):
        seen, low, high = _seen(_rows(extracted, fold != f))
        shares[:, fold == f] = _measures(_rows(extracted, fold == f), seen, low, high, _range(low, high))
    return shares[0], shares[1]


def _rows(extracted: Extracted, keep: NDArray[np.bool_]) -> Extracted:
    inside = keep[extracted.owners]
    renumbered = np.cumsum(keep) - 1
    owners = renumbered[extracted.owners[inside]]
    return Extracted(extracted.matrix[keep], extracted.trigrams[inside], owners, extracted.open_worded[keep])


def _place(trigrams: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return trigrams >> np.uint32(32 - _BITS)


def _seen(extracted: Extracted) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    seen = np.zeros(1 << _BITS, np.bool_)
    seen[_place(extracted.trigrams)] = True
    counts = extracted.matrix[:, : len(COUNTS)]
    return seen, counts.min(0), counts.max(0)


def _range(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(high - low, 1.0)


def _measures(
    extracted: Extracted,
    seen: NDArray[np.bool_],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    width: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows = len(extracted.matrix)
    known = seen.take(_place(extracted.trigrams))
    if rows == 1:
        unseen = np.array([(len(known) - np.count_nonzero(known)) / max(len(known), 1)])
    else:
        unseen = np.bincount(extracted.owners.take((~known).nonzero()[0]), minlength=rows) / np.maximum(
            np.bincount(extracted.owners, minlength=rows), 1
        )
    counts = extracted.matrix[:, : len(COUNTS)]
    outside = np.maximum(counts - high, low - counts)
    outside /= width
    return unseen, outside.max(1)
