"""Fit a difficulty predictor: LightGBM over prompt features, calibrated, with the spread around its predictions.

Everything that is chosen (feature set, leaves, rounds, calibration, spread) is chosen on out-of-fold predictions, and
choosing no trees at all is one of the choices: with few problems the base rate often wins, and then it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import InputError
from planner.policy.boosting import Trial, choose_trees, grow, out_of_fold
from planner.policy.calibrate import fit_far, fit_near, log_loss, prefers_isotonic, splits
from planner.policy.cost_scale import fit_cost_scale
from planner.policy.familiarity import Familiarity, held_out_shares
from planner.policy.features import FeatureSpec, extract
from planner.policy.predictor import Calibration, DifficultyPredictor, Far, Spread
from planner.policy.refine import fit_refinement
from planner.policy.trees import Trees

__all__ = ["DifficultyPredictor", "fit_difficulty", "make_folds"]

_FEWEST_PROBLEMS = 30
"""Below this many problems no trees are tried: their choice could not be told from noise."""
_FAMILIAR = 0.95
"""Share of held-out problems that are familiar for certain."""
_FEWEST_GROUPS = 3
"""Fewer cannot show how predictions fare in a group that was left out."""
_MOST_LEFT_OUT = 20
_EPSILON = 1e-3
_Q_GRID = np.linspace(0.005, 0.995, 45)
_P_GRID = np.linspace(0.0, 1.0, 101)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def fit_difficulty(
    prompts: Sequence[str | None],
    successes: NDArray[Any],
    trials: NDArray[Any],
    *,
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
    folds: int = 5,
    policy_model: str | None = None,
    embeddings: Floats | None = None,
    costs: Floats | None = None,
) -> DifficultyPredictor:
    """Fit on P problems with `successes` [P] (may be fractional) of `trials` [P]; 0 trials means unknown.

    With `groups` (templates, sources; problems without one stand alone) it also learns how much less to believe of
    prompts from a group that was not profiled. `embeddings` [P, E] (`planner.models.embedding`) refine predictions
    where that helps on held-out problems, and are then computed for every prompt. `costs` [P, M], what one sample of
    each policy model costs, teach it each prompt's cost scale, too. Where no prompt is known the result
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
            base_rate=base, problems=int(measured.sum()), policy_model=policy_model, note=why, fit_={},
            oof_=oof, oof_apart_=oof, oof_scale_=np.ones(len(prompts)),
        )  # fmt: skip

    rows = np.flatnonzero(usable)
    extracted = extract([p for p, use in zip(prompts, usable, strict=True) if use and p is not None], spec)
    k, n = successes[rows], trials[rows]
    weight = _weights(k, n)
    names = None if groups is None else [groups[int(i)] for i in rows]
    fold = make_folds(len(rows), folds, seed=seed)
    best = _search(extracted.matrix, k / n, weight, fold, seed)
    familiarity = Familiarity.fit(extracted, fold)
    out, out_apart = np.full(len(prompts), np.nan), np.full(len(prompts), np.nan)
    fit: dict[str, Any] = {"folds": folds, "seed": seed, "base_log_loss": best.base_loss, "log_loss": best.loss}
    trees: Trees | None = None
    note: str | None = None
    text, calibration = "", Calibration()
    if best.trial is None:
        note = f"prompts of {len(rows)} problems predict success no better than the base rate, which is used"
        out[rows] = out_apart[rows] = best.oof
    else:
        text = grow(extracted.matrix, k / n, weight, best.trial, best.rounds, seed)
        trees = Trees.from_text(text)
        isotonic = prefers_isotonic(best.oof, k / n, weight, fold)
        held = np.empty(len(rows))
        for train, test in splits(fold):
            held[test] = fit_near(best.oof[train], (k / n)[train], weight[train], isotonic)(best.oof[test])
        out[rows] = out_apart[rows] = held
        calibration = fit_near(best.oof, k / n, weight, isotonic)
        fit |= {"leaves": best.trial.leaves, "hashed": best.trial.hashed, "rounds": best.rounds}
        fit |= {"calibration": "isotonic" if isotonic else "platt", "held_out_log_loss": log_loss(held, k / n, weight)}
    far = None
    if names is not None and len(set(names)) >= _FEWEST_GROUPS and best.trial is not None:
        apart = make_folds(len(rows), folds, seed=seed, groups=names)
        unseen = (held_out_shares(extracted, fold)[0], held_out_shares(extracted, apart)[0])
        start, end = float(np.quantile(unseen[0], _FAMILIAR)), float(np.median(unseen[1]))
        if end > start:
            # Held-out groups look stranger than held-out problems do: the cases can be told apart.
            raw = out_of_fold(extracted.matrix, k / n, weight, apart, best.trial, best.rounds, seed)[-1]
            each = make_folds(len(rows), _MOST_LEFT_OUT, seed=seed, groups=names)
            line, out_apart[rows] = fit_far(raw, k / n, weight, each)
            far = Far(line, start, end)
    embedding = None
    if embeddings is not None:
        names_of = [f"embedding_{i}" for i in range(embeddings.shape[1])]
        found = fit_refinement(out[rows], embeddings[None, rows], k[None], n[None], names_of, fold=fold)
        if np.isfinite(found.penalty) and found.oof_ is not None:
            embedding, note = found, None
            out[rows] = found.oof_[0]
            out_apart[rows] = found.predict(out_apart[rows], embeddings[rows])
        fit |= {"embedding_penalty": found.penalty if embedding else None, "embedding_log_loss": found.log_loss}
    scale = None if costs is None else fit_cost_scale(extracted.matrix, costs[rows], fold, seed=seed)
    scales = np.ones(len(prompts))
    if scale is not None and scale.oof_ is not None:
        scales[rows] = scale.oof_
    return DifficultyPredictor(
        spec=spec, trees=trees, model_text=text, calibration=calibration, spread=_fit_spread(out[rows], k, n),
        familiarity=familiarity, far=far, embedding=embedding, cost_scale=scale, base_rate=base,
        problems=len(rows), policy_model=policy_model, note=note, fit_=fit, oof_=out, oof_apart_=out_apart,
        oof_scale_=scales,
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
    """The winner: `oof` [P] log-odds out of fold at `rounds`, or base rates (as probabilities) without a trial."""

    trial: Trial | None
    rounds: int
    oof: Floats
    loss: float
    base_loss: float


def _search(matrix: Floats, label: Floats, weight: Floats, fold: Ints, seed: int) -> _Best:
    constant = np.empty(len(label))
    for train, test in splits(fold):
        constant[test] = np.clip(np.average(label[train], weights=weight[train]), _EPSILON, 1 - _EPSILON)
    base_loss = log_loss(constant, label, weight)
    best = choose_trees(
        matrix, label, weight, fold, objective="cross_entropy", seed=seed,
        loss=lambda raw: log_loss(1 / (1 + np.exp(-raw)), label, weight),
    )  # fmt: skip
    if best.loss >= base_loss:
        return _Best(None, 0, constant, base_loss, base_loss)
    return _Best(best.trial, best.rounds, best.oof, best.loss, base_loss)


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
