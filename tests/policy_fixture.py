"""TEST FIXTURE, no measurement: a small policy folder written by hand, with a predictor fitted to a law of its own."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from planner.policy.difficulty import DifficultyPredictor, fit_difficulty
from planner.policy.folder import write_policy

EDGES = {"hard": [0, 0.1], "medium": [0.1, 0.5], "easy": [0.5, 1.0]}
CONFIG = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 128, "vocab_size": 100, "tie_word_embeddings": True, "max_position_embeddings": 512,
}  # fmt: skip
SAMPLED = {"temperature": 0.8, "top_p": 1.0}
SCORED = SAMPLED | {"aggregation": "last", "selection": "max"}


def _plan(
    strategy: str, fields: dict[str, Any], verifier: str | None, accuracy: list[float], cost: float
) -> dict[str, Any]:
    return {
        "strategy": strategy, "hyperparameters": fields, "policy_model": "small", "verifier": verifier,
        "accuracy": {b: {"value": a, "low": a - 0.02, "high": a + 0.02, "n": 50} for b, a in zip(EDGES, accuracy, strict=True)},
        "cost": {b: {"policy": cost * 0.75, "verifier": cost * 0.25, "probe": 0.0, "total": cost, "p95": cost * 1.2} for b in EDGES},
        "overall": {"accuracy": {"value": sum(accuracy) / 3, "low": 0.0, "high": 1.0, "n": 150}, "cost": {"total": cost, "p95": cost * 1.2}},
    }  # fmt: skip


PLANS = [
    _plan("greedy", {}, None, [0.02, 0.30, 0.90], 1e6),
    _plan("majority", {"n": 4, **SAMPLED}, None, [0.02, 0.40, 0.96], 4e6),
    _plan("best_of_n", {"n": 4, **SCORED}, "prm", [0.15, 0.45, 0.93], 6e6),
    _plan("best_of_n", {"n": 16, **SCORED}, "prm", [0.35, 0.60, 0.95], 24e6),
    _plan("majority", {"n": 16, **SAMPLED}, None, [0.01, 0.41, 0.965], 16e6),
]


def _row(budget: float, plans: dict[str, int], best_fixed: int, fallback: tuple[str, ...] = ()) -> dict[str, Any]:
    cells = {b: {"plan": p, "fallback": b in fallback} for b, p in plans.items()}
    return {"budget": budget, "multiple": budget / 1e6, "cells": cells, "best_fixed": best_fixed}


def document() -> dict[str, Any]:
    """policy.json."""
    return {
        "schema_version": 1, "name": "fixture", "unit": "flops", "reference_cost": 1e6, "bucket_edges": EDGES,
        "policy_models": {"small": {"fingerprint": "f", "config": CONFIG}}, "verifier": {"name": "prm"}, "plans": PLANS,
        "task": {"name": "fixture", "step_separator": "\n", "max_tokens": 64}, "bucket_counts": {"hard": 30, "medium": 40, "easy": 30},
        "table": [
            _row(2e6, {"hard": 0, "medium": 0, "easy": 0}, 0, ("hard",)),
            _row(8e6, {"hard": 2, "medium": 2, "easy": 1}, 2),
            _row(32e6, {"hard": 3, "medium": 3, "easy": 1}, 3),
        ],
        "budgets": [2e6, 8e6, 32e6], "provenance": {}, "warnings": [],
    }  # fmt: skip


def prompt_of(terms: int, seed: int = 0) -> str:
    """More terms are harder here."""
    rng = np.random.default_rng([terms, seed])
    return "Calculate " + " + ".join(str(x) for x in rng.integers(10, 99, terms)) + "."


@lru_cache(maxsize=1)
def predictor() -> DifficultyPredictor:
    terms = np.random.default_rng(0).integers(2, 10, 240)
    p = 1 / (1 + np.exp(2.0 * (terms - 5.5)))
    return fit_difficulty([prompt_of(int(t), i) for i, t in enumerate(terms)], p * 16, np.full(240, 16))


def write_fixture(folder: Path) -> Path:
    write_policy(folder, document(), {}, predictor().save)
    return folder
