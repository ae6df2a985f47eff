"""Answering a file of prompts within one budget, with progress and resume.

Plans follow from the whole file and the budget, and samples from their keys, so a run that was interrupted and taken up
again writes the results of an uninterrupted one. Plans' caps add up to the total: it cannot be overspent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.api import Planner, solution_of
from planner.budget import Budget
from planner.core import Problem, stable_hash
from planner.errors import CapabilityError, InputError
from planner.models.protocols import Engine, Verifier
from planner.policy.chooser import share_budget
from planner.policy.plan import Plan
from planner.runtime.driver import Job, iter_runs
from planner.tasks.files import IDS, PROMPTS, first_of, read_records

__all__ = ["BatchReport", "read_prompts", "solve_file"]

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """`resumed` of the `prompts` were answered before; FLOPs are of all of them, None where a config is unknown."""

    prompts: int
    resumed: int
    outcomes: Mapping[str, int]
    expected_accuracy: float
    spent_flops: float | None
    output: str

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def read_prompts(path: Path) -> list[tuple[str, str]]:
    """(id, prompt) of each record. A record without an id is named by its prompt; equal ids are refused.

    Raises InputError for a file that cannot be read and for a record without a prompt.
    """
    found: dict[str, str] = {}
    unnamed: dict[str, int] = {}
    for where, record in read_records(path):
        field, prompt = first_of(record, PROMPTS) or (" or ".join(PROMPTS), None)
        if not isinstance(prompt, str) or not prompt.strip():
            raise InputError("no prompt", where=where, field=field, value=prompt, expected="a text")
        given = first_of(record, IDS)
        if given is None:
            name = stable_hash(prompt)
            unnamed[name] = unnamed.get(name, 0) + 1
            key = name if unnamed[name] == 1 else f"{name}-{unnamed[name]}"
        else:
            key = str(given[1])
        if key in found:
            raise InputError("an id that was there before", where=where, field="problem_id", value=key)
        found[key] = prompt
    return list(found.items())


def solve_file(
    planner: Planner,
    source: Path,
    output: Path,
    *,
    budget: str | float | Budget | None = None,
    total_budget: str | float | Budget | None = None,
    engine: Engine | Mapping[str, Engine] | None = None,
    verifier: Verifier | None = None,
    max_batch: int = 256,
    progress: Progress | None = None,
) -> BatchReport:
    """Answer every prompt of `source`, each within `budget` or all within `total_budget`; append results to `output`.

    A result is one JSON line: `problem_id`, `answer`, `text`, `outcome`, `plan`, `usage`, `cost`. Prompts that `output`
    already answers are not asked again. With a `budget` in seconds prompts are answered one after the other, since a
    plan's seconds are those of a prompt alone, and results have `seconds`. Raises InputError where `output` belongs to
    another budget, policy or file; EngineError where the engine fails, after which the same call goes on.
    """
    if (budget is None) == (total_budget is None):
        raise InputError("give either", field="budget", expected="a budget for each prompt, or a total")
    rows = read_prompts(source)
    engines, verifier, allowed = planner.equip(engine, verifier)
    prompts = [prompt for _, prompt in rows]
    if budget is not None:
        shared = Budget.parse(budget)
        decided = planner.chooser.decide(prompts, shared, allowed=allowed)
    else:
        assert total_budget is not None
        shared = Budget.parse(total_budget)
        decided = share_budget(planner.chooser, prompts, shared, allowed=allowed)
    run_id = stable_hash(
        str(shared),
        budget is None,
        rows,
        planner.document["plans"],
        sorted(e.info.fingerprint for e in engines.values()),
    )
    before = _read_results(output, run_id)
    waiting = [i for i, (key, _) in enumerate(rows) if key not in before]
    plans = decided.plans()
    outcomes: dict[str, int] = {}
    spent = 0.0
    for record in before.values():
        outcomes[record["outcome"]] = outcomes.get(record["outcome"], 0) + 1
        spent += math.nan if record["cost"]["total_flops"] is None else record["cost"]["total_flops"]
    advance = progress or (lambda done, total, text: None)
    advance(len(before), len(rows), "")
    jobs = [_job(planner, engines, plans[i], *rows[i]) for i in waiting]
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("a", encoding="utf-8") as file:
        first = next(iter(engines))
        timed = shared.seconds is not None
        groups = [[job] for job in jobs] if timed else [jobs]
        runs = (
            (start + number, run)
            for start, group in enumerate(groups)
            for number, run in iter_runs(
                group,
                engines,
                verifier,
                default_policy_model=first,
                max_batch=max_batch,
                latency=planner.chooser.latency,
            )
        )
        for done, (number, run) in enumerate(runs, 1):
            record = {"problem_id": rows[waiting[number]][0], "run": run_id}
            record |= _plain(solution_of(plans[waiting[number]], run).to_dict())
            if not timed:
                del record["seconds"]  # it waited for the others
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()
            outcomes[str(run.answer.outcome)] = outcomes.get(str(run.answer.outcome), 0) + 1
            spent += run.cost.total_flops
            advance(len(before) + done, len(rows), "")
    return BatchReport(
        prompts=len(rows), resumed=len(before), outcomes=outcomes, output=str(output),
        expected_accuracy=sum(plan.expected_accuracy for plan in plans) / len(plans),
        spent_flops=spent if math.isfinite(spent) else None,
    )  # fmt: skip


def _job(planner: Planner, engines: Mapping[str, Engine], plan: Plan, key: str, prompt: str) -> Job:
    engine = engines.get(plan.policy_model)
    if engine is None:
        raise CapabilityError("no engine for the plan's policy model", field="engine", value=plan.policy_model)
    asked = planner.problem(prompt)
    problem = Problem(problem_id=key, prompt=prompt, step_separator=asked.step_separator, max_tokens=asked.max_tokens)
    cap = planner.chooser.cap_flops(plan.budget, engine.info.shape)
    return Job(problem, plan.spec, cap, plan.budget.seconds)


def _read_results(output: Path, run_id: str) -> dict[str, dict[str, Any]]:
    """What `output` has already, by id; a line that a killed run left unfinished is cut off."""
    if not output.exists():
        return {}
    content = output.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    found = {}
    for number, line in enumerate(whole.splitlines(), 1):
        where = f"{output}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(f"no result of ours ({error})", where=where, hint="Name another output") from error
        if not isinstance(record, dict) or record.get("run") != run_id:
            raise InputError(
                "the output belongs to another file, budget, policy or engine", where=where,
                hint="Name another output, or delete this one",
            )  # fmt: skip
        found[str(record["problem_id"])] = record
    if len(whole) < len(content):
        with output.open("r+b") as file:
            file.truncate(len(whole))
    return found


def _plain(value: Any) -> Any:
    """NaN as null: what is unknown is not zero, and no JSON."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
