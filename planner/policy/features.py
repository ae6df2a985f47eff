"""What a prompt shows before anything is generated: counts, number sizes and hashed n-grams. numpy only, no state.

The prompts of a batch are laid end to end as one array of code points, so that a batch costs hardly more numpy calls
than a single prompt, whose few values are plain Python's. Nothing is learned here and nothing but the text enters:
labels (level, subject) are never features. Digits enter the n-grams as one symbol, so that the wording of a template is
told apart from its numbers. A character of a script without spaces (Chinese, Japanese, Thai) counts as a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import PolicyError
from planner.policy.characters import (
    CLASSES,
    ID,
    MAX_CHARACTERS,
    MIX_1,
    ZEROS,
    clean,
    kinds_of,
    mix,
    points_of,
    trigrams_of,
)
from planner.policy.wording import CUES, count_cues, count_cues_of_one

__all__ = ["COUNTS", "FEATURE_VERSION", "MAX_CHARACTERS", "Extracted", "FeatureSpec", "extract"]

FEATURE_VERSION = 1

_NUMBER_NAMES = ("count", "digits_max", "digits_mean", "log_max", "log_min", "log_mean", "log_first", "log_last")
COUNTS: tuple[str, ...] = (
    "characters",
    *(f"n_{name}" for name in CLASSES),
    "non_latin_share",
    "words",
    "word_length_mean",
    "latex_commands",
    "nesting_depth",
    "adjacent_digit_pairs",
    *(f"number_{name}" for name in _NUMBER_NAMES),
    *(f"cue_{name}" for name, _ in CUES),
)
"""Names of the count features."""

_DIGIT_VALUE = np.zeros(0x10000)
for _zero in ZEROS:
    _DIGIT_VALUE[_zero : _zero + 10] = np.arange(10)
_POWERS = 10.0 ** np.arange(41)
_EXACT_DIGITS = 15  # a number of so many digits is a float without rounding
_LETTER, _DIGIT = 1, 2
_RUN_OF = np.zeros(len(CLASSES), np.uint8)
for _name in ("latin", "letter", "unspaced"):
    _RUN_OF[ID[_name]] = _LETTER
_RUN_OF[ID["digit"]] = _DIGIT
_BRACKETS = slice(ID["open"], ID["close"] + 1)
_NESTING = np.zeros(len(CLASSES), np.int8)
_NESTING[ID["open"]], _NESTING[ID["close"]] = 1, -1
_NUMBER = re.compile("[" + "".join(f"{chr(zero)}-{chr(zero + 9)}" for zero in ZEROS) + "]+")


def _letter_table(places: int) -> NDArray[np.uint32]:
    """What a letter of ASCII at a place of its word adds to the word's hash, at 128 * place + letter."""
    place, letter = np.divmod(np.arange(128 * places, dtype=np.uint32), np.uint32(128))
    return mix(letter * MIX_1 + place)


