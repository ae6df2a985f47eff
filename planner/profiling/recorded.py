"""From a bank's sample rows to the arrays that replay works on, with what each sample costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from planner.models.cost import ModelShape, sampling_cost, scoring_cost
from planner.profiling.replay import Draws
from planner.strategies.scoring import AGGREGATIONS, aggregate

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Pricing", "Recorded", "recorded_samples"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pricing:
    """What tokens are turned into. `unit` is "flops" where every policy model's config is known, else "tokens".

    `by_hand` is what one sample of each policy model costs where somebody said so, in units of their own. Where
    `per_token` is given, costs are linear: units of a prompt token and of a generated one of each policy model, and
    `per_verifier_token` of one that the verifier reads (None: unknown).
    """

    unit: str
    shapes: Mapping[str, ModelShape]
    verifier: ModelShape | None
    verifier_incremental: bool
    by_hand: Mapping[str, float] = field(default_factory=dict)
    per_token: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    per_verifier_token: float | None = None

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Pricing:
        """Read `policy_models` and `verifier` of a bank's manifest."""
        models = manifest.get("policy_models") or {}
        by_hand = {n: float(e["cost_per_sample"]) for n, e in models.items() if (e or {}).get("cost_per_sample")}
        configs = {name: entry["config"] for name, entry in models.items() if (entry or {}).get("config")}
        priced = bool(models) and len(configs) == len(models) and not by_hand
        verifier = manifest.get("verifier") or {}
        config = verifier.get("config")
        return cls(
            unit="flops" if priced else "tokens",
            shapes={n: ModelShape.from_config(c, where=f"config of {n}") for n, c in configs.items()} if priced else {},
            verifier=ModelShape.from_config(config, where="config of the verifier") if priced and config else None,
            verifier_incremental=bool(verifier.get("incremental", False)),
            by_hand=by_hand,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """All samples of one policy model at one temperature.

    `draws` and `tokens` (generated ones) are [P, n]. In the pricing's unit: `prefill` [P] once a prompt; `decode`
    [P, n] for each sample; `scoring_prompt` [P] once a prompt and `scoring` [P, n] for each scored sample (NaN where
    the verifier's price is unknown). `logprobs` [P, n]: mean log-probability of each sample's tokens, NaN unknown.
    """

    policy_model: str
    temperature: float | None
    top_p: float | None
    verifier: str | None
    draws: Draws
    tokens: Floats
    prefill: Floats
    decode: Floats
    scoring_prompt: Floats
    scoring: Floats
    logprobs: Floats | None = None

    @property
    def votes(self) -> bool:
        """Whether any sample has an answer that could be counted."""
        return bool((self.draws.codes >= 0).any())

    def part(self, chosen: NDArray[np.bool_]) -> Recorded:
        """Only the chosen samples [P, n]."""
        return replace(self, draws=replace(self.draws, present=self.draws.present & chosen))


def recorded_samples(
    samples: pd.DataFrame, problem_ids: Sequence[str], pricing: Pricing, notes: list[str]
) -> list[Recorded]:
    """One entry for each policy model, temperature and top_p, in a fixed order; `notes` gets what had to be assumed."""
    keys = ["policy_model", "temperature", "top_p"]
    groups = samples.groupby(keys, dropna=False, sort=True)
    return [_recorded(name, rows, problem_ids, pricing, notes) for name, rows in groups]


def _recorded(
    name: Any, rows: pd.DataFrame, problem_ids: Sequence[str], pricing: Pricing, notes: list[str]
) -> Recorded:
    model, temperature, top_p = (None if _missing(v) else v for v in name)
    row_of = {p: i for i, p in enumerate(problem_ids)}
    rows = rows.sort_values(["problem_id", "index"], kind="stable")
    place = rows["problem_id"].map(row_of).to_numpy(np.int64)
    slot = rows.groupby("problem_id").cumcount().to_numpy(np.int64)
    shape = (len(problem_ids), int(slot.max()) + 1)

    def fill(values: Any, empty: Any, kind: Any) -> NDArray[Any]:
        array = np.full(shape, empty, dtype=kind)
        array[place, slot] = values
        return array

    present = fill(True, False, bool)
    keys, scores = rows["answer_key"].tolist(), rows["scores"].tolist()
    codes = fill(_codes(place.tolist(), keys), -1, np.int64)
    labels = [float(c) if not _missing(c) else np.nan if k is not None and not _missing(k) else 0.0
              for c, k in zip(rows["correct"].tolist(), keys, strict=True)]  # fmt: skip
    scored: dict[str, Floats] = {a: fill([_aggregate(s, a) for s in scores], np.nan, float) for a in AGGREGATIONS}
    known = not np.isnan(scored["last"]).all()
    finished = fill([bool(f) and not _missing(f) for f in rows["finished"].tolist()], False, bool) | (codes >= 0)
    generated, asked = _tokens(str(model), rows, pricing, notes)
    prompt = fill(asked, np.nan, float)
    prompt = np.nan_to_num(np.where(present, prompt, np.nan).max(axis=1, initial=0.0, where=~np.isnan(prompt)))
    tokens = fill(generated, 0.0, float)
    prefill, decode = prompt, tokens
    if pricing.per_token:
        asked_rate, made_rate = pricing.per_token[str(model)]
        prefill, decode = asked_rate * prompt, made_rate * tokens
    elif pricing.unit == "flops":
        prefill, decode = sampling_cost(pricing.shapes[str(model)], prompt[:, None], tokens)
        prefill = np.where(prompt > 0, prefill[:, 0], 0.0)
    verifier = next((str(v) for v in rows["verifier"] if not _missing(v)), None)
    once, each = _scoring(rows, prompt, fill, scores, pricing)
    return Recorded(
        policy_model=str(model), temperature=temperature, top_p=top_p, verifier=verifier if known else None,
        draws=Draws(
            present=present, correct=fill(labels, 0.0, float), codes=codes, finished=finished,
            scores=scored if known else {},
        ),
        tokens=tokens, prefill=prefill, decode=decode, scoring_prompt=once, scoring=each,
        logprobs=fill(_numbers(rows["mean_logprob"]), np.nan, float) if "mean_logprob" in rows else None,
    )  # fmt: skip


def _tokens(model: str, rows: pd.DataFrame, pricing: Pricing, notes: list[str]) -> tuple[Floats, Floats]:
    """Generated and prompt tokens of each row; what is unknown is assumed and noted, and a price by hand is all."""
    if model in pricing.by_hand:
        return np.full(len(rows), pricing.by_hand[model]), np.zeros(len(rows))
    generated, prompt = _numbers(rows["generated_tokens"]), _numbers(rows["prompt_tokens"])
    if np.isnan(generated).any():
        unknown = int(np.isnan(generated).sum())
        assumed = float(np.nanmean(generated)) if unknown < len(generated) else 1.0
        what = f"{assumed:.0f} tokens, the mean of the others" if unknown < len(generated) else "1 unit"
        notes.append(f"{unknown} samples of {model} have no token count and are charged {what}")
        generated = np.nan_to_num(generated, nan=assumed)
    if np.isnan(prompt).all():
        notes.append(f"prompt tokens of {model} are unknown: prefill is left out of its cost")
    return generated, prompt


def _scoring(
    rows: pd.DataFrame, prompt: Floats, fill: Any, scores: list[Any], pricing: Pricing
) -> tuple[Floats, Floats]:
    """Verifier's cost once a prompt [P] and for each sample [P, n]; a verifier that keeps prefixes reads the prompt
    once."""
    tokens = fill(_numbers(rows["verifier_tokens"]), 0.0, float)
    steps = fill([0 if s is None or _missing(s) else len(s) for s in scores], 0, float)
    shared = np.zeros_like(prompt)
    if pricing.verifier_incremental:
        least = np.where(steps > 0, tokens, np.inf).min(axis=1)
        shared = np.minimum(prompt, np.where(np.isfinite(least), least, 0.0))
    own = np.where(steps > 0, tokens - shared[:, None], 0.0)
    if pricing.per_token:
        rate = np.nan if pricing.per_verifier_token is None else pricing.per_verifier_token
        return np.where(shared > 0, rate * shared, 0.0), np.where(steps > 0, rate * own, 0.0)
    if pricing.unit == "tokens" and not pricing.by_hand:
        return shared, own
    if pricing.verifier is None:
        return np.full_like(prompt, np.nan), np.where(steps > 0, np.nan, 0.0)
    each = scoring_cost(pricing.verifier, own, shared[:, None], steps)
    once = np.where(shared > 0, scoring_cost(pricing.verifier, shared, 0, 0), 0.0)
    return once, np.where(steps > 0, each, 0.0)


def _codes(place: list[int], keys: list[Any]) -> list[int]:
    """Answers as numbers, counted from 0 within each problem; -1 for none."""
    seen: dict[tuple[int, str], int] = {}
    used: dict[int, int] = {}
    codes = []
    for row, key in zip(place, keys, strict=True):
        if key is None or _missing(key):
            codes.append(-1)
            continue
        if (row, key) not in seen:
            seen[row, key] = used.get(row, 0)
            used[row] = seen[row, key] + 1
        codes.append(seen[row, key])
    return codes


def _aggregate(scores: Any, how: Any) -> float:
    if scores is None or _missing(scores):
        return float("nan")
    return aggregate([float(s) for s in scores], how)


def _numbers(column: pd.Series[Any]) -> Floats:
    return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)


def _missing(value: Any) -> bool:
    """None, NaN or pandas' NA; a list is never missing."""
    if value is None:
        return True
    if isinstance(value, list | tuple | np.ndarray | str):
        return False
    import pandas as pd

    return bool(pd.isna(value))
