"""Mermaid flowcharts as SVG, drawn while the site is built: the subset that our pages use, so that no script is loaded.

Understood: `flowchart TD`, nodes `id["first line<br/>second line"]`, edges `a --> b`, several in a row.
"""

from __future__ import annotations

import re
from html import escape
from itertools import pairwise

__all__ = ["flowchart"]

_WIDTH, _HEIGHT, _GAP, _MARGIN = 380, 46, 26, 8
_NODE = re.compile(r'(\w+)(?:\["(.*?)"\])?')


def flowchart(source: str) -> str:
    """The chart as one `<svg>`. Raises ValueError for a line of another kind and for a cycle."""
    labels: dict[str, str] = {}
    edges: list[tuple[str, str]] = []
    for line in filter(None, map(str.strip, source.splitlines()[1:])):
        names = []
        for part in line.split("-->"):
            match = _NODE.fullmatch(part.strip())
            if match is None:
                raise ValueError(f'not drawn here: {line!r} (nodes `id["text"]` and edges `a --> b` are)')
            names.append(match[1])
            labels[match[1]] = match[2] or labels.get(match[1], match[1])
        edges += pairwise(names)
    rank = _ranks(labels, edges)
    rows: dict[int, list[str]] = {}
    for name in labels:
        rows.setdefault(rank[name], []).append(name)
    widest = max(map(len, rows.values()))
    width = widest * (_WIDTH + _GAP) - _GAP + 2 * _MARGIN
    height = len(rows) * (_HEIGHT + _GAP) - _GAP + 2 * _MARGIN
    centre = {
        name: (
            width / 2 + (i - (len(row) - 1) / 2) * (_WIDTH + _GAP),
            _MARGIN + _HEIGHT / 2 + level * (_HEIGHT + _GAP),
        )
        for level, row in rows.items()
        for i, name in enumerate(row)
    }
    drawn = [_edge(centre[a], centre[b]) for a, b in edges] + [_box(labels[n], *centre[n]) for n in labels]
    said = escape(", ".join(f"{a} to {b}" for a, b in edges))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'role="img" aria-label="Flowchart: {said}">{"".join(drawn)}</svg>'
    )


def _ranks(labels: dict[str, str], edges: list[tuple[str, str]]) -> dict[str, int]:
    """The longest way to each node from one without a predecessor."""
    rank = dict.fromkeys(labels, 0)
    for _ in labels:
        before = dict(rank)
        for a, b in edges:
            rank[b] = max(rank[b], rank[a] + 1)
        if rank == before:
            return rank
    raise ValueError("the chart has a cycle")


def _edge(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x0, y0), (x1, y1) = start, end
    y0, y1 = y0 + _HEIGHT / 2, y1 - _HEIGHT / 2
    tip = f"M{x1:.0f},{y1:.0f}l-4,-8h8z"
    return f'<path d="M{x0:.0f},{y0:.0f}L{x1:.0f},{y1 - 6:.0f}"/><path class="tip" d="{tip}"/>'


def _box(label: str, x: float, y: float) -> str:
    lines = label.split("<br/>")
    text = "".join(
        f'<text class="{"first" if i == 0 else ""}" x="{x:.0f}" y="{y + 4.5 + 17 * (i - (len(lines) - 1) / 2):.1f}">'
        f"{escape(line)}</text>"
        for i, line in enumerate(lines)
    )
    box = f'<rect x="{x - _WIDTH / 2:.0f}" y="{y - _HEIGHT / 2:.0f}" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>'
    return box + text
