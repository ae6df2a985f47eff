"""What is to be answered and how answers are judged: the laboratory's problems, a published task or a local file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from planner.core import Problem
from planner.errors import InputError
from planner.tasks.answers import Checker, check
from planner.tasks.checkers import load_checker
from planner.tasks.files import SUFFIXES, problems_from_file
from planner.tasks.published import find_task, published_tasks, task_file

__all__ = ["LAB_MAX_TOKENS", "Task", "load_task"]

LAB_MAX_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Problems with a checker. Every problem has a gold answer."""

    name: str
    problems: tuple[Problem, ...]
    check: Checker


def load_task(
    spec: str | Path,
    *,
    count: int | None = None,
    split: str | None = None,
    seed: int = 0,
    checker: str | None = None,
    max_tokens: int | None = None,
    step_separator: str | None = None,
) -> Task:
    """`spec` is "lab", a published task's name (planner.tasks.published) or a file's path; `count` takes the first
    problems, `split` and `seed` choose among the laboratory's (default "profile", 300 problems). `checker` names a
    user's function (`planner.tasks.checkers`).

    Raises InputError for an unknown task, one that cannot be fetched, and a file that cannot be used.
    """
    if count is not None and count < 1:
        raise InputError("no problem would be left", field="count", value=count, expected="a whole number >= 1")
    judge = check if checker is None else load_checker(checker)
    if str(spec) == "lab":
        problems = _lab(split or "profile", 300 if count is None else count, seed, max_tokens, step_separator)
        return Task(name="lab", problems=problems, check=judge)
    published = find_task(str(spec))
    path = Path(spec) if published is None else task_file(published)
    if not path.name.endswith(SUFFIXES):
        names = ", ".join(["lab", *published_tasks()])
        raise InputError(
            "no such task", field="task", value=str(spec), expected=f"{names}, or a file {' or '.join(SUFFIXES)}"
        )
    if split is not None:
        raise InputError("a file has no splits", where=str(path), field="split", value=split, hint="Leave it out")
    found = problems_from_file(path, max_tokens=max_tokens or 2048, step_separator=step_separator or "\n\n")
    if count is not None and count > len(found):
        raise InputError(f"the file has {len(found)} problems", where=str(path), field="count", value=count)
    return Task(name=published.name if published else path.name, problems=tuple(found[:count]), check=judge)


def _lab(split: str, count: int, seed: int, max_tokens: int | None, step_separator: str | None) -> tuple[Problem, ...]:
    from planner.tasks.lab import REVISION_TEMPLATE, STEP_SEPARATOR, template_of, worked_problems

    return tuple(
        Problem(
            problem_id=worked.problem_id,
            prompt=worked.question,
            gold=worked.answer,
            group=worked.family,
            step_separator=step_separator or STEP_SEPARATOR,
            max_tokens=max_tokens or LAB_MAX_TOKENS,
            revision_template=REVISION_TEMPLATE,
            extra={"split": split, "template": template_of(worked.family, worked.question)},
        )
        for worked in worked_problems(split, count, seed=seed)
    )
