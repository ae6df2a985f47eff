"""Is a small policy model with search worth a larger one, in every account that a bank can be priced in.

- `architecture`: FLOPs by the models' configs; `2nd`: the papers' 2 x parameters x tokens. Both give the small model
  k = M + 3 (M - 1) / R times its own single answer (see `planner.policy.sizes`).
- `units`: costs that were given by hand at import, taken for FLOPs where the models' sizes are known.
- `usd`: a price list. Here the small model may spend what the larger one's single answer costs, since a price already
  holds the training; that is asked of the other accounts as well (R null).

Each account is taken with the verifier's part of the cost and without it, as published comparisons have it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.errors import InputError
from planner.models.cost import ModelShape
from planner.policy.sizes import RATIOS, size_comparisons
from planner.policy.statistics import Resamples
from planner.profiling.outcomes import Outcomes, outcomes_from_bank
from planner.profiling.recorded import Pricing

if TYPE_CHECKING:
    from planner.profiling.bank import Bank

__all__ = ["PriceList", "compare_accounts", "read_prices"]

_MILLION = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceList:
    """USD of a million tokens: `models` (prompt, generated) of each policy model, `verifiers` of what each reads."""

    models: Mapping[str, tuple[float, float]]
    verifiers: Mapping[str, float] = field(default_factory=dict)


def read_prices(path: str | Path) -> PriceList:
    """A price list (TOML): `[models.NAME]` with `input` and `output`, `[verifiers.NAME]` with `input`, in USD of a
    million tokens. Raises InputError naming the field."""
    where = str(path)
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"cannot be read: {error}", where=where, expected="a price list: [models.NAME] with input and output"
        ) from error
    unknown = sorted(set(document) - {"models", "verifiers"})
    if unknown or not document.get("models"):
        raise InputError(
            "not a price list", where=where, field=unknown[0] if unknown else "models",
            expected="[models.NAME] with `input` and `output`, [verifiers.NAME] with `input`: USD of a million tokens",
        )  # fmt: skip
    return PriceList(
        models={
            name: (_price(entry, f"models.{name}", "input", where), _price(entry, f"models.{name}", "output", where))
            for name, entry in document["models"].items()
        },
        verifiers={
            name: _price(entry, f"verifiers.{name}", "input", where)
            for name, entry in document.get("verifiers", {}).items()
        },
    )


def _price(entry: Any, section: str, name: str, where: str) -> float:
    value = entry.get(name) if isinstance(entry, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise InputError(
            "not a price", where=where, field=f"{section}.{name}", value=value, expected="USD of a million tokens"
        )
    return float(value)


def compare_accounts(
    bank: Bank, *, parameters: Mapping[str, float] | None = None, prices: PriceList | None = None,
    ratios: Sequence[float] = RATIOS, folds: int = 5, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The comparison of `planner.policy.sizes.size_comparisons` in each account that the bank can be priced in.

    `parameters` names sizes (of policy models and of the verifier) that the bank does not know, `prices` adds USD.
    Returns `models` (name, parameters, and what its single answer costs in each account), `rows` (an entry of
    `size_comparisons` each, with `account` and `verifier`: "counted", "left out" or "none"), `missing` (accounts that
    could not be had, with the reason) and `notes`. Raises InputError where fewer than two policy models can be told by
    size or price, and what `outcomes_from_bank` raises.
    """
    manifest = bank.manifest
    own, judge = Pricing.from_manifest(manifest), manifest.get("verifier") or {}
    sizes = _sizes(manifest) | dict(parameters or {})
    models = sorted({*(manifest.get("policy_models") or {})})
    if len(models) < 2:
        raise InputError(
            "holds one policy model: there is no larger one to compare it with", field="bank", value=models,
            hint="Profile or import two sizes into one bank",
        )  # fmt: skip
    accounts, missing = _accounts(own, models, sizes, judge.get("name"), prices)
    rows: list[dict[str, Any]] = []
    costs: dict[str, dict[str, float]] = {name: {} for name in models}
    notes: list[str] = []
    for account, pricing in accounts.items():
        outcomes = outcomes_from_bank(bank, pricing=pricing, seed=seed)
        notes += outcomes.notes
        resamples = Resamples.draw(len(outcomes.problem_ids), seed=seed)
        single = _singles(outcomes)
        for name, cost in single.items():
            costs[name][account] = cost
        by_size = {name: sizes[name] for name in models if name in sizes}
        told = len(by_size) == len(models)
        asked: list[float | None] = [None] if account == "usd" or not told else [*ratios, None]
        if account in ("usd", "units") and not told:
            by_size = single  # the dearer one is the larger one
        verified = any(c.verifier for c in outcomes.configurations)
        for counted in (True, False) if verified else (True,):
            priced = outcomes if counted else replace(outcomes, verifier=np.zeros_like(outcomes.verifier))
            if counted and np.isnan(outcomes.verifier).any():
                missing[f"{account}, verifier counted"] = "the verifier's size or price is unknown"
                continue
            found = size_comparisons(priced, by_size, resamples, ratios=asked, folds=folds, seed=seed)
            said = "none" if not verified else "counted" if counted else "left out"
            rows += [{"account": account, "verifier": said} | row for row in found]
    if not rows:
        raise InputError(
            "cannot tell two policy models by their size or price", field="parameters", value=sorted(sizes),
            expected=f"sizes of at least two of {', '.join(models)}",
            hint="Give --parameters MODEL=8e9 for each, or --prices FILE",
        )  # fmt: skip
    return {
        "models": [{"name": name, "parameters": sizes.get(name), "single_answer": costs[name]} for name in models],
        "verifier": {"name": judge["name"], "parameters": sizes.get(judge["name"])} if judge.get("name") else None,
        "problems": len(bank.problems), "rows": rows, "missing": missing, "notes": list(dict.fromkeys(notes)),
    }  # fmt: skip


