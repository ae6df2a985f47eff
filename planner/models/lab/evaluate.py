"""Measure the laboratory anew; never reads the cards.

python -m planner.models.lab.evaluate --problems 480 --samples 16
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from planner.core import stable_hash
from planner.errors import InputError
from planner.models.checkpoint import file_digests
from planner.models.lab.crossovers import buckets_of, crossovers
from planner.models.lab.judge import step_scores
from planner.models.lab.kept import Kept
from planner.models.lab.measure import (
    Floats,
    auc_pooled,
    auc_within,
    aucs_within,
    curves,
    policy_figures,
    solve_rates,
)
from planner.models.lab.mistakes import policy_mistakes, verifier_mistakes
from planner.models.lab.prm_data import attempts_by
from planner.models.lab.recipe import VERIFIERS
from planner.models.lab.recorded import write_samples
from planner.models.lab.shapes import SHAPES, load_model
from planner.models.lab.steps import Attempt
from planner.models.lab.tokenizer import load_tokenizer
from planner.tasks.lab import WorkedProblem, worked_problems

__all__ = ["AGGREGATION", "evaluate_laboratory"]

BUDGETS = (1, 2, 4, 8, 16, 32, 64)
AGGREGATION = "last"
"""The rule whose AUC is reported; chosen on the profile split, where `last` was a little ahead of `min` and both were
ahead of `mean` and `prod`, for either policy model."""
_AGGREGATIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "last": lambda scores: scores[-1],
    "mean": lambda scores: float(np.mean(scores)),
    "prod": lambda scores: float(np.prod(scores)),
}


def evaluate_laboratory(
    folder: Path | None = None,
    *,
    problems: int = 480,
    samples: int = 16,
    temperature: float = 0.8,
    split: str = "held_out",
    seed: int = 0,
    policies: Sequence[str] = tuple(SHAPES),
    verifiers: Sequence[str] = VERIFIERS,
    keep: Path | None = None,
    record: Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Sample every policy model on one set of problems, score the samples and return all figures (JSON-able).

    `folder` holds one folder for each model; by default the shipped ones. Figures come with their standard errors over
    problems, which repeat their structure under `standard_errors`; what every problem contributed is listed too. AUC
    within problems compares right with wrong answers to the same problem; an AUC is None where there is nothing to
    compare. What was drawn and scored is kept under `keep`, and taken from there where weights, problems and settings
    are the same. Under `record` a folder for each verifier (one called `samples` without any) gets a file of samples
    for each policy model, as `planner import` reads them. `progress` is called with (stages done, stages in all, what
    comes next).

    Raises:
        InputError: a folder without one of the models, or a split or numbers that cannot be.
    """
    if folder is None:
        from planner.models.shipped import shipped

        folder = Path(shipped("models", "lab"))
    for field, value in (("problems", problems), ("samples", samples)):
        if value < 1:
            raise InputError("nothing to measure", field=field, value=value, expected="at least 1")
    chosen = worked_problems(split, problems, seed=seed)
    kept = Kept(keep)
    questions = stable_hash([problem.question for problem in chosen])
    stages = len(policies) * (1 + len(verifiers))
    done = 0

    def begin(what: str) -> None:
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
    made_from: dict[str, tuple[Any, ...]] = {}
    scored: dict[str, dict[str, _Tables]] = {}
    for name in policies:
        begin(f"{name} answers")
        model, tokenizer = _load(folder / name)

        def draw(model: LlamaForCausalLM = model, tokenizer: PreTrainedTokenizerFast = tokenizer) -> list[Any]:
            drawn = attempts_by(model, tokenizer, chosen, samples, temperature=temperature, seed=seed + 1)
            return [[attempt.steps for attempt in group] for group in drawn]

        made_from[name] = (file_digests(folder / name), questions, samples, temperature, seed)
        sampled[name] = [
            [Attempt(problem, tuple(steps)) for steps in group]
            for problem, group in zip(chosen, kept.value(name, made_from[name], draw), strict=True)
        ]
        result["policies"].append(
            {"name": name, "parameters": _parameters(model), **_policy_figures(sampled[name], chosen)}
        )
        if record is not None and not verifiers:
            write_samples(
                record / "samples" / f"{name}.jsonl.gz", name, sampled[name], tokenizer, temperature=temperature
            )
        done += 1
    for name in verifiers:
        model, tokenizer = _load(folder / name)
        by_policy, scored[name] = {}, {}
        for policy, groups in sampled.items():
            begin(f"{name} scores {policy}")
            flat = [attempt for group in groups for attempt in group]
            scores = kept.value(
                f"{name}-of-{policy}",
                (file_digests(folder / name), made_from[policy]),
                partial(step_scores, model, tokenizer, flat),
            )
            tables = scored[name][policy] = _answer_scores(scores, samples)
            by_policy[policy] = _verifier_figures(tables, groups)
            if record is not None:
                write_samples(
                    record / name / f"{policy}.jsonl.gz", policy, groups, tokenizer,
                    temperature=temperature, verifier=name, scores=scores,
                )  # fmt: skip
            done += 1
        result["verifiers"].append({"name": name, "parameters": _parameters(model), **_by_figure(by_policy)})
    begin("")
    result["crossovers"] = crossovers(*_ways(sampled, scored))
    return result


