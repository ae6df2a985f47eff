"""How long each plan takes a prompt that is answered alone, from the bank's token counts and its latency model.

Whole answers are drawn anew from the recorded ones: the longest of k decides how many decoding steps there are, and
fewer and fewer rows take part. A vote that stops early takes its share, in tokens, of drawing all, and so does what the
verifier is asked on top; live runs go by their recorded rounds, decoding steps and tokens. Where counts or a latency
are lacking, a plan's seconds are unknown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from planner.models.latency import Latency, LatencyModel
from planner.policy.table import BUCKET_EDGES, bucket_of
from planner.profiling.columns import Configuration
from planner.profiling.outcomes import Outcomes
from planner.profiling.recorded import Pricing, Recorded, recorded_samples

if TYPE_CHECKING:
    import pandas as pd

    from planner.profiling.bank import Bank

__all__ = ["HIGH", "seconds_documents"]

Floats = NDArray[np.float64]

HIGH = 0.99
"""The percentile of a plan's seconds that has to fit a budget in seconds."""
_ORDERS = 32
_COUNTS = ("rounds", "scoring_rounds", "decode_steps", "prompt_tokens", "generated_tokens", "scored_tokens")


@dataclass(frozen=True, slots=True)
class _Seconds:
    """Of one configuration by problem, as predicted: `mean` [P], and `draws` [D, P] of its upper tail."""

    mean: Floats
    draws: Floats
    slowdown: Floats


def seconds_documents(
    bank: Bank, outcomes: Outcomes, latency: LatencyModel, plans: Sequence[int], *, seed: int
) -> list[dict[str, Any] | None]:
    """For each of `plans` (configuration indices) `{bucket: {"mean", "p99"}, "overall": ...}`, None where unknown.

    `p99` is the 99th percentile over problems, draws, and how measured calls spread around the predicted seconds.
    """
    estimates = _Estimates(bank, outcomes, latency, seed)
    bucket = bucket_of(outcomes.difficulty.get(outcomes.reference_model, np.full(len(outcomes.problem_index), np.nan)))
    documents: list[dict[str, Any] | None] = []
    for plan in plans:
        found = estimates.of(plan)
        if found is None:
            documents.append(None)
            continue
        document = {"overall": _summary(found, np.arange(len(outcomes.problem_ids)))}
        for b, name in enumerate(BUCKET_EDGES):
            mine = outcomes.problem_index[bucket == b]
            document[name] = _summary(found, mine) if len(mine) else document["overall"]
        documents.append(document)
    return documents


def _summary(found: _Seconds, problems: NDArray[np.int64]) -> dict[str, float]:
    spread = found.draws[:, problems].reshape(-1, 1) * found.slowdown
    return {"mean": float(found.mean[problems].mean()), "p99": float(np.quantile(spread, HIGH))}


