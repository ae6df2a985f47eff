"""What a prompt shows before anything is generated: counts, number sizes and hashed n-grams. numpy only, no state.

All prompts of a call are laid end to end as one array of code points, so a batch costs hardly more numpy calls than a
single prompt. Nothing is learned here and nothing but the text enters: labels (level, subject) are never features.
Digits enter the n-grams as one symbol, so that the wording of a template is told apart from its numbers. A character of
a script without spaces (Chinese, Japanese, Thai) counts as a word of its own.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import PolicyError

__all__ = ["COUNTS", "FEATURE_VERSION", "Extracted", "FeatureSpec", "extract"]

FEATURE_VERSION = 1
MAX_CHARACTERS = 20_000
"""Only this many characters of a prompt are looked at (its full length is a feature), so a huge prompt stays cheap."""

# --- character classes: one table look-up gives every count at once ----------------------------------------------
_SYMBOLS: tuple[tuple[str, str], ...] = (
    ("plus", "+"),
    ("minus", "-−–"),  # hyphen, minus, dash
    ("times", "*×·⋅"),
    ("divide", "/÷"),
    ("equals", "=≠≡"),
    ("compare", "<>≤≥"),
    ("power", "^√"),
    ("percent", "%"),
    ("open", "([{"),
    ("close", ")]}"),
    ("dollar", "$€£¥"),
    ("backslash", "\\"),
    ("underscore", "_"),
    ("comma", ",、"),
    ("full_stop", ".。"),
    ("question", "?"),
    ("exclamation", "!"),
    ("colon", ":;"),
    ("quote", "'\"“”‘’「」"),
    ("bar", "|"),
)
_CLASSES = ("other", "space", "newline", "digit", "latin", "letter", "unspaced", *(name for name, _ in _SYMBOLS))
_ID = {name: i for i, name in enumerate(_CLASSES)}
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF))


def _class_table() -> NDArray[np.uint8]:
    table = np.zeros(0x10000, np.uint8)
    for low, high in ((0x00C0, 0x024F), (0x1E00, 0x1EFF)):
        table[low : high + 1] = _ID["latin"]
    for low, high in ((0x0370, 0x0DFF), (0x0F00, 0x1DFF), (0x1F00, 0x1FFF), (0xAC00, 0xD7AF)):
        table[low : high + 1] = _ID["letter"]
    for low, high in (*_UNSPACED, (0xF900, 0xFAFF)):
        table[low : high + 1] = _ID["unspaced"]
    for start in (0x61, 0x41):
        table[start : start + 26] = _ID["latin"]
    for zero in (0x30, 0x0660, 0x06F0, 0x0966):  # ASCII, Arabic, Persian, Devanagari
        table[zero : zero + 10] = _ID["digit"]
    for space in " \t\r\u00a0\u3000":
        table[ord(space)] = _ID["space"]
    table[ord("\n")] = _ID["newline"]
    for name, characters in _SYMBOLS:
        for character in characters:
            table[ord(character)] = _ID[name]
    return table


_TABLE = _class_table()
_DIGIT, _LATIN, _LETTER, _UNSPACED_ID = (np.uint8(_ID[n]) for n in ("digit", "latin", "letter", "unspaced"))
_DIGIT_VALUE = np.zeros(0x10000)
for _zero in (0x30, 0x0660, 0x06F0, 0x0966):
    _DIGIT_VALUE[_zero : _zero + 10] = np.arange(10)
_IS_LETTER = np.isin(np.arange(len(_CLASSES)), [_LATIN, _LETTER, _UNSPACED_ID])
_BRACKETS = slice(_ID["open"], _ID["close"] + 1)
_POWERS = 10.0 ** np.arange(41)
_NESTING = np.zeros(len(_CLASSES), np.int64)
_NESTING[_ID["open"]], _NESTING[_ID["close"]] = 1, -1

# --- words that say what is asked; substring counts, so that they also work without spaces --------------------------
_CUES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("how_many", ("how many", "how much", "how long", "how far", "多少", "几")),
    ("what", ("what", "which", "who", "when", "where", "什么", "哪")),
    ("find", ("find", "compute", "calculate", "evaluate", "solve", "determine", "simplify", "求", "计算", "解")),
    ("prove", ("prove", "show that", "证明")),
    ("rates", ("each", "every", " per ", "twice", "half", "times", "每")),
    ("conditions", ("such that", "given", "suppose", "at least", "at most", "exactly", "already", "如果", "若")),
    ("mathematics", ("probability", "remainder", "integer", "triangle", "polynomial", "sequence", "概率", "整数")),
)
_NUMBER_NAMES = ("count", "digits_max", "digits_mean", "log_max", "log_min", "log_mean", "log_first", "log_last")
COUNTS: tuple[str, ...] = (
    "characters",
    *(f"n_{name}" for name in _CLASSES),
    "non_latin_share",
    "words",
    "word_length_mean",
    "latex_commands",
    "nesting_depth",
    "adjacent_digit_pairs",
    *(f"number_{name}" for name in _NUMBER_NAMES),
    *(f"cue_{name}" for name, _ in _CUES),
)
"""Names of the count features."""

_MIX_1, _MIX_2, _MIX_3 = np.uint32(0x9E3779B1), np.uint32(0x85EBCA77), np.uint32(0xC2B2AE3D)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """Which features a model was trained on; stored with it, and refused when this code would compute others."""

    word_buckets: int = 128
    character_buckets: int = 128

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
    """Features of P prompts: `matrix` [P, F] float64; the hashes of their character trigrams and whose they are."""

    matrix: NDArray[np.float64]
    trigrams: NDArray[np.uint32]
    owners: NDArray[np.int64]


def _clean(prompt: str) -> str:
    text = prompt[:MAX_CHARACTERS].lower()
    if text.isascii():
        return text.replace("\0", " ")
    return unicodedata.normalize("NFKC", text)[:MAX_CHARACTERS].replace("\0", " ")


def _mix(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    values = values * _MIX_2
    values ^= values >> np.uint32(15)
    values *= _MIX_3
    values ^= values >> np.uint32(13)
    return values


def _trigrams(symbols: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Hash of each three neighbouring symbols."""
    return _mix((symbols[:-2] * _MIX_1 + symbols[1:-1]) * _MIX_2 + symbols[2:])


