"""What parallel plans give and cost along given orders of the recorded samples.

Means over orders cannot tell what a plan gives once its first samples are known: here every order keeps its own value,
so that a plan can be judged by what a probe showed along the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.profiling.columns import Configuration
from planner.profiling.recorded import Recorded
from planner.profiling.replay import Draws, Orders, replay_dirichlet, right_answers, weights_of
from planner.profiling.stopping import StopRule, VotePaths

__all__ = ["Along", "selected", "shares_samples"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SHARING = ("majority", "adaptive_majority", "best_of_n", "odds_vote")


def shares_samples(configuration: Configuration, recorded: Recorded) -> bool:
    """Whether the configuration begins with samples such as these, so that what was drawn before it can be kept."""
    wanted = {"temperature": recorded.temperature, "top_p": recorded.top_p}
    return (
        configuration.strategy in _SHARING
        and configuration.policy_model == recorded.policy_model
        and all(configuration.hyperparameters.get(name) == value for name, value in wanted.items())
    )


@dataclass(frozen=True, slots=True)
class Along:
    """C configurations along R orders of P problems' samples: `value` [C, R, P] (correctness, ties share), `drawn`
    [C, R, P] samples, `scored` [C] whether each is scored. `decode` and `scoring` [R, P, n] are what the first samples
    cost together; `once` and `scoring_once` [P] are charged once a prompt."""

    value: NDArray[np.float32]
    drawn: NDArray[np.int16]
    scored: NDArray[np.bool_]
    decode: Floats
    scoring: Floats
    once: Floats
    scoring_once: Floats

    @classmethod
    def of(cls, recorded: Recorded, orders: Orders, configurations: Sequence[Configuration]) -> Along:
        """All `configurations` have to share the samples (`shares_samples`). A problem with fewer samples than a
        configuration draws keeps its value at its own number."""
        draws, index = recorded.draws, orders.index
        repeats, problems, n = index.shape
        paths = VotePaths.of(draws, orders, recorded.tokens)
        at = np.ogrid[:repeats, :problems]
        most = np.maximum(draws.counts, 1)[None]
        chosen: dict[tuple[str, str], NDArray[np.float32]] = {}
        value = np.empty((len(configurations), repeats, problems), np.float32)
        drawn = np.empty(value.shape, np.int16)
        for c, configuration in enumerate(configurations):
            fields = configuration.hyperparameters
            path = paths.value
            if configuration.strategy == "adaptive_majority":
                count = _stops(paths, draws, orders, fields)
            else:
                count = np.full((repeats, problems), int(fields["n"]))
            if configuration.strategy in ("best_of_n", "odds_vote"):
                kind = (str(fields["aggregation"]), str(fields.get("selection", "odds")))
                if kind not in chosen:
                    chosen[kind] = selected(draws, index, *kind)
                path = chosen[kind]
            count = np.clip(count, 1, np.minimum(most, n))
            value[c], drawn[c] = path[count - 1, at[0], at[1]], count
        return cls(
            value, drawn, np.array([c.verifier is not None for c in configurations], np.bool_),
            _cumulated(recorded.decode, draws, index), _cumulated(recorded.scoring, draws, index),
            recorded.prefill, recorded.scoring_prompt,
        )  # fmt: skip

    def cost(self, configuration: int, *, least: int = 0, least_scored: int = 0) -> tuple[Floats, Floats]:
        """Generation and scoring, [R, P] each, where at least so many samples are drawn and scored whatever the
        configuration asks for."""
        drawn = self.drawn[configuration].astype(np.int64)
        asked = np.maximum(drawn if self.scored[configuration] else 0, least_scored)
        return self.spent(np.maximum(drawn, least)), self.scoring_of(asked)

    def spent(self, drawn: Ints | int) -> Floats:
        """Generation of the first `drawn` samples, [R, P]."""
        return self.once + _at(self.decode, drawn)

    def scoring_of(self, drawn: Ints | int) -> Floats:
        """Scoring of the first `drawn` samples, [R, P]; an unknown price is left out."""
        none = np.broadcast_to(np.asarray(drawn) == 0, self.decode.shape[:2])
        return np.where(none, 0.0, np.nan_to_num(self.scoring_once + _at(self.scoring, drawn)))


def _at(cumulated: Floats, drawn: Ints | int) -> Floats:
    place = np.broadcast_to(np.asarray(drawn, np.int64) - 1, cumulated.shape[:2]).clip(0, cumulated.shape[2] - 1)
    found: Floats = np.take_along_axis(cumulated, place[:, :, None], axis=2)[:, :, 0]
    return found


def _cumulated(each: Floats, draws: Draws, index: Ints) -> Floats:
    values = np.where(draws.present, each, 0.0)
    total: Floats = np.cumsum(np.take_along_axis(np.broadcast_to(values, index.shape), index, axis=2), axis=2)
    return total


def _stops(paths: VotePaths, draws: Draws, orders: Orders, fields: Mapping[str, Any]) -> Ints:
    most, threshold, batch = int(fields["max_n"]), float(fields["threshold"]), int(fields.get("batch", 2))
    if fields.get("posterior") == "dirichlet":
        return replay_dirichlet(draws, orders, [(most, threshold, batch)])[0][1]
    rule = StopRule(
        threshold=threshold, batch=batch, give_up_tokens=fields.get("give_up_tokens"), min_n=fields.get("min_n")
    )
    return np.minimum(paths.stops(rule), most)


def selected(draws: Draws, index: Ints, aggregation: str, selection: str) -> NDArray[np.float32]:
    """Correctness of what is selected among the first k samples, [n, R, P], as `strategies.scoring.select` does."""
    score = draws.scores[aggregation]
    known = ~np.isnan(score) & draws.present
    tier = np.where(draws.present, 2 * draws.finished + known, -1)
    # One number orders candidates: an unfinished one stands behind every finished, an unscored behind every scored.
    place = np.unique(np.stack((tier.ravel(), np.nan_to_num(score).ravel())), axis=1, return_inverse=True)[1]
    rank = place.reshape(score.shape)
    repeats, problems, n = index.shape
    rows = np.arange(problems)[None]
    best, right = np.full((repeats, problems), -1), np.zeros((repeats, problems))
    width = int(draws.codes.max(initial=0)) + 1
    tally = np.zeros((repeats, problems, width))
    voting = known & draws.finished & (draws.codes >= 0)
    correct, weights = right_answers(draws, width), weights_of(np.nan_to_num(score), selection)
    grid = np.ogrid[:repeats, :problems]
    result = np.empty((n, repeats, problems), np.float32)
    for k in range(n):
        slot = index[:, :, k]
        better = rank[rows, slot] > best
        best = np.where(better, rank[rows, slot], best)
        right = np.where(better, draws.correct[rows, slot], right)
        result[k] = right
        if selection != "max":
            votes, code = voting[rows, slot], draws.codes[rows, slot].clip(0)
            tally[grid[0], grid[1], code] += np.where(votes, weights[rows, slot], 0.0)
            leader = tally.argmax(axis=2)
            voted = tally[grid[0], grid[1], leader] > 0
            result[k] = np.where(voted, correct[rows, leader], right)
    return result