def _sizes(manifest: Mapping[str, Any]) -> dict[str, float]:
    """Parameters of policy models and verifier, where the bank knows them."""
    verifier = manifest.get("verifier") or {}
    entries = {
        **(manifest.get("policy_models") or {}),
        **({verifier["name"]: verifier} if verifier.get("name") else {}),
    }
    found = {}
    for name, entry in entries.items():
        if (entry or {}).get("config"):
            found[name] = float(ModelShape.from_config(entry["config"], where=f"config of {name}").parameters)
        elif (entry or {}).get("parameters"):
            found[name] = float(entry["parameters"])
    return found


def _accounts(
    own: Pricing, models: Sequence[str], sizes: Mapping[str, float], verifier: str | None, prices: PriceList | None
) -> tuple[dict[str, Pricing], dict[str, str]]:
    """Pricing of each account, and why one is not there."""
    found: dict[str, Pricing] = {}
    missing: dict[str, str] = {}
    if own.by_hand:
        found["units"] = own
        missing["architecture"] = missing["2nd"] = "costs were given by hand"
    else:
        if own.unit == "flops":
            found["architecture"] = own
        else:
            missing["architecture"] = "not every policy model's config is known"
        if all(name in sizes for name in models):
            active = {name: float(shape.active_parameters) for name, shape in own.shapes.items()}
            judge = None if verifier is None else sizes.get(verifier)
            if own.verifier is not None:
                judge = float(own.verifier.active_parameters)
            twice = {name: 2 * active.get(name, sizes[name]) for name in models}
            found["2nd"] = replace(
                own, unit="flops", per_token={name: (rate, rate) for name, rate in twice.items()},
                per_verifier_token=None if judge is None else 2 * judge,
            )  # fmt: skip
        else:
            missing["2nd"] = f"sizes of {', '.join(n for n in models if n not in sizes)} are unknown"
    if prices is None:
        missing["usd"] = "no price list was given"
    elif own.by_hand:
        missing["usd"] = "costs were given by hand"
    else:
        absent = [name for name in models if name not in prices.models]
        if absent:
            raise InputError(
                "has no price", field="prices", value=absent, expected="[models.NAME] for each policy model of the bank"
            )
        judge = None if verifier is None else prices.verifiers.get(verifier)
        found["usd"] = replace(
            own, unit="usd",
            per_token={n: (prices.models[n][0] / _MILLION, prices.models[n][1] / _MILLION) for n in models},
            per_verifier_token=None if judge is None else judge / _MILLION,
        )  # fmt: skip
    return found, missing


def _singles(outcomes: Outcomes) -> dict[str, float]:
    """What a single answer of each policy model costs on average, greedy where there is one."""
    found: dict[str, tuple[bool, float]] = {}
    for i, c in enumerate(outcomes.configurations):
        if c.samples == 1 and c.verifier is None:
            entry = (c.strategy != "greedy", float(outcomes.cost[:, i].mean()))
            found[c.policy_model] = min(found.get(c.policy_model, entry), entry)
    return {name: cost for name, (_, cost) in found.items()}
