"""Measure the laboratory anew; never reads the cards.

python -m planner.models.lab.evaluate --problems 240 --samples 16
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from planner.models.lab.judge import step_scores
from planner.models.lab.measure import auc, auc_within, best_of_n_and_majority, buckets
from planner.models.lab.prm_data import attempts_by
from planner.models.lab.shapes import SHAPES
from planner.models.lab.steps import Attempt
from planner.models.lab.tokenizer import load_tokenizer
from planner.tasks.lab import FAMILIES, WorkedProblem, worked_problems

__all__ = ["evaluate_laboratory"]

VERIFIER = "lab-prm"
BUDGETS = (1, 2, 4, 8, 16)
_AGGREGATIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "last": lambda scores: scores[-1],
    "mean": lambda scores: float(np.mean(scores)),
    "prod": lambda scores: float(np.prod(scores)),
}


def evaluate_laboratory(
    folder: Path | None = None,
    *,
    problems: int = 240,
    samples: int = 16,
    temperature: float = 0.8,
    split: str = "held_out",
    seed: int = 0,
    policies: Sequence[str] = tuple(SHAPES),
    verifiers: Sequence[str] = (VERIFIER,),
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Sample every policy model on one set of problems, score the samples and return all figures.

    `folder` holds one folder for each model; by default the shipped ones. Pass@1 comes with its standard error over
    problems; AUC within problems compares right with wrong answers to the same problem.
    """
    if folder is None:
        from planner.models.shipped import shipped

        folder = Path(shipped("models", "lab"))
    chosen = worked_problems(split, problems, seed=seed)
    stages = len(policies) * (1 + len(verifiers))
    done = 0

    def tell(what: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, stages, what)

    result: dict[str, Any] = {
        "split": split,
        "problems": problems,
        "samples": samples,
        "temperature": temperature,
        "seed": seed,
        "policies": [],
        "verifiers": [],
    }
    sampled: dict[str, list[list[Attempt]]] = {}
    for name in policies:
        model, tokenizer = _load(folder / name)
        sampled[name] = attempts_by(model, tokenizer, chosen, samples, temperature=temperature, seed=seed + 1)
        result["policies"].append(
            {"name": name, "parameters": _parameters(model), **_policy_figures(sampled[name], chosen)}
        )
        tell(f"sampled {name}")
    for name in verifiers:
        model, tokenizer = _load(folder / name)
        figures: dict[str, Any] = {"name": name, "parameters": _parameters(model)}
        for policy, groups in sampled.items():
            for figure, value in _verifier_figures(model, tokenizer, groups).items():
                figures.setdefault(figure, {})[policy] = value
            tell(f"scored {policy} with {name}")
        result["verifiers"].append(figures)
    return result


def _load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), load_tokenizer(folder)


def _parameters(model: LlamaForCausalLM) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _policy_figures(groups: Sequence[Sequence[Attempt]], problems: Sequence[WorkedProblem]) -> dict[str, Any]:
    chances = np.array([np.mean([attempt.right for attempt in group]) for group in groups])
    families = {
        family: float(np.mean([c for c, p in zip(chances, problems, strict=True) if p.family == family]))
        for family in FAMILIES
        if any(p.family == family for p in problems)
    }
    return {
        "pass_at_1": float(chances.mean()),
        "pass_at_1_standard_error": float(chances.std() / np.sqrt(len(chances))),
        "pass_at_all": float((chances > 0).mean()),
        "buckets": buckets(chances),
        "families": families,
        "truncated": float(np.mean([attempt.answer is None for group in groups for attempt in group])),
    }


def _verifier_figures(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, groups: Sequence[Sequence[Attempt]]
) -> dict[str, Any]:
    flat = step_scores(model, tokenizer, [attempt for group in groups for attempt in group])
    right = [[attempt.right for attempt in group] for group in groups]
    marks = [mark for row in right for mark in row]
    within: dict[str, Any] = {}
    pooled: dict[str, float] = {}
    tables: dict[str, Sequence[Sequence[float]]] = {}
    for rule, aggregate in _AGGREGATIONS.items():
        values = [aggregate(scores) if scores else 0.0 for scores in flat]
        size = len(groups[0])
        table = [values[first : first + size] for first in range(0, len(values), size)]
        mean, error, counted = auc_within(table, right)
        within[rule] = {"mean": mean, "standard_error": error, "problems": counted}
        pooled[rule] = auc(
            [v for v, ok in zip(values, marks, strict=True) if ok],
            [v for v, ok in zip(values, marks, strict=True) if not ok],
        )
        tables[rule] = table
    best = max(("min", "last"), key=lambda rule: within[rule]["mean"])
    budgets = [n for n in BUDGETS if n <= len(groups[0])]
    answers = [[attempt.answer for attempt in group] for group in groups]
    return {
        "auc_within_problem": within[best]["mean"],
        "auc_pooled": pooled[best],
        "auc_aggregation": best,
        "auc_within_by_aggregation": within,
        "auc_pooled_by_aggregation": pooled,
        "curves": best_of_n_and_majority(answers, right, tables, budgets),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("models/lab"))
    parser.add_argument("--problems", type=int, default=240)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--split", default="held_out")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures = evaluate_laboratory(args.folder, problems=args.problems, samples=args.samples, split=args.split)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
