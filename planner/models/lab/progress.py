"""How far a training run is, how its learning rate follows, and the checkpoint that lets it go on."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

__all__ = [
    "Limit",
    "Position",
    "Tell",
    "load_checkpoint",
    "report_line",
    "save_checkpoint",
    "say",
    "scheduled",
    "training_device",
]

Tell = Callable[[float, str], None]
"""Told now and then how far a run is: its finished share in [0, 1], and a line for people."""


@dataclass(slots=True)
class Position:
    """Where a run is. A chunk is finished before it is saved, so a resumed run sees no problem twice."""

    chunk: int = 0
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """When a run ends: after this many tokens or minutes, whichever comes first."""

    tokens: float = math.inf
    minutes: float = math.inf

    def share(self, position: Position) -> float:
        """Finished share of the run in [0, 1]."""
        return min(1.0, max(position.tokens / self.tokens, position.seconds / 60 / self.minutes))

    def times(self, scale: float) -> Limit:
        """`scale` times as much of both."""
        return Limit(tokens=self.tokens * scale, minutes=self.minutes * scale)


def scheduled(peak: float, share: float) -> float:
    """Warm-up over the first 2 %, then a cosine down to 2 % of the peak."""
    if share < 0.02:
        return peak * max(share, 1e-4) / 0.02
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (share - 0.02) / 0.98)))


def training_device() -> torch.device:
    """A GPU where torch sees one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def say(_share: float, line: str) -> None:
    """Print a line of progress at once."""
    print(line, flush=True)


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """Write all that resuming needs; a kill in the middle leaves the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "position": asdict(position)}, partial
    )
    os.replace(partial, path)


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    """Restore a run; a new one where nothing was saved."""
    if not path.exists():
        return Position()
    state = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Position(**state["position"])


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def report_line(name: str, position: Position, share: float, started: float, began_at: float, loss: float) -> str:
    """One line of progress with the time left, judged by this session's own pace."""
    spent = time.monotonic() - started
    left = spent * (1 - share) / max(share - began_at, 1e-6)
    return (
        f"{name} {share:6.1%} step {position.step} {position.tokens / 1e6:.2f}M tokens "
        f"{clock(position.seconds)} spent, {clock(left)} left, loss {loss:.4f}"
    )