_TABLED = 32
_LETTERS = _letter_table(_TABLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """Which features a model was trained on; stored with it, and refused when this code would compute others."""

    word_buckets: int = 128
    character_buckets: int = 128

    @property
    def width(self) -> int:
        """Number of all columns."""
        return len(COUNTS) + self.word_buckets + self.character_buckets

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns, in order: counts first, then the hashed ones."""
        words = (f"word_{i}" for i in range(self.word_buckets))
        return (*COUNTS, *words, *(f"char_{i}" for i in range(self.character_buckets)))

    def to_dict(self) -> dict[str, Any]:
        return {
            "version": FEATURE_VERSION,
            "word_buckets": self.word_buckets,
            "character_buckets": self.character_buckets,
            "names": list(self.names),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], *, where: str = "features.json") -> FeatureSpec:
        """Raises PolicyError when the document asks for features that this version does not compute."""
        if document.get("version") != FEATURE_VERSION:
            raise PolicyError(
                "features of another version",
                where=where,
                field="version",
                value=document.get("version"),
                expected=str(FEATURE_VERSION),
                hint="Fit the policy again with this version of compute-planner",
            )
        buckets = [document.get(key) for key in ("word_buckets", "character_buckets")]
        if not all(isinstance(b, int) and 1 <= b <= 65536 for b in buckets):
            raise PolicyError("unusable bucket counts", where=where, value=buckets, expected="integers in 1..65536")
        spec = cls(word_buckets=int(document["word_buckets"]), character_buckets=int(document["character_buckets"]))
        if list(document.get("names", ())) != list(spec.names):
            raise PolicyError("feature names do not match this version's", where=where, field="names")
        return spec


@dataclass(frozen=True, slots=True)
class Extracted:
    """Features of P prompts: `matrix` [P, F] float64; the hashes of their character trigrams and whose they are; and
    `open_worded` [P]: whether an open-ended cue (planner.policy.open_ended) of ASCII letters occurs."""

    matrix: NDArray[np.float64]
    trigrams: NDArray[np.uint32]
    owners: NDArray[np.int64]
    open_worded: NDArray[np.bool_]


def extract(prompts: Sequence[str], spec: FeatureSpec | None = None) -> Extracted:
    """Features of each prompt; a prompt's row depends on that prompt alone."""
    spec = spec or FeatureSpec()
    if len(prompts) == 1:
        return _extract_one(prompts[0], spec)
    if not prompts:
        none = np.zeros(0, np.int64)
        return Extracted(np.empty((0, spec.width)), np.zeros(0, np.uint32), none, none.astype(np.bool_))
    return _extract_many(prompts, spec)


def _extract_one(prompt: str, spec: FeatureSpec) -> Extracted:
    text = clean(prompt)
    is_ascii = text.isascii()
    points = points_of(f"\0{text}\0")
    kinds = kinds_of(points, is_ascii)
    by_kind = np.bincount(kinds, minlength=len(CLASSES)).tolist()
    by_kind[0] -= 2  # the NULs
    of = _RUN_OF.take(kinds)
    first, length = _runs(of, _LETTER, kinds if by_kind[ID["unspaced"]] else None)
    latex, hashes = _words(points[of == _LETTER], kinds, first, length, is_ascii)
    symbols = points.copy()
    np.putmask(symbols, of == _DIGIT, 0x30)
    # Pairs of words and trigrams are hashed and counted together: one call costs more than the values of one prompt.
    raw = (hashes, hashes[:-1] * MIX_1 + hashes[1:], trigrams_of(symbols[1:-1]))
    every = np.concatenate(raw)
    of_words, of_pairs = len(hashes), len(hashes) + max(len(hashes) - 1, 0)
    every[of_words:] = mix(every[of_words:])
    trigrams = every[of_pairs:]
    place = every >> np.uint32(8)
    place[:of_pairs] %= np.uint32(spec.word_buckets)
    place[of_pairs:] %= np.uint32(spec.character_buckets)
    place[of_pairs:] += np.uint32(spec.word_buckets)
    depth = 0
    if any(by_kind[_BRACKETS]):
        depth = int(_NESTING.take(kinds[1:]).cumsum().max())
    count, letters = len(first), by_kind[ID["letter"]] + by_kind[ID["unspaced"]]
    numbers, pairs = _numbers_of_one(text)
    cues, open_worded = count_cues_of_one(text, trigrams)
    out = np.empty((1, spec.width))
    out[0, : len(COUNTS)] = (
        len(prompt),
        *by_kind,
        letters / max(letters + by_kind[ID["latin"]], 1),
        count,
        int(length.sum()) / max(count, 1),
        int(np.count_nonzero(latex)),
        depth,
        pairs,
        *numbers,
        *cues,
    )
    out[0, len(COUNTS) :] = np.bincount(place, minlength=spec.width - len(COUNTS))
    return Extracted(out, trigrams, np.zeros(len(trigrams), np.int64), np.array([open_worded]))


def _extract_many(prompts: Sequence[str], spec: FeatureSpec) -> Extracted:
    texts = [clean(p) for p in prompts]
    count = len(texts)
    joined = "\0".join(["", *texts, ""])  # a NUL before and after each prompt
    is_ascii = joined.isascii()
    points = points_of(joined)
    lengths = np.array([len(text) + 1 for text in texts])
    begins = lengths.cumsum() - lengths + 1
    lengths[0] += 1  # the first NUL
    owner = np.arange(count).repeat(lengths)
    kinds = kinds_of(points, is_ascii)
    by_kind = _tally(owner, kinds, len(CLASSES), count)
    by_kind[:, 0] -= 1
    by_kind[0, 0] -= 1
    of = _RUN_OF.take(kinds)
    first, length = _runs(of, _LETTER, kinds if by_kind[:, ID["unspaced"]].any() else None)
    latex, hashes = _words(points[of == _LETTER], kinds, first, length, is_ascii)
    word_owner = owner.take(first)
    n_words = np.bincount(word_owner, minlength=count)

    out = np.empty((count, spec.width))
    counts = out[:, : len(COUNTS)]
    letters = by_kind[:, ID["letter"]] + by_kind[:, ID["unspaced"]]
    counts[:, 0] = [len(prompt) for prompt in prompts]
    c = 1 + len(CLASSES)
    counts[:, 1:c] = by_kind
    counts[:, c] = letters / np.maximum(letters + by_kind[:, ID["latin"]], 1)
    counts[:, c + 1] = n_words
    counts[:, c + 2] = np.bincount(word_owner, length, count) / np.maximum(n_words, 1)
    counts[:, c + 3] = np.bincount(word_owner, latex, count)
    counts[:, c + 4] = 0
    if by_kind[:, _BRACKETS].any():
        nesting = _NESTING.take(kinds)
        depth = nesting.cumsum()
        counts[:, c + 4] = np.maximum.reduceat(depth, begins) - depth[begins] + nesting[begins]
    is_digit = of == _DIGIT
    numbers, counts[:, c + 5] = _numbers_of_many(points[is_digit], *_runs(of, _DIGIT), owner, count)
    counts[:, c + 6 : c + 6 + len(_NUMBER_NAMES)] = numbers

    same = (word_owner[1:] == word_owner[:-1]).nonzero()[0]
    pairs = mix(hashes.take(same) * MIX_1 + hashes.take(same + 1))
    bounds = (len(COUNTS), len(COUNTS) + spec.word_buckets)
    owners = np.concatenate((word_owner, word_owner.take(same)))
    out[:, slice(*bounds)] = _bucket(np.concatenate((hashes, pairs)), owners, spec.word_buckets, count)
    symbols = points.copy()
    np.putmask(symbols, is_digit, 0x30)
    inside = points != 0
    at = (inside[:-2] & inside[1:-1] & inside[2:]).nonzero()[0]
    trigrams, owners = mix(trigrams_of(symbols)).take(at), owner.take(at)
    counts[:, -len(CUES) :], open_worded = count_cues(joined, points, begins, trigrams, at)
    out[:, bounds[1] :] = _bucket(trigrams, owners, spec.character_buckets, count)
    return Extracted(out, trigrams, owners, open_worded)


def _runs(
    of: NDArray[np.uint8], wanted: int, kinds: NDArray[np.uint8] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each run of letters or digits starts, and how long it is. Given `kinds`, a character of an unspaced script
    is a run of its own."""
    change = of[1:] != of[:-1]
    if kinds is not None:
        single = kinds == ID["unspaced"]
        change |= single[1:] | single[:-1]
    starts = change.nonzero()[0] + 1
    rows = (of.take(starts) == wanted).nonzero()[0]  # none is the last one: that is the NUL at the end
    first = starts.take(rows)
    return first, starts.take(rows + 1) - first


def _words(
    letters: NDArray[np.uint32],
    kinds: NDArray[np.uint8],
    first: NDArray[np.int64],
    length: NDArray[np.int64],
    is_ascii: bool,
) -> tuple[NDArray[np.bool_], NDArray[np.uint32]]:
    """Whether a backslash stands before each word, and the word's hash; a word is `length` letters from `first` on,
    `letters` those of all words."""
    if not len(first):
        return np.zeros(0, np.bool_), np.zeros(0, np.uint32)
    heads = length.cumsum() - length
    place = np.arange(len(letters), dtype=np.uint32) - heads.astype(np.uint32).repeat(length)  # in its word
    if is_ascii and length.max() <= _TABLED:
        place <<= np.uint32(7)
        place += letters
        parts = _LETTERS.take(place)
    else:
        parts = mix(letters * MIX_1 + place)
    latex = kinds.take(first - 1) == ID["backslash"]
    return latex, mix(np.add.reduceat(parts, heads, dtype=np.uint32) + latex)


def _bucket(hashes: NDArray[np.uint32], owner: NDArray[np.int64], buckets: int, count: int) -> NDArray[np.int64]:
    place = hashes >> np.uint32(8)
    # A power of two needs no division.
    place = place & np.uint32(buckets - 1) if buckets & (buckets - 1) == 0 else place % np.uint32(buckets)
    return _tally(owner, place, buckets, count)


def _tally(owner: NDArray[np.int64], place: NDArray[Any], places: int, count: int) -> NDArray[np.int64]:
    """[P, places]: how often each prompt has each place."""
    index = owner * places
    index += place
    return np.bincount(index, minlength=count * places).reshape(count, places)


def _numbers_of_one(text: str) -> tuple[list[float], int]:
    """As `_numbers_of_many`."""
    found = _NUMBER.findall(text)
    if not found:
        return [0, *[-1] * (len(_NUMBER_NAMES) - 1)], 0
    lengths = [len(number) for number in found]
    longest, digits, n = max(lengths), sum(lengths), len(lengths)
    if longest <= _EXACT_DIGITS:
        values = np.array([int(number) for number in found], np.float64)
    else:
        values = _values(points_of("".join(found)), np.array(lengths))
    logs = np.log10(1 + values)
    total = float(np.add.reduceat(logs, [0])[0])  # as the batch sums it
    listed = logs.tolist()
    return [n, longest, digits / n, max(listed), min(listed), total / n, listed[0], listed[-1]], digits - n


def _numbers_of_many(
    digits: NDArray[np.uint32],
    first: NDArray[np.int64],
    length: NDArray[np.int64],
    owner: NDArray[np.int64],
    count: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[P, 8] as `_NUMBER_NAMES`: runs of digits, their lengths, log10(1 + value), -1 where a prompt has no number; and
    [P] pairs of neighbouring digits. `digits` are those of all runs."""
    out = np.full((count, len(_NUMBER_NAMES)), -1.0)
    out[:, 0] = 0
    if not len(first):
        return out, np.zeros(count)
    logs = np.log10(1 + _values(digits, length))
    owners = owner.take(first)
    runs = np.bincount(owners, minlength=count)
    has = runs.nonzero()[0]
    some = runs[has]
    begin = some.cumsum() - some
    table = np.empty((len(_NUMBER_NAMES), len(has)))
    table[0] = some
    table[1] = np.maximum.reduceat(length, begin)
    table[2] = np.add.reduceat(length, begin) / some
    table[3] = np.maximum.reduceat(logs, begin)
    table[4] = np.minimum.reduceat(logs, begin)
    table[5] = np.add.reduceat(logs, begin) / some
    table[6] = logs[begin]
    table[7] = logs[begin + some - 1]
    out[has] = table.T
    pairs: NDArray[Any] = np.bincount(owners, length - 1, count)
    return out, pairs


def _values(digits: NDArray[np.uint32], length: NDArray[np.int64]) -> NDArray[np.float64]:
    """The value of each run of digits."""
    ends = length.cumsum()
    place = ends.repeat(length) - np.arange(len(digits)) - 1
    parts = _DIGIT_VALUE[digits] * _POWERS[np.minimum(place, 40)]
    values: NDArray[np.float64] = np.add.reduceat(parts, ends - length)
    return values
