"""The policy folder: text files only, so that loading a stranger's policy runs no code.

policy.json       plans, table, buckets, units, fingerprints, provenance
evaluation.json   what held-out problems showed
predictor/        the difficulty predictor's own text files
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.errors import PolicyError

__all__ = ["SCHEMA_VERSION", "PolicyDocument", "read_policy", "write_policy"]

SCHEMA_VERSION = 1
_POLICY, _EVALUATION = "policy.json", "evaluation.json"
_NEEDED = ("unit", "reference_cost", "bucket_edges", "plans", "table")


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """`policy` and `evaluation` as their files have them; `evaluation` is {} where there is none."""

    folder: Path
    policy: dict[str, Any]
    evaluation: dict[str, Any]


def read_policy(folder: str | Path) -> PolicyDocument:
    """Read both files. Raises PolicyError where one is missing, is not JSON, lacks a field or has another schema
    version."""
    path = Path(folder)
    policy = _read(path / _POLICY)
    version = policy.get("schema_version")
    if version != SCHEMA_VERSION:
        raise PolicyError(
            "written by another schema version", where=str(path / _POLICY), field="schema_version", value=version,
            expected=str(SCHEMA_VERSION), hint="Fit the policy again with this version",
        )  # fmt: skip
    for field in _NEEDED:
        if policy.get(field) is None:
            raise PolicyError("missing", where=str(path / _POLICY), field=field, hint="Fit the policy again")
    evaluation = _read(path / _EVALUATION) if (path / _EVALUATION).exists() else {}
    return PolicyDocument(path, policy, evaluation)


def write_policy(
    folder: str | Path,
    policy: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    save_predictor: Callable[[Path], object],
) -> Path:
    """Write the folder whole or not at all: everything goes to a sibling folder that then takes the name.

    `save_predictor` is given the predictor's folder. An earlier policy there is replaced; any other folder that is not
    empty is refused.
    """
    path = Path(folder)
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not (path / _POLICY).exists())):
        raise PolicyError("exists and is no policy folder", where=str(path), hint="Name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        for name, document in ((_POLICY, policy), (_EVALUATION, evaluation)):
            _write(fresh / name, document)
        save_predictor(fresh / "predictor")
        fresh.chmod(0o755)
        if path.exists():
            old = fresh.with_name(fresh.name + ".old")
            path.rename(old)
            fresh.rename(path)
            shutil.rmtree(old)
        else:
            fresh.rename(path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return path


def _write(path: Path, document: Mapping[str, Any]) -> None:
    text = json.dumps(_plain(document), ensure_ascii=False, indent=1, allow_nan=False)
    with path.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def _plain(value: Any) -> Any:
    """Floats to nine digits, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PolicyError("no such file", where=str(path), hint="Fit a policy with `planner fit`") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PolicyError(f"not readable as JSON: {error}", where=str(path), hint="Fit the policy again") from error
    if not isinstance(document, dict):
        raise PolicyError("holds no JSON object", where=str(path), hint="Fit the policy again")
    return document
