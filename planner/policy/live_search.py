"""Search over strategies that must be run: a race problem by problem under a cap on what is generated.

Parallel strategies are replayed from the samples and cost nothing to try. Step searches, revisions and cascades are run
on a few problems, and again on more of them where `planner.policy.race` sees a chance that they belong to the front of
accuracy against cost. All runs stay in the bank: an interrupted search goes on where it stopped, and another one starts
from them. At the end the front's members are run on all problems, so that `planner fit` can use them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from planner.core import Problem
from planner.errors import BudgetError, InputError
from planner.policy.race import Race
from planner.policy.search import front, open_study, quiet, search
from planner.policy.space import Space
from planner.profiling.bank import Bank
from planner.profiling.columns import Configuration
from planner.profiling.live import LiveRuns, Outcome
from planner.profiling.makers import load_makers
from planner.profiling.outcomes import outcomes_from_bank
from planner.profiling.recipe import Recipe, load_recipe
from planner.profiling.run import profile, task_of
from planner.profiling.work import Makers
from planner.strategies import Strategy, to_dict

if TYPE_CHECKING:
    from planner.models.protocols import Engine, Verifier

__all__ = ["EFFORTS", "FrontPoint", "LiveRace", "Runs", "SearchEstimate", "SearchReport", "search_recipe"]

EFFORTS: Mapping[str, float] = {"light": 0.03, "medium": 0.1, "heavy": 0.3}
"""Cap on generated tokens of live runs, as a share of what running every configuration on every problem takes."""

_BEGIN_SHARE, _BEGIN_PROBLEMS, _BLOCK = 0.2, 10, 5

Progress = Callable[[int, int, str], None]
"""(tokens generated for live runs, the cap, what the front looks like now)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchEstimate:
    """Generated tokens: of the samples, of every live run (steps that runs share counted each time), and the cap."""

    sample_tokens: int
    exhaustive_tokens: int
    cap_tokens: int
    configurations: int
    problems: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """One member of the front; `cost` is the mean of a run in the bank's unit, `runs` how many it is measured on."""

    configuration: Configuration
    accuracy: float
    cost: float
    runs: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchReport:
    """What was estimated, what was generated for live runs, and the fronts: of live strategies as the race sees them,
    and of everything that covers all problems."""

    bank: Path
    dry_run: bool
    estimate: SearchEstimate
    generated_tokens: int
    tried: int
    live_front: tuple[FrontPoint, ...]
    front: tuple[FrontPoint, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"bank": str(self.bank)}


