"""One search over steps. What is done with scored paths is the caller's `Allotment`, all else is here.

Each of `groups` independent trees draws `width` first steps. In every round a tree's new paths are scored and its
allotment says which of them go on, and with how many next steps each. A tree ends when its allotment names no
unfinished path, or at depth `max_steps`. Every finished path is collected, whether it was kept or not, since it was
paid for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from planner.core import Candidate, Completion, GenerationRequest, Problem, Sampling
from planner.effects import Flow, Generate, score
from planner.errors import OutOfBudget
from planner.strategies.allotment import Allotment, Round
from planner.strategies.paths import SearchPath, StepSearch
from planner.strategies.scoring import Aggregation, make_candidate

__all__ = ["step_search"]


@dataclass(slots=True)
class _Tree:
    slots: list[SearchPath]
    finished: list[SearchPath] = field(default_factory=list)
    dead: list[SearchPath] = field(default_factory=list)

    @property
    def going(self) -> list[SearchPath]:
        """One path for each next step; a finished one holds its slot and draws nothing."""
        return [path for path in self.slots if not path.finished]

    def take(self, new: Sequence[SearchPath | None], allot: Allotment, aggregation: Aggregation, number: int) -> None:
        """Collect what ended and choose what goes on. `new` answers `going` in order; None was refused or merged."""
        drawn = [path for path in new if path is not None]
        if not drawn:
            return
        self.finished += [p for p in drawn if p.finished]
        self.dead += [p for p in drawn if p.dead]
        replies = iter(new)
        pool = [path if path.finished else next(replies) for path in self.slots]
        alive = tuple(p for p in pool if p is not None and not p.dead)
        values = tuple(p.value(aggregation) for p in alive)
        self.slots = allot(Round(alive, values, len(self.finished), number)) if alive else []


def step_search(
    problem: Problem,
    spec: StepSearch,
    allot: Allotment,
    *,
    width: int,
    groups: int = 1,
    lookahead_steps: int = 0,
    merge_duplicates: bool = False,
) -> Flow[tuple[list[Candidate], bool]]:
    """All candidates, the finished ones first, and whether the budget ended the search.

    `merge_duplicates`: of a tree's equal paths in one round the first stands for all; it is scored and counted once.
    """
    trees = [_Tree([SearchPath()] * width) for _ in range(groups)]
    short = False
    for number in range(spec.max_steps):
        slots = [(tree, path) for tree in trees for path in tree.going]
        if short or not slots:
            break
        owners = [tree for tree, _ in slots]
        drawn, unpaid = yield from _extend(problem, spec, [path for _, path in slots], spec.temperature)
        if merge_duplicates:
            drawn = _merged(owners, drawn)
        scored, unscored = yield from _score(problem, spec, drawn, lookahead_steps)
        short = unpaid or unscored
        for tree in trees:
            mine = [path for owner, path in zip(owners, scored, strict=True) if owner is tree]
            tree.take(mine, allot, spec.aggregation, number)
    finished = [p for tree in trees for p in tree.finished]
    # A path has one slot for each of its next steps, and is one candidate.
    unfinished = [p for tree in trees for p in (*{id(p): p for p in tree.going}.values(), *tree.dead) if p.text]
    return [make_candidate(p.text, ended=p.finished, scores=p.scores or None) for p in finished + unfinished], short


def _extend(
    problem: Problem, spec: StepSearch, parents: Sequence[SearchPath], temperature: float
) -> Flow[tuple[list[SearchPath | None], bool]]:
    """One next step for each parent (None where it was refused); slot i draws from stream i, equal texts or not."""
    requests = tuple(
        GenerationRequest(
            prompt=problem.prompt,
            prefix=path.text,
            sampling=Sampling(
                temperature=temperature,
                top_p=spec.top_p,
                max_tokens=min(spec.max_step_tokens, problem.max_tokens - path.tokens),
                stop=(problem.step_separator,),
            ),
            index=slot,
        )
        for slot, path in enumerate(parents)
    )
    try:
        reply: tuple[Completion, ...] = yield Generate(requests=requests, policy_model=spec.policy_model)
    except OutOfBudget:
        return [None] * len(parents), True
    paths = [
        None if c.finish == "budget" and not c.generated_tokens else path.extended(c, problem)
        for path, c in zip(parents, reply, strict=True)
    ]
    return paths, any(c.finish == "budget" for c in reply)


def _merged(owners: Sequence[_Tree], paths: Sequence[SearchPath | None]) -> list[SearchPath | None]:
    seen: set[tuple[int, str, bool]] = set()
    kept: list[SearchPath | None] = []
    for tree, path in zip(owners, paths, strict=True):
        key = None if path is None else (id(tree), path.text, path.finished)
        kept.append(None if key in seen else path)
        if key is not None:
            seen.add(key)
    return kept


def _score(
    problem: Problem, spec: StepSearch, paths: Sequence[SearchPath | None], lookahead_steps: int
) -> Flow[tuple[list[SearchPath | None], bool]]:
    """The same paths with scores for those that have a new step and may be kept or chosen."""
    scored = list(paths)
    new = [(i, p) for i, p in enumerate(paths) if p is not None and not p.dead and p.steps and not p.scores]
    if not new:
        return scored, False
    ahead, short = yield from _look_ahead(problem, spec, [p for _, p in new], lookahead_steps)
    try:
        reply = yield from score(problem, [ahead[p.text].steps for _, p in new])
    except OutOfBudget:
        return scored, True
    for (i, path), result in zip(new, reply, strict=True):
        scored[i] = path.scored(result.scores)
    return scored, short


def _look_ahead(
    problem: Problem, spec: StepSearch, paths: Sequence[SearchPath], steps: int
) -> Flow[tuple[dict[str, SearchPath], bool]]:
    """Where each path (by its text) gets to in so many greedy steps; equal texts get to the same place."""
    ahead, short = {path.text: path for path in paths}, False
    for _ in range(steps):
        going = [text for text, path in ahead.items() if not (path.finished or path.dead)]
        if short or not going:
            break
        drawn, short = yield from _extend(problem, spec, [ahead[text] for text in going], 0.0)
        ahead |= {text: path for text, path in zip(going, drawn, strict=True) if path is not None}
    return ahead, short
