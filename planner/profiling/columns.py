"""Configurations and what each achieves and costs: the columns of the outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.core import stable_hash
from planner.strategies import paths_in_flight

__all__ = ["Z95", "Columns", "Configuration", "masked_mean"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Z95 = 1.645


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A strategy with its hyperparameters (without `policy_model`), the model that runs it and the verifier it asks."""

    strategy: str
    hyperparameters: Mapping[str, Any]
    policy_model: str
    verifier: str | None = None

    @property
    def key(self) -> str:
        return stable_hash(self.strategy, dict(self.hyperparameters), self.policy_model, self.verifier)

    @property
    def samples(self) -> int:
        """Samples or paths in flight, the papers' N; 1 for greedy."""
        return paths_in_flight(self.hyperparameters)

    @property
    def label(self) -> str:
        fields = ", ".join(f"{k}={v}" for k, v in self.hyperparameters.items() if k not in {"top_p", "max_step_tokens"})
        return f"{self.strategy}({fields}) {self.policy_model}"


@dataclass(slots=True)
class Columns:
    """Configurations as they are found: accuracy [R], the other arrays [problems]."""

    keys: set[str] = field(default_factory=set)
    configurations: list[Configuration] = field(default_factory=list)
    accuracy: list[Floats] = field(default_factory=list)
    parts: list[tuple[Floats, Floats, Floats, Floats]] = field(default_factory=list)

    def add(self, configuration: Configuration, accuracy: Floats, parts: tuple[Floats, Floats, Floats, Floats]) -> None:
        if np.isnan(accuracy).any() or configuration.key in self.keys:
            return
        self.keys.add(configuration.key)
        self.configurations.append(configuration)
        self.accuracy.append(accuracy)
        self.parts.append(parts)


def masked_mean(values: Floats, present: NDArray[np.bool_], sizes: Ints) -> Floats:
    mean: Floats = np.where(present, values, 0.0).sum(axis=1) / np.maximum(sizes, 1)
    return mean
