"""A second look at a prompt's difficulty, beyond its text: sentence embeddings, or what the first samples show.

A refinement is a ridge-penalised logistic model on top of the prompt predictor's log-odds. It is fitted on out-of-fold
predictions, with the penalty chosen by folds over problems, so that features which tell nothing are shrunk away.
A probe's samples are the first samples of whatever runs after it: they are charged once and kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.core import Candidate
from planner.errors import InputError, PolicyError
from planner.profiling.replay import Draws, Orders
from planner.strategies.scoring import aggregate

__all__ = ["PROBE_FEATURES", "Refinement", "candidate_features", "fit_refinement", "probe_features"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PROBE_FEATURES = ("leading_share", "answers_share", "answerless_share", "log_mean_tokens", "mean_score", "mean_logprob")
_PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)
_EDGE = 1e-3


def probe_features(draws: Draws, orders: Orders, count: int, tokens: Floats, logprobs: Floats | None = None) -> Floats:
    """What the first `count` samples show along each order, [R, P, F] as PROBE_FEATURES.

    `tokens` and `logprobs` are [P, n]. What is unknown (no verifier, no log-probabilities) is NaN.
    """
    code = orders.take(np.where(draws.present & draws.finished, draws.codes, -1))[:, :, :count].astype(np.int64)
    same = (code[:, :, :, None] == code[:, :, None, :]) & (code >= 0)[:, :, :, None]
    sizes = same.sum(axis=3)
    answers = np.where(code >= 0, 1.0 / np.maximum(sizes, 1), 0.0).sum(axis=2)
    unknown = np.full(draws.codes.shape, np.nan)

    def mean_of(values: Floats | None) -> Floats:
        first = orders.take(unknown if values is None else values)[:, :, :count].astype(np.float64)
        known = ~np.isnan(first)
        total = np.where(known, first, 0.0).sum(axis=2)
        return np.where(known.any(axis=2), total / np.maximum(known.sum(axis=2), 1), np.nan)

    return np.stack(
        [
            sizes.max(axis=2) / count, answers / count, (code < 0).mean(axis=2),
            np.log(np.maximum(mean_of(tokens), 1.0)), mean_of(draws.scores.get("last")), mean_of(logprobs),
        ],
        axis=2,
    )  # fmt: skip


def candidate_features(found: Sequence[Candidate], count: int) -> Floats:
    """`probe_features` [F] of a live probe of `count` samples: the same figures from its candidates."""
    keys = Counter(c.key for c in found if c.finished and c.key is not None)

    def mean_of(values: Sequence[float | None]) -> float:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else float("nan")

    tokens = max(mean_of([c.generated_tokens for c in found]), 1.0)  # NaN stays
    return np.array(
        [
            max(keys.values(), default=0) / count, len(keys) / count, 1.0 - sum(keys.values()) / count,
            np.log(tokens), mean_of([aggregate(c.scores, "last") if c.scores else None for c in found]),
            mean_of([c.mean_logprob for c in found]),
        ]
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Refinement:
    """sigmoid(intercept + slope * log-odds + weights . (x - mean) / scale); an unknown feature counts as its mean.

    `penalty` infinite: the features told nothing on held-out problems, and predictions stay as they were. `oof_` are
    its out-of-fold predictions of what it was fitted on, NaN where nothing is known; they are not saved.
    """

    names: tuple[str, ...]
    mean: Floats
    scale: Floats
    weights: Floats
    slope: float
    intercept: float
    penalty: float
    log_loss: float
    base_log_loss: float
    oof_: Floats | None = field(default=None, compare=False)

    def predict(self, base: Floats, features: Floats) -> Floats:
        """Success probabilities [S] from the prompt predictor's `base` [S] and `features` [S, F]."""
        if np.isinf(self.penalty):
            return base
        z = self.intercept + self.slope * _log_odds(base) + _standard(features, self.mean, self.scale) @ self.weights
        return np.asarray(_sigmoid(z), np.float64)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "names": list(self.names), "mean": self.mean.tolist(), "scale": self.scale.tolist(),
            "weights": self.weights.tolist(), "slope": self.slope, "intercept": self.intercept,
            "penalty": None if np.isinf(self.penalty) else self.penalty,
            "log_loss": self.log_loss, "base_log_loss": self.base_log_loss,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], *, where: str) -> Refinement:
        """What `to_dict` wrote. Raises PolicyError where it is damaged."""
        try:
            mean, scale, weights = (np.array(document[key], np.float64) for key in ("mean", "scale", "weights"))
            slope, intercept, loss, base_loss = (
                float(document[key]) for key in ("slope", "intercept", "log_loss", "base_log_loss")
            )
            penalty = float("inf") if document["penalty"] is None else float(document["penalty"])
            found = cls(
                tuple(document["names"]), mean, scale, weights, slope, intercept, penalty, loss, base_loss
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(
                f"damaged ({error!r})", where=where, field="refinement", hint="Fit the policy again"
            ) from error
        if not found.mean.shape == found.scale.shape == found.weights.shape == (len(found.names),):
            raise PolicyError("arrays of the wrong size", where=where, field="refinement")
        return found


def fit_refinement(
    base: Floats, features: Floats, successes: Floats, trials: Floats, names: Sequence[str], *, fold: Ints
) -> Refinement:
    """Fit on R looks at each of P problems: `features` [R, P, F], `successes` of `trials` [R, P] on other samples than
    the features come from (0 trials: unknown), `base` [P] out-of-fold predictions, `fold` [P].

    Raises InputError where nothing is known.
    """
    looks, problems, count = features.shape
    known = (trials > 0) & ~np.isnan(base)
    if not known.any():
        raise InputError("no problem has samples beyond the probe", field="trials", expected="at least one more sample")
    place = np.broadcast_to(np.arange(problems), (looks, problems))[known]
    # A problem counts once, however many looks were taken at it.
    weight = 1.0 / np.bincount(place, minlength=problems)[place]
    x, label = features[known], (successes[known] / trials[known])
    odds = _log_odds(base)[place]
    with np.errstate(invalid="ignore"):
        mean = np.array([np.mean(v[~np.isnan(v)]) if (~np.isnan(v)).any() else 0.0 for v in x.T])
        scale = np.array([np.std(v[~np.isnan(v)]) if (~np.isnan(v)).any() else 0.0 for v in x.T])
    scale = np.where(scale > 1e-9, scale, 1e9)  # what never varies tells nothing
    design = np.concatenate(
        (np.ones((len(x), 1)), odds[:, None], _standard(x, mean, scale)), axis=1
    )  # fmt: skip
    base_loss = _log_loss(base[place], label, weight)
    best, loss, kept = float("inf"), base_loss, base[place]
    for penalty in _PENALTIES:
        held = np.empty(len(label))
        for f in np.unique(fold):
            test = fold[place] == f
            held[test] = _sigmoid(design[test] @ _ridge(design[~test], label[~test], weight[~test], penalty))
        if (found := _log_loss(held, label, weight)) < loss:
            best, loss, kept = penalty, found, held
    beta = _ridge(design, label, weight, best) if np.isfinite(best) else np.zeros(2 + count)
    oof = np.full((looks, problems), np.nan)
    oof[known] = kept
    return Refinement(
        tuple(names), mean, scale, beta[2:], float(beta[1]), float(beta[0]), best, loss, base_loss, oof
    )  # fmt: skip


def _ridge(design: Floats, label: Floats, weight: Floats, penalty: float) -> Floats:
    """Logistic regression by Newton's method; the first two coefficients are held to (0, 1) weakly, the others to 0 by
    `penalty`."""
    prior = np.zeros(design.shape[1])
    prior[1] = 1.0
    strength = np.full(design.shape[1], penalty)
    strength[:2] = 0.1, 2.0
    beta = prior.copy()
    for _ in range(30):
        p = _sigmoid(design @ beta)
        gradient = design.T @ (weight * (p - label)) + strength * (beta - prior)
        curvature = (design * (weight * p * (1 - p))[:, None]).T @ design + np.diag(strength)
        step = np.linalg.solve(curvature, gradient)
        beta = beta - step
        if np.abs(step).max() < 1e-8:
            break
    if beta[1] < 0 and design[:, 1].any():
        # Predictions that rank problems the wrong way round (of templates never seen) are not to be turned about.
        flat = design.copy()
        flat[:, 1] = 0.0
        beta = _ridge(flat, label, weight, penalty)
        beta[1] = 0.0
    return beta


def _standard(x: Floats, mean: Floats, scale: Floats) -> Floats:
    standard: Floats = np.nan_to_num((x - mean) / scale, nan=0.0)
    return np.clip(standard, -6, 6)


def _log_odds(p: Floats) -> Floats:
    p = np.clip(p, _EDGE, 1 - _EDGE)
    odds: Floats = np.log(p / (1 - p))
    return odds


def _sigmoid(z: Floats) -> Floats:
    value: Floats = 1 / (1 + np.exp(-np.clip(z, -30, 30)))
    return value


def _log_loss(p: Floats, label: Floats, weight: Floats) -> float:
    p = np.clip(p, 1e-4, 1 - 1e-4)
    return float(np.average(-(label * np.log(p) + (1 - label) * np.log(1 - p)), weights=weight))
