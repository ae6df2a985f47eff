"""Nested cross-validation by problem: everything chosen is chosen on training folds and measured on the held-out one.

Methods (METHODS section 6): the policy with oracle difficulty and with predicted difficulty, the best fixed strategy,
best-of-N (its best rule, temperature and policy model), majority voting, adaptive majority, and the per-problem oracle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from planner.policy.choose import choose_plans
from planner.policy.table import BUCKET_EDGES, Fitted, bucket_of, fit_plans, plan_table
from planner.profiling.outcomes import Outcomes

if TYPE_CHECKING:
    from planner.policy.predictor import DifficultyPredictor

__all__ = ["BASELINES", "METHODS", "FoldFit", "HeldOut", "Track", "cross_validate", "fit_predictor", "put_oracle"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BASELINES = {"best_of_n": "best_of_n", "majority": "majority", "adaptive": "adaptive_majority"}
METHODS = ("policy_oracle_difficulty", "policy", "best_fixed", *BASELINES, "oracle")


@dataclass(slots=True)
class Track:
    """One method at S settings (budgets or N): held-out accuracy and cost parts of every row, NaN where it has no plan.

    `accuracy` [R, S]; `parts` [3, R, S] prefill, decode, verifier; `chosen` [R, S] configurations, -1 for none; `plans`
    counts them at each setting.
    """

    accuracy: Floats
    parts: Floats
    chosen: Ints
    plans: list[Counter[str]]

    @classmethod
    def empty(cls, rows: int, settings: int) -> Track:
        return cls(
            np.full((rows, settings), np.nan),
            np.full((3, rows, settings), np.nan),
            np.full((rows, settings), -1),
            [Counter() for _ in range(settings)],
        )

    def put(self, outcomes: Outcomes, rows: Ints, setting: int, configurations: Ints) -> None:
        """Record that these rows ran these configurations."""
        self.chosen[rows, setting] = configurations
        self.accuracy[rows, setting] = outcomes.accuracy[rows, configurations]
        for part, values in enumerate((outcomes.prefill, outcomes.decode, outcomes.verifier)):
            self.parts[part, rows, setting] = values[rows, configurations]
        self.plans[setting].update(outcomes.configurations[i].label for i in configurations.tolist())

    @property
    def cost(self) -> Floats:
        """[R, S]; an unknown verifier's part is left out."""
        total: Floats = self.parts[0] + self.parts[1] + np.nan_to_num(self.parts[2])
        return total


@dataclass(frozen=True, slots=True)
class FoldFit:
    """What one fold's training problems taught; `train` and `test` are indices of problems."""

    train: Ints
    test: Ints
    predictor: DifficultyPredictor
    fitted: Fitted


@dataclass(slots=True)
class HeldOut:
    """What cross-validation measured. `budgets` [S]; `levels` are the N at which baselines set accuracy levels.

    `predicted` [problems], `distribution` [problems, B] and `scale` [problems] come from the predictor of the fold that
    held the problem out; `base` [problems] is that fold's base rate. `chosen` and `held` are accuracies of the policy
    with oracle difficulty on training and held-out problems, [folds, S]. `folds` are what each fold fitted.
    """

    budgets: list[float]
    levels: list[int]
    tracks: dict[str, Track]
    at_n: dict[str, Track]
    predicted: Floats
    distribution: Floats
    base: Floats
    scale: Floats
    chosen: list[Floats] = field(default_factory=list)
    held: list[Floats] = field(default_factory=list)
    folds: list[FoldFit] = field(default_factory=list)


def cross_validate(
    outcomes: Outcomes, budgets: list[float], *, folds: int, seed: int, trials: int, verifier: str | None,
    by_group: bool = False, embeddings: Floats | None = None, progress: Callable[[int], None] | None = None,
) -> HeldOut:  # fmt: skip
    """Repeat the whole fit without each fold's problems (or groups) and run what it chose on them.

    `embeddings` [problems, E] may refine predictors. `progress` is called with the folds done. `budgets` rises; every
    second one, from the first, is a row of the policy's table, those between show the curve only.
    """
    from planner.policy.difficulty import make_folds

    problems, rows = len(outcomes.problem_ids), len(outcomes.problem_index)
    fold = make_folds(problems, folds, seed=seed, groups=outcomes.groups if by_group else None)
    strategy = np.array([c.strategy for c in outcomes.configurations])
    samples = np.array([c.samples for c in outcomes.configurations])
    levels = sorted({int(n) for n in samples[np.isin(strategy, list(BASELINES.values()))]})
    held = HeldOut(
        budgets=budgets, levels=levels,
        tracks={name: Track.empty(rows, len(budgets)) for name in METHODS},
        at_n={name: Track.empty(rows, len(levels)) for name in BASELINES},
        predicted=np.full(problems, np.nan), distribution=np.full((problems, len(BUCKET_EDGES)), np.nan),
        base=np.full(problems, np.nan), scale=np.ones(problems),
    )  # fmt: skip
    folds = int(fold.max()) + 1
    for f in range(folds):
        if progress is not None:
            progress(f)
        train, test = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
        predictor = fit_predictor(outcomes, train, seed=seed, embeddings=embeddings)
        prompts = [outcomes.prompts[i] or "" for i in test]
        known = np.array([outcomes.prompts[i] is not None for i in test])
        held.predicted[test] = predictor.predict(prompts)
        held.scale[test] = np.where(known, predictor.scales(prompts), 1.0)
        held.base[test] = predictor.base_rate
        held.distribution[test] = predictor.distribution_of(held.predicted[test], BUCKET_EDGES)
        fitted = fit_plans(
            outcomes, train, budgets[::2], trials=trials, seed=seed, verifier=verifier, predictor=predictor
        )
        held.folds.append(FoldFit(train, test, predictor, fitted))
        _policy(held, outcomes, held.folds[-1])
        _fixed(held, outcomes, fitted, strategy, samples, np.flatnonzero(np.isin(outcomes.problem_index, test)))
    put_oracle(held, outcomes)
    return held


def fit_predictor(
    outcomes: Outcomes, problems: Ints, *, seed: int, embeddings: Floats | None = None
) -> DifficultyPredictor:
    """The difficulty predictor of the reference model, from these problems' samples, which foretells costs, too."""
    from planner.policy.difficulty import fit_difficulty

    costs = outcomes.sample_costs
    return fit_difficulty(
        [outcomes.prompts[i] for i in problems], outcomes.successes[problems], outcomes.trials[problems],
        groups=[outcomes.groups[i] for i in problems], seed=seed, policy_model=outcomes.reference_model,
        embeddings=None if embeddings is None else embeddings[problems],
        costs=costs[problems] if costs.shape[1] else None,
    )  # fmt: skip


def _policy(held: HeldOut, outcomes: Outcomes, fold: FoldFit) -> None:
    """The policy exactly as it would be deployed: through its own document and `choose_plans`."""
    fitted, train, test = fold.fitted, fold.train, fold.test
    table, plans = plan_table(fitted, outcomes, held.budgets[::2]), np.array(fitted.plans)
    # Who knows the bucket needs no room for being wrong about it.
    sure = plan_table(replace(fitted, p95=fitted.known_p95), outcomes, held.budgets[::2])
    cheapest = int(np.argmin(fitted.overall_p95[plans]))
    difficulty = outcomes.difficulty.get(outcomes.reference_model, np.full(len(outcomes.problem_index), np.nan))
    if fitted.counts.sum():
        shares = fitted.counts / fitted.counts.sum()
    else:  # no problem has samples to spare for its bucket: predictions are all that is known of them
        shares = held.distribution[test].mean(axis=0)
    bucket = bucket_of(difficulty)
    # A row whose bucket is unknown is as likely in each bucket as training problems were.
    known = np.where(bucket[:, None] >= 0, np.eye(len(BUCKET_EDGES))[bucket], shares)
    rows = np.flatnonzero(np.isin(outcomes.problem_index, test))
    seen = np.flatnonzero(np.isin(outcomes.problem_index, train))
    ways = {"policy": held.distribution[outcomes.problem_index[rows]]}
    if (bucket >= 0).any():  # else nobody knows a difficulty, and there is no such method
        ways["policy_oracle_difficulty"] = known[rows]
    scale = np.ones(len(outcomes.problem_ids))
    scale[test] = held.scale[test]
    if fold.predictor.oof_scale_ is not None:
        scale[train] = fold.predictor.oof_scale_
    scale = scale[outcomes.problem_index]
    chosen = np.empty(len(held.budgets))
    for s, budget in enumerate(held.budgets):
        for name, distribution in ways.items():
            plan = choose_plans(table if name == "policy" else sure, distribution, budget / scale[rows]).plan
            held.tracks[name].put(outcomes, rows, s, plans[np.where(plan < 0, cheapest, plan)])
        plan = choose_plans(sure, known[seen], budget / scale[seen]).plan
        chosen[s] = outcomes.accuracy[seen, plans[np.where(plan < 0, cheapest, plan)]].mean()
    held.chosen.append(chosen)
    judged = "policy_oracle_difficulty" if "policy_oracle_difficulty" in ways else "policy"
    held.held.append(held.tracks[judged].accuracy[rows].mean(axis=0))


def _fixed(
    held: HeldOut, outcomes: Outcomes, fitted: Fitted, strategy: NDArray[Any], samples: Ints, rows: Ints
) -> None:
    for s, budget in enumerate(held.budgets):
        for name in ("best_fixed", *BASELINES):
            allowed = None if name == "best_fixed" else strategy == BASELINES[name]
            best = fitted.best_fixed(budget, allowed)
            if best is not None:
                held.tracks[name].put(outcomes, rows, s, np.full(len(rows), best))
    for s, n in enumerate(held.levels):
        for name, of in BASELINES.items():
            best = fitted.best_fixed(np.inf, (strategy == of) & (samples == n))
            if best is not None:
                held.at_n[name].put(outcomes, rows, s, np.full(len(rows), best))


def put_oracle(held: HeldOut, outcomes: Outcomes) -> None:
    """For every problem the configuration that does best on it, the cheapest on ties: a bound that nothing can
    choose by.

    It may have what fits the budget on that problem, and what any other method had there: a budget that a plan fits
    over all problems may be too small for it on one of them.
    """
    rows = np.arange(len(outcomes.problem_index))
    copies = len(rows) // len(outcomes.problem_ids)
    accuracy = np.empty_like(outcomes.accuracy)
    for c in range(copies):  # a problem's rows are one problem: one choice for all of them
        accuracy[c * len(outcomes.problem_ids) : (c + 1) * len(outcomes.problem_ids)] = outcomes.by_problem(
            outcomes.accuracy
        )
    cost = outcomes.cost
    for s, budget in enumerate(held.budgets):
        value = np.where(outcomes.cost_p95 <= budget, np.round(accuracy, 9), -np.inf)
        value[rows, np.argmin(outcomes.cost_p95, axis=1)] = np.maximum(
            value[rows, np.argmin(outcomes.cost_p95, axis=1)], -1.0
        )
        for track in held.tracks.values():
            had = np.flatnonzero(track.chosen[:, s] >= 0)
            value[had, track.chosen[had, s]] = np.round(accuracy[had, track.chosen[had, s]], 9)
        best = value.max(axis=1, keepdims=True)
        held.tracks["oracle"].put(outcomes, rows, s, np.where(value == best, cost, np.inf).argmin(axis=1))