def _ways(
    sampled: Mapping[str, Sequence[Sequence[Attempt]]],
    scored: Mapping[str, Mapping[str, Mapping[str, Sequence[Sequence[float]]]]],
) -> tuple[dict[str, dict[str, Floats]], dict[str, list[str]]]:
    """(each problem's chance to be solved, by policy model and way to answer; buckets by policy model)."""
    solved: dict[str, dict[str, Floats]] = {}
    buckets: dict[str, list[str]] = {}
    for policy, groups in sampled.items():
        half = max(1, len(groups[0]) // 2)
        answers = [[attempt.answer for attempt in group[:half]] for group in groups]
        right = [[attempt.right for attempt in group] for group in groups]
        buckets[policy] = buckets_of([marks[half:] or marks for marks in right])
        tables = {
            verifier: [row[:half] for row in by_policy[policy][AGGREGATION]] for verifier, by_policy in scored.items()
        }
        budgets = [n for n in (1, 4, 16, 32) if n <= half]
        rates = solve_rates(answers, [marks[:half] for marks in right], tables, budgets)
        solved[policy] = {"one sample": rates["majority"][0]}
        for name, table in rates.items():
            solved[policy] |= {f"{name}@{n}": table[place] for place, n in enumerate(budgets) if n > 1}
    return solved, buckets


def _load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    return load_model(folder), load_tokenizer(folder)


def _parameters(model: LlamaForCausalLM) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _policy_figures(groups: Sequence[Sequence[Attempt]], problems: Sequence[WorkedProblem]) -> dict[str, Any]:
    right = [sum(attempt.right for attempt in group) for group in groups]
    return {
        **policy_figures(right, len(groups[0]), [problem.family for problem in problems]),
        "without_answer": float(np.mean([attempt.answer is None for group in groups for attempt in group])),
        "right_by_problem": right,
        "mistakes": policy_mistakes(groups),
    }


_Tables: TypeAlias = dict[str, Sequence[Sequence[float]]]


def _answer_scores(step_scores: Sequence[Sequence[float]], size: int) -> _Tables:
    """Every answer's score by each aggregation, rule -> (problems, samples), from its steps' scores; `size` answers a
    problem."""
    tables: _Tables = {}
    for rule, aggregate in _AGGREGATIONS.items():
        # An attempt without a step has no answer either: it is wrong, and nothing chooses it.
        values = [aggregate(scores) if scores else 0.0 for scores in step_scores]
        tables[rule] = [values[first : first + size] for first in range(0, len(values), size)]
    return tables


def _verifier_figures(tables: _Tables, groups: Sequence[Sequence[Attempt]]) -> dict[str, Any]:
    """Of one policy model's samples."""
    size = len(groups[0])
    right = [[attempt.right for attempt in group] for group in groups]
    aucs: dict[str, list[float | None]] = {}
    within: dict[str, Any] = {}
    pooled: dict[str, Any] = {}
    for rule, table in tables.items():
        aucs[rule] = aucs_within(table, right)
        mean, error, counted = auc_within(aucs[rule])
        within[rule] = {"mean": mean, "standard_error": error, "problems": counted}
        mean, error = auc_pooled(table, right)
        pooled[rule] = {"mean": mean, "standard_error": error}
    budgets = [n for n in BUDGETS if n <= size]
    answers = [[attempt.answer for attempt in group] for group in groups]
    return {
        "auc_within_problem": within[AGGREGATION]["mean"],
        "auc_pooled": pooled[AGGREGATION]["mean"],
        "auc_by_problem": aucs[AGGREGATION],
        "auc_within_by_aggregation": within,
        "auc_pooled_by_aggregation": pooled,
        "curves": curves(solve_rates(answers, right, tables, budgets), budgets),
        "standard_errors": {
            "auc_within_problem": within[AGGREGATION]["standard_error"],
            "auc_pooled": pooled[AGGREGATION]["standard_error"],
        },
        "mistakes": verifier_mistakes(groups, tables[AGGREGATION]),
    }


def _by_figure(by_policy: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """{policy: {figure: value}} as {figure: {policy: value}}; `standard_errors` likewise, mistakes in one list."""
    figures: dict[str, Any] = {"aggregation": AGGREGATION}
    errors: dict[str, dict[str, Any]] = {}
    mistakes: list[dict[str, Any]] = []
    for policy, values in by_policy.items():
        for figure, value in values.items():
            if figure == "standard_errors":
                for name, error in value.items():
                    errors.setdefault(name, {})[policy] = error
            elif figure == "mistakes":
                mistakes += [{"policy": policy, **mistake} for mistake in value]
            else:
                figures.setdefault(figure, {})[policy] = value
    return {**figures, "standard_errors": errors, "mistakes": mistakes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("models/lab"))
    parser.add_argument("--problems", type=int, default=480)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--split", default="held_out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--policies", nargs="*", default=list(SHAPES))
    parser.add_argument("--verifiers", nargs="*", default=list(VERIFIERS))
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures = evaluate_laboratory(
        args.folder,
        problems=args.problems,
        samples=args.samples,
        split=args.split,
        temperature=args.temperature,
        policies=args.policies,
        verifiers=args.verifiers,
        keep=args.keep,
        record=args.record,
    )
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
