"""TEST FIXTURE, no measurement: a policy folder whose numbers follow a law written here.

A problem of ability a is solved by one sample with probability p = 1/(1+exp(-a)); majority over n samples follows the
normal approximation of the binomial; best-of-n picks a right answer when it is there with a probability that the
verifier's quality sets. `advantage` moves the policy against the best fixed strategy, so that tests can ask for a loss.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

BUCKETS = {"hard": [0.0, 0.1], "medium": [0.1, 0.5], "easy": [0.5, 1.0]}
UNIT_COST = 2.6e8
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> ![x](https://evil.example/a.png) | a | \u202egnp.exe"


def _accuracy(strategy: str, n: int, p: np.ndarray) -> np.ndarray:
    if strategy == "greedy":
        return np.clip(p + 0.04 * (p > 0.4), 0, 1)
    if strategy.endswith("majority"):
        z = (p - 0.32) * math.sqrt(n) / np.sqrt(np.maximum(p * (1 - p), 0.02))
        return np.array([0.5 * (1 + math.erf(v / 2)) for v in z]) if n > 1 else p
    found = 1 - (1 - p) ** n
    if strategy == "best_of_n":
        return found * (0.55 + 0.45 * p)
    if strategy == "beam_search":
        return np.clip((1 - (1 - np.minimum(p * 1.3 + 0.01, 1)) ** n) * (0.6 + 0.32 * p), 0, 1)
    return np.clip((1 - (1 - np.minimum(p * 1.15, 1)) ** n) * (0.57 + 0.41 * p), 0, 1)


def _cost(strategy: str, n: int) -> dict[str, float]:
    spread = 0.62 if strategy == "adaptive_majority" else 1.0
    parts = {"prefill": 0.14 * UNIT_COST, "decode": 0.86 * UNIT_COST * n * spread, "verifier": 0.0, "probe": 0.0}
    if strategy not in {"greedy", "majority", "adaptive_majority"}:
        parts["verifier"] = 0.45 * UNIT_COST * n
    return parts


def _audit(model: str, bucket_counts: dict[str, int]) -> dict[str, Any]:
    """A verifier's audit that is 0.7 within problems, 0.9 pooled, and over-optimised beyond N = 8."""
    grid = np.linspace(0, 1, 21)
    names = {"verifier": "prm", "policy_model": model, "temperature": 0.8, "aggregation": "last"}
    figures = [
        names
        | {"bucket": bucket, "problems": 300, "problems_with_both": 120, "auc_within": auc, "auc_pooled": 0.9,
           "auc_within_ci": [auc - 0.05, auc + 0.05], "calibration_error": 0.08,
           "length_correlation": {"right": 0.02, "wrong": -0.3}}
        for bucket, auc in (("all", 0.7), ("hard", 0.6), ("medium", 0.7), ("easy", 0.8))
    ]  # fmt: skip
    side = [{"length": x, "score": 0.5, "ci": [0.4, 0.6], "n": 50} for x in (0.8, 1.0, 1.3)]
    bins = [{"predicted": x, "true": x * x, "ci": [x * x - 0.02, x * x + 0.02], "n": 90} for x in (0.2, 0.5, 0.8)]
    curves = names | {
        "roc": {"wrong_accepted": grid.tolist(), "within": (grid**0.43).tolist(), "pooled": (grid**0.11).tolist()},
        "calibration": bins,
        "length": {"right": side, "wrong": [b | {"score": 0.3, "ci": [0.2, 0.4]} for b in side]},
    }
    by_n = [
        names | {"bucket": bucket, "selection": rule, "n": [2, 4, 8, 16], "accuracy": level, "stops_at": stop}
        for bucket in ("all", *bucket_counts)
        for rule, level, stop in (("max", [0.3, 0.4, 0.45, 0.35], 8), ("vote", [0.3, 0.4, 0.45, 0.46], None))
    ]
    masked = [
        {"configuration": f"best_of_n(n=16, temperature=0.8) {model}", "reason": "more samples lower its accuracy"}
    ]
    return {"figures": figures, "curves": [curves], "best_of_n": by_n, "masked": masked}


