"""Finds the words that say what is asked: substring counts, so that they also work without spaces.

A word is looked for only where the hash of its first three characters is, which the features have computed anyway.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from planner.policy.characters import mix, points_of, trigrams_of
from planner.policy.open_ended import OPEN_ENDED

__all__ = ["CUES", "count_cues", "count_cues_of_one"]

CUES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("how_many", ("how many", "how much", "how long", "how far", "多少", "几")),
    ("what", ("what", "which", "who", "when", "where", "什么", "哪")),
    ("find", ("find", "compute", "calculate", "evaluate", "solve", "determine", "simplify", "求", "计算", "解")),
    ("prove", ("prove", "show that", "证明")),
    ("rates", ("each", "every", " per ", "twice", "half", "times", "每")),
    ("conditions", ("such that", "given", "suppose", "at least", "at most", "exactly", "already", "如果", "若")),
    ("mathematics", ("probability", "remainder", "integer", "triangle", "polynomial", "sequence", "概率", "整数")),
)
_OPEN = len(CUES)
"""The column of the open-ended cues, after the features' own."""
_ALL = [(column, word) for column, (_, words) in enumerate(CUES) for word in words]
_SHORT = [(c, w) for c, w in _ALL if not w.isascii()]  # too short for a trigram
_LATIN = [(c, w) for c, w in _ALL if w.isascii()] + [(_OPEN, w) for w in OPEN_ENDED if w.isascii()]
_LATIN.sort(key=lambda row: row[1][:3])
_BY_PREFIX: dict[str, list[tuple[int, str]]] = {}
for _column, _word in _LATIN:
    _BY_PREFIX.setdefault(_word[:3], []).append((_column, _word))
_GROUP = np.zeros(1 << 16, np.uint8)
"""By the upper half of a trigram's hash: 1 + the place of its prefix, 0 where no word begins so."""
for _place, _prefix in enumerate(_BY_PREFIX):
    _GROUP[mix(trigrams_of(points_of(_prefix))) >> np.uint32(16)] = _place + 1
assert np.count_nonzero(_GROUP) == len(_BY_PREFIX), "two prefixes share a hash"
_SIZE = np.array([len(words) for words in _BY_PREFIX.values()])
_FIRST = _SIZE.cumsum() - _SIZE
_COLUMN = np.array([column for column, _ in _LATIN])
_LENGTH = np.array([len(word) for _, word in _LATIN])
_POINTS = np.zeros((len(_LATIN), max(_LENGTH)), np.uint32)
"""The words' code points, 0 where a word has ended."""
for _place, (_, _word) in enumerate(_LATIN):
    _POINTS[_place, : len(_word)] = points_of(_word)
_FOURTH = _POINTS[:, 3].copy()
_ENDED = _POINTS == 0
_OFFSETS = np.arange(_POINTS.shape[1])


def count_cues_of_one(text: str, trigrams: NDArray[np.uint32]) -> tuple[list[int], bool]:
    """`count_cues` of one cleaned text, whose `trigrams` start at its first character."""
    found = [0] * (_OPEN + 1)
    ends: dict[str, int] = {}
    for place in _GROUP.take(trigrams >> np.uint32(16)).nonzero()[0].tolist():
        for column, word in _BY_PREFIX.get(text[place : place + 3], ()):
            # As `str.count`: occurrences of a word do not overlap.
            if text.startswith(word, place) and ends.get(word, 0) <= place:
                ends[word] = place + len(word)
                found[column] += 1
    if not text.isascii():
        for column, word in _SHORT:
            found[column] += text.count(word)
    return found[:_OPEN], found[_OPEN] > 0


def count_cues(
    joined: str,
    points: NDArray[np.uint32],
    starts: NDArray[np.int64],
    trigrams: NDArray[np.uint32],
    at: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """How often each cue's words occur in each of P texts as `str.count` gives it, [P, cues], and whether a text holds
    an open-ended cue of ASCII letters, [P].

    The texts begin at `starts` of `joined` (code points `points`), `trigrams` at its places `at`.
    """
    groups = _GROUP.take(trigrams >> np.uint32(16))
    hits = groups.nonzero()[0]
    rows = groups.take(hits) - np.uint8(1)
    size = _SIZE.take(rows)
    # Each place with each word of its group.
    place = at.take(hits).repeat(size)
    word = (_FIRST.take(rows) - (size.cumsum() - size)).repeat(size) + np.arange(len(place))
    fourth = _FOURTH.take(word)  # the cheapest look tells most of them apart
    likely = ((fourth == points.take(place + 3, mode="clip")) | (fourth == 0)).nonzero()[0]
    word, place = word.take(likely), place.take(likely)
    windows = points.take(place[:, None] + _OFFSETS, mode="clip")  # the last code point is a NUL, which is no word's
    same = ((_POINTS.take(word, axis=0) == windows) | _ENDED.take(word, axis=0)).all(axis=1)
    word, place = word[same], place[same]
    keep = _apart(word, place)
    word, place = word[keep], place[keep]
    owner = starts.searchsorted(place, side="right") - 1
    columns = _OPEN + 1
    found = np.bincount(owner * columns + _COLUMN.take(word), minlength=len(starts) * columns)
    counts = found.reshape(len(starts), columns)
    if not joined.isascii():
        for column, short in _SHORT:
            at_place = joined.find(short)
            while at_place >= 0:
                counts[starts.searchsorted(at_place, side="right") - 1, column] += 1
                at_place = joined.find(short, at_place + len(short))
    return counts[:, :_OPEN], counts[:, _OPEN] > 0


def _apart(word: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Leaves out an occurrence that overlaps the last one of the same word that was kept."""
    keep = np.ones(len(word), np.bool_)
    order = np.lexsort((place, word))
    w, p = word[order], place[order]
    close = (w[1:] == w[:-1]) & (p[1:] - p[:-1] < _LENGTH[w[1:]])
    if close.any():
        ends: dict[int, int] = {}
        for i, (which, where) in enumerate(zip(word.tolist(), place.tolist(), strict=True)):
            keep[i] = ends.get(which, 0) <= where
            if keep[i]:
                ends[which] = where + int(_LENGTH[which])
    return keep