_WORDS = [(column, word) for column, (_, words) in enumerate(_CUES) for word in words]
_LATIN_WORDS = tuple((column, word) for column, word in _WORDS if word.isascii())
_SHORT_WORDS = tuple((column, word) for column, word in _WORDS if not word.isascii())
_BY_PREFIX: dict[str, list[tuple[int, str]]] = {}
_CUE_TRIGRAMS = np.zeros(1 << 16, np.bool_)
for _column, _word in _LATIN_WORDS:
    _BY_PREFIX.setdefault(_word[:3], []).append((_column, _word))
    _CUE_TRIGRAMS[_trigrams(np.array([ord(c) for c in _word[:3]], np.uint32)) >> np.uint32(16)] = True


def extract(prompts: Sequence[str], spec: FeatureSpec | None = None) -> Extracted:
    """Features of each prompt; a prompt's row depends on that prompt alone."""
    spec = spec or FeatureSpec()
    texts = [_clean(p) for p in prompts]
    count = len(texts)
    split = (len(COUNTS), len(COUNTS) + spec.word_buckets)
    out = np.empty((count, split[1] + spec.character_buckets))
    if count == 0:
        return Extracted(out, np.zeros(0, np.uint32), np.zeros(0, np.int64))
    joined = "\0".join([*texts, ""])  # each prompt is followed by one NUL
    if joined.isascii():
        points = np.frombuffer(joined.encode("ascii"), np.uint8).astype(np.uint32)
    else:
        points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = np.array([len(text) + 1 for text in texts])
    starts = lengths.cumsum() - lengths
    owner = np.zeros(len(points), np.int64) if count == 1 else np.arange(count).repeat(lengths)
    if joined.isascii() or points.max() <= 0xFFFF:
        kinds = _TABLE.take(points)
    else:
        kinds = _TABLE[np.minimum(points, 0xFFFF)]
        kinds[(points >= 0x20000) & (points < 0x32000)] = _UNSPACED_ID
    digit = kinds == _DIGIT

    counts = out[:, : split[0]]
    n_kinds = len(_CLASSES)
    by_kind = _tally(owner, kinds, n_kinds, count)
    word_hash, word_owner, word_length, latex = _words(
        points, kinds, owner, count, bool(by_kind[:, _ID["unspaced"]].any())
    )
    n_words = _sums(word_owner, None, count)
    counts[:, 0] = [len(prompt) for prompt in prompts]
    counts[:, 1 : 1 + n_kinds] = by_kind
    counts[:, 1] -= 1  # the NUL itself
    c = 1 + n_kinds
    other_letters = by_kind[:, _ID["letter"]] + by_kind[:, _ID["unspaced"]]
    counts[:, c] = other_letters / np.maximum(other_letters + by_kind[:, _ID["latin"]], 1)
    counts[:, c + 1] = n_words
    counts[:, c + 2] = _sums(word_owner, word_length, count) / np.maximum(n_words, 1)
    counts[:, c + 3] = _sums(word_owner, latex, count)
    counts[:, c + 4] = 0
    if by_kind[:, _BRACKETS].any():
        nesting = _NESTING[kinds]
        depth = nesting.cumsum()
        counts[:, c + 4] = np.maximum.reduceat(depth, starts) - depth[starts] + nesting[starts]
    counts[:, c + 5] = _sums(_owners(owner, (digit[1:] & digit[:-1]).nonzero()[0], count), None, count)
    c += 6
    counts[:, c : c + len(_NUMBER_NAMES)] = _numbers(points, digit, owner, count)
    c += len(_NUMBER_NAMES)
    pairs, owners = _mix(word_hash[:-1] * _MIX_1 + word_hash[1:]), word_owner
    if count > 1:
        same = word_owner[1:] == word_owner[:-1]
        pairs, owners = pairs[same], np.concatenate((word_owner, word_owner[1:][same]))
    _bucket(out[:, split[0] : split[1]], np.concatenate((word_hash, pairs)), owners)
    symbols = points.copy()
    symbols[digit] = 0x30
    if count == 1:
        trigrams, at = _trigrams(symbols[:-1]), owner[: max(len(points) - 3, 0)]  # the only NUL is the last
    else:
        inside = points != 0
        at = (inside[:-2] & inside[1:-1] & inside[2:]).nonzero()[0]
        trigrams = _trigrams(symbols).take(at)
    trigram_owner = _owners(owner, at, count)
    _cues(counts[:, c:], joined, starts, trigrams, at)
    _bucket(out[:, split[1] :], trigrams, trigram_owner)
    return Extracted(out, trigrams, trigram_owner)


