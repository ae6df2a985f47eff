"""How well difficulty is foretold, on held-out problems: from the prompt, against simpler guesses and dearer ones.

Ways: `base_rate`; `length`, the prompt's length alone; `prompt`, what policies use; `embedding`, the prompt and its
sentence embedding; `probe_2` and `probe_4`, the prompt and what the first samples show (judged on the other samples).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from planner.errors import InputError
from planner.policy.calibrate import splits
from planner.policy.difficulty import fit_difficulty, make_folds
from planner.policy.features import COUNTS
from planner.policy.refine import PROBE_FEATURES, fit_refinement, probe_features
from planner.policy.statistics import calibration_error, percentile_interval, rank_correlation
from planner.policy.trees import split_gains
from planner.profiling.outcomes import Outcomes
from planner.profiling.recorded import Recorded
from planner.profiling.replay import draw_orders

if TYPE_CHECKING:
    from planner.policy.evaluate import HeldOut
    from planner.policy.predictor import DifficultyPredictor

__all__ = ["PROBES", "Fit", "judge_predictors", "predictor_report", "useful_features"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Fit: TypeAlias = "tuple[Ints, Ints, DifficultyPredictor]"
"""Training and test problems (indices), and what the first taught."""

PROBES = (2, 4)
_LOOKS, _RESAMPLES = 8, 200


def useful_features(predictor: DifficultyPredictor, *, most: int = 10) -> list[dict[str, Any]]:
    """The features whose splits gained most when the trees grew, with their share of all gain. The hashed n-grams of
    words and of letters are one entry each, as no single column of theirs has a meaning. Empty without trees."""
    shares: dict[str, float] = {}
    for column, gain in split_gains(predictor.model_text).items():
        name = predictor.spec.names[column]
        name = name if column < len(COUNTS) else f"{name.split('_')[0]}_hashes"
        shares[name] = shares.get(name, 0.0) + gain
    total = sum(shares.values())
    ranked = sorted(shares.items(), key=lambda pair: -pair[1])[:most]
    return [{"feature": name, "gain_share": gain / total} for name, gain in ranked if gain > 0]


def judge_predictors(
    streams: Sequence[Recorded], outcomes: Outcomes, held: HeldOut, *, by_group: bool, embeddings: Floats | None,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """`by_problem` and, where there are several groups, `by_group`: `predictor_report` on the reference model's first
    stream of samples, with the folds' own predictors where these can be had. Empty without prompts or labels."""
    found = [r for r in streams if r.policy_model == outcomes.reference_model and r.temperature != 0]
    prompts = [prompt for prompt in outcomes.prompts if prompt is not None]
    if not found or len(prompts) < len(outcomes.prompts) or np.isnan(found[0].draws.correct).any():
        return {}
    least = int(found[0].draws.counts.min())
    if not least:
        return {}
    probes = [m for m in PROBES if m < least]
    fits = None if embeddings is not None else [(f.train, f.test, f.predictor) for f in held.folds]
    report: dict[str, Any] = {}
    groups = list(outcomes.groups)
    for name, by in (("by_problem", False), ("by_group", True)):
        if by and len(set(groups)) < 2:
            continue
        report[name] = predictor_report(
            prompts, found[0], groups=groups if by else None, embeddings=embeddings, probes=probes,
            fits=fits if by == by_group else None, folds=len(held.folds), seed=seed,
        )  # fmt: skip
    return report


