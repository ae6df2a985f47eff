"""Figures as inline SVG. Each is drawn twice, for wide and for narrow screens, so that text keeps its size."""

from __future__ import annotations

from html import escape

from planner.report.axes import Scale, element, linear_ticks, log_ticks, path, spread
from planner.report.document import Figure, Panel, Point, Series
from planner.report.numbers import short_cost

__all__ = ["draw"]

_CROWDED = 8
"""Lines in a panel beyond which it takes the whole width, and only the line that is brought forward shows its band."""


def draw(figure: Figure, budgets: tuple[float, ...], *, narrow: bool) -> str:
    """The figure as one `<svg>` 350 or 960 units wide. `budgets` place the slider's cursor on cost axes."""
    width = 350.0 if narrow else 960.0
    if figure.kind == "calibration":
        return _calibration(figure, min(width, 460.0))
    count = len(figure.panels)
    columns = 1 if narrow else min(count, 4 if figure.kind == "whiskers" and count == 4 else 3)
    alone = count == 1 and figure.x_scale == "cost"
    if count == 1 and not alone and not narrow:
        columns = 2  # a square-ish panel beside nothing, not one drawn out over the whole page
    if crowded := figure.kind == "lines" and max(len(panel.series) for panel in figure.panels) > _CROWDED:
        columns = 1
    height = (300.0 if narrow else 420.0) if alone or crowded else (230.0 if narrow else 290.0)
    rows = -(-count // columns)
    gap = 0.0 if columns == 1 else 14.0
    cell = (width - gap * (columns - 1)) / columns
    low, high = _x_range(figure)
    named = alone and not narrow and "legend" not in figure.extra
    parts = []
    for i, panel in enumerate(figure.panels):
        left, top = (i % columns) * (cell + gap), (i // columns) * height
        parts.append(_panel(figure, panel, left, top, cell, height, (low, high), budgets, labels=named))
    return _frame("".join(parts), width, rows * height, figure)


def _frame(content: str, width: float, height: float, figure: Figure) -> str:
    return element(
        "svg", content, viewBox=f"0 0 {width:.0f} {height:.0f}", role="img", aria_label=f"{figure.title}. {figure.says}"
    )


def _x_range(figure: Figure) -> tuple[float, float]:
    xs = [p.x for panel in figure.panels for s in panel.series for p in s.points]
    low, high = min(xs), max(xs)
    if figure.x_scale == "share":
        return 0.0, 1.0
    if figure.x_scale == "number":
        margin = (high - low) / 20 or 0.5
        return low - margin, high + margin
    margin = 1.6 if figure.kind == "whiskers" and figure.x_scale == "points" else 1.12
    return (low / margin, high * margin) if high > low else (low / 2, high * 2)


def _x_ticks(figure: Figure, x_range: tuple[float, float], x: Scale) -> list[tuple[float, str]]:
    """Places and texts of the ticks that fit between the ends of the scale."""
    room = x.end - x.start
    if figure.x_scale == "cost":
        return [(t, short_cost(t)) for t in log_ticks(*x_range, max(3, int(room / 62)))]
    if figure.x_scale == "points":
        found: list[tuple[float, str]] = []
        for t in sorted({p.x for panel in figure.panels for s in panel.series for p in s.points}):
            if not found or x(t) - x(found[-1][0]) > 24:
                found.append((t, f"{t:g}"))
        return found
    ticks = [t for t in linear_ticks(*x_range, max(3, int(room / 62))) if x_range[0] <= t <= x_range[1]]
    return [(t, f"{100 * t:.3g}%" if figure.x_scale == "share" else f"{t:.3g}") for t in ticks]


def _y_ticks(figure: Figure, panel: Panel, height: float) -> list[float]:
    points = [p for s in panel.series for p in s.points]
    ys = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    low, high = min(ys), max(ys)
    if figure.x_scale == figure.y_scale == "share":
        low, high = 0.0, 1.0
    if figure.kind == "whiskers":
        low, high = min(low, -0.005), max(high, 0.005)
    elif high - low < 0.04:
        low, high = max(0.0, low - 0.02), min(1.0, high + 0.02)
    return linear_ticks(low, high, 6 if height > 260 else 4)


def _text(x: float, y: float, text: str, *, anchor: str = "middle", class_: str = "tick") -> str:
    return element("text", escape(text), x=x, y=y, text_anchor=anchor, class_=class_)


def _panel(
    figure: Figure,
    panel: Panel,
    left: float,
    top: float,
    width: float,
    height: float,
    x_range: tuple[float, float],
    budgets: tuple[float, ...],
    *,
    labels: bool,
) -> str:
    ticks = _y_ticks(figure, panel, height)
    x0, x1 = left + 42.0, left + width - (166.0 if labels else 18.0 if figure.x_scale == "share" else 8.0)
    y0, y1 = top + height - 44.0, top + (30.0 if panel.title else 12.0)
    x = Scale(*x_range, x0, x1, log=figure.x_scale in {"cost", "points"})
    y = Scale(ticks[0], ticks[-1], y0, y1)
    out = []
    if panel.title:
        room = int((left + width - x0) / 9)
        title = panel.title if len(panel.title) <= room else f"{panel.title[: room - 1].rstrip()}…"
        fits = panel.note and len(title) + len(panel.note) + 2 <= room
        note = element("tspan", escape(f"  {panel.note}"), class_="note") if fits else ""
        whole = element("title", escape(panel.title)) if title != panel.title else ""
        out.append(element("text", whole + escape(title) + note, x=x0, y=top + 16.0, class_="panel"))
    signed = figure.kind == "whiskers"
    for t in ticks:
        out.append(
            element("line", x1=x0, x2=x1, y1=y(t), y2=y(t), class_="zero" if signed and abs(t) < 1e-9 else "grid")
        )
        shares = figure.y_scale == "share"
        number = f"{100 * t if shares else t:.3g}".replace("-", "−")
        out.append(
            _text(
                x0 - 6,
                y(t) + 4,
                f"+{number}" if signed and t > 1e-9 else f"{number}%" if shares and not signed else number,
                anchor="end",
            )
        )
    for t, text in _x_ticks(figure, x_range, x):
        out.append(element("line", x1=x(t), x2=x(t), y1=y0, y2=y0 + 4, class_="axis"))
        out.append(_text(x(t), y0 + 17, text))
    if figure.extra.get("diagonal"):
        a, b = max(x.low, y.low), min(x.high, y.high)
        out.append(element("line", x1=x(a), x2=x(b), y1=y(a), y2=y(b), class_="diagonal"))
    out.append(element("line", x1=x0, x2=x1, y1=y0, y2=y0, class_="axis"))
    out.append(_text((x0 + x1) / 2, y0 + 36, _shorter(figure.x_label, x1 - x0), class_="label"))
    inside = [f"{x(b):.1f}" if figure.x_scale == "cost" and x_range[0] <= b <= x_range[1] else "" for b in budgets]
    if any(inside):
        out.append(
            element(
                "line",
                x1=x0,
                x2=x0,
                y1=y1,
                y2=y0,
                class_="cursor",
                data_x=" ".join(v or "-" for v in inside),
                style="display:none",
            )
        )
    order = sorted(panel.series, key=lambda s: s.key == "policy")
    if signed:
        out += [_whiskers(s, x, y) for s in order]
    else:
        quiet = len(order) > _CROWDED
        out += [_band(s, x, y, quiet=quiet) for s in order] + [
            _line(s, x, y, plain="plain" in figure.extra) for s in order
        ]
    if labels:
        out += _end_labels(panel, x, y, x1, y1, y0)
    return element("g", "".join(out))


def _shorter(label: str, room: float) -> str:
    """The axis label, without its remarks where they would not fit."""
    return label if len(label) * 6.3 <= room else label.split(",")[0]


def _band(series: Series, x: Scale, y: Scale, *, quiet: bool) -> str:
    known = [p for p in series.points if p.low is not None and p.high is not None]
    if len(known) < 2:
        return ""
    outline = [(x(p.x), y(p.high or 0.0)) for p in known] + [(x(p.x), y(p.low or 0.0)) for p in reversed(known)]
    return element(
        "path", d=path(outline, close=True), class_=f"band k-{series.key}{' quiet' * quiet}", data_series=series.name
    )


def _mark(p: Point, shape: int, x: Scale, y: Scale) -> str:
    a, b, r = x(p.x), y(p.y), 3.4
    if shape % 3 == 0:
        return element("circle", cx=a, cy=b, r=r, class_="mark")
    if shape % 3 == 1:
        return element("rect", x=a - r, y=b - r, width=2 * r, height=2 * r, class_="mark")
    return element("path", d=path([(a, b - r - 1), (a + r + 1, b + r), (a - r - 1, b + r)], close=True), class_="mark")


def _hit(p: Point, x: Scale, y: Scale) -> str:
    return element("circle", cx=x(p.x), cy=y(p.y), r=10, class_="hit", data_tip=p.tip)


def _line(series: Series, x: Scale, y: Scale, *, plain: bool) -> str:
    body = (
        element("path", d=path((x(p.x), y(p.y)) for p in series.points), class_="line")
        if len(series.points) > 1
        else ""
    )
    body += "" if plain else "".join(_mark(p, series.marker, x, y) for p in series.points)
    body += "".join(_hit(p, x, y) for p in series.points)
    return element("g", body, class_=f"series k-{series.key}", data_series=series.name)


def _whiskers(series: Series, x: Scale, y: Scale) -> str:
    body = ""
    for p in series.points:
        if p.low is not None and p.high is not None:
            body += element("line", x1=x(p.x), x2=x(p.x), y1=y(p.low), y2=y(p.high), class_="whisker")
        sure = p.low is not None and p.high is not None and (p.low > 0 or p.high < 0)
        body += element("circle", cx=x(p.x), cy=y(p.y), r=4.2, class_="mark" if sure else "mark hollow")
        body += _hit(p, x, y)
    return element("g", body, class_=f"series k-{series.key}", data_series=series.name)


def _end_labels(panel: Panel, x: Scale, y: Scale, right: float, top: float, bottom: float) -> list[str]:
    ends = [s.points[-1] for s in panel.series]
    places = spread([y(p.y) for p in ends], 17.0, top + 6, bottom - 4)
    out = []
    for s, p, place in zip(panel.series, ends, places, strict=True):
        start = (x(p.x) + 6, y(p.y))
        out.append(
            element(
                "g",
                element("path", d=path([start, (right + 4, place), (right + 10, place)]), class_="leader")
                + _text(right + 14, place + 4, s.name, anchor="start", class_="name"),
                class_=f"k-{s.key} end",
                data_series=s.name,
            )
        )
    return out


def _calibration(figure: Figure, size: float) -> str:
    x, y = Scale(0, 1, 58.0, size - 20), Scale(0, 1, size - 46, 12.0)
    out = []
    for t in (0.0, 0.25, 0.5, 0.75, 1.0):
        out.append(element("line", x1=x(0), x2=x(1), y1=y(t), y2=y(t), class_="grid"))
        out.append(_text(x(0) - 6, y(t) + 4, f"{100 * t:.0f}%", anchor="end"))
        out.append(_text(x(t), y(0) + 17, f"{100 * t:.0f}%"))
    out.append(element("line", x1=x(0), y1=y(0), x2=x(1), y2=y(1), class_="diagonal"))
    out.append(_text((x(0) + x(1)) / 2, y(0) + 38, figure.x_label, class_="label"))
    middle = (y(0) + y(1)) / 2
    out.append(
        element(
            "text",
            escape(figure.y_label),
            x=12,
            y=middle,
            transform=f"rotate(-90 12 {middle:.1f})",
            text_anchor="middle",
            class_="label",
        )
    )
    for series in figure.panels[0].series:
        if series.name == "bins":
            out.append(_whiskers(series, x, y).replace(" hollow", ""))
            continue
        dots = "".join(
            element("circle", cx=x(p.x), cy=y(p.y), r=2.6, class_="dot", data_tip=p.tip) for p in series.points
        )
        out.append(element("g", dots, class_=f"k-{series.key}"))
    return _frame("".join(out), size, size, figure)