def _bucket(target: NDArray[np.float64], hashes: NDArray[np.uint32], owner: NDArray[np.int64]) -> None:
    rows, buckets = target.shape
    place = hashes >> np.uint32(8)
    # A power of two needs no division.
    place = place & np.uint32(buckets - 1) if buckets & (buckets - 1) == 0 else place % np.uint32(buckets)
    target[:] = _tally(owner, place, buckets, rows)


def _tally(owner: NDArray[np.int64], place: NDArray[Any], places: int, count: int) -> NDArray[np.int64]:
    """[P, places]: how often each prompt has each place."""
    if count == 1:
        return np.bincount(place, minlength=places)[None]
    return np.bincount(owner * places + place, minlength=count * places).reshape(count, places)


def _sums(owner: NDArray[np.int64], values: NDArray[Any] | None, count: int) -> NDArray[Any]:
    """[P]: sums of whole numbers (None: ones) over each prompt's rows."""
    if count == 1:
        return np.array([len(owner) if values is None else values.sum()])
    return np.bincount(owner, values, count)


def _cues(
    target: NDArray[np.float64],
    joined: str,
    starts: NDArray[np.int64],
    trigrams: NDArray[np.uint32],
    at: NDArray[np.int64],
) -> None:
    """Occurrences of each cue's words, [P, cues], as `str.count` gives them for each prompt.

    `trigrams` start at the places `at` of `joined`: a word is looked for only where its first three characters are.
    """
    target[:] = 0
    searched = _LATIN_WORDS if joined.isascii() else _LATIN_WORDS + _SHORT_WORDS
    if len(starts) == 1:
        found = [0] * len(_CUES)
        for column, word in searched:
            found[column] += joined.count(word)
        target[0] = found
        return
    places = at[_CUE_TRIGRAMS.take(trigrams >> np.uint32(16))]
    owners = (starts.searchsorted(places, side="right") - 1).tolist()
    ends: dict[str, int] = {}
    for place, owner in zip(places.tolist(), owners, strict=True):
        for column, word in _BY_PREFIX.get(joined[place : place + 3], ()):
            if joined.startswith(word, place) and ends.get(word, 0) <= place:
                ends[word] = place + len(word)
                target[owner, column] += 1
    for column, word in searched[len(_LATIN_WORDS) :]:
        place = joined.find(word)
        while place >= 0:
            target[starts.searchsorted(place, side="right") - 1, column] += 1
            place = joined.find(word, place + len(word))


