"""Is the verifier worth asking? Measured within problems, by bucket, and turned into what may not be planned.

A verifier that tells easy problems from hard ones has a high pooled AUC and is of no use in choosing among answers to
one problem; the AUC that counts is within problems, over those that have right and wrong answers. Best-of-N
over-optimises a noisy verifier: more samples find more of what it wrongly prefers, and accuracy falls with N.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from planner.policy.masks import best_of_n_families, stops_at
from planner.policy.statistics import Resamples, calibration_error, rank_correlation
from planner.policy.table import BUCKET_EDGES, bucket_of, by_problem, masked_plans
from planner.policy.verifier_curves import calibration_bins, length_bins, roc_points
from planner.profiling.outcomes import Outcomes
from planner.profiling.recorded import Pricing, Recorded, recorded_samples

if TYPE_CHECKING:
    from planner.profiling.bank import Bank

__all__ = ["audit", "pooled_auc", "within_auc"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_SLOTS = 8
_FEWEST_FOR_CORRELATION = 4


def within_auc(scores: Floats, correct: Floats, scored: Bools) -> Floats:
    """Probability that a right answer outscores a wrong one to the same problem (ties count half), [P]; NaN for
    problems that lack either. All arrays [P, n]."""
    right, wrong = scored & (correct > 0.5), scored & (correct <= 0.5)
    value = np.where(scored, scores, 0.0)
    result = np.full(len(scores), np.nan)
    for i in np.flatnonzero(right.any(axis=1) & wrong.any(axis=1)).tolist():
        gap = value[i, right[i]][:, None] - value[i, wrong[i]][None]
        result[i] = float((gap > 0).mean() + 0.5 * (gap == 0).mean())
    return result


def pooled_auc(scores: Floats, correct: Floats) -> float | None:
    """The same over all answers to all problems, both [S]; None where all are right or all wrong."""
    right = correct > 0.5
    pairs = int(right.sum()) * int((~right).sum())
    if not pairs:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    first = right.sum()
    return float((ranks[right].sum() - first * (first + 1) / 2) / pairs)


def audit(bank: Bank, outcomes: Outcomes, resamples: Resamples) -> dict[str, Any] | None:
    """The verifier's figures for each policy model, temperature and aggregation, over all problems and by bucket; None
    where the bank has no scores. Buckets are those of the reference model."""
    pricing = Pricing.from_manifest(bank.manifest)
    samples = bank.samples
    chosen = samples[samples["role"] == "score"]
    groups = recorded_samples(chosen, outcomes.problem_ids, pricing, [])
    recorded = [r for r in groups if r.verifier is not None and r.temperature != 0]
    if not recorded:
        return None
    bucket = bucket_of(outcomes.pass_at_1)
    rows = [
        row for r in recorded for aggregation in r.draws.scores for row in _figures(r, aggregation, bucket, resamples)
    ]
    masked = [
        {"configuration": outcomes.configurations[i].label, "reason": why}
        for i, why in masked_plans(outcomes, np.arange(len(outcomes.problem_ids))).items()
    ]
    drawn = [_curves(r, rows, resamples) for r in recorded if r.draws.scores]
    return {"figures": rows, "curves": drawn, "best_of_n": _by_n(outcomes), "masked": masked}


def _curves(r: Recorded, rows: list[dict[str, Any]], resamples: Resamples) -> dict[str, Any]:
    """What is drawn of one policy model and temperature, read with the aggregation of the highest AUC within
    problems."""
    mine = [row for row in rows if row["bucket"] == "all"
            and (row["policy_model"], row["temperature"]) == (r.policy_model, r.temperature)]  # fmt: skip
    aggregation = max(mine, key=lambda row: row["auc_within"] or 0.0)["aggregation"] if mine else "last"
    scores, correct, scored = _scored(r, aggregation)
    return {
        "verifier": r.verifier, "policy_model": r.policy_model, "temperature": r.temperature,
        "aggregation": aggregation, "roc": roc_points(scores, correct, scored),
        "calibration": calibration_bins(scores, correct, scored, resamples),
        "length": length_bins(scores, correct, r.tokens, scored, resamples),
    }  # fmt: skip


def _scored(r: Recorded, aggregation: str) -> tuple[Floats, Floats, Bools]:
    """Scores, labels, and which samples [P, n] have both."""
    scores, correct = r.draws.scores[aggregation], r.draws.correct
    return scores, correct, r.draws.present & r.draws.finished & ~np.isnan(scores) & ~np.isnan(correct)


def _figures(r: Recorded, aggregation: str, bucket: Ints, resamples: Resamples) -> list[dict[str, Any]]:
    scores, correct, scored = _scored(r, aggregation)
    within = within_auc(scores, correct, scored)
    found = []
    for b, name in ((-1, "all"), *enumerate(BUCKET_EDGES)):
        mine = np.ones(len(bucket), bool) if b < 0 else bucket == b
        both = mine & ~np.isnan(within)
        if not (scored & mine[:, None]).any():
            continue
        keep = scored & mine[:, None]
        found.append(
            {
                "verifier": r.verifier, "policy_model": r.policy_model, "temperature": r.temperature,
                "aggregation": aggregation, "bucket": name, "problems": int(mine.sum()),
                "problems_with_both": int(both.sum()),
                "auc_within": float(within[both].mean()) if both.any() else None,
                "auc_within_ci": _interval(within, both, resamples),
                "auc_pooled": pooled_auc(scores[keep], correct[keep]),
                "calibration_error": _calibration(scores, correct, keep),
                "length_correlation": {
                    "right": _length_correlation(scores, r.tokens, keep & (correct > 0.5)),
                    "wrong": _length_correlation(scores, r.tokens, keep & (correct <= 0.5)),
                },
            }
        )  # fmt: skip
    return found


def _interval(values: Floats, where: Bools, resamples: Resamples) -> list[float] | None:
    """95 % interval of the mean over the problems in `where`; None where they are fewer than two."""
    if where.sum() < 2:
        return None
    return list(resamples.ratio_interval(np.where(where, values, 0.0), where.astype(np.float64)))


def _calibration(scores: Floats, correct: Floats, keep: Bools) -> float | None:
    """Debiased calibration error of a score as a probability: over problems with one answer each, mean of several
    answers' (answers to one problem are not independent)."""
    errors = []
    for slot in range(min(_SLOTS, keep.shape[1])):
        mine = keep[:, slot]
        if mine.sum() >= 20:
            errors.append(calibration_error(np.clip(scores[mine, slot], 0, 1), correct[mine, slot])[0])
    return float(np.mean(errors)) if errors else None