def search_recipe(
    recipe: Recipe | str | Path, bank_path: str | Path, *, auto: str = "light", storage: str | None = None,
    trials: int = 2000, seed: int = 0, dry_run: bool = False, progress: Progress | None = None,
    engines: Mapping[str, Engine] | None = None, verifier: Verifier | None = None,
) -> SearchReport:  # fmt: skip
    """Profile a recipe's samples, race its live strategies, and search all that the bank then holds.

    `auto` caps the live runs' generated tokens (see EFFORTS), `storage` keeps the studies (see
    `planner.policy.search.open_storage`), `trials` are looks at replayed configurations, `engines` and `verifier` as in
    `planner.profiling.run.profile`. Raises InputError for an unknown effort, and what `profile` raises.
    """
    if auto not in EFFORTS:
        raise InputError("no such effort", field="auto", value=auto, expected=" or ".join(EFFORTS))
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    task, _ = task_of(recipe)
    found, judge = load_makers(recipe, task, engines, verifier)
    makers = Makers(engines=found, verifier=judge, task=task, max_batch=recipe.run.max_batch)
    # The engines are dressed already as the recipe says.
    plain = tuple(replace(model, model=None, thinking=()) for model in recipe.policy_models)
    given: dict[str, Any] = {"engines": found, "verifier": judge}
    samples = profile(replace(recipe, policy_models=plain, runs=()), bank_path, dry_run=dry_run, **given).estimate
    whole = profile(replace(recipe, policy_models=plain), bank_path, dry_run=True, **given).estimate
    live = _configurations(recipe, makers)
    exhaustive = whole.generated_tokens - samples.generated_tokens
    estimate = SearchEstimate(
        sample_tokens=samples.generated_tokens, exhaustive_tokens=exhaustive,
        cap_tokens=round(EFFORTS[auto] * exhaustive), configurations=len(live), problems=len(task.problems),
        seconds=samples.seconds + EFFORTS[auto] * (whole.seconds - samples.seconds),
    )  # fmt: skip
    if dry_run:
        return SearchReport(
            bank=Path(bank_path), dry_run=True, estimate=estimate, generated_tokens=0, tried=0, live_front=(), front=()
        )
    bank = Bank.open(bank_path)
    with bank.lock():
        runs = LiveRuns.open(makers, bank)
        raced = LiveRace(live, task.problems, runs, cap=estimate.cap_tokens, seed=seed, progress=progress)
        if live:
            raced.go()
            raced.finish()
            raced.tell(storage)
        bank.update_manifest({"recipe": recipe.to_dict()})
    outcomes = outcomes_from_bank(Bank.open(bank_path), seed=seed)
    accuracy, cost = outcomes.accuracy.mean(axis=0), outcomes.cost.mean(axis=0)
    space = Space(outcomes.configurations, range(len(outcomes.configurations)))
    tried = search(space, accuracy, cost, trials=trials, seed=seed, storage=storage, name="replayed")
    points = tuple(
        FrontPoint(
            configuration=outcomes.configurations[i], accuracy=float(accuracy[i]), cost=float(cost[i]),
            runs=len(outcomes.problem_ids),
        )
        for i in front(tried, accuracy, cost)
    )  # fmt: skip
    return SearchReport(
        bank=Path(bank_path), dry_run=False, estimate=estimate, generated_tokens=runs.generated_tokens - runs.before,
        tried=len(tried) + raced.started, live_front=tuple(raced.front()) if live else (), front=points,
    )  # fmt: skip


def _configurations(recipe: Recipe, makers: Makers) -> list[tuple[Configuration, Strategy]]:
    """Every live specification with every model that runs it."""
    found = []
    for spec, models in recipe.runs:
        fields = to_dict(spec)["hyperparameters"]
        fields.pop("policy_model", None)
        verifier = makers.verifier.info.name if makers.verifier is not None and spec.needs_verifier else None
        for model in models or tuple(makers.engines):
            found.append(
                (Configuration(strategy=spec.name, hyperparameters=fields, policy_model=model, verifier=verifier), spec)
            )
    return found


class Runs(Protocol):
    """What the race needs of `planner.profiling.live.LiveRuns`."""

    @property
    def generated_tokens(self) -> int: ...

    def run(self, wanted: Sequence[tuple[Strategy, str, Problem]]) -> list[Outcome]: ...

    def mean_tokens(self, spec: Strategy, model: str) -> float: ...

    def missing(self, spec: Strategy, model: str, problems: Sequence[Problem]) -> int: ...


