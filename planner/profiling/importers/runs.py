"""Recorded runs of a strategy: which strategy wrote a file, and one run's row from the paths that it ended with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from planner.core import Candidate, Outcome
from planner.errors import InputError
from planner.strategies import REGISTRY, from_dict, to_dict
from planner.strategies.scoring import select

__all__ = ["named_strategy", "run_row"]

_NAMES = {
    "samples": r"bon\d*|best[_-]of[_-]n|samples|cot", "beam_search": r"beam(?:[_-]search)?\d*", "dvts": r"dvts\d*",
}  # fmt: skip
_WIDTH = 4


def named_strategy(path: Path) -> str | None:
    """The strategy that a file's name tells, as search-and-learn names its files; None where it tells none."""
    found = [n for n, form in _NAMES.items() if re.search(rf"(?:^|[^a-z])(?:{form})(?![a-z])", path.name.lower())]
    return found[0] if len(found) == 1 else None


def run_row(run: Mapping[str, Any], paths: Sequence[Mapping[str, Any]], where: str) -> dict[str, Any]:
    """A row of the table `runs` without its key: the answer that the strategy's own selection takes among its paths.

    `run` has `strategy`, `hyperparameters`, `tokens`, `problem_id` and `policy_model`.

    Hyperparameters that are not recorded take the strategy's defaults. Raises InputError for an unknown strategy and
    for hyperparameters that it does not allow.
    """
    strategy, fields = run["strategy"], dict(run["hyperparameters"])
    if strategy not in REGISTRY:
        raise InputError(
            "no such strategy", where=where, field="strategy", value=strategy, expected=", ".join(REGISTRY)
        )
    fields.setdefault("n", len(paths))
    if strategy in ("beam_search", "dvts") and "expansions" not in fields:
        fields["expansions"] = _WIDTH if fields["n"] % _WIDTH == 0 else fields["n"]
    first = paths[0]
    for name in ("temperature", "top_p"):
        if first[name] is not None:
            fields.setdefault(name, first[name])
    hyperparameters = to_dict(from_dict({"strategy": strategy, "hyperparameters": fields}))["hyperparameters"]
    # A row's model stands in its own column; sampling that nobody recorded is not made up.
    unknown = {
        "policy_model",
        *(name for name in ("temperature", "top_p", "max_steps", "max_step_tokens") if name not in fields),
    }
    hyperparameters = {name: value for name, value in hyperparameters.items() if name not in unknown}
    chosen = _chosen(paths, hyperparameters)
    verifier = next((p["verifier"] for p in paths if p["verifier"] is not None), None)
    return {
        "problem_id": run["problem_id"], "policy_model": run["policy_model"], "strategy": strategy,
        "verifier": verifier,
        "hyperparameters": json.dumps(hyperparameters, sort_keys=True), "answer": chosen["answer"],
        "answer_key": chosen["answer_key"], "correct": chosen["correct"], "text": chosen["text"],
        "outcome": str(Outcome.FINISHED if chosen["finished"] else Outcome.TRUNCATED),
        "prompt_tokens": first["prompt_tokens"], "generated_tokens": run["tokens"],
    }  # fmt: skip


def _chosen(paths: Sequence[Mapping[str, Any]], fields: Mapping[str, Any]) -> Mapping[str, Any]:
    candidates = [
        Candidate(
            text=p["text"] or "", answer=p["answer"], key=p["answer_key"], finished=p["finished"],
            scores=None if p["scores"] is None else tuple(p["scores"]),
        )
        for p in paths
    ]  # fmt: skip
    best = select(candidates, fields.get("aggregation", "last"), fields.get("selection", "max"))
    return paths[next(i for i, candidate in enumerate(candidates) if candidate is best)]
