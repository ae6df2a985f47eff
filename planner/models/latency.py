"""Seconds: how long an engine or verifier takes, as a small model fitted to timed calls.

A call of an engine whose requests have `input_tokens` new prompt tokens in sum (a prompt that several share counts
once) takes

    call + token * input_tokens + sum over decoding steps of step(rows that still generate)

where `step(rows)` is piecewise linear through a few numbers of rows and goes on beyond the last with the slope before
it. A call of a verifier takes call + token * input_tokens. All coefficients are >= 0, so more never takes less. They
minimise the sum of absolute relative errors (a pause of the machine must not bend them). Every third call is held out
of the fit: it gives the median relative error, and `slowdown`, how the seconds that are measured spread around the
predicted ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import InputError

__all__ = ["Latency", "LatencyModel", "Timing", "fit_latency"]

Floats = NDArray[np.float64]

_ROWS = (1, 4, 16, 64)
_HELD_OUT = 3
_LEAST = 6
_QUANTILES = (np.arange(20) + 0.5) / 20
_ROUNDS, _SWEEPS, _CONVERGED = 12, 200, 1e-6


@dataclass(frozen=True, slots=True)
class Timing:
    """One timed call: its new input tokens, and the tokens that each request generated (none for a verifier)."""

    seconds: float
    input_tokens: int
    generated: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of one engine or verifier, all in seconds (see the module for the form).

    `step_seconds` are those of one decoding step at `rows` rows; both are empty for a verifier. `slowdown` holds 20
    equally likely ratios of measured to predicted seconds, rising. `median_relative_error` is that of the `held_out`
    calls that the fit did not see.
    """

    call_seconds: float
    token_seconds: float
    rows: tuple[int, ...]
    step_seconds: tuple[float, ...]
    slowdown: tuple[float, ...]
    median_relative_error: float
    held_out: int

    def step(self, rows: float | Floats) -> Floats:
        """Seconds of one decoding step; 0 for no rows."""
        at, known = np.asarray(rows, np.float64), np.array(self.step_seconds)
        inside = np.interp(at, self.rows, known)
        # An engine that was only seen with single rows takes several one after the other.
        rise = known[-1] - known[-2] if len(known) > 1 else known[-1]
        width = self.rows[-1] - self.rows[-2] if len(known) > 1 else 1
        inside = inside + rise / width * np.maximum(at - self.rows[-1], 0.0)
        seconds: Floats = np.where(at > 0, inside, 0.0)
        return seconds

    def seconds(self, input_tokens: float, generated: Sequence[int] = ()) -> float:
        """Expected seconds of one call."""
        return self.call_seconds + self.token_seconds * input_tokens + float(self.decode_seconds(np.array(generated)))

    def decode_seconds(self, generated: NDArray[Any]) -> Floats:
        """Expected seconds of the decoding steps of calls whose requests generate so many tokens, [..., rows] -> [...];
        0 stands for a request that is not there."""
        longest_first = -np.sort(-generated.astype(np.float64), axis=-1)
        each = np.diff(self.step(np.arange(generated.shape[-1] + 1.0))) if self.rows else np.zeros(0)
        # Row j makes the steps up to its own length dearer by what the j-th row adds.
        seconds: Floats = longest_first @ each
        return seconds

    def run_seconds(self, *, calls: Floats, input_tokens: Floats, steps: Floats, generated: Floats) -> Floats:
        """Expected seconds of whole runs from their counts: `steps` decoding steps that made `generated` tokens, taken
        as equally wide. Without steps, a verifier's."""
        seconds: Floats = calls * self.call_seconds + input_tokens * self.token_seconds
        if self.rows:
            seconds = seconds + steps * self.step(generated / np.maximum(steps, 1.0))
        return seconds

    def affordable_tokens(self, seconds: float, *, input_tokens: float, rows: int, at_most: int) -> int:
        """The most tokens that each of `rows` requests of one call may generate so that it is expected to end within
        `seconds`; 0 for none.

        As expected, and not as slow as it may be: a plan is chosen so that it hardly ever needs all its seconds, and
        would often be cut short for a delay that seldom comes.
        """
        left = seconds - self.call_seconds - self.token_seconds * input_tokens
        step = float(self.step(float(rows)))
        if left <= 0:
            return 0
        return at_most if step * at_most <= left else math.floor(left / step)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "call_seconds": self.call_seconds,
            "token_seconds": self.token_seconds,
            "rows": list(self.rows),
            "step_seconds": list(self.step_seconds),
            "slowdown": list(self.slowdown),
            "median_relative_error": self.median_relative_error,
            "held_out": self.held_out,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], *, where: str = "latency") -> Latency:
        """Inverse of `to_dict`; other fields are ignored. Raises InputError for what no fit could have written."""
        try:
            found = cls(
                call_seconds=float(document["call_seconds"]),
                token_seconds=float(document["token_seconds"]),
                rows=tuple(int(n) for n in document["rows"]),
                step_seconds=tuple(float(s) for s in document["step_seconds"]),
                slowdown=tuple(float(s) for s in document["slowdown"]),
                median_relative_error=float(document["median_relative_error"]),
                held_out=int(document["held_out"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"damaged ({error!r})", where=where, hint="Measure again: planner latency BANK") from error
        numbers = (found.call_seconds, found.token_seconds, *found.step_seconds, *found.slowdown)
        rising = all(a < b for a, b in pairwise(found.rows))
        monotone = all(a <= b for a, b in pairwise(found.step_seconds))
        sized = len(found.rows) == len(found.step_seconds) and bool(found.slowdown) and found.slowdown[-1] > 0
        if not (sized and rising and monotone and all(math.isfinite(x) and x >= 0 for x in numbers)):
            raise InputError(
                "no latency", where=where, value=dict(document), expected="finite numbers >= 0, steps never falling",
                hint="Measure again: planner latency BANK",
            )  # fmt: skip
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyModel:
    """The engines of a policy, by policy model, and its verifier; what was not measured is not there."""

    engines: Mapping[str, Latency]
    verifier: Latency | None = None

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], *, where: str = "latency") -> LatencyModel:
        """From `{"engines": {name: Latency}, "verifier": Latency or null}`. Raises InputError as `Latency`'s does."""
        engines, verifier = document.get("engines"), document.get("verifier")
        if not isinstance(engines, Mapping) or not isinstance(verifier, Mapping | None):
            raise InputError("damaged", where=where, field="engines", value=engines, expected="latencies by name")
        return cls(
            engines={name: Latency.from_dict(entry, where=f"{where} of {name}") for name, entry in engines.items()},
            verifier=None if verifier is None else Latency.from_dict(verifier, where=f"{where} of the verifier"),
        )


