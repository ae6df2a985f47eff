"""The heads of process reward models that do not score by two tokens' logits: a value, or two classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from planner.errors import InputError

__all__ = ["ScoreHead"]


class ScoreHead:
    """Linear layers named `layers` in the checkpoint's safetensors, ReLU between them; computed in float32.

    One output becomes a score by the sigmoid, two by the softmax's second class. Raises InputError where a layer is
    missing or does not fit.
    """

    def __init__(self, folder: str | Path, layers: Sequence[str], device: torch.device, width: int) -> None:
        weights = _read(Path(folder), layers)
        self._layers: list[tuple[Tensor, Tensor]] = []
        for name in layers:
            if f"{name}.weight" not in weights:
                raise InputError(
                    "the checkpoint's safetensors hold no such layer", where=str(folder), field="head", value=name,
                    expected=f"{name}.weight", hint="Is this the card of another model?",
                )  # fmt: skip
            weight = weights[f"{name}.weight"].float().to(device)
            if weight.shape[1] != width:
                raise InputError(
                    f"takes {weight.shape[1]} values", where=str(folder), field="head", value=name, expected=str(width)
                )
            bias = weights.get(f"{name}.bias", torch.zeros(len(weight)))
            self._layers.append((weight, bias.float().to(device)))
            width = len(weight)
        if width not in (1, 2):
            raise InputError(
                f"ends in {width} outputs", where=str(folder), field="head", value=list(layers), expected="one or two"
            )

    def __call__(self, hidden: Tensor) -> Tensor:
        """Scores (rows,) in [0, 1] from hidden states (rows, width)."""
        x = hidden.float()
        for number, (weight, bias) in enumerate(self._layers):
            x = torch.nn.functional.linear(x.relu() if number else x, weight, bias)
        return x[:, 0].sigmoid() if x.shape[1] == 1 else x.softmax(-1)[:, 1]


def _read(folder: Path, layers: Sequence[str]) -> dict[str, Tensor]:
    names = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            found.update({name: tensors.get_tensor(name) for name in tensors.keys() if name in names})  # noqa: SIM118
    return found
