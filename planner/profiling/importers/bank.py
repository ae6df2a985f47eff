"""The import itself: files to records, records to rows, rows looked over for damage, and a bank written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.core import stable_hash
from planner.errors import InputError
from planner.models.cost import ModelShape, sampling_cost
from planner.profiling.bank import Bank, packages
from planner.profiling.importers import inspect_ai
from planner.profiling.importers.damage import contradictions, misplaced
from planner.profiling.importers.formats import FORMATS, detect
from planner.profiling.importers.records import stem
from planner.profiling.importers.rows import Assumed, Rows
from planner.profiling.importers.runs import named_strategy
from planner.tasks.files import IDS, first_of, read_records

__all__ = ["ImportReport", "import_bank"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What was imported and what had to be assumed; `flags` also stand in the bank's manifest."""

    bank: Bank
    formats: tuple[str, ...]
    problems: int
    samples: int
    runs: int
    policy_models: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "bank": str(self.bank.path), "formats": list(self.formats), "problems": self.problems,
            "samples": self.samples, "runs": self.runs, "policy_models": list(self.policy_models),
            "warnings": list(self.warnings),
        }  # fmt: skip


def import_bank(
    files: Sequence[str | Path], out: str | Path, *, format: str | None = None, policy: str | None = None,
    config: str | Path | Mapping[str, str | Path] | None = None, verifier_config: str | Path | None = None,
    prompts: str | Path | None = None, temperature: float | None = None,
    strategy: str | None = None, hyperparameters: Mapping[str, Any] | None = None,
    costs: Mapping[str, float] | None = None, allow_damaged: bool = False,
) -> ImportReport:  # fmt: skip
    """Make a new bank in the folder `out`; nothing is written before everything was read.

    `format` is one of FORMATS, by default what each file is recognised as. `policy`, `temperature`, `strategy`
    ("samples" for independent samples) and `hyperparameters` say what files do not say themselves. `config` is the
    model's config.json (of several models: their names' configs): costs are FLOPs with it and tokens without;
    `verifier_config` is the verifier's, whose cost in FLOPs is unknown without. `costs` prices one sample of each
    policy model by hand instead, in units of your own. `prompts` is a file of problems, joined by their id or their
    text.

    Raises InputError naming file, line and field, and for completions that stand under other problems than their own
    (unless `allow_damaged`, which flags them); BankError where `out` is not an empty folder.
    """
    if not files:
        raise InputError("no file was given", field="files")
    if format is not None and format not in FORMATS:
        raise InputError("unknown format", field="format", value=format, expected=", ".join(FORMATS))
    assumed = Assumed(policy=policy, temperature=temperature, strategy=strategy, hyperparameters=hyperparameters)
    rows, notes = Rows(assumed, _prompts(prompts) if prompts else {}), list[str]()
    digests, formats = dict[str, Path](), dict[str, None]()
    parts: dict[str, list[dict[str, Any]]] = {}
    for path in map(Path, files):
        name = format or detect(path)
        if name == "inspect-ai" and len(files) > 1 and inspect_ai.is_header(path):
            continue
        digest = _digest(path)
        if digest in digests:
            raise InputError(f"the same file as {digests[digest]}: its samples would count twice", where=str(path))
        digests[digest], before = path, len(rows.samples)
        formats.setdefault(name)
        _read(path, name, rows, notes)
        parts[path.name] = rows.samples[before:]
    damage = misplaced(rows.problems, rows.samples)
    if damage and not allow_damaged:
        raise InputError(
            f"completions stand under other problems than their own: {'; '.join(damage)}",
            where=", ".join(parts), hint="Get the file again, or import it as it is with --allow-damaged",
        )  # fmt: skip
    rows.finish()
    models = sorted({row["policy_model"] for row in (*rows.samples, *rows.runs)})
    shapes, priced = _shapes(config, models), _costs(costs, models)
    verifier = _verifier(list(rows.verifiers), sorted(digests), verifier_config)
    _price(rows.runs, shapes)
    flags = [
        *(f"damaged: {reason}" for reason in damage), *rows.flags(), *contradictions(parts),
        *(["costs were given by hand for one sample of each policy model: tokens are those units"] if priced else []),
    ]  # fmt: skip
    manifest = {
        "source": "import",
        "policy_models": {
            model: {
                "fingerprint": f"recorded:{stable_hash(model, sorted(digests))}",
                "config": shapes[model].to_dict() if shapes else None,
                "parameters": shapes[model].parameters if shapes else None,
                "caches_prefixes": False,
                **({"cost_per_sample": priced[model]} if priced else {}),
            }
            for model in models
        },
        "verifier": verifier,
        "task": {"name": ", ".join(path.name for path in digests.values()), "problems": len(rows.problems)},
        "packages": packages(),
        "notes": notes,
        "flags": flags,
    }
    bank = Bank.create(out, manifest)
    bank.append_problems(list(rows.problems.values()))
    bank.append_samples(rows.samples)
    bank.append_runs(rows.runs)
    return ImportReport(
        bank=bank, formats=tuple(formats), problems=len(rows.problems),
        samples=sum(row["role"] != "path" for row in rows.samples), runs=len(rows.runs),
        policy_models=tuple(models), warnings=(*notes, *flags),
    )  # fmt: skip