class LiveRace:
    """A race whose runs are made on demand, until they have generated `cap` tokens."""

    def __init__(
        self, live: Sequence[tuple[Configuration, Strategy]], problems: Sequence[Problem], runs: Runs, *, cap: int,
        seed: int = 0, progress: Progress | None = None,
    ) -> None:  # fmt: skip
        self.live, self.runs, self.cap, self.progress = live, runs, cap, progress
        # Problems come from files in an order that may mean something; the race takes them in another.
        order = np.random.default_rng(seed).permutation(len(problems))
        self.problems = [problems[i] for i in order]
        self.race = Race.start([c for c, _ in live], len(problems), seed=seed)

    @property
    def started(self) -> int:
        return int((self.race.runs > 0).sum())

    def go(self, *, finish: bool = True) -> None:
        """Race until the cap is reached, or with `finish` until running the front on all problems would reach it."""
        for c in self.race.first(_BEGIN_SHARE):
            if self._pays([c], _BEGIN_PROBLEMS):
                self._run([c], _BEGIN_PROBLEMS)
        if not self.race.runs.any():
            raise BudgetError(
                "does not pay for a first look at any configuration", field="cap", value=self.cap,
                hint="Take a larger effort (`auto`) or fewer tokens an answer",
            )  # fmt: skip
        while wanted := self.race.wanted():
            reserved = self._completion() if finish else 0.0
            if not self._pays(wanted, _BLOCK, reserved=reserved):
                return
            self._run(wanted, _BLOCK)

    def finish(self) -> None:
        """Run the front's members on all problems, those that the cap pays for."""
        for c in self.race.front():
            if self._pays([c], len(self.problems)):
                self._run([c], len(self.problems))

    def _run(self, wanted: Sequence[int], count: int) -> None:
        """The next `count` problems of each of these configurations."""
        pairs = [(c, i) for c in wanted for i in self._next(c, count)]
        jobs = [(*self._unit(c), self.problems[i]) for c, i in pairs]
        for (c, i), outcome in zip(pairs, self.runs.run(jobs), strict=True):
            if outcome.correct is None:
                raise InputError(
                    "has no gold answer, so no strategy can be told from another", field="problem_id",
                    value=self.problems[i].problem_id, hint="Give `gold`, or profile without a search",
                )  # fmt: skip
            self.race.record(c, i, outcome.correct, outcome.cost)
        if self.progress is not None:
            points = ", ".join(f"{p.accuracy:.3f} at {p.cost:.3g}" for p in self.front())
            self.progress(min(self.runs.generated_tokens, self.cap), self.cap, f"front {points}")

    def _pays(self, wanted: Sequence[int], count: int, *, reserved: float = 0.0) -> bool:
        """Whether the cap is expected to hold after `count` more problems of these and `reserved` tokens."""
        expected = sum(self._expected(c, count) for c in wanted)
        return expected + reserved <= max(self.cap - self.runs.generated_tokens, 0)

    def _expected(self, c: int, count: int) -> float:
        """Tokens that the next `count` problems of a configuration will take; recorded runs take none."""
        spec, model = self._unit(c)
        new = self.runs.missing(spec, model, [self.problems[i] for i in self._next(c, count)])
        return new * self._tokens(c) if new else 0.0

    def _tokens(self, c: int) -> float:
        """What one run is expected to generate: by its own runs, else by the most that a path of any other took."""
        own = self.runs.mean_tokens(*self._unit(c))
        if own:
            return own
        ran = np.flatnonzero(self.race.runs).tolist()
        paths = [self.runs.mean_tokens(*self._unit(i)) / self.live[i][0].samples for i in ran]
        return max(paths, default=0.0) * self.live[c][0].samples

    def _next(self, c: int, count: int) -> list[int]:
        """The first `count` problems that a configuration has not run on."""
        return [int(i) for i in np.flatnonzero(np.isnan(self.race.correct[c]))[:count]]

    def _completion(self) -> float:
        """Tokens that running the front on all problems would take."""
        return sum(self._expected(c, len(self.problems)) for c in self.race.front())

    def _unit(self, c: int) -> tuple[Strategy, str]:
        return self.live[c][1], self.live[c][0].policy_model

    def front(self) -> list[FrontPoint]:
        """The front as it is believed now, by rising cost."""
        mean, cost = self.race.accuracy().mean, np.exp(self.race.log_cost())
        return [
            FrontPoint(
                configuration=self.live[c][0], accuracy=float(np.clip(mean[c], 0, 1)), cost=float(cost[c]),
                runs=int(self.race.runs[c]),
            )
            for c in self.race.front()
        ]  # fmt: skip

    def tell(self, storage: str | None) -> None:
        """The race as a study: one trial for each configuration that ran, pruned unless it ran on all problems."""
        if storage is None:
            return
        import optuna

        mean, cost = self.race.accuracy().mean, self.race.log_cost()
        space = Space([c for c, _ in self.live], range(len(self.live)))
        with quiet():
            study = open_study(storage, "live", seed=0, trials=len(self.live))
            told = {t.user_attrs.get("configuration") for t in study.get_trials(deepcopy=False)}
            for c in np.flatnonzero(self.race.runs > 0).tolist():
                label = space.labels[c]
                complete = self.race.runs[c] == len(self.problems)
                if label in told and not complete:
                    continue
                study.enqueue_trial(space.parameters(c))
                trial = study.ask()
                space.suggest(trial)
                trial.set_user_attr("configuration", label)
                trial.set_user_attr("runs", int(self.race.runs[c]))
                if complete:
                    study.tell(trial, [float(mean[c]), float(cost[c])])
                else:
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
