"""The table of published models (published.toml): their shapes by name, so that a cost needs no download."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from planner.errors import InputError
from planner.models.cost import ModelShape

__all__ = ["PublishedModel", "describe_models", "find_published", "published_models"]

_TABLE = Path(__file__).with_name("published.toml")
CONTEXTS = (1, 1_000, 8_000, 32_000)
"""Context lengths, in tokens, that `describe_models` prices a token at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """`ids` are its names on the Hub. `parameters` and `active_parameters` are the published sizes (`shape` has what
    the formula says); `thinking` are the opening and closing delimiter of a reasoning model, None for others."""

    name: str
    ids: tuple[str, ...]
    parameters: int
    active_parameters: int
    thinking: tuple[str, str] | None
    config: Mapping[str, Any]
    shape: ModelShape


@lru_cache(maxsize=1)
def published_models() -> Mapping[str, PublishedModel]:
    """All models of the table by name, in its order."""
    rows = tomllib.loads(_TABLE.read_text(encoding="utf-8"))["models"]
    return {
        row["name"]: PublishedModel(
            name=row["name"],
            ids=tuple(row["ids"]),
            parameters=row["parameters"],
            active_parameters=row.get("active", row["parameters"]),
            thinking=tuple(row["thinking"]) if "thinking" in row else None,
            config=row["config"],
            shape=ModelShape.from_config(row["config"], where=f"{_TABLE.name}, {row['name']}"),
        )
        for row in rows
    }


def find_published(name: str, *, field: str = "model") -> PublishedModel:
    """The model of this name or Hub id (with or without its owner), in any case. Raises InputError with the nearest
    names where there is none."""
    models = published_models()
    known = {
        each.lower(): model
        for model in models.values()
        for full in (*model.ids, model.name)
        for each in (full.rpartition("/")[2], full)
    }
    found = known.get(name.lower())
    if found is None:
        near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
        raise InputError(
            "not in the table of published models",
            field=field,
            value=name,
            expected=", ".join(dict.fromkeys(known[each].name for each in near)) or ", ".join(models),
            hint="`planner models` lists them; for another model give its config.json",
        )
    return found


def describe_models() -> list[dict[str, Any]]:
    """One JSON-able row for each model; `flops_per_token` has the FLOPs of one decoded token, logits included, by
    context length in tokens."""
    return [
        {
            "name": model.name,
            "ids": list(model.ids),
            "architecture": model.shape.model_type,
            "parameters": model.shape.parameters,
            "active_parameters": model.shape.active_parameters,
            "max_context_tokens": model.shape.max_context_tokens,
            "thinking": list(model.thinking) if model.thinking else None,
            "flops_per_token": {
                str(tokens): model.shape.decode_flops(float(tokens - 1), 1.0)
                for tokens in CONTEXTS
                if tokens <= model.shape.max_context_tokens
            },
        }
        for model in published_models().values()
    ]
