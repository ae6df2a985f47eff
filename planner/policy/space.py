"""The conditional space that the search walks: policy model, strategy, then the strategy's own hyperparameters.

The space is what the bank measured. At every level only values that some measured configuration has under the choices
made before are offered, so each trial ends at one configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from planner.profiling.outcomes import Configuration

if TYPE_CHECKING:
    import optuna

__all__ = ["Space", "mask"]


def mask(configurations: Sequence[Configuration], *, verifier: str | None) -> list[int]:
    """Indices of configurations that can be run: those that ask a verifier only where there is that one."""
    return [i for i, c in enumerate(configurations) if c.verifier is None or c.verifier == verifier]


class Space:
    """A tree over configurations; `suggest` walks it from root to leaf."""

    def __init__(self, configurations: Sequence[Configuration], members: Iterable[int]) -> None:
        self.members = list(members)
        fields: dict[str, set[str]] = {}
        for i in self.members:
            fields.setdefault(configurations[i].strategy, set()).update(configurations[i].hyperparameters)
        self.labels = {i: f"{configurations[i].label} {configurations[i].key[:8]}" for i in self.members}
        self._paths = {i: _path(configurations[i], sorted(fields[configurations[i].strategy])) for i in self.members}

    def __len__(self) -> int:
        return len(self.members)

    def suggest(self, trial: optuna.Trial) -> int:
        """The index of the configuration that this trial asks for."""
        return self._walk(lambda name, choices, _: trial.suggest_categorical(name, choices))

    def parameters(self, member: int) -> dict[str, Any]:
        """The parameters with which a trial asks for this configuration, for `Study.enqueue_trial`."""
        found: dict[str, Any] = {}

        def take(name: str, choices: Sequence[Any], depth: int) -> Any:
            found[name] = self._paths[member][depth][1]
            return found[name]

        self._walk(take)
        return found

    def _walk(self, choose: Callable[[str, Sequence[Any], int], Any]) -> int:
        """From root to leaf by `choose` (parameter's name, what it offers, depth).

        A parameter is named by what it is and what it offers: Optuna allows one set of choices for a name.
        """
        left, depth = self.members, 0
        while len(left) > 1:
            options: dict[Any, list[int]] = {}
            for i in left:
                options.setdefault(self._paths[i][depth][1], []).append(i)
            if len(options) > 1:
                field = self._paths[left[0]][depth][0]
                choices = sorted(options, key=lambda v: (str(type(v)), v))
                name = f"{field} in {', '.join(map(str, choices))}"
                left = options[choose(name, choices, depth)]
            depth += 1
        return left[0]


def _path(c: Configuration, fields: Sequence[str]) -> list[tuple[str, Any]]:
    values = [(f"{c.strategy}.{name}", c.hyperparameters.get(name)) for name in fields]
    return [("policy_model", c.policy_model), ("strategy", c.strategy), *values, ("verifier", c.verifier)]