class _Estimates:
    def __init__(self, bank: Bank, outcomes: Outcomes, latency: LatencyModel, seed: int) -> None:
        self._outcomes, self._latency, self._runs = outcomes, latency, bank.runs
        samples = bank.samples
        scored = samples[samples["role"] == "score"]
        pricing = replace(Pricing.from_manifest(bank.manifest), unit="tokens")
        recorded = recorded_samples(scored, outcomes.problem_ids, pricing, [])
        self._recorded = {(r.policy_model, r.temperature, r.top_p): r for r in recorded}
        # Without token counts, those assumed for FLOPs are no measurement.
        self._counted = bool(scored["generated_tokens"].notna().all() and scored["prompt_tokens"].notna().all())
        self._seed = seed

    def of(self, plan: int) -> _Seconds | None:
        c = self._outcomes.configurations[plan]
        engine, verifier = self._latency.engines.get(c.policy_model), self._latency.verifier
        if engine is None or (c.verifier is not None and verifier is None):
            return None
        judge = verifier if c.verifier is not None else None
        fields = c.hyperparameters
        if c.strategy == "greedy":
            found = next((r for key, r in self._recorded.items() if key[:2] == (c.policy_model, 0.0)), None)
            return self._sampled(plan, found, engine, judge, 1, 1)
        if c.strategy in ("majority", "best_of_n", "odds_vote", "adaptive_majority", "arbitrated_majority"):
            found = self._recorded.get((c.policy_model, fields.get("temperature"), fields.get("top_p")))
            most = int(fields.get("max_n", fields.get("n", 1)))
            read = min(most, int(fields.get("answers", most)) * int(fields.get("readings", 1)))
            return self._sampled(plan, found, engine, judge, most, int(fields.get("batch", most)), read)
        return None if "second_policy_model" in fields else self._live(c, engine, judge)

    def _sampled(
        self,
        plan: int,
        recorded: Recorded | None,
        engine: Latency,
        verifier: Latency | None,
        most: int,
        batch: int,
        read: int | None = None,
    ) -> _Seconds | None:
        """`most` answers drawn `batch` at a time, of which the verifier reads `read` (None: all)."""
        if recorded is None or not self._counted:
            return None
        present = recorded.draws.present
        order = np.argsort(np.random.default_rng(self._seed).random((_ORDERS, *present.shape)) + ~present, axis=2)
        # A problem with fewer answers than are drawn repeats its own.
        slots = np.take_along_axis(order, np.arange(most)[None, None] % recorded.draws.counts[None, :, None], axis=2)
        lengths = np.take_along_axis(np.broadcast_to(recorded.tokens, order.shape), slots, axis=2)
        seconds = engine.token_seconds * recorded.prefill + sum(
            engine.call_seconds + engine.decode_seconds(lengths[:, :, start : start + batch])
            for start in range(0, most, batch)
        )
        drawn, drawn_high = self._shares(plan, most) if batch < most else (1.0, 1.0)
        mean, high = seconds.mean(axis=0) * drawn, seconds * drawn_high
        if verifier is not None:
            judged = slots[:, :, :read]
            each = np.take_along_axis(np.broadcast_to(recorded.scoring, order.shape), judged, axis=2).sum(axis=2)
            reading = verifier.call_seconds + verifier.token_seconds * (recorded.scoring_prompt + each)
            mean = mean + reading.mean(axis=0) * (self._read_share(plan, judged.shape[2]) if batch < most else 1.0)
            high = high + reading
        return _Seconds(mean, high, _slowdown(engine, verifier))

    def _read_share(self, plan: int, read: int) -> Floats:
        """Of the reading that a vote may ask for, what it asks for on average, [P]."""
        o, c = self._outcomes, self._outcomes.configurations[plan]
        best = self._same_samples(c, "best_of_n")
        if best is None:
            return np.ones(len(o.problem_ids))
        one = o.by_problem(o.verifier[:, best]) / o.configurations[best].samples
        share: Floats = np.clip(o.by_problem(o.verifier[:, plan]) / np.maximum(read * one, 1e-300), 0.0, 1.0)
        return share

    def _same_samples(self, c: Configuration, strategy: str) -> int | None:
        """A configuration of `strategy` that draws such samples as `c` does."""
        settings = {k: c.hyperparameters.get(k) for k in ("temperature", "top_p")}
        return next(
            (
                i
                for i, other in enumerate(self._outcomes.configurations)
                if other.strategy == strategy
                and other.policy_model == c.policy_model
                and all(other.hyperparameters.get(k) == v for k, v in settings.items())
            ),
            None,
        )

    def _shares(self, plan: int, most: int) -> tuple[Floats, Floats]:
        """What a vote that stops early decodes of all that it may, [P] each: on average and at the 95th percentile."""
        o = self._outcomes
        c = o.configurations[plan]
        whole = self._same_samples(c, "majority")
        if whole is None:
            return np.ones(len(o.problem_ids)), np.ones(len(o.problem_ids))
        one = o.by_problem(o.decode[:, whole]) / o.configurations[whole].samples
        everything = np.maximum(most * one, 1e-300)
        mean = o.by_problem(o.decode[:, plan]) / everything
        # With readings in it, it says nothing of the draws alone: then all of them may be drawn.
        high = o.by_problem(o.cost_p95[:, plan] - o.prefill[:, plan]) / everything if c.verifier is None else 1.0
        return np.clip(mean, 0.0, 1.0), np.clip(high, 0.0, 1.0)

    def _live(self, c: Configuration, engine: Latency, verifier: Latency | None) -> _Seconds | None:
        runs = self._runs
        mine = runs[(runs["strategy"] == c.strategy) & (runs["policy_model"] == c.policy_model)]
        mine = mine[[_same(text, c.hyperparameters) for text in mine["hyperparameters"]]]
        counts = mine[list(_COUNTS)].astype("float64")
        if counts.isna().any(axis=None):
            return None
        scoring = counts["scoring_rounds"].to_numpy()
        seconds = engine.run_seconds(
            calls=counts["rounds"].to_numpy() - scoring,
            input_tokens=counts["prompt_tokens"].to_numpy(),
            steps=counts["decode_steps"].to_numpy(),
            generated=counts["generated_tokens"].to_numpy(),
        )
        if verifier is not None:
            nothing = np.zeros_like(scoring)
            seconds = seconds + verifier.run_seconds(
                calls=scoring, input_tokens=counts["scored_tokens"].to_numpy(), steps=nothing, generated=nothing
            )
        draws = _by_repeat(mine, seconds, self._outcomes.problem_ids)
        return None if draws is None else _Seconds(draws.mean(axis=0), draws, _slowdown(engine, verifier))


def _slowdown(engine: Latency, verifier: Latency | None) -> Floats:
    """Of a plan that asks both, that of whichever spreads more."""
    own = np.array(engine.slowdown)
    return own if verifier is None else np.maximum(own, np.array(verifier.slowdown))


def _same(text: str, hyperparameters: Mapping[str, Any]) -> bool:
    fields = json.loads(text)
    fields.pop("policy_model", None)
    return bool(fields == dict(hyperparameters))


def _by_repeat(rows: pd.DataFrame, seconds: Floats, problem_ids: Sequence[str]) -> Floats | None:
    """[repeats, P], the repeats of a problem that has fewer repeated; None where a problem has none."""
    found: dict[str, list[float]] = {}
    for problem, value in zip(rows["problem_id"], seconds.tolist(), strict=True):
        found.setdefault(str(problem), []).append(value)
    if any(problem not in found for problem in problem_ids):
        return None
    most = max(len(values) for values in found.values())
    return np.array([[found[p][repeat % len(found[p])] for p in problem_ids] for repeat in range(most)])
