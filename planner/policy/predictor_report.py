"""How well difficulty is foretold, on held-out problems: from the prompt, against simpler guesses and dearer ones.

Ways: `base_rate`; `length`, the prompt's length alone; `prompt`, what policies use; `embedding`, the prompt and its
sentence embedding; `probe_2` and `probe_4`, the prompt and what the first samples show (judged on the other samples).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import InputError
from planner.policy.difficulty import fit_difficulty, make_folds
from planner.policy.refine import PROBE_FEATURES, fit_refinement, probe_features
from planner.policy.statistics import Resamples, calibration_error, rank_correlation
from planner.profiling.recorded import Recorded
from planner.profiling.replay import draw_orders

__all__ = ["predictor_report"]

Floats = NDArray[np.float64]

_PROBES = (2, 4)
_LOOKS = 8


def predictor_report(
    prompts: list[str], recorded: Recorded, *, groups: list[str | None] | None = None,
    embeddings: Floats | None = None, folds: int = 5, seed: int = 0,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """For each way log loss a sample, its difference from the base rate's with a 95 % interval (problems resampled),
    Spearman's rank correlation with the success share, and the debiased calibration error.

    `recorded` are one model's samples of the P `prompts` at one temperature; with `groups`, folds never cut one;
    `embeddings` [P, E] adds their way. Raises InputError where a problem has no more samples than the largest probe.
    """
    draws = recorded.draws
    if draws.counts.min() <= max(_PROBES):
        raise InputError(
            "too few samples to judge a probe on others", field="samples", value=int(draws.counts.min()),
            expected=f"more than {max(_PROBES)} for each problem",
        )  # fmt: skip
    correct = np.where(draws.present, draws.correct, 0.0)
    right, count = correct.sum(axis=1), draws.counts.astype(np.float64)
    problems = len(prompts)
    fold = make_folds(problems, folds, seed=seed, groups=groups)
    orders = draw_orders(draws, _LOOKS, seed)
    length = np.log1p([[len(prompt)] for prompt in prompts])
    plain: dict[str, Floats] = {"length": length}
    if embeddings is not None:
        plain["embedding"] = embeddings
    shown = {m: probe_features(draws, orders, m, recorded.tokens) for m in _PROBES}
    # What a probe saw is left out of what it is judged by.
    own = {m: orders.take(correct)[:, :, :m].astype(np.float64).sum(axis=2) for m in _PROBES}
    rest = {m: (right - own[m], np.broadcast_to(count - m, own[m].shape)) for m in _PROBES}
    found: dict[str, Floats] = {
        name: np.full((1, problems), np.nan) for name in ("base_rate", "length", "prompt", *plain)
    } | {f"probe_{m}": np.full((_LOOKS, problems), np.nan) for m in _PROBES}
    for f in range(int(fold.max()) + 1):
        train, test = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
        named = None if groups is None else [groups[i] for i in train]
        predictor = fit_difficulty([prompts[i] for i in train], right[train], count[train], groups=named, seed=seed)
        assert predictor.oof_ is not None
        told = predictor.predict([prompts[i] for i in test])
        found["base_rate"][0, test], found["prompt"][0, test] = predictor.base_rate, told
        inner = make_folds(len(train), folds, seed=seed, groups=named)
        for name, features in plain.items():
            # Length alone stands on the base rate, an embedding on the prompt's prediction.
            alone = name == "length"
            before = np.full(len(train), predictor.base_rate) if alone else predictor.oof_
            names = [f"{name}_{i}" for i in range(features.shape[1])]
            refined = fit_refinement(
                before, features[None, train], right[None, train], count[None, train], names, fold=inner
            )
            base = np.full(len(test), predictor.base_rate) if alone else told
            found[name][0, test] = refined.predict(base, features[test])
        for m in _PROBES:
            refined = fit_refinement(
                predictor.oof_, shown[m][:, train], rest[m][0][:, train], rest[m][1][:, train], PROBE_FEATURES,
                fold=inner,
            )  # fmt: skip
            for look in range(_LOOKS):
                found[f"probe_{m}"][look, test] = refined.predict(told, shown[m][look, test])
    resamples = Resamples.draw(problems, seed=seed)
    report = {}
    for name, predicted in found.items():
        judged = rest[int(name[6:])] if name.startswith("probe_") else (right[None], count[None])
        report[name] = _figures(predicted, *judged, found["base_rate"], resamples)
    return report


def _figures(p: Floats, right: Floats, count: Floats, base: Floats, resamples: Resamples) -> dict[str, Any]:
    """Means over looks of `p` [looks, P]."""
    share = right / count
    loss, base_loss = _loss(p, share).mean(axis=0), _loss(base, share).mean(axis=0)
    ranks = [rank_correlation(a, b) for a, b in zip(p, share, strict=True)]
    known = [rank for rank in ranks if rank is not None]
    return {
        "log_loss": float(loss.mean()),
        "difference": float((loss - base_loss).mean()),
        "difference_ci": list(resamples.interval(loss - base_loss)),
        "spearman": float(np.mean(known)) if known else None,
        "calibration_error": float(np.mean([calibration_error(a, b)[0] for a, b in zip(p, share, strict=True)])),
    }


def _loss(p: Floats, share: Floats) -> Floats:
    p = np.clip(p, 1e-4, 1 - 1e-4)
    loss: Floats = -(share * np.log(p) + (1 - share) * np.log(1 - p))
    return loss
