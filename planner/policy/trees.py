"""Evaluate a LightGBM model from its own text format with numpy, so that choosing needs no lightgbm.

Only what our predictors train is read: numeric splits without missing values, one output. Anything else is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from planner.errors import PolicyError

__all__ = ["Trees", "split_gains"]

_CHUNK_ROWS = 2048
_NUMERIC_SPLITS = {0, 2}  # decision_type: numeric, missing type none, default right or left


@dataclass(frozen=True)
class Trees:
    """All nodes of all trees side by side. A leaf is a node whose two children are itself.

    `feature`, `threshold`, `value` are [nodes]; `child` is [2 * nodes], the left child at 2i and the right one at
    2i + 1; `roots` is [trees]; `depth` is the longest path.
    """

    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    child: NDArray[np.int64]
    value: NDArray[np.float64]
    roots: NDArray[np.int64]
    depth: int
    n_features: int

    def raw(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of the leaves each row of `matrix` [P, F] falls into: the log-odds, [P]."""
        if matrix.shape[1] != self.n_features:
            raise ValueError(f"matrix has {matrix.shape[1]} columns, the model {self.n_features}")
        if len(matrix) <= _CHUNK_ROWS:
            return self._raw(matrix)
        return np.concatenate([self._raw(matrix[i : i + _CHUNK_ROWS]) for i in range(0, len(matrix), _CHUNK_ROWS)])

    def _raw(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        # Summed tree by tree: pairwise summation would make a row depend on the shape around it.
        total: NDArray[np.float64] = self.leaves(matrix).cumsum(axis=1)[:, -1]
        return total

    def leaves(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Value of the leaf that each row falls into in each tree, [P, trees]."""
        flat = np.ascontiguousarray(matrix).ravel()
        if len(matrix) == 1:
            return self._one(flat)
        offset = (np.arange(len(matrix)) * self.n_features)[:, None]
        node = np.broadcast_to(self.roots, (len(matrix), len(self.roots)))
        for _ in range(self.depth):
            right = flat.take(self.feature.take(node) + offset) > self.threshold.take(node)
            node = self.child.take(2 * node + right)
        return self.value.take(node)

    def _one(self, row: NDArray[np.float64]) -> NDArray[np.float64]:
        """`leaves` of a single row [F], with every split decided at once: fewer steps than there are levels."""
        onward = self.child.take(self._pairs + (row.take(self.feature) > self.threshold))
        node = self.roots
        for _ in range(self.depth):
            node = onward.take(node)
        return self.value.take(node)[None]

    @cached_property
    def _pairs(self) -> NDArray[np.int64]:
        return 2 * np.arange(len(self.feature))

    @classmethod
    def from_text(cls, text: str, *, where: str = "model.txt") -> Trees:
        """Read a model that `lightgbm.Booster.model_to_string` or `save_model` wrote.

        Raises PolicyError for a text that is damaged or uses what is not supported here (categorical splits, linear
        leaves, missing values, several outputs).
        """
        try:
            return cls._parse(text, where)
        except (KeyError, ValueError, IndexError) as error:
            raise PolicyError(
                f"not a readable LightGBM text model ({type(error).__name__}: {error})",
                where=where,
                hint="Fit the policy again",
            ) from error

    @classmethod
    def _parse(cls, text: str, where: str) -> Trees:
        head, *blocks = text.split("\nTree=")
        header = _fields(head)
        if header.get("num_class", "1") != "1" or header.get("num_tree_per_iteration", "1") != "1":
            raise PolicyError("a model of several outputs", where=where, expected="one output")
        if not blocks or "end of trees" not in blocks[-1]:
            raise ValueError("it ends before its last tree")
        n_features = int(header["max_feature_idx"]) + 1
        features, thresholds, children, values, roots, depth, at = [], [], [], [], [], 0, 0
        for block in blocks:
            tree = _fields(block)
            if tree.get("num_cat", "0") != "0" or tree.get("is_linear", "0") != "0":
                raise PolicyError("categorical splits or linear leaves", where=where, expected="numeric splits")
            leaves = int(tree["num_leaves"])
            splits = leaves - 1
            value = np.array(tree["leaf_value"].split(), np.float64)
            node = np.arange(leaves)
            left = right = np.zeros(0, np.int64)
            feature, threshold = np.zeros(0, np.int64), np.zeros(0)
            if splits:
                kinds = {int(kind) for kind in tree["decision_type"].split()}
                if not kinds <= _NUMERIC_SPLITS:
                    raise PolicyError("splits on missing values", where=where, value=sorted(kinds))
                feature = np.array(tree["split_feature"].split(), np.int64)
                threshold = np.array(tree["threshold"].split(), np.float64)
                left, right = (np.array(tree[side].split(), np.int64) for side in ("left_child", "right_child"))
            if not (len(feature) == len(threshold) == len(left) == len(right) == splits and len(value) == leaves):
                raise ValueError("a tree whose arrays differ in length")
            # A negative child ~i is leaf i; leaves stand after the splits and lead to themselves.
            left, right = (np.where(side < 0, splits + ~side, side) for side in (left, right))
            if splits and (
                max(left.max(), right.max()) >= splits + leaves or not 0 <= feature.min() <= feature.max() < n_features
            ):
                raise ValueError("a tree that points outside itself")
            depth = max(depth, _depth(left, right, splits))
            own = splits + node
            pairs = np.stack((np.concatenate((left, own)), np.concatenate((right, own))), axis=1)
            features.append(np.concatenate((feature, np.zeros(leaves, np.int64))))
            thresholds.append(np.concatenate((threshold, np.full(leaves, np.inf))))
            values.append(np.concatenate((np.zeros(splits), value)))
            children.append(pairs.ravel() + at)
            roots.append(at)
            at += splits + leaves
        return cls(
            np.concatenate(features),
            np.concatenate(thresholds),
            np.concatenate(children),
            np.concatenate(values),
            np.array(roots),
            depth,
            n_features,
        )


def split_gains(text: str) -> dict[int, float]:
    """Gain of all splits on each feature (its column) in a model's text; features that are never split on are left
    out."""
    gains: dict[int, float] = {}
    for block in text.split("\nTree=")[1:]:
        tree = _fields(block)
        features, found = (tree.get(name, "").split() for name in ("split_feature", "split_gain"))
        for feature, gain in zip(features, found, strict=True):
            gains[int(feature)] = gains.get(int(feature), 0.0) + float(gain)
    return gains


def _fields(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.splitlines() if "=" in line)


def _depth(left: NDArray[np.int64], right: NDArray[np.int64], splits: int) -> int:
    """Splits on the longest path. LightGBM numbers a child split after its parent, so one pass suffices."""
    level = np.zeros(max(splits, 1), np.int64)
    for i in range(splits):
        for side in (left[i], right[i]):
            if side < splits:
                if side <= i:
                    raise ValueError("a tree with a cycle")
                level[side] = level[i] + 1
    return int(level.max()) + 1 if splits else 0
