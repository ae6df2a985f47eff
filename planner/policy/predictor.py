"""A fitted difficulty predictor: from a prompt to a distribution over its success probability. numpy only.

Kept as text: `model_difficulty.txt` (LightGBM's format), `features.json` (which features) and `calibration.json` (the
maps from log-odds to probability, the spread of true success around a prediction, the range of profiled prompts), and
`embedding.json` where sentence embeddings help, `model_cost.txt` and `cost.json` where prompts tell what answers cost.
Nothing in a predictor changes after it was made, so any number of threads may share one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import InputError, PolicyError
from planner.policy.cost_scale import CostScale, remove
from planner.policy.familiarity import Familiarity
from planner.policy.features import Extracted, FeatureSpec, extract
from planner.policy.refine import Refinement
from planner.policy.trees import Trees

__all__ = ["Calibration", "DifficultyPredictor", "Edges", "Far", "Spread", "bucket_edges"]

Edges = Mapping[str, Sequence[float]]
"""Bucket name to [low, high) of the success probability, hardest first, as policy.json's `bucket_edges`."""

_MODEL, _FEATURES, _CALIBRATION = "model_difficulty.txt", "features.json", "calibration.json"
_EMBEDDING = "embedding.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Calibration:
    """Log-odds of the trees to probability: Platt's sigmoid(intercept + slope * x), or isotonic knots between which is
    interpolated."""

    intercept: float = 0.0
    slope: float = 1.0
    knots: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def __call__(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp(raw, *self.knots) if self.knots is not None else _sigmoid(self.odds(raw))

    def odds(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """The calibrated log-odds, [P]."""
        if self.knots is None:
            return self.intercept + self.slope * raw
        p = np.interp(raw, *self.knots)
        odds: NDArray[np.float64] = np.log(p / (1 - p))
        return odds


@dataclass(frozen=True, slots=True)
class Far:
    """What the trees' log-odds are worth for prompts whose template was not profiled.

    It counts for nothing where a prompt's share of unseen trigrams is at most `start`, and alone from `end` on.
    """

    calibration: Calibration
    start: float
    end: float

    def share(self, unseen: NDArray[np.float64]) -> NDArray[np.float64]:
        """How much it counts for, [P] in [0, 1], by `unseen` [P] as `Familiarity.shares` has it."""
        return np.minimum(np.maximum((unseen - self.start) / (self.end - self.start), 0.0), 1.0)


def _sigmoid(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(odds) == 1:
        # The same operations on a plain number; numpy's exp, which may round otherwise than the C library's.
        return np.array([1 / (1 + float(np.exp(-min(max(float(odds[0]), -30.0), 30.0))))])
    value: NDArray[np.float64] = 1 / (1 + np.exp(-np.minimum(np.maximum(odds, -30), 30)))
    return value


@dataclass(frozen=True, slots=True)
class Spread:
    """True success probabilities around a prediction: `cdf` [Q, G] at predictions `q` [Q] and success `p` [G].

    It is Beta(q * precision, (1 - q) * precision), whose mean is the prediction; tabulated while fitting.
    """

    precision: float
    q: NDArray[np.float64]
    p: NDArray[np.float64]
    cdf: NDArray[np.float64]

    def buckets(self, bounds: NDArray[np.float64]) -> NDArray[np.float64]:
        """[Q, B]: the probability of each bucket at each tabulated prediction; `bounds` [B + 1] rises from 0 to 1."""
        at = np.stack([np.interp(bounds, self.p, row) for row in self.cdf])
        at[:, 0], at[:, -1] = 0.0, 1.0
        return np.diff(at, axis=1)

    def between(self, table: NDArray[np.float64], predictions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows of `table` [Q, B] interpolated linearly at `predictions` [P] -> [P, B]."""
        if len(predictions) == 1:
            return self._between_one(table, float(predictions[0]))
        x = np.minimum(np.maximum(predictions, self.q[0]), self.q[-1])
        i = np.minimum(np.maximum(self.q.searchsorted(x) - 1, 0), len(self.q) - 2)
        share = ((x - self.q[i]) / (self.q[i + 1] - self.q[i]))[:, None]
        rows: NDArray[np.float64] = table[i] * (1 - share) + table[i + 1] * share
        return rows

    def _between_one(self, table: NDArray[np.float64], prediction: float) -> NDArray[np.float64]:
        """`between` for one prediction, in plain floats: the same operations without arrays of one."""
        q = self.q
        x = min(max(prediction, float(q[0])), float(q[-1]))
        i = min(max(int(q.searchsorted(x)) - 1, 0), len(q) - 2)
        low = float(q[i])
        share = (x - low) / (float(q[i + 1]) - low)
        row: NDArray[np.float64] = table[i] * (1 - share) + table[i + 1] * share
        return row[None]


def bucket_edges(edges: Edges, *, where: str | None = None) -> NDArray[np.float64]:
    """The bounds [B + 1] of adjoining buckets that cover [0, 1]; InputError where they do not."""
    pairs = [tuple(map(float, edge)) for edge in edges.values()]
    whole = bool(pairs) and all(len(pair) == 2 and pair[0] < pair[1] for pair in pairs)
    joined = whole and all(a[1] == b[0] for a, b in pairwise(pairs))
    if not joined or pairs[0][0] != 0 or pairs[-1][1] != 1:
        raise InputError(
            "buckets must adjoin and cover [0, 1], hardest first",
            where=where,
            field="bucket_edges",
            value=dict(edges),
            expected='like {"hard": [0, 0.1], "medium": [0.1, 0.5], "easy": [0.5, 1]}',
        )
    return np.array([pairs[0][0], *(high for _, high in pairs)])


@dataclass(frozen=True, slots=True, kw_only=True)
class DifficultyPredictor:
    """Predicts the success probability (Pass@1) of the policy model `policy_model` from the prompt's text.

    `trees` None: nothing could be learned from prompts, every prompt gets `base_rate`, and `note` says why. `embedding`
    refines predictions by the prompt's sentence embedding, which needs the package that carries the model.
    `cost_scale` None: every prompt is taken to cost what a typical one does.
    `oof_` [P] are the calibrated out-of-fold predictions of the problems it was fitted on (NaN where nothing is known),
    `oof_apart_` [P] those with a problem's whole group held out, `oof_scale_` [P] cost scales;
    they are not saved.
    """

    spec: FeatureSpec
    trees: Trees | None
    model_text: str
    calibration: Calibration
    spread: Spread
    familiarity: Familiarity | None
    far: Far | None = None
    embedding: Refinement | None = None
    cost_scale: CostScale | None = None
    base_rate: float
    problems: int
    policy_model: str | None = None
    note: str | None = None
    fit_: Mapping[str, Any]
    oof_: NDArray[np.float64] | None = None
    oof_apart_: NDArray[np.float64] | None = None
    oof_scale_: NDArray[np.float64] | None = None

    @property
    def constant(self) -> bool:
        """Whether every prompt gets the base rate."""
        return self.trees is None and self.embedding is None

    def predict(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """Calibrated success probability of each prompt, [P]."""
        return self._base(len(prompts)) if self.constant else self.look(extract(prompts, self.spec), prompts)[0]

    def look(self, extracted: Extracted, prompts: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`predict` and `strangeness` for prompts whose features are there already, [P] each."""
        told, strangeness = self._by_words(extracted)
        if self.embedding is None:
            return told, strangeness
        from planner.models.embedding import embed

        return self.embedding.predict(told, embed(prompts)), strangeness

    def scale(self, extracted: Extracted, strangeness: NDArray[np.float64]) -> NDArray[np.float64]:
        """What an answer to each prompt costs, in multiples of a typical prompt's, [P]; a prompt unlike anything
        profiled is never taken for a cheap one."""
        if self.cost_scale is None:
            return np.ones(len(extracted.matrix))
        scale = self.cost_scale(extracted.matrix)
        return np.where(strangeness > 1, np.maximum(scale, 1.0), scale)

    def scales(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """`scale` from prompts."""
        extracted = extract(prompts, self.spec)
        return self.scale(extracted, self._by_words(extracted)[1])

    def _by_words(self, extracted: Extracted) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows, familiarity = len(extracted.matrix), self.familiarity
        if familiarity is None:
            unseen, strangeness = np.zeros(rows), np.full(rows, np.nan)
        else:
            unseen, excess = familiarity.shares(extracted)
            strangeness = familiarity.strangeness(unseen, excess)
        if self.trees is None:
            return self._base(rows), strangeness
        raw = self.trees.raw(extracted.matrix)
        if self.far is None:
            return self.calibration(raw), strangeness
        if rows == 1:
            return self._one(raw, float(unseen[0])), strangeness
        told, strange = self.calibration(raw), np.flatnonzero(unseen > self.far.start)
        if len(strange):
            share = self.far.share(unseen[strange])
            near, far = (line.odds(raw[strange]) for line in (self.calibration, self.far.calibration))
            told[strange] = _sigmoid(near * (1 - share) + far * share)
        return told, strangeness

    def _one(self, raw: NDArray[np.float64], unseen: float) -> NDArray[np.float64]:
        """The same for one prompt, on plain numbers."""
        assert self.far is not None
        if unseen <= self.far.start:
            return self.calibration(raw)
        line, share = self.far.calibration, min((unseen - self.far.start) / (self.far.end - self.far.start), 1.0)
        odds = line.intercept + line.slope * float(raw[0])
        if share < 1.0:
            odds = float(self.calibration.odds(raw)[0]) * (1 - share) + odds * share
        return np.array([1 / (1 + float(np.exp(-min(max(odds, -30.0), 30.0))))])

    def _base(self, count: int) -> NDArray[np.float64]:
        return np.full(count, self.base_rate)

    def distribution(self, prompts: Sequence[str], edges: Edges) -> NDArray[np.float64]:
        """Probability of each bucket for each prompt, [P, B], rows sum to 1, columns in the order of `edges`."""
        return self.distribution_of(self.predict(prompts), edges)

    def distribution_of(self, predictions: NDArray[np.float64], edges: Edges) -> NDArray[np.float64]:
        """The same from predicted success probabilities [P]."""
        return self.spread.between(self.spread.buckets(bucket_edges(edges)), predictions)

    def oof_distribution(self, edges: Edges) -> NDArray[np.float64]:
        """Held-out bucket distribution of the problems it was fitted on, [P, B]; the base rate's where unknown."""
        if self.oof_ is None:
            raise InputError("a loaded predictor has no out-of-fold predictions", hint="Fit it again from the bank")
        return self.distribution_of(np.where(np.isnan(self.oof_), self.base_rate, self.oof_), edges)

    def strangeness(self, prompts: Sequence[str]) -> NDArray[np.float64]:
        """How unlike the profiled prompts each prompt is, [P]; above 1 is unlike anything profiled, NaN unknown."""
        if self.familiarity is None:
            return np.full(len(prompts), np.nan)
        return self.familiarity.measure(extract(prompts, self.spec))

    def save(self, folder: str | Path) -> Path:
        """Write the predictor's text files into `folder`, which is made where it is missing."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        knots = self.calibration.knots
        document = {
            "schema_version": SCHEMA_VERSION,
            "policy_model": self.policy_model,
            "problems": self.problems,
            "base_rate": self.base_rate,
            "constant": self.trees is None,
            "cost_scale": self.cost_scale is not None,
            "note": self.note,
            "intercept": self.calibration.intercept,
            "slope": self.calibration.slope,
            "knots": None if knots is None else [k.tolist() for k in knots],
            "far": None
            if self.far is None
            else {
                "intercept": self.far.calibration.intercept,
                "slope": self.far.calibration.slope,
                "start": self.far.start,
                "end": self.far.end,
            },
            "spread": {
                "precision": self.spread.precision,
                "q": self.spread.q.tolist(),
                "p": self.spread.p.tolist(),
                "cdf": self.spread.cdf.round(5).tolist(),
            },
            "familiarity": None if self.familiarity is None else self.familiarity.to_dict(),
            "fit": dict(self.fit_),
        }
        (path / _CALIBRATION).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        (path / _FEATURES).write_text(json.dumps(self.spec.to_dict(), indent=1) + "\n", encoding="utf-8")
        if self.trees is not None:
            (path / _MODEL).write_text(self.model_text, encoding="utf-8")
        else:
            (path / _MODEL).unlink(missing_ok=True)
        if self.embedding is not None:
            (path / _EMBEDDING).write_text(json.dumps(self.embedding.to_dict()) + "\n", encoding="utf-8")
        else:
            (path / _EMBEDDING).unlink(missing_ok=True)
        if self.cost_scale is not None:
            self.cost_scale.save(path)
        else:
            remove(path)
        return path

    @classmethod
    def load(cls, folder: str | Path) -> DifficultyPredictor:
        """Read what `save` wrote. Raises PolicyError naming the file that is missing or damaged; runs no code."""
        path = Path(folder)
        spec = FeatureSpec.from_dict(_read_json(path / _FEATURES), where=str(path / _FEATURES))
        where = str(path / _CALIBRATION)
        document = _read_json(path / _CALIBRATION)
        if document.get("schema_version") != SCHEMA_VERSION:
            version = document.get("schema_version")
            raise PolicyError(
                "another schema version", where=where, field="schema_version", value=version, expected="1"
            )
        try:
            knots = document["knots"]
            calibration = Calibration(
                float(document["intercept"]),
                float(document["slope"]),
                None if knots is None else (np.array(knots[0], np.float64), np.array(knots[1], np.float64)),
            )
            table = document["spread"]
            spread = Spread(float(table["precision"]), *(np.array(table[k], np.float64) for k in ("q", "p", "cdf")))
            if spread.cdf.shape != (len(spread.q), len(spread.p)) or len(spread.q) < 2:
                raise ValueError("the spread's table has the wrong shape")
            familiarity = document["familiarity"]
            base_rate, problems = float(document["base_rate"]), int(document["problems"])
            constant, fit = bool(document["constant"]), dict(document["fit"])
            apart = document.get("far")  # policies that were fitted before there was one have none
            line = None if apart is None else tuple(float(apart[k]) for k in ("intercept", "slope", "start", "end"))
            if line is not None and (familiarity is None or not line[2] < line[3]):
                raise ValueError("`far` without familiarity, or that ends before it starts")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise PolicyError(f"damaged ({error!r})", where=where, hint="Fit the policy again") from error
        text = "" if constant else _read_text(path / _MODEL)
        trees = None if constant else Trees.from_text(text, where=str(path / _MODEL))
        if trees is not None and trees.n_features != len(spec.names):
            raise PolicyError("the model and features.json disagree on the number of features", where=str(path))
        return cls(
            spec=spec,
            trees=trees,
            model_text=text,
            calibration=calibration,
            spread=spread,
            familiarity=None if familiarity is None else Familiarity.from_dict(familiarity, where=where),
            embedding=_embedding(path / _EMBEDDING),
            cost_scale=_cost_scale(path, len(spec.names), needed=bool(document.get("cost_scale"))),
            far=None if line is None else Far(Calibration(line[0], line[1]), line[2], line[3]),
            base_rate=base_rate,
            problems=problems,
            policy_model=document.get("policy_model"),
            note=document.get("note"),
            fit_=fit,
        )


def _cost_scale(path: Path, features: int, *, needed: bool) -> CostScale | None:
    """The policy's costs are per unit of scale: without what foretells it they would be taken for anyone's."""
    found = CostScale.load(path, features)
    if found is None and needed:
        raise PolicyError("what foretells costs is missing", where=str(path / "cost.json"), hint="Fit the policy again")
    return found


def _embedding(path: Path) -> Refinement | None:
    return Refinement.from_dict(_read_json(path), where=str(path)) if path.exists() else None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"cannot be read ({error})", where=str(path), hint="Fit the policy again") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise PolicyError(f"not JSON ({error})", where=str(path), hint="Fit the policy again") from error
    if not isinstance(document, dict):
        raise PolicyError("not a JSON object", where=str(path), hint="Fit the policy again")
    return document
