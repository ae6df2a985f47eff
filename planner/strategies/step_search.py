"""One search over steps. Beam search and DVTS are this with two integers: `groups` and `keep`.

Each of `groups` independent trees draws `keep * expansions` first steps. In every round a tree ranks its new paths by
aggregated score, keeps the best `keep`, and draws `expansions` next steps for each kept path that has not finished. A
tree ends when nothing kept is left to go on with, when `keep * expansions` of its paths have finished, or at depth
`max_steps`. Every finished path is collected, kept or not, since it was paid for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from planner.core import Candidate, Completion, GenerationRequest, Problem, Sampling, split_steps
from planner.effects import Flow, Generate, score
from planner.errors import OutOfBudget
from planner.strategies.scoring import Aggregation, aggregate, make_candidate

__all__ = ["SearchSettings", "step_search"]


class SearchSettings(Protocol):
    """The hyperparameters that every search over steps has (a strategy's own fields)."""

    @property
    def expansions(self) -> int: ...
    @property
    def max_steps(self) -> int: ...
    @property
    def max_step_tokens(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def top_p(self) -> float: ...
    @property
    def aggregation(self) -> Aggregation: ...
    @property
    def policy_model(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class _Path:
    """A partial answer. `dead`: it ran into a token limit, and can neither go on nor be chosen over a finished one."""

    text: str = ""
    steps: tuple[str, ...] = ()
    tokens: int = 0
    scores: tuple[float, ...] = ()
    finished: bool = False
    dead: bool = False

    def extended(self, completion: Completion, problem: Problem) -> _Path:
        text, tokens = self.text + completion.text, self.tokens + completion.generated_tokens
        steps = split_steps(text, problem.step_separator)
        finished = make_candidate(text, ended=completion.finish == "end").finished
        dead = not finished and (completion.finish in ("length", "budget") or tokens >= problem.max_tokens)
        # A blank step adds nothing to be scored: the path keeps its scores.
        return _Path(text, steps, tokens, self.scores if steps == self.steps else (), finished, dead)

    def rank(self, aggregation: Aggregation) -> float:
        return aggregate(self.scores, aggregation) if self.scores else -math.inf


@dataclass(slots=True)
class _Tree:
    open: list[_Path]
    finished: list[_Path] = field(default_factory=list)
    dead: list[_Path] = field(default_factory=list)

    def take(self, paths: Sequence[_Path], keep: int, quota: int, aggregation: Aggregation) -> None:
        """Collect what ended and choose what goes on; the sort is stable, so ties go to the first drawn."""
        self.finished += [p for p in paths if p.finished]
        self.dead += [p for p in paths if p.dead]
        ranked = sorted((p for p in paths if not p.dead), key=lambda p: p.rank(aggregation), reverse=True)
        self.open = [p for p in ranked[:keep] if not p.finished] if len(self.finished) < quota else []


def step_search(
    problem: Problem, settings: SearchSettings, *, groups: int, keep: int
) -> Flow[tuple[list[Candidate], bool]]:
    """All candidates, the finished ones first, and whether the budget ended the search."""
    quota = keep * settings.expansions
    trees = [_Tree(open=[_Path()]) for _ in range(groups)]
    short = False
    for depth in range(settings.max_steps):
        width = settings.expansions if depth else quota
        slots = [(tree, path) for tree in trees for path in tree.open for _ in range(width)]
        if short or not slots:
            break
        drawn, unpaid = yield from _generate(problem, settings, [path for _, path in slots])
        scored, unscored = yield from _score(problem, drawn)
        short = unpaid or unscored
        for tree in trees:
            mine = [p for (owner, _), p in zip(slots, scored, strict=True) if owner is tree and p is not None]
            if mine:
                tree.take(mine, keep, quota, settings.aggregation)
    finished = [p for tree in trees for p in tree.finished]
    unfinished = [p for tree in trees for p in (*tree.open, *tree.dead) if p.text]
    return [make_candidate(p.text, ended=p.finished, scores=p.scores or None) for p in finished + unfinished], short


def _generate(
    problem: Problem, settings: SearchSettings, parents: Sequence[_Path]
) -> Flow[tuple[list[_Path | None], bool]]:
    """One next step for each parent (None where it was refused); slot i draws from stream i, equal texts or not."""
    requests = tuple(
        GenerationRequest(
            prompt=problem.prompt,
            prefix=path.text,
            sampling=Sampling(
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_tokens=min(settings.max_step_tokens, problem.max_tokens - path.tokens),
                stop=(problem.step_separator,),
            ),
            index=slot,
        )
        for slot, path in enumerate(parents)
    )
    try:
        reply: tuple[Completion, ...] = yield Generate(requests=requests, policy_model=settings.policy_model)
    except OutOfBudget:
        return [None] * len(parents), True
    paths = [
        None if c.finish == "budget" and not c.generated_tokens else path.extended(c, problem)
        for path, c in zip(parents, reply, strict=True)
    ]
    return paths, any(c.finish == "budget" for c in reply)


def _score(problem: Problem, paths: Sequence[_Path | None]) -> Flow[tuple[list[_Path | None], bool]]:
    """The same paths with scores for those that have a new step and may be kept or chosen."""
    scored = list(paths)
    new = [(i, p) for i, p in enumerate(paths) if p is not None and not p.dead and p.steps and not p.scores]
    try:
        reply = (yield from score(problem, [p.steps for _, p in new])) if new else ()
    except OutOfBudget:
        return scored, True
    for (i, path), result in zip(new, reply, strict=True):
        scored[i] = replace(path, scores=result.scores)
    return scored, False
