"""Votes that stop on their own, and those that a verifier decides, replayed as columns of the outcomes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from planner.profiling.along import selected
from planner.profiling.arbitration import Arbitration, undecided
from planner.profiling.columns import Columns, Configuration, masked_mean
from planner.profiling.improving import confident_votes, improving_stops
from planner.profiling.recorded import Recorded
from planner.profiling.replay import Orders, replay_dirichlet
from planner.profiling.stopping import StopRule, VotePaths
from planner.strategies.scoring import AGGREGATIONS

__all__ = ["OnRows", "Voting"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

OnRows: TypeAlias = "Callable[[list[int], Callable[[Recorded, list[int]], Floats]], Floats]"
"""Accuracy [rows, K] at K sizes from an estimate [P, K] for given samples."""

_THRESHOLDS = (0.8, 0.9, 0.95, 0.99)
_LATER_THRESHOLDS = (0.6, 0.75, 0.9)
_LENGTHS = (0.7, 0.8, 0.9, 0.95)
_BATCH, _MIN_N = 2, 4
_LADDER = ((0.9, 2, 1), (0.99, 2, 1), (0.99, 4, 1), (0.99, 8, 1), (0.99, 8, 2), (0.999, 16, 2))
"""(threshold, answers, readings) of arbitration, from the cheapest to the most thorough."""
_JUDGED_MIN_N = 8


@dataclass(frozen=True, slots=True)
class _Judge:
    """The fields of `ArbitratedMajority` that say whom the verifier reads and how it decides."""

    answers: int = 2
    readings: int = 1
    aggregation: str = "last"


@dataclass(slots=True)
class Voting:
    """Replays one model's votes along `orders`, by the id of each of its views, for many rules at once."""

    columns: Columns
    recorded: Recorded
    settings: Mapping[str, Any]
    orders: Mapping[int, Orders]
    on_rows: OnRows
    _depth: int = 0
    _paths: dict[int, VotePaths] = field(default_factory=dict)
    _judged: dict[tuple[int, int, int, int], tuple[Floats, dict[str, Floats]]] = field(default_factory=dict)
    _decode: Floats = field(init=False)

    def __post_init__(self) -> None:
        """`_decode` [R, P, n]: what the first samples of each order cost to generate."""
        r = self.recorded
        self._decode = np.cumsum(self.orders[id(r)].take(np.where(r.draws.present, r.decode, 0.0)), axis=2)

    def add(self, ks: Sequence[int], judged: Sequence[int], also: Iterable[Configuration], half: int) -> None:
        """Columns for every rule that a bank is searched over, at the sizes `ks` (`judged` where a verifier reads), and
        for `also` configurations that they do not hold; `half` is the largest size that half the samples can replay."""
        also = list(also)
        self._depth = max((*ks, *(c.samples for c in also)), default=0)
        scored = bool(self.recorded.draws.scores)
        if sizes := [k for k in ks if k >= _MIN_N]:
            for rule, posterior in self._rules():
                self._stopping(rule, posterior, sizes)
        if scored and (sizes := [k for k in judged if k >= min(_JUDGED_MIN_N, half)]):
            for rule, judge in _judges():
                self._arbitrated(rule, judge, sizes)
        for c in (c for c in also if c.key not in self.columns.keys):
            sizes, fields = sorted({k for k in (half, c.samples) if k <= c.samples}), c.hyperparameters
            if c.strategy == "adaptive_majority":
                self._stopping(_rule_of(fields), str(fields.get("posterior", "beta")), sizes)
            elif c.strategy == "arbitrated_majority" and scored:
                self._arbitrated(_rule_of(fields), _Judge(**_of(fields, _Judge.__match_args__)), sizes)
            elif c.strategy == "confidence_vote" or (c.strategy == "adaptive_best_of_n" and scored):
                self._elsewhere(c, sizes)

    def _rules(self) -> Iterator[tuple[StopRule, str]]:
        for threshold, posterior in itertools.product(_THRESHOLDS, ("beta", "dirichlet")):
            yield StopRule(threshold=threshold, batch=_BATCH), posterior
        for threshold, limit in itertools.product(_LATER_THRESHOLDS, [None, *_long_answers(self.recorded)]):
            yield StopRule(threshold=threshold, batch=_BATCH, give_up_tokens=limit, min_n=_MIN_N), "beta"

    def _stopping(self, rule: StopRule, posterior: str, ks: list[int]) -> None:
        def replay(r: Recorded, sizes: list[int]) -> list[tuple[Floats, Ints]]:
            if posterior == "beta":
                found = list(self._votes_of(r).replay(rule, sizes))
            else:
                rules = [(k, rule.threshold, rule.batch) for k in sizes]
                found = replay_dirichlet(r.draws, self.orders[id(r)], rules)
            return [(estimate.accuracy, drawn) for estimate, drawn in found]

        accuracy = self.on_rows(ks, lambda r, ks: np.concatenate([a for a, _ in replay(r, ks)], axis=1))
        # The default posterior goes without saying, as in earlier tables.
        fields = rule.fields | ({} if posterior == "beta" else {"posterior": posterior})
        for column, (k, (_, drawn)) in enumerate(zip(ks, replay(self.recorded, ks), strict=True)):
            self._column("adaptive_majority", {"max_n": k, **fields}, accuracy[:, column], drawn)

    def _arbitrated(self, rule: StopRule, judge: _Judge, ks: list[int]) -> None:
        def accuracy_of(r: Recorded, k: int) -> Floats:
            drawn, open_ = undecided(self._votes_of(r), rule, k)
            votes = self._votes_of(r)
            at = np.ogrid[: drawn.shape[0], : drawn.shape[1]]
            voted = votes.value[drawn - 1, at[0], at[1]].astype(np.float64)
            chosen = self._judge(r, k, judge)[1][judge.aggregation]
            mean = np.where(open_ & ~np.isnan(chosen), chosen, voted).mean(axis=0)
            return np.where(votes.counts >= k, mean, np.nan)

        accuracy = self.on_rows(ks, lambda r, ks: np.stack([accuracy_of(r, k) for k in ks], axis=1))
        for column, k in enumerate(ks):
            drawn, open_ = undecided(self._votes_of(self.recorded), rule, k)
            read = np.where(open_, self._judge(self.recorded, k, judge)[0], 0.0)
            fields = {"max_n": k, **rule.fields, **asdict(judge)}
            self._column("arbitrated_majority", fields, accuracy[:, column], drawn, read)

    def _elsewhere(self, c: Configuration, ks: list[int]) -> None:
        """A configuration of rules that no bank is searched over: they are run live, and replayed where a policy has
        them."""
        reads, size = c.strategy == "adaptive_best_of_n", "n" if "n" in c.hyperparameters else "max_n"

        def replay(r: Recorded, k: int) -> tuple[Ints, Floats]:
            fields, orders = {**c.hyperparameters, size: k}, self.orders[id(r)]
            if not reads:
                unknown = np.full(r.draws.codes.shape, np.nan)
                return confident_votes(r.draws, orders, unknown if r.logprobs is None else r.logprobs, fields)
            drawn = improving_stops(r.draws, orders, fields)
            at = np.ogrid[: drawn.shape[0], : drawn.shape[1]]
            best = selected(r.draws, orders.index, str(fields.get("aggregation", "last")), "max")
            return drawn, best[drawn - 1, at[0], at[1]].astype(np.float64)

        def accuracy_of(r: Recorded, k: int) -> Floats:
            return np.where(self._votes_of(r).counts >= k, replay(r, k)[1].mean(axis=0), np.nan)

        accuracy = self.on_rows(ks, lambda r, ks: np.stack([accuracy_of(r, k) for k in ks], axis=1))
        r = self.recorded
        scoring = np.cumsum(self.orders[id(r)].take(np.where(r.draws.present, r.scoring, 0.0)), axis=2)
        for column, k in enumerate(ks):
            drawn = replay(r, k)[0]
            read = r.scoring_prompt + np.take_along_axis(scoring, drawn[:, :, None] - 1, axis=2)[:, :, 0]
            fields = {**c.hyperparameters, size: k}
            self._column(c.strategy, fields, accuracy[:, column], drawn, read if reads else None)

    def _votes_of(self, r: Recorded) -> VotePaths:
        if id(r) not in self._paths:
            self._paths[id(r)] = VotePaths.of(r.draws, self.orders[id(r)], r.tokens, depth=self._depth)
        return self._paths[id(r)]

    def _judge(self, r: Recorded, k: int, judge: _Judge) -> tuple[Floats, dict[str, Floats]]:
        """(cost of reading, correctness by aggregation), [R, P] each, where the first k leave it open."""
        asked = judge.answers, judge.readings
        if (id(r), k, *asked) not in self._judged:
            # Counting takes longest: all rules that are searched over are judged by one count.
            counted = Arbitration.of(r.draws, self.orders[id(r)], k)
            for answers, readings in {asked, *((answers, readings) for _, answers, readings in _LADDER)}:
                read = counted.read(answers, readings)
                values: dict[str, Floats] = {a: counted.value(read, a) for a in AGGREGATIONS}
                spent = counted.spent(read, r.scoring, r.scoring_prompt)
                self._judged[id(r), k, answers, readings] = spent, values
        return self._judged[id(r), k, *asked]

    def _column(
        self, strategy: str, fields: Mapping[str, Any], accuracy: Floats, drawn: Ints, read: Floats | None = None
    ) -> None:
        r = self.recorded
        decode = np.take_along_axis(self._decode, np.maximum(drawn - 1, 0)[:, :, None], axis=2)[:, :, 0]
        scoring = np.zeros_like(decode) if read is None else read
        total = r.prefill + decode + np.nan_to_num(scoring)
        self.columns.add(
            Configuration(
                strategy=strategy, hyperparameters={**fields, **self.settings}, policy_model=r.policy_model,
                verifier=None if read is None else r.verifier,
            ),
            accuracy, (r.prefill, decode.mean(axis=0), scoring.mean(axis=0), np.quantile(total, 0.95, axis=0)),
        )  # fmt: skip


def _judges() -> Iterator[tuple[StopRule, _Judge]]:
    for (threshold, answers, readings), aggregation in itertools.product(_LADDER, AGGREGATIONS):
        rule = StopRule(threshold=threshold, batch=_BATCH)
        yield rule, _Judge(answers=answers, readings=readings, aggregation=aggregation)


def _rule_of(fields: Mapping[str, Any]) -> StopRule:
    return StopRule(**_of(fields, ("threshold", "batch", "give_up_tokens", "min_n")))


def _of(fields: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: fields[name] for name in names if name in fields}


def _long_answers(recorded: Recorded) -> list[int]:
    """Mean lengths at which giving up is tried, in tokens to two digits: quantiles over problems."""
    mean = masked_mean(recorded.tokens, recorded.draws.present, recorded.draws.counts)
    return sorted({int(float(f"{x:.2g}")) for x in np.quantile(mean, _LENGTHS) if x >= 1})
