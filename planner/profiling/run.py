"""Profile: generate and score what a recipe asks for and the bank does not hold yet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from planner.core import Problem
from planner.errors import BankError
from planner.models.protocols import Engine, EngineInfo, Verifier
from planner.profiling.bank import Bank, packages
from planner.profiling.estimate import Estimate, calibrate, estimate
from planner.profiling.makers import load_makers
from planner.profiling.offline import is_published, offline_estimate
from planner.profiling.parts import extra_text
from planner.profiling.recipe import Recipe, load_recipe
from planner.profiling.timing import measure_latency
from planner.profiling.work import Makers, chunks_of
from planner.tasks.task import Task, load_task

__all__ = ["ProfileReport", "Progress", "profile", "task_of", "time_bank"]

Progress = Callable[[int, int, str], None]
"""(chunks done, chunks, what is done now)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileReport:
    """What was estimated and what was done; `generated_tokens` and `seconds` are this call's own."""

    bank: Path
    dry_run: bool
    estimate: Estimate
    generated_tokens: int
    seconds: float
    new_samples: int
    new_runs: int
    flags: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"bank": str(self.bank), "flags": list(self.flags)}


def profile(
    recipe: Recipe | str | Path,
    bank_path: str | Path,
    *,
    dry_run: bool = False,
    resume: bool = True,
    progress: Progress | None = None,
    engines: Mapping[str, Engine] | None = None,
    verifier: Verifier | None = None,
    gpu_tflops: float | None = None,
) -> ProfileReport:
    """Work off a recipe into the bank at `bank_path`, chunk by chunk; what is there already is not made again.

    `dry_run` only estimates and writes nothing; where the recipe names published models, nothing is loaded for it, and
    `gpu_tflops` replaces the recipe's assumption (planner.profiling.offline). `engines` (by the recipe's names) and
    `verifier` replace those that the recipe would load.

    Raises InputError for a recipe or task that cannot be used, BankError for a bank of other models or verifier, a
    damaged one, one that another process writes to, and with `resume=False` an existing one.
    """
    started = time.perf_counter()
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if dry_run and engines is None and is_published(recipe):
        return ProfileReport(
            bank=Path(bank_path), dry_run=True, estimate=offline_estimate(recipe, gpu_tflops=gpu_tflops),
            generated_tokens=0, seconds=time.perf_counter() - started, new_samples=0, new_runs=0, flags=(),
        )  # fmt: skip
    task, flags = task_of(recipe)
    found, judge = load_makers(recipe, task, engines, verifier)
    makers = Makers(engines=found, verifier=judge, task=task, max_batch=recipe.run.max_batch)
    path = Path(bank_path)
    exists = (path / "manifest.json").exists()
    if exists and not resume:
        raise BankError("there is a bank already", where=str(path), hint="Resume it, or name another folder")
    bank = Bank.open(path) if exists else None
    if bank is not None:
        _require_same_makers(bank, recipe, makers)
    elif not dry_run:
        bank = Bank.create(path, {"source": "profile", "recipe": recipe.to_dict()})
    with _threads(recipe.run.threads):
        if bank is None or dry_run:
            return _work(recipe, makers, bank, path, flags, started, progress, dry_run=True)
        with bank.lock():
            # What another process wrote before the lock was taken must be seen.
            return _work(recipe, makers, Bank.open(path), path, flags, started, progress, dry_run=False)


def time_bank(
    bank_path: str | Path, *, engines: Mapping[str, Engine] | None = None, verifier: Verifier | None = None
) -> dict[str, Any]:
    """Time a profiled bank's engines and verifier on this machine, in place of what its manifest says, and return what
    it says now. `engines` and `verifier` as in `profile`.

    Raises BankError for an imported bank and for engines that are not those that the bank's samples come from.
    """
    path = Path(bank_path)
    bank = Bank.open(path)
    if not bank.manifest.get("recipe"):
        raise BankError(
            "this bank was imported: it does not say what its engines are", where=str(path),
            hint="Seconds are known for profiled banks only: planner profile",
        )  # fmt: skip
    recipe = Recipe.from_dict(bank.manifest["recipe"], where=f"recipe in {path / 'manifest.json'}")
    task, _ = task_of(recipe)
    found, judge = load_makers(recipe, task, engines, verifier)
    makers = Makers(engines=found, verifier=judge, task=task, max_batch=recipe.run.max_batch)
    _require_same_makers(bank, recipe, makers)
    with _threads(recipe.run.threads), bank.lock():
        latency = measure_latency(makers)
        Bank.open(path).update_manifest({"latency": latency})
    return latency


def _work(
    recipe: Recipe, makers: Makers, bank: Bank | None, path: Path, flags: list[str], started: float,
    progress: Progress | None, *, dry_run: bool,
) -> ProfileReport:  # fmt: skip
    chunks = chunks_of(recipe, makers)
    known = {table: bank.keys(table) if bank else frozenset[str]() for table in ("samples", "runs")}
    lacking = [len(chunk.missing(makers, known[chunk.table])) for chunk in chunks]
    done, total = sum(n == 0 for n in lacking), len(chunks)
    if progress is not None and done < total:
        progress(done, total, "calibrating")
    rates = calibrate(chunks, makers, (bank.manifest.get("rates") or {}) if bank else {})
    expected = estimate(chunks, makers, rates, lacking)
    if bank is not None and not dry_run:
        bank.append_problems([_problem_row(problem) for problem in _new_problems(bank, makers.task)])
        _update_manifest(bank, recipe, makers, rates, flags)
        if recipe.run.time_engines:
            _measure_latency(bank, makers, progress, done, total)
    tokens = samples = runs = 0
    for chunk, lacks in zip(chunks, lacking, strict=True):
        if dry_run or bank is None or not lacks:
            continue
        # Asked again: an earlier chunk of this run may have made some of it.
        missing = chunk.missing(makers, bank.keys(chunk.table))
        if missing:
            rows = chunk.make(missing, makers)
            append = bank.append_samples if chunk.table == "samples" else bank.append_runs
            added = append(rows, part=chunk.part(missing))
            samples, runs = samples + added * (chunk.table == "samples"), runs + added * (chunk.table == "runs")
            tokens += sum(row["generated_tokens"] for row in rows)
        done += 1
        if progress is not None:
            progress(done, total, f"{chunk.unit.label}, {tokens:,} tokens")
    return ProfileReport(
        bank=path, dry_run=dry_run, estimate=expected, generated_tokens=tokens,
        seconds=time.perf_counter() - started, new_samples=samples, new_runs=runs, flags=tuple(flags),
    )  # fmt: skip


