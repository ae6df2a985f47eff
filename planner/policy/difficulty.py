"""Fit a difficulty predictor: LightGBM over prompt features, calibrated, with the spread around its predictions.

Everything that is chosen (feature set, leaves, rounds, calibration, spread) is chosen on out-of-fold predictions, and
choosing no trees at all is one of the choices: with few problems the base rate often wins, and then it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import InputError
from planner.policy.familiarity import Familiarity
from planner.policy.features import COUNTS, FeatureSpec, extract
from planner.policy.predictor import Calibration, DifficultyPredictor, Spread
from planner.policy.trees import Trees

__all__ = ["DifficultyPredictor", "fit_difficulty", "make_folds"]

_FEWEST_PROBLEMS = 30
"""Below this many problems no trees are tried: their choice could not be told from noise."""
_ISOTONIC_PROBLEMS = 500
_EPSILON = 1e-3
_Q_GRID = np.linspace(0.005, 0.995, 45)
_P_GRID = np.linspace(0.0, 1.0, 101)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Trial:
    """One way to grow trees."""

    leaves: int
    hashed: bool
    fewest_problems: int

    def parameters(self, problems: int, seed: int) -> dict[str, Any]:
        return {
            "objective": "cross_entropy",  # takes success shares in [0, 1] as labels
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


_TRIALS = (_Trial(4, False, 0), _Trial(4, True, 0), _Trial(15, True, 600))
_ROUNDS = 160


def fit_difficulty(
    prompts: Sequence[str | None],
    successes: NDArray[Any],
    trials: NDArray[Any],
    *,
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
    folds: int = 5,
    policy_model: str | None = None,
) -> DifficultyPredictor:
    """Fit on P problems with `successes` [P] (may be fractional) of `trials` [P]; 0 trials means unknown.

    With `groups`, folds never cut a group (problems without one stand alone). Where no prompt is known the result
    predicts the base rate and its `note` says so. The same arguments give the same predictor. Raises InputError when
    nothing at all is known.
    """
    successes, trials = np.asarray(successes, np.float64), np.asarray(trials, np.float64)
    if not len(prompts) == len(successes) == len(trials):
        raise InputError(
            f"{len(prompts)} prompts, {len(successes)} successes and {len(trials)} trials do not match",
            where="fit_difficulty",
        )
    measured = (trials > 0) & ~np.isnan(successes)
    if not measured.any():
        raise InputError("no problem has a measured success", where="fit_difficulty", hint="Profile samples first")
    if ((successes < 0) | (successes > trials))[measured].any():
        raise InputError("successes must lie between 0 and trials", where="fit_difficulty", field="successes")
    usable = measured & np.array([p is not None for p in prompts])
    spec = FeatureSpec()
    base = _base_rate(successes[measured], trials[measured])
    if usable.sum() < _FEWEST_PROBLEMS:
        why = (
            "the bank has no prompts: every prompt gets the base rate"
            if not any(p is not None for p in prompts)
            else f"only {int(usable.sum())} problems with a prompt: every prompt gets the base rate"
        )
        oof = np.where(measured, base, np.nan)
        spread = _fit_spread(np.full(int(measured.sum()), base), successes[measured], trials[measured])
        return DifficultyPredictor(
            spec=spec, trees=None, model_text="", calibration=Calibration(), spread=spread, familiarity=None,
            base_rate=base, problems=int(measured.sum()), policy_model=policy_model, note=why, fit_={}, oof_=oof,
        )  # fmt: skip

    rows = np.flatnonzero(usable)
    extracted = extract([p for p, use in zip(prompts, usable, strict=True) if use and p is not None], spec)
    k, n = successes[rows], trials[rows]
    weight = _weights(k, n)
    names = None if groups is None else [groups[int(i)] for i in rows]
    fold = make_folds(len(rows), folds, seed=seed, groups=names)
    best = _search(extracted.matrix, k / n, weight, fold, seed)
    familiarity = Familiarity.fit(extracted, make_folds(len(rows), folds, seed=seed))
    out = np.full(len(prompts), np.nan)
    fit: dict[str, Any] = {"folds": folds, "seed": seed, "base_log_loss": best.base_loss, "log_loss": best.loss}
    trees: Trees | None = None
    note: str | None = None
    text, calibration = "", Calibration()
    if best.rounds == 0:
        note = f"prompts of {len(rows)} problems predict success no better than the base rate, which is used"
        out[rows] = best.oof
    else:
        assert best.trial is not None
        text = _train(extracted.matrix, k / n, weight, best.trial, best.rounds, seed).model_to_string()
        trees = Trees.from_text(text)
        isotonic = _prefers_isotonic(best.oof, k / n, weight, fold)
        held = np.empty(len(rows))
        for train, test in _splits(fold):
            held[test] = _calibrate(best.oof[train], (k / n)[train], weight[train], isotonic)(best.oof[test])
        out[rows] = held
        calibration = _calibrate(best.oof, k / n, weight, isotonic)
        fit |= {"leaves": best.trial.leaves, "hashed": best.trial.hashed, "rounds": best.rounds}
        fit |= {"calibration": "isotonic" if isotonic else "platt", "held_out_log_loss": _log_loss(held, k / n, weight)}
    return DifficultyPredictor(
        spec=spec, trees=trees, model_text=text, calibration=calibration, spread=_fit_spread(out[rows], k, n),
        familiarity=familiarity, base_rate=base, problems=len(rows), policy_model=policy_model, note=note,
        fit_=fit, oof_=out,
    )  # fmt: skip


def make_folds(count: int, folds: int, *, seed: int, groups: Sequence[str | None] | None = None) -> Ints:
    """Fold of each problem, [P]; whole groups, largest first, each into the fold that has the fewest problems so far.

    Fewer groups than folds cannot be kept apart that often: then there are as many folds as groups, and with a single
    group folds go by problem.
    """
    rng = np.random.default_rng(seed)
    names = np.array([f"\0{i}" if g is None else g for i, g in enumerate(groups or [None] * count)])
    _, label = np.unique(names, return_inverse=True)
    sizes = np.bincount(label)
    if len(sizes) == 1:
        label, sizes = np.arange(count), np.ones(count, np.int64)
    folds = min(folds, len(sizes))
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    load, fold_of = np.zeros(folds, np.int64), np.empty(len(sizes), np.int64)
    for group in order:
        fold_of[group] = load.argmin()
        load[fold_of[group]] += sizes[group]
    assigned: Ints = fold_of[label]
    return assigned


@dataclass(frozen=True, slots=True)
class _Best:
    """The winner: `oof` [P] log-odds out of fold at `rounds`, or base rates (as probabilities) when `rounds` is 0."""

    trial: _Trial | None
    rounds: int
    oof: Floats
    loss: float
    base_loss: float


def _search(matrix: Floats, label: Floats, weight: Floats, fold: Ints, seed: int) -> _Best:
    constant = np.empty(len(label))
    for train, test in _splits(fold):
        constant[test] = np.clip(np.average(label[train], weights=weight[train]), _EPSILON, 1 - _EPSILON)
    base_loss = _log_loss(constant, label, weight)
    best = _Best(None, 0, constant, base_loss, base_loss)
    for trial in _TRIALS:
        if len(label) < trial.fewest_problems:
            continue
        raw = np.empty((_ROUNDS, len(label)))
        for train, test in _splits(fold):
            model = _train(matrix[train], label[train], weight[train], trial, _ROUNDS, seed)
            raw[:, test] = _staged(Trees.from_text(model.model_to_string()), matrix[test])
        loss = np.array([_log_loss(1 / (1 + np.exp(-r)), label, weight) for r in raw])
        at = int(loss.argmin())
        if loss[at] < best.loss:
            best = _Best(trial, at + 1, raw[at], float(loss[at]), base_loss)
    return best


def _staged(trees: Trees, matrix: Floats) -> Floats:
    """Log-odds after each tree, [rounds, P]; trees that could not be grown repeat the last."""
    staged = trees.leaves(matrix).cumsum(axis=1).T
    return np.concatenate((staged, np.repeat(staged[-1:], _ROUNDS - len(staged), axis=0)))


def _train(matrix: Floats, label: Floats, weight: Floats, trial: _Trial, rounds: int, seed: int) -> Any:
    import lightgbm

    if not trial.hashed:  # a constant column is never split on, and the model keeps its number of features
        matrix = matrix.copy()
        matrix[:, len(COUNTS) :] = 0
    parameters = trial.parameters(len(label), seed)
    data = lightgbm.Dataset(matrix, label, weight=weight, params=parameters)
    return lightgbm.train(parameters, data, num_boost_round=rounds)


def _splits(fold: Ints) -> Iterator[tuple[Ints, Ints]]:
    for f in range(int(fold.max()) + 1):
        yield np.flatnonzero(fold != f), np.flatnonzero(fold == f)


def _log_loss(p: Floats, label: Floats, weight: Floats) -> float:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return float(np.average(-(label * np.log(p) + (1 - label) * np.log(1 - p)), weights=weight))


def _base_rate(k: Floats, n: Floats) -> float:
    return float(np.clip(np.average(k / n, weights=_weights(k, n)), _EPSILON, 1 - _EPSILON))


def _weights(k: Floats, n: Floats) -> Floats:
    """Weight of each problem, mean 1: n trials of one problem say as much as n / (1 + (n - 1) rho) independent ones.

    rho is the between-problem share of the variance (moments of the beta-binomial); plain n would let one problem with
    many samples outweigh hundreds.
    """
    share = k / n
    mean = share.mean()
    total = float(np.var(share))
    within = float(np.mean(mean * (1 - mean) / n))
    rho = float(np.clip((total - within) / max(mean * (1 - mean), 1e-9), 0.05, 1.0))
    weight = n / (1 + (n - 1) * rho)
    scaled: Floats = weight / weight.mean()
    return scaled


def _calibrate(raw: Floats, label: Floats, weight: Floats, isotonic: bool) -> Calibration:
    if isotonic:
        from sklearn.isotonic import IsotonicRegression

        fitted = IsotonicRegression(y_min=_EPSILON, y_max=1 - _EPSILON, out_of_bounds="clip")
        fitted.fit(raw, label, sample_weight=weight)
        return Calibration(knots=(fitted.X_thresholds_.astype(np.float64), fitted.y_thresholds_.astype(np.float64)))
    # Platt by Newton's method with a weak prior at slope 1, which holds the map together on few problems.
    design = np.stack((np.ones_like(raw), raw), axis=1)
    beta, prior, strength = np.array([0.0, 1.0]), np.array([0.0, 1.0]), np.diag([0.1, 2.0])
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        gradient = design.T @ (weight * (p - label)) + strength @ (beta - prior)
        curvature = (design * (weight * p * (1 - p))[:, None]).T @ design + strength
        step = np.linalg.solve(curvature, gradient)
        beta = beta - step
        if np.abs(step).max() < 1e-9:
            break
    return Calibration(intercept=float(beta[0]), slope=float(max(beta[1], 0.0)))


def _prefers_isotonic(raw: Floats, label: Floats, weight: Floats, fold: Ints) -> bool:
    if len(raw) < _ISOTONIC_PROBLEMS:
        return False
    loss = [0.0, 0.0]
    for isotonic in (False, True):
        held = np.empty(len(raw))
        for train, test in _splits(fold):
            held[test] = _calibrate(raw[train], label[train], weight[train], isotonic)(raw[test])
        loss[isotonic] = _log_loss(held, label, weight)
    return loss[True] < loss[False]


def _fit_spread(q: Floats, k: Floats, n: Floats) -> Spread:
    """Precision s of Beta(q s, (1 - q) s) by the beta-binomial likelihood of k of n, with a weak prior around s = 2
    (single trials say nothing about the spread)."""
    from scipy.special import betainc, betaln

    q = np.clip(q, _Q_GRID[0], _Q_GRID[-1])
    grid = np.exp(np.linspace(np.log(0.1), np.log(300.0), 121))
    likelihood = [
        float((betaln(k + q * s, n - k + (1 - q) * s) - betaln(q * s, (1 - q) * s)).sum())
        - 0.5 * float(np.log(s / 2.0)) ** 2
        for s in grid
    ]
    s = float(grid[int(np.argmax(likelihood))])
    cdf = betainc(_Q_GRID[:, None] * s, (1 - _Q_GRID[:, None]) * s, _P_GRID[None, :])
    return Spread(s, _Q_GRID, _P_GRID, np.asarray(cdf, np.float64).round(5))