def _words(
    points: NDArray[np.uint32], kinds: NDArray[np.uint8], owner: NDArray[np.int64], count: int, unspaced: bool
) -> tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Hash, owner and length of each word (runs of letters, single characters of unspaced scripts), and whether a
    backslash stands before it."""
    at = _IS_LETTER.take(kinds).nonzero()[0]
    if not len(at):
        none = np.zeros(0, np.int64)
        return np.zeros(0, np.uint32), none, none, np.zeros(0, np.bool_)
    opens = _opens(at)
    if unspaced:
        single = kinds.take(at) == _UNSPACED_ID
        opens |= single
        opens[1:] |= single[:-1]
    heads = opens.nonzero()[0]  # where in `at` each word starts
    first = at[heads]
    length = _lengths(heads, len(at))
    position = (np.arange(len(at)) - heads.repeat(length)).astype(np.uint32)
    sums = np.add.reduceat(_mix(points[at] * _MIX_1 + position), heads, dtype=np.uint32)
    latex = kinds[np.maximum(first - 1, 0)] == _ID["backslash"]
    return _mix(sums + latex), _owners(owner, first, count), length, latex


def _owners(owner: NDArray[np.int64], at: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`owner[at]`; a single prompt owns everything."""
    return owner[: len(at)] if count == 1 else owner.take(at)


def _opens(at: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each of these rising positions does not follow right on the one before."""
    opens = np.empty(len(at), np.bool_)
    opens[0] = True
    np.not_equal(at[1:] - at[:-1], 1, out=opens[1:])
    return opens


def _lengths(heads: NDArray[np.int64], end: int) -> NDArray[np.int64]:
    """Length of each run, from where the runs start and where the last one ends."""
    out = np.empty_like(heads)
    out[:-1] = heads[1:]
    out[-1] = end
    out -= heads
    return out


def _numbers(
    points: NDArray[np.uint32], digit: NDArray[np.bool_], owner: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """[P, 8] as `_NUMBER_NAMES`: runs of digits, their lengths, log10(1 + value); -1 where a prompt has no number."""
    out = np.full((count, len(_NUMBER_NAMES)), -1.0)
    out[:, 0] = 0
    at = digit.nonzero()[0]
    if not len(at):
        return out
    heads = _opens(at).nonzero()[0]
    length = _lengths(heads, len(at))
    place = (heads + length).repeat(length) - np.arange(len(at)) - 1
    values = np.add.reduceat(_DIGIT_VALUE[points[at]] * _POWERS[np.minimum(place, 40)], heads)
    logs = np.log10(1 + values)
    if count == 1:
        lengths, values = length.tolist(), logs.tolist()
        total = float(np.add.reduceat(logs, [0])[0])  # as the batch sums it
        n, ends = len(lengths), (values[0], values[-1])
        out[0] = (n, max(lengths), sum(lengths) / n, max(values), min(values), total / n, *ends)
        return out
    runs = np.bincount(owner[at[heads]], minlength=count)
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
    return out