def predictor_report(
    prompts: list[str], recorded: Recorded, *, groups: list[str | None] | None = None,
    embeddings: Floats | None = None, probes: Sequence[int] = PROBES, fits: Sequence[Fit] | None = None,
    folds: int = 5, seed: int = 0,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """For each way log loss a sample, its difference from the base rate's, Spearman's rank correlation with the success
    share, and the debiased calibration error; the 95 % intervals resample problems, or groups where folds keep them.

    `recorded` are one model's samples of the P `prompts` at one temperature; with `groups`, folds never cut one;
    `embeddings` [P, E] adds their way, `probes` those of so many samples. `fits` are folds with predictors that were
    fitted before. Raises InputError where a problem has no more samples than the largest probe.
    """
    draws = recorded.draws
    if draws.counts.min() <= max(probes, default=0):
        raise InputError(
            "too few samples to judge a probe on others", field="samples", value=int(draws.counts.min()),
            expected=f"more than {max(probes)} for each problem",
        )  # fmt: skip
    correct = np.where(draws.present, draws.correct, 0.0)
    right, count = correct.sum(axis=1), draws.counts.astype(np.float64)
    problems = len(prompts)
    if fits is None:
        fits = _fits(prompts, right, count, groups, folds, seed)
    orders = draw_orders(draws, _LOOKS, seed)
    length = np.log1p([[len(prompt)] for prompt in prompts])
    plain: dict[str, Floats] = {"length": length}
    if embeddings is not None:
        plain["embedding"] = embeddings
    shown = {m: probe_features(draws, orders, m, recorded.tokens, recorded.logprobs) for m in probes}
    # What a probe saw is left out of what it is judged by.
    own = {m: orders.take(correct)[:, :, :m].astype(np.float64).sum(axis=2) for m in probes}
    rest = {m: (right - own[m], np.broadcast_to(count - m, own[m].shape)) for m in probes}
    found: dict[str, Floats] = {
        name: np.full((1, problems), np.nan) for name in ("base_rate", "length", "prompt", *plain)
    } | {f"probe_{m}": np.full((_LOOKS, problems), np.nan) for m in probes}
    for train, test, predictor in fits:
        named = None if groups is None else [groups[i] for i in train]
        # What is learned on top has to meet predictions of the kind that it will meet.
        known = predictor.oof_ if groups is None else predictor.oof_apart_
        assert known is not None
        told = predictor.predict([prompts[i] for i in test])
        found["base_rate"][0, test], found["prompt"][0, test] = predictor.base_rate, told
        inner = make_folds(len(train), folds, seed=seed, groups=named)
        for name, features in plain.items():
            # Length alone stands on the base rate, an embedding on the prompt's prediction.
            alone = name == "length"
            before = np.full(len(train), predictor.base_rate) if alone else known
            names = [f"{name}_{i}" for i in range(features.shape[1])]
            refined = fit_refinement(
                before, features[None, train], right[None, train], count[None, train], names, fold=inner
            )
            base = np.full(len(test), predictor.base_rate) if alone else told
            found[name][0, test] = refined.predict(base, features[test])
        for m in probes:
            refined = fit_refinement(
                known, shown[m][:, train], rest[m][0][:, train], rest[m][1][:, train], PROBE_FEATURES,
                fold=inner,
            )  # fmt: skip
            for look in range(_LOOKS):
                found[f"probe_{m}"][look, test] = refined.predict(told, shown[m][look, test])
    report = {}
    units = np.arange(problems) if groups is None else make_folds(problems, problems, seed=seed, groups=groups)
    draws_of = _resampled(units, seed)
    for name, predicted in found.items():
        judged = rest[int(name[6:])] if name.startswith("probe_") else (right[None], count[None])
        report[name] = _figures(predicted, *judged, found["base_rate"], draws_of)
    return report


def _fits(
    prompts: list[str], right: Floats, count: Floats, groups: list[str | None] | None, folds: int, seed: int
) -> list[Fit]:
    found: list[Fit] = []
    for train, test in splits(make_folds(len(prompts), folds, seed=seed, groups=groups)):
        named = None if groups is None else [groups[i] for i in train]
        told = [prompts[i] for i in train]
        found.append((train, test, fit_difficulty(told, right[train], count[train], groups=named, seed=seed)))
    return found


def _resampled(units: Ints, seed: int) -> list[Ints]:
    """Problems of bootstrap samples of units, `units` [P] from 0."""
    rng, size = np.random.default_rng(seed), int(units.max()) + 1
    members = [np.flatnonzero(units == unit) for unit in range(size)]
    return [np.concatenate([members[u] for u in rng.integers(0, size, size)]) for _ in range(_RESAMPLES)]


def _figures(p: Floats, right: Floats, count: Floats, base: Floats, draws: list[Ints]) -> dict[str, Any]:
    """Means over looks of `p` [looks, P]."""
    share = np.broadcast_to(right / count, p.shape)
    loss = _loss(p, share).mean(axis=0)
    difference = loss - _loss(base, share).mean(axis=0)
    ranks = [rank_correlation(a, b) for a, b in zip(p, share, strict=True)]
    known = [rank for rank in ranks if rank is not None]

    errors = [calibration_error(a, b)[0] for a, b in zip(p, share, strict=True)]
    # One look is enough to see how far problems move it.
    moved = [calibration_error(p[0, rows], share[0, rows])[0] for rows in draws]
    return {
        "log_loss": float(loss.mean()),
        "difference": float(difference.mean()),
        "difference_ci": list(percentile_interval(np.array([difference[rows].mean() for rows in draws]))),
        "spearman": float(np.mean(known)) if known else None,
        "calibration_error": float(np.mean(errors)),
        "calibration_error_ci": list(percentile_interval(np.array(moved))),
    }


def _loss(p: Floats, share: Floats) -> Floats:
    p = np.clip(p, 1e-4, 1 - 1e-4)
    loss: Floats = -(share * np.log(p) + (1 - share) * np.log(1 - p))
    return loss