def _read(path: Path, name: str, rows: Rows, notes: list[str]) -> None:
    guessed: str | None = None
    for where, record in FORMATS[name].read(path, notes):
        strategy = rows.assumed.strategy or record.get("strategy")
        if strategy is None and "strategy" not in record:
            guessed = strategy = named_strategy(path)
            if strategy is None and name == "search-and-learn":
                raise InputError(
                    "neither the file nor its name tells which strategy wrote it", where=str(path),
                    hint="Say so with --strategy: samples, beam_search or dvts",
                )  # fmt: skip
        rows.add(record, where, source=stem(path), strategy=None if strategy == "samples" else strategy)
    if guessed not in (None, "samples"):
        notes.append(
            f"{path.name}: taken for runs of {guessed} by its name; what is not recorded takes the strategy's defaults"
        )


def _prompts(path: str | Path) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for where, record in read_records(path):
        name = first_of(record, IDS)
        if name is None:
            raise InputError("missing", where=where, field="problem_id", expected=" or ".join(IDS))
        found[str(name[1])] = record
    return found


def _shapes(config: str | Path | Mapping[str, str | Path] | None, models: list[str]) -> Mapping[str, ModelShape]:
    """Every policy model's, or none."""
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        if len(models) != 1:
            raise InputError(
                f"one config for {len(models)} policy models", field="config", value=str(config),
                expected=", ".join(f"{model}=CONFIG" for model in models),
            )  # fmt: skip
        config = {models[0]: config}
    if set(config) != set(models):
        raise InputError(
            "not one config for each policy model", field="config", value=", ".join(sorted(config)),
            expected=", ".join(models),
        )  # fmt: skip
    return {model: _read_shape(path) for model, path in config.items()}


def _read_shape(config: str | Path) -> ModelShape:
    try:
        document = json.loads(Path(config).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"cannot be read: {error}", where=str(config), expected="the model's config.json") from error
    return ModelShape.from_config(document, where=str(config))


def _costs(costs: Mapping[str, float] | None, models: list[str]) -> Mapping[str, float]:
    if not costs:
        return {}
    missing, unknown = [m for m in models if m not in costs], [m for m in costs if m not in models]
    if missing or unknown or not all(0 < cost < float("inf") for cost in costs.values()):
        raise InputError(
            "does not price each policy model", field="cost", value=dict(costs),
            expected=", ".join(f"{model}=UNITS" for model in models),
        )  # fmt: skip
    return costs


def _price(runs: Sequence[dict[str, Any]], shapes: Mapping[str, ModelShape]) -> None:
    """FLOPs of runs whose model and tokens are known; a verifier's are not recorded."""
    for row in runs:
        shape = shapes.get(row["policy_model"])
        if shape is not None and row["generated_tokens"] is not None:
            prompt = row["prompt_tokens"] or 0
            prefill, decode = sampling_cost(shape, prompt, float(row["generated_tokens"]))
            row |= {"prefill_flops": float(prefill) if prompt else None, "decode_flops": float(decode)}


def _verifier(names: list[str], digests: list[str], config: str | Path | None) -> dict[str, Any] | None:
    if not names:
        if config is not None:
            raise InputError("no sample has a verifier's scores", field="verifier_config", value=str(config))
        return None
    if len(names) > 1:
        raise InputError(
            f"scores of {len(names)} verifiers ({', '.join(names)}): a bank has one", field="verifier",
            hint="Import one at a time",
        )  # fmt: skip
    fingerprint = f"recorded:{stable_hash('verifier', digests)}"
    shape = None if config is None else _read_shape(config)
    return {
        "name": names[0], "fingerprint": fingerprint, "config": shape.to_dict() if shape else None,
        "parameters": shape.parameters if shape else None, "incremental": False,
    }  # fmt: skip


def _digest(path: Path) -> str:
    found = hashlib.blake2b(digest_size=16)
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        found.update(file.read_bytes())
    return found.hexdigest()
