"""What kind of thing each character is, and how characters are hashed: the ground that features stand on."""

from __future__ import annotations

import unicodedata

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLASSES", "ID", "MAX_CHARACTERS", "MIX_1", "ZEROS", "clean", "kinds_of", "mix", "points_of", "trigrams_of"]

MAX_CHARACTERS = 20_000
"""Only this many characters of a prompt are looked at (its full length is a feature), so a huge prompt stays cheap."""

# One table look-up gives every count at once.
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
CLASSES = ("other", "space", "newline", "digit", "latin", "letter", "unspaced", *(name for name, _ in _SYMBOLS))
ID = {name: i for i, name in enumerate(CLASSES)}
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF))
ZEROS = (0x30, 0x0660, 0x06F0, 0x0966)
"""Where the ten digits start: ASCII, Arabic, Persian, Devanagari."""


def _class_table() -> NDArray[np.uint8]:
    table = np.zeros(0x10000, np.uint8)
    for low, high in ((0x00C0, 0x024F), (0x1E00, 0x1EFF)):
        table[low : high + 1] = ID["latin"]
    for low, high in ((0x0370, 0x0DFF), (0x0F00, 0x1DFF), (0x1F00, 0x1FFF), (0xAC00, 0xD7AF)):
        table[low : high + 1] = ID["letter"]
    for low, high in (*_UNSPACED, (0xF900, 0xFAFF)):
        table[low : high + 1] = ID["unspaced"]
    for start in (0x61, 0x41):
        table[start : start + 26] = ID["latin"]
    for zero in ZEROS:
        table[zero : zero + 10] = ID["digit"]
    for space in " \t\r\u00a0\u3000":
        table[ord(space)] = ID["space"]
    table[ord("\n")] = ID["newline"]
    for name, characters in _SYMBOLS:
        for character in characters:
            table[ord(character)] = ID[name]
    return table


_TABLE = _class_table()
_UNSPACED_ID = np.uint8(ID["unspaced"])
MIX_1, MIX_2, _MIX_3 = np.uint32(0x9E3779B1), np.uint32(0x85EBCA77), np.uint32(0xC2B2AE3D)


def clean(prompt: str) -> str:
    """The part of a prompt that is looked at, in lower case and NFKC form, without NUL."""
    text = prompt[:MAX_CHARACTERS].lower()
    if text.isascii():
        return text.replace("\0", " ")
    return unicodedata.normalize("NFKC", text)[:MAX_CHARACTERS].replace("\0", " ")


def points_of(text: str) -> NDArray[np.uint32]:
    """Code points; half a surrogate pair is one of its own."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8).astype(np.uint32)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def kinds_of(points: NDArray[np.uint32], is_ascii: bool) -> NDArray[np.uint8]:
    """The place in CLASSES of each code point."""
    if is_ascii or points.max() <= 0xFFFF:
        return _TABLE.take(points)
    kinds = _TABLE[np.minimum(points, 0xFFFF)]
    kinds[(points >= 0x20000) & (points < 0x32000)] = _UNSPACED_ID
    return kinds


def mix(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A hash of each value."""
    values = values * MIX_2
    values ^= values >> np.uint32(15)
    values *= _MIX_3
    values ^= values >> np.uint32(13)
    return values


def trigrams_of(symbols: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """What `mix` makes the hashes of each three neighbouring symbols of, [n - 2]."""
    values = symbols[:-2] * MIX_1
    values += symbols[1:-1]
    values *= MIX_2
    values += symbols[2:]
    return values