def fit_latency(timings: Sequence[Timing]) -> Latency:
    """Fit to at least six calls. Raises InputError for fewer, and for calls that took no time."""
    if len(timings) < _LEAST or any(not t.seconds > 0 for t in timings):
        raise InputError(
            "cannot be fitted", where="latency", field="timings", value=len(timings),
            expected=f"at least {_LEAST} calls that took time",
        )  # fmt: skip
    widest = max(len(t.generated) for t in timings)
    rows = tuple(n for n in _ROWS if n <= widest)
    features = np.array([_features(t, rows) for t in timings])
    seconds = np.array([t.seconds for t in timings])
    held = np.arange(len(timings)) % _HELD_OUT == _HELD_OUT - 1
    found = _least_absolute(features[~held] / seconds[~held, None])
    ratios = seconds[held] / np.maximum(features[held] @ found, 1e-12)
    error = float(np.median(np.abs(1 / ratios - 1)))
    return Latency(
        call_seconds=_short(found[0]),
        token_seconds=_short(found[1]),
        rows=rows,
        step_seconds=tuple(_short(s) for s in np.cumsum(found[2:])),
        slowdown=tuple(_short(r) for r in np.quantile(ratios, _QUANTILES)),
        median_relative_error=_short(error),
        held_out=int(held.sum()),
    )


def _features(timing: Timing, rows: tuple[int, ...]) -> list[float]:
    """What each coefficient is multiplied by: call, token, the first row's step, and each piece's rise."""
    lengths = sorted(timing.generated, reverse=True)
    # (steps, rows in them), the narrowest first.
    steps = [(n - m, j) for j, (n, m) in enumerate(zip(lengths, [*lengths, 0][1:], strict=True), 1) if n > m]
    pieces: list[float] = [sum(n for n, _ in steps)] if rows else []
    for number, (low, high) in enumerate(pairwise(rows), 2):
        most = math.inf if number == len(rows) else 1.0
        pieces.append(sum(n * min(max((wide - low) / (high - low), 0.0), most) for n, wide in steps))
    return [1.0, float(timing.input_tokens), *pieces]


def _least_absolute(features: Floats) -> Floats:
    """x >= 0 that minimises sum |features @ x - 1|: reweighted least squares, each by coordinate descent."""
    scale = np.maximum(np.abs(features).max(axis=0), 1e-300)
    scaled, weight = features / scale, np.ones(len(features))
    x = np.zeros(features.shape[1])
    for _ in range(_ROUNDS):
        gram, target = scaled.T @ (scaled * weight[:, None]), scaled.T @ weight
        for _ in range(_SWEEPS):
            before = x.copy()
            for j in range(len(x)):
                if gram[j, j] > 0:
                    x[j] = max(0.0, x[j] + (target[j] - gram[j] @ x) / gram[j, j])
            if np.abs(x - before).max() <= _CONVERGED * x.max():
                break
        weight = 1 / np.maximum(np.abs(scaled @ x - 1), 0.01)
    found: Floats = x / scale
    return found


def _short(value: float) -> float:
    """Six digits: what is written is what is read."""
    return float(f"{value:.6g}")
