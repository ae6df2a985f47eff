"""Open a local transformers checkpoint: model, tokenizer, shape and fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from planner.core import stable_hash
from planner.errors import InputError
from planner.models.cost import ModelShape

__all__ = ["Checkpoint", "file_digests", "open_checkpoint"]

_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`digest` changes with weights, tokenizer, template or number type."""

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    shape: ModelShape
    digest: str


def open_checkpoint(folder: str | Path, *, device: str | None = None, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Load from a folder; nothing is ever fetched. `device` None: a GPU if there is one.

    Raises:
        InputError: no such folder, no config.json in it, or an architecture whose cost is unknown.
    """
    path = Path(folder)
    config_file = path / "config.json"
    if not config_file.is_file():
        raise InputError(
            "no checkpoint there",
            where=str(path),
            field="config.json",
            expected="a folder that transformers saved a model to",
        )
    config: dict[str, Any] = json.loads(config_file.read_text())
    shape = ModelShape.from_config(config, where=str(config_file))
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with _no_bars():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, local_files_only=True, attn_implementation="sdpa"
        )
    model.to(place).eval()  # type: ignore[arg-type, unused-ignore]
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, local_files_only=True)
    return Checkpoint(path, model, tokenizer, shape, stable_hash(file_digests(path), str(dtype)))


@contextmanager
def _no_bars() -> Iterator[None]:
    """transformers draws a bar for every file that it loads; ours would be torn apart by it."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def file_digests(path: Path) -> list[tuple[str, str]]:
    """(name, digest) of each file of a checkpoint that changes what it computes."""
    weights = sorted(file.name for file in path.glob("*.safetensors"))
    files = [path / name for name in (*_FILES, *weights)]
    return [(file.name, _digest(file)) for file in files if file.is_file()]


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").hexdigest()[:32]