def _sizes(small: str, large: str) -> list[dict[str, Any]]:
    """The small model is better on easy problems, worse on hard ones, and nothing is shown elsewhere."""
    return [
        {"small": small, "large": large, "times": 14.0, "r": r, "allowed": 14 + 39 / r, "bucket": bucket, "problems": 100,
         "small_accuracy": 0.5 + gap, "large_accuracy": 0.5, "difference": gap, "ci": [gap - 0.05, gap + 0.05],
         "spent": 12.0, "plan": f"majority(n=16, temperature=0.8) {small}"}
        for r in (0.16, 0.79, 22.0)
        for bucket, gap in (("all", 0.01), ("hard", -0.2), ("medium", 0.0), ("easy", 0.1))
    ]  # fmt: skip


def simulated_policy(
    folder: Path,
    *,
    verifier: bool = True,
    unit: str = "flops",
    advantage: float = 0.0,
    name: str = "simulated",
    hostile: bool = False,
    problems: int = 300,
) -> Path:
    """Write policy.json and evaluation.json of the simulated law; returns the folder."""
    rng = np.random.default_rng(7)
    p = 1 / (1 + np.exp(-rng.normal(-0.3, 2.1, problems)))
    bucket_of = np.where(p < 0.1, "hard", np.where(p < 0.5, "medium", "easy"))
    strategies = ["greedy", "majority", "adaptive_majority"] + (
        ["best_of_n", "beam_search", "dvts"] if verifier else []
    )
    scale = 1.0 if unit == "flops" else 200 / UNIT_COST
    plans: list[dict[str, Any]] = []
    values: list[np.ndarray] = []
    for strategy in strategies:
        for n in [1] if strategy == "greedy" else [2, 4, 8, 16, 32, 64] if strategy != "beam_search" else [4, 8, 16]:
            acc, parts = _accuracy(strategy, n, p), {k: v * scale for k, v in _cost(strategy, n).items()}
            fields: dict[str, Any] = (
                {} if n == 1 else {"max_n" if strategy.startswith("adaptive") else "n": n, "temperature": 0.8}
            )
            if strategy in {"best_of_n", "beam_search", "dvts"}:
                fields |= {"aggregation": "last", "selection": "max"}
            total = sum(parts.values())

            def part(mask: np.ndarray, acc: np.ndarray = acc) -> dict[str, Any]:
                level, half = float(acc[mask].mean()), 1.96 * float(acc[mask].std() + 0.1) / math.sqrt(mask.sum())
                return {
                    "value": level,
                    "low": max(0.0, level - half),
                    "high": min(1.0, level + half),
                    "n": int(mask.sum()),
                }

            price = {
                "policy": parts["prefill"] + parts["decode"],
                "verifier": parts["verifier"],
                "probe": 0.0,
                "total": total,
                "p95": total,
            }
            plans.append(
                {
                    "strategy": strategy,
                    "hyperparameters": fields,
                    "policy_model": HOSTILE if hostile else "small-model",
                    "verifier": "prm" if parts["verifier"] else None,
                    "accuracy": {b: part(bucket_of == b) for b in BUCKETS},
                    "cost": dict.fromkeys(BUCKETS, price),
                    "overall": {"accuracy": part(np.ones(problems, bool)), "cost": price},
                }
            )
            values.append(acc)
    matrix, totals = np.stack(values, 1), np.array([q["cost"]["easy"]["total"] for q in plans])
    reference = totals[0]
    table, evaluated, per_problem = [], [], []

    def estimate(acc: np.ndarray) -> dict[str, Any]:
        half = 1.96 * float(np.sqrt(np.mean(acc * (1 - acc)) / problems))
        return {
            "accuracy": float(acc.mean()),
            "ci": [max(0.0, float(acc.mean()) - half), min(1.0, float(acc.mean()) + half)],
        }

    for multiple in (1, 2, 4, 8, 16, 32, 64):
        budget = float(multiple * reference)
        fits = np.flatnonzero(totals <= budget * 1.001)
        fixed = int(fits[matrix[:, fits].mean(0).argmax()])
        cells, chosen = {}, np.zeros(problems, int)
        for b in BUCKETS:
            mask = bucket_of == b
            order = fits[np.argsort(-matrix[mask][:, fits].mean(0))]
            gap = float(matrix[mask][:, order[0]].mean() - matrix[mask][:, order[1]].mean()) if len(order) > 1 else None
            fallback = (
                order[0] != fixed and float(matrix[mask][:, order[0]].mean() - matrix[mask][:, fixed].mean()) < 0.012
            )
            pick = fixed if fallback else int(order[0])
            chosen[mask] = pick
            level = plans[pick]["accuracy"][b]
            cells[b] = {
                "plan": pick,
                "fallback": bool(fallback),
                "accuracy": level["value"],
                "low": level["low"],
                "high": level["high"],
                "cost": float(totals[pick]),
                "runner_up": int(order[1]) if len(order) > 1 else None,
                "gap": gap,
                "gap_p": 0.03 if gap is not None else None,
            }
        table.append({"budget": budget, "multiple": float(multiple), "cells": cells, "best_fixed": fixed})
        mine = matrix[np.arange(problems), chosen] + advantage
        accuracies = {
            "policy": np.clip(mine - 0.01, 0, 1),
            "best_fixed": matrix[:, fixed],
            "policy_oracle_difficulty": np.clip(mine, 0, 1),
            "oracle": matrix[:, fits].max(1),
        }
        per_problem.append(" ".join(f"{1000 * v:.0f}" for v in accuracies["policy"]))
        picked = {"policy": None, "best_fixed": fixed, "policy_oracle_difficulty": None, "oracle": None}
        for method, strategy in (
            ("majority", "majority"),
            ("adaptive", "adaptive_majority"),
            ("best_of_n", "best_of_n"),
        ):
            own = [i for i in fits if plans[i]["strategy"] == strategy]
            if own:
                accuracies[method], picked[method] = matrix[:, own[-1]], int(own[-1])
        methods: dict[str, Any] = dict.fromkeys(("majority", "adaptive", "best_of_n"))
        differences = {}
        for method, acc in accuracies.items():
            index = picked[method]
            used = (
                plans[index]["strategy"]
                if index is not None
                else "best_of_n"
                if verifier and multiple > 2
                else "majority"
            )
            n = (
                int(plans[index]["hyperparameters"].get("n") or plans[index]["hyperparameters"].get("max_n") or 1)
                if index is not None
                else max(1, int(multiple * 0.6))
            )
            parts = {k: v * scale for k, v in _cost(used, n).items()}
            if method == "policy":
                parts["probe"] = 0.02 * budget
            methods[method] = estimate(acc) | {
                "cost": sum(parts.values()),
                "cost_parts": parts,
                "plan": used if index is not None else "by difficulty",
            }
            if method != "policy":
                d = accuracies["policy"] - acc
                half = 1.96 * float(d.std() + 0.12) / math.sqrt(problems)
                differences[method] = {
                    "difference": float(d.mean()),
                    "ci": [float(d.mean()) - half, float(d.mean()) + half],
                    "detectable": half * 2.8 / 1.96,
                }
        evaluated.append(
            {
                "budget": budget,
                "multiple": float(multiple),
                "unit": unit,
                "methods": methods,
                "differences": differences,
            }
        )

    curves = []
    for strategy in strategies:
        own = [i for i, q in enumerate(plans) if q["strategy"] == strategy]
        curve_points = []
        for i in own:
            inside = {
                b: estimate(matrix[bucket_of == b, i]) | {"cost": float(totals[i]), "n": int((bucket_of == b).sum())}
                for b in BUCKETS
            }
            fields = plans[i]["hyperparameters"]
            curve_points.append(
                estimate(matrix[:, i])
                | {"n": fields.get("n", fields.get("max_n", 1)), "cost": float(totals[i]), "buckets": inside}
            )
        curves.append(
            {"label": f"{strategy} T0.8", "strategy": strategy, "policy_model": "small-model", "points": curve_points}
        )
    predicted = np.clip(0.15 + 0.7 * p + rng.normal(0, 0.16, problems), 0.01, 0.99)
    bins = [
        {
            "predicted": float(predicted[part].mean()),
            "true": float(p[part].mean()),
            "ci": [float(p[part].mean()) - 0.07, float(p[part].mean()) + 0.07],
            "n": len(part),
        }
        for part in np.array_split(np.argsort(predicted), 8)
    ]
    predicted_bucket = np.where(predicted < 0.2, "hard", np.where(predicted < 0.5, "medium", "easy"))
    confusion = [[int(((bucket_of == t) & (predicted_bucket == q)).sum()) for q in BUCKETS] for t in BUCKETS]
    policy = {
        "schema_version": 1,
        "name": HOSTILE if hostile else name,
        "unit": unit,
        "reference_cost": float(reference),
        "fingerprints": {"policy": "simulated"},
        "policy_models": {"small-model": {"parameters": 12_345_678}, "large-model": {"parameters": 172_839_492}},
        "verifier": {"name": "prm"} if verifier else None,
        "task": {"name": HOSTILE if hostile else "simulated problems (test fixture)"},
        "bucket_edges": BUCKETS,
        "bucket_counts": {b: int((bucket_of == b).sum()) for b in BUCKETS},
        "plans": plans,
        "table": table,
        "budgets": [t["budget"] for t in table],
        "provenance": {
            "bank": "simulated",
            "seeds": {"law": 7},
            "packages": {"numpy": np.__version__},
            "created": "2026-01-01",
            "command": HOSTILE if hostile else "planner fit runs/bank -o runs/policy",
        },
        "warnings": [HOSTILE]
        if hostile
        else ["These numbers follow a law written in the tests; nothing was measured."],
    }
    evaluation = {
        "unit": unit,
        "problems": problems,
        "folds": 5,
        "method_note": "Every choice was made on other folds than those that report it.",
        "budgets": evaluated,
        "curves": curves,
        "difficulty": {
            "bins": bins,
            "scatter": [
                {"predicted": float(a), "true": float(b), "problem_id": HOSTILE if hostile else f"problem-{i}"}
                for i, (a, b) in enumerate(zip(predicted, p, strict=True))
            ],
            "log_loss": 0.412,
            "base_log_loss": 0.671,
            "spearman": 0.83,
            "calibration_error": 0.061,
            "features": [
                {"feature": "number_count", "gain_share": 0.6},
                {"feature": HOSTILE if hostile else "n_digit", "gain_share": 0.3},
            ],
            "confusion": {t: dict(zip(BUCKETS, row, strict=True)) for t, row in zip(BUCKETS, confusion, strict=True)},
        },
        "costs": [
            {
                "label": f"{q['strategy']}({', '.join(f'{k}={v}' for k, v in q['hyperparameters'].items())}) small-model",
                "strategy": q["strategy"],
                **{
                    k: v * scale
                    for k, v in _cost(
                        q["strategy"], q["hyperparameters"].get("n", q["hyperparameters"].get("max_n", 1))
                    ).items()
                },
            }
            for q in plans
            if q["hyperparameters"].get("n", q["hyperparameters"].get("max_n", 8)) == 8
        ],
        "drop": {"chosen": 0.71, "held_out": 0.69},
        "efficiency_gain": {
            "majority": [
                {"n": 4, "value": 1.7, "factor": 1.7, "ci": [0.9, 3.1], "accuracy": 0.6, "lower_bound": False},
                {"n": 16, "value": None, "factor": None, "ci": [0.0, 2.0], "accuracy": 0.9, "lower_bound": False},
            ],
            "best_of_n": [
                {"n": 16, "value": 0.8, "factor": 0.8, "ci": [0.6, 1.1], "accuracy": 0.65, "lower_bound": True}
            ]
            if verifier
            else None,
        },
        "gap_closed": [{"budget": budget, "value": -0.1}],
        "sizes": _sizes(HOSTILE if hostile else "small-model", "large-model"),
        "verifier_audit": _audit(HOSTILE if hostile else "small-model", BUCKETS) if verifier else None,
        "answerless": {HOSTILE if hostile else "small-model": 0.07},
        "by_problem": {
            "problems": " ".join(f"{i:010x}" for i in range(problems)),
            "budgets": [t["budget"] for t in table],
            "thousandths": per_problem,
        },
        "spend": {"generated_tokens": 1_234_567},
        "missing": {}
        if verifier
        else {"verifier": "The samples carry no verifier scores, so no strategy that needs one could be replayed."},
        "fit_seconds": 4.2,
    }
    if unit == "tokens":
        evaluation["missing"] |= {"flops": "The bank has no model config, so costs are counted in tokens."}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.json").write_text(json.dumps(policy))
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder
