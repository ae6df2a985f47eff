"""What every profiled configuration achieves and costs on every problem: the table that policies are fitted on.

Where problems have samples of role "difficulty", a row is a problem, its difficulty is the share of those that are
correct, and the samples of role "score" are scored. Where they have none, the samples of each problem are halved and a
problem has two rows: difficulty from one half and scores from the other, and the reverse. Problems stay the unit of
all statistics: `problem_index` tells which rows belong together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from planner.errors import BankError
from planner.profiling.columns import Z95, Columns, Configuration
from planner.profiling.recorded import Pricing, Recorded, recorded_samples
from planner.profiling.replayed import add_replayed, halves_of
from planner.strategies import REGISTRY

if TYPE_CHECKING:
    import pandas as pd

    from planner.profiling.bank import Bank

__all__ = ["Configuration", "Outcomes", "outcomes_from_bank"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """R rows by C configurations (see the module on rows).

    `accuracy`: expected correctness (halving can move it a little outside [0, 1]; means are unbiased). `prefill`,
    `decode`, `verifier`: mean cost parts in `unit` (verifier NaN where its price is unknown); `cost_p95`: 95th
    percentile of the total over draws. `difficulty`: for each policy model the Pass@1 [R] that buckets a row, NaN
    where unknown. `successes` of `trials` [problems] are all samples of the reference model, for fitting a predictor.
    `reference_cost` is what 1x means.
    """

    configurations: tuple[Configuration, ...]
    problem_ids: tuple[str, ...]
    problem_index: Ints
    prompts: tuple[str | None, ...]
    groups: tuple[str | None, ...]
    accuracy: Floats
    prefill: Floats
    decode: Floats
    verifier: Floats
    cost_p95: Floats
    unit: str
    difficulty: Mapping[str, Floats]
    successes: Floats
    trials: Floats
    reference_model: str
    reference_cost: float
    method_note: str
    notes: tuple[str, ...] = ()

    @property
    def cost(self) -> Floats:
        """Mean total cost [R, C]; an unknown verifier's part is left out (and noted)."""
        total: Floats = self.prefill + self.decode + np.nan_to_num(self.verifier)
        return total

    @property
    def sample_costs(self) -> Floats:
        """What one sample of each policy model costs, mean over samples, [problems, models]; no columns where none is
        known."""
        costs = self.prefill + self.decode
        models: dict[str, list[int]] = {}
        for i, c in enumerate(self.configurations):
            if c.samples == 1 and c.verifier is None and c.strategy != "greedy":
                models.setdefault(c.policy_model, []).append(i)
        found = [self.by_problem(costs[:, mine].mean(axis=1)) for mine in models.values()]
        return np.stack(found, axis=1) if found else np.zeros((len(self.problem_ids), 0))

    @property
    def pass_at_1(self) -> Floats:
        """Share of the reference model's samples that are correct, [problems]; NaN where it has none."""
        return np.where(self.trials > 0, self.successes / np.maximum(self.trials, 1), np.nan)

    def by_problem(self, values: Floats) -> Floats:
        """Mean over each problem's rows: [R, ...] -> [problems, ...]."""
        order = np.argsort(self.problem_index, kind="stable")
        copies = len(self.problem_index) // len(self.problem_ids)
        mean: Floats = values[order].reshape(len(self.problem_ids), copies, *values.shape[1:]).mean(axis=1)
        return mean


def outcomes_from_bank(
    bank: Bank, *, also: Sequence[Configuration] = (), pricing: Pricing | None = None, subsets: int = 64, seed: int = 0
) -> Outcomes:
    """Every configuration that the bank's samples can replay and that its runs hold, on every problem.

    `subsets` random orders estimate votes and stopping rules. Parallel strategies are replayed on a grid of sizes and
    rules of the bank's own; `also` names configurations to replay beside it. `pricing` None: by the bank's manifest. A
    configuration that does not cover all problems is left out and noted. Raises BankError where nothing could be
    evaluated.
    """
    problems, notes = bank.problems, list[str]()
    pricing = pricing or Pricing.from_manifest(bank.manifest)
    samples, ids = bank.samples, [str(p) for p in problems["problem_id"]]
    apart = samples[samples["role"] == "difficulty"]
    scored = recorded_samples(samples[samples["role"] == "score"], ids, pricing, notes)
    halves = None if len(apart) else np.random.default_rng(seed).integers(0, 2**31)
    columns = Columns()
    for recorded in scored:
        add_replayed(columns, recorded, subsets, seed, None if halves is None else int(halves), notes, also)
    copies = 1 if halves is None else 2
    index = np.tile(np.arange(len(ids)), copies)
    _live(columns, bank.runs, ids, pricing, copies, notes)
    if not columns.configurations:
        raise BankError(
            "no strategy could be evaluated on all problems", field="samples",
            expected="at least one labelled sample of every problem", hint="Profile or import more samples",
        )  # fmt: skip
    model, cost = _reference(columns, len(ids))
    pool = recorded_samples(apart, ids, pricing, []) if len(apart) else scored
    successes, trials = _successes(scored if halves is not None else [*scored, *pool], model, len(ids))
    difficulty = {
        name: _difficulty(
            [r for r in pool if r.policy_model == name], None if halves is None else int(halves), len(ids)
        )
        for name in {r.policy_model for r in pool}
    }
    prefill, decode, verifier, p95 = (np.stack(x, axis=1)[index] for x in zip(*columns.parts, strict=True))
    if np.isnan(verifier).any():
        notes.append(
            "the verifier's price is unknown: costs are the policy's alone where it is asked, and too low (an import "
            "takes --verifier-config)"
        )
    return Outcomes(
        configurations=tuple(columns.configurations), problem_ids=tuple(ids), problem_index=index,
        prompts=tuple(None if not isinstance(p, str) else p for p in problems["prompt"]),
        groups=tuple(None if not isinstance(g, str) else g for g in problems["group"]),
        accuracy=np.stack(columns.accuracy, axis=1), prefill=prefill, decode=decode, verifier=verifier, cost_p95=p95,
        unit=pricing.unit, difficulty=difficulty, successes=successes, trials=trials,
        reference_model=model, reference_cost=cost, method_note=_method_note(halves is not None, subsets),
        notes=tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def _method_note(halved: bool, subsets: int) -> str:
    text = (
        "Parallel strategies are replayed from recorded samples: selection by score exactly, votes and stopping over "
        f"{subsets} random orders. "
    )
    if not halved:
        return text + "A problem's bucket comes from samples that are never scored."
    return text + (
        "There are no samples set apart for difficulty, so each problem's samples are halved: one half gives the "
        "bucket and the other is scored, both ways round, and averaged. Beyond half the samples, the gain from more "
        "of them is taken from all samples."
    )


def _difficulty(pool: list[Recorded], halves: int | None, problems: int) -> Floats:
    """Pass@1 that buckets each row: all samples of the pool, or of the half that the row does not score."""
    sampled = [r for r in pool if r.temperature != 0] or pool
    if halves is None:
        right, count = _successes(sampled, None, problems)
        return np.where(count > 0, right / np.maximum(count, 1), np.nan)
    # A single sample has no half to spare: what it scores it must not bucket.
    several = [r for r in sampled if r.draws.counts.min() >= 2]
    rows = []
    for which in (0, 1):
        parts = [r.part(halves_of(r, halves)[which]) for r in several]
        right, count = _successes(parts, None, problems)
        rows.append(np.where(count > 0, right / np.maximum(count, 1), np.nan))
    return np.concatenate(rows)


def _successes(pool: list[Recorded], model: str | None, problems: int) -> tuple[Floats, Floats]:
    """Correct samples and samples, [problems] each, of one model (or all given), greedy ones aside."""
    mine = [r for r in pool if model in (None, r.policy_model)]
    mine = [r for r in mine if r.temperature != 0] or mine
    right, count = np.zeros(problems), np.zeros(problems)
    for r in mine:
        right += np.where(r.draws.present, r.draws.correct, 0.0).sum(axis=1)
        count += r.draws.counts
    return right, count


def _reference(columns: Columns, problems: int) -> tuple[str, float]:
    """The model whose single answer is cheapest, and what that costs: greedy, or one sample where there is no
    greedy."""
    single = [(c.strategy != "greedy", sum(p.mean() for p in parts[:2]), c.policy_model)
              for c, parts in zip(columns.configurations, columns.parts, strict=True) if c.samples == 1]  # fmt: skip
    if not single:
        cheapest = min(
            zip(columns.configurations, columns.parts, strict=True),
            key=lambda x: float(x[1][0].mean() + x[1][1].mean()),
        )
        return cheapest[0].policy_model, float(cheapest[1][0].mean() + cheapest[1][1].mean())
    _, cost, model = min(single)
    return model, float(cost)


def _live(
    columns: Columns, runs: pd.DataFrame, ids: list[str], pricing: Pricing, copies: int, notes: list[str]
) -> None:
    """Configurations from recorded runs: mean over repeats; they depend on no sample that gave a bucket."""
    if not len(runs):
        return
    keys = ["strategy", "hyperparameters", "policy_model", "verifier"]
    for (strategy, hyperparameters, model, asked), rows in runs.groupby(keys, dropna=False, sort=True):
        fields = json.loads(str(hyperparameters))
        fields.pop("policy_model", None)
        if (
            strategy in REGISTRY
            and REGISTRY[strategy].replayable
            and any(c.strategy == strategy for c in columns.configurations)
        ):
            continue
        unit = _run_costs(rows[rows["problem_id"].isin(ids)], pricing)
        if unit["decode"].isna().any():
            notes.append(f"runs of {strategy} {hyperparameters} have no token count, so no cost: left out")
            continue
        if unit["prefill"].isna().any():
            notes.append(f"prompt tokens of {strategy}'s runs are unknown: prefill is left out of their cost")
            unit["prefill"] = unit["prefill"].fillna(0.0)
        by = unit.groupby("problem_id")
        mean = by.mean().reindex(ids)
        if mean["correct"].isna().any():
            notes.append(f"runs of {strategy} {hyperparameters} do not cover all problems: left out")
            continue
        total = unit.assign(total=unit[["prefill", "decode", "verifier"]].sum(axis=1)).groupby("problem_id")["total"]
        relative = float((total.std() / total.mean()).mean()) if (total.count() > 1).any() else 0.0
        mine = [mean[c].to_numpy(np.float64) for c in ("prefill", "decode", "verifier")]
        p95 = (mine[0] + mine[1] + np.nan_to_num(mine[2])) * (1 + Z95 * relative)
        judge = None if not isinstance(asked, str) else asked
        columns.add(
            Configuration(strategy=str(strategy), hyperparameters=fields, policy_model=str(model), verifier=judge),
            np.tile(mean["correct"].to_numpy(np.float64), copies), (mine[0], mine[1], mine[2], p95),
        )  # fmt: skip


def _run_costs(rows: pd.DataFrame, pricing: Pricing) -> pd.DataFrame:
    if pricing.unit == "flops" and not pricing.per_token:
        costs = rows[["prefill_flops", "decode_flops", "verifier_flops"]]
    else:
        costs = rows[["prompt_tokens", "generated_tokens", "scored_tokens"]]
    table = costs.astype("float64").set_axis(["prefill", "decode", "verifier"], axis=1)
    if pricing.per_token:
        rates = rows["policy_model"].map(lambda model: pricing.per_token[str(model)])
        rate = np.nan if pricing.per_verifier_token is None else pricing.per_verifier_token
        # A run's tokens are not told apart by model: of two models' tokens the price is unknown.
        several = rows["hyperparameters"].map(lambda text: bool(json.loads(str(text)).get("second_policy_model")))
        table["prefill"] *= rates.str[0].astype("float64")
        table["decode"] *= rates.str[1].astype("float64").where(~several)
        table["verifier"] = (table["verifier"] * rate).where(table["verifier"] != 0, 0.0)
    return table.assign(correct=rows["correct"].astype("float64"), problem_id=rows["problem_id"].astype(str))