def _measure_latency(bank: Bank, makers: Makers, progress: Progress | None, done: int, total: int) -> None:
    """A bank of before may lack it, or have it of another version of a model."""
    if progress is not None and done < total:
        progress(done, total, "timing")
    bank.update_manifest({"latency": measure_latency(makers, bank.manifest.get("latency"))})


def task_of(recipe: Recipe) -> tuple[Task, list[str]]:
    """The task without repeated prompts: a sample's key is its prompt's, so two equal prompts are one problem."""
    r = recipe.task
    task = load_task(
        r.name, count=r.count, split=r.split, seed=recipe.run.seed, checker=r.checker, max_tokens=r.max_tokens,
        step_separator=r.step_separator,
    )  # fmt: skip
    single: dict[str, Problem] = {}
    for problem in task.problems:
        single.setdefault(problem.prompt, problem)
    repeated = len(task.problems) - len(single)
    flags = [f"{repeated} problems repeat another one's prompt and were left out"] if repeated else []
    return Task(name=task.name, problems=tuple(single.values()), check=task.check), flags


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Sums in another number of threads round differently: fix it while profiling."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _entry(info: EngineInfo) -> dict[str, Any]:
    return {
        "fingerprint": info.fingerprint, "config": info.shape.to_dict() if info.shape else None,
        "parameters": info.shape.parameters if info.shape else None, "caches_prefixes": info.caches_prefixes,
    }  # fmt: skip


def _verifier_entry(makers: Makers) -> dict[str, Any] | None:
    if makers.verifier is None:
        return None
    info = makers.verifier.info
    return {
        "name": info.name, "fingerprint": info.fingerprint, "config": info.shape.to_dict() if info.shape else None,
        "incremental": info.incremental,
    }  # fmt: skip


def _require_same_makers(bank: Bank, recipe: Recipe, makers: Makers) -> None:
    """A bank holds the samples of one model under a name, scored by one verifier or by none."""
    where, hint = str(bank.path), "Profile into another folder"
    if bank.manifest["source"] != "profile":
        raise BankError("this bank was imported; nothing can be added to it", where=where, hint=hint)
    for name, engine in makers.engines.items():
        before = (bank.manifest["policy_models"].get(name) or {}).get("fingerprint")
        if before not in (None, engine.info.fingerprint):
            raise BankError(
                f"the bank's {name} is another model or version of it", where=where, field="fingerprint",
                value=engine.info.fingerprint, expected=before, hint=hint,
            )  # fmt: skip
    if not bank.manifest["policy_models"]:
        return
    old, new = bank.manifest["verifier"], _verifier_entry(makers)
    if (old or {}).get("fingerprint") != (new or {}).get("fingerprint"):
        raise BankError(
            "the bank was scored by another verifier, or by none", where=where, field="verifier",
            value=(new or {}).get("name"), expected=(old or {}).get("name") or "none", hint=hint,
        )  # fmt: skip
    scored = ((bank.manifest["recipe"] or {}).get("samples") or {}).get("score", recipe.samples.score)
    if scored != recipe.samples.score:
        raise BankError(
            "samples are scored when they are made", where=where, field="score", expected=str(scored), hint=hint
        )


def _new_problems(bank: Bank, task: Task) -> list[Problem]:
    prompts = dict(zip(bank.problems["problem_id"], bank.problems["prompt"], strict=True))
    for problem in task.problems:
        if prompts.get(problem.problem_id, problem.prompt) != problem.prompt:
            raise BankError(
                "the bank has another prompt under this id", where=str(bank.path), field="problem_id",
                value=problem.problem_id, hint="Profile into another folder",
            )  # fmt: skip
    return [problem for problem in task.problems if problem.problem_id not in prompts]


def _problem_row(problem: Problem) -> dict[str, Any]:
    extra = dict(problem.extra)
    split = extra.pop("split", None)
    return {
        "problem_id": problem.problem_id, "prompt": problem.prompt, "gold": problem.gold, "group": problem.group,
        "split": str(split or "all"), "extra": extra_text(extra),
    }  # fmt: skip


def _update_manifest(bank: Bank, recipe: Recipe, makers: Makers, rates: dict[str, Any], flags: list[str]) -> None:
    entries = {name: _entry(engine.info) for name, engine in makers.engines.items()}
    changes: dict[str, Any] = {
        "policy_models": {**bank.manifest["policy_models"], **entries},
        "verifier": _verifier_entry(makers),
        "task": asdict(recipe.task) | {"name": makers.task.name, "problems": len(bank.problems)},
        "seeds": {"task": recipe.run.seed},
        "packages": packages(),
        "recipe": recipe.to_dict(),
        "rates": rates,
        "flags": list(dict.fromkeys([*bank.manifest["flags"], *flags])),
    }
    bank.update_manifest(changes)