def _length_correlation(scores: Floats, tokens: Floats, keep: Bools) -> float | None:
    """Spearman's correlation of score and length within problems, mean over problems with enough answers."""
    found = [
        rho
        for s, t, k in zip(scores, tokens, keep, strict=True)
        if k.sum() >= _FEWEST_FOR_CORRELATION and (rho := rank_correlation(s[k], t[k])) is not None
    ]
    return float(np.mean(found)) if found else None


def _by_n(outcomes: Outcomes) -> list[dict[str, Any]]:
    """Accuracy of best-of-N against N, overall and by bucket, and the N at which it stops paying."""
    bucket = bucket_of(outcomes.difficulty.get(outcomes.reference_model, np.full(len(outcomes.problem_index), np.nan)))
    found = []
    for members in best_of_n_families(outcomes.configurations).values():
        first = outcomes.configurations[members[0]]
        for b, name in ((-1, "all"), *enumerate(BUCKET_EDGES)):
            mine = np.ones(len(bucket), bool) if b < 0 else bucket == b
            if mine.sum() < 2:
                continue
            accuracy = outcomes.accuracy[mine][:, members]
            curve = accuracy.mean(axis=0)
            values = by_problem(accuracy, outcomes.problem_index[mine])
            stop = stops_at(values)
            found.append(
                {
                    "policy_model": first.policy_model, "verifier": first.verifier, "bucket": name,
                    **{k: first.hyperparameters.get(k) for k in ("temperature", "aggregation", "selection")},
                    "n": [outcomes.configurations[i].samples for i in members], "accuracy": curve.tolist(),
                    "stops_at": None if stop is None else outcomes.configurations[members[stop]].samples,
                }
            )  # fmt: skip
    return found
