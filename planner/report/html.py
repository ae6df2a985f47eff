"""The document as one HTML file: no request leaves it, no text in it can act."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from planner.report.document import ComparisonDocument, Figure, ReportDocument, to_json
from planner.report.numbers import cost, multiple, percent, points, span
from planner.report.palette import css
from planner.report.svg import draw

__all__ = ["render", "write_html", "write_text"]

_TEMPLATES = Path(__file__).parent / "templates"


def _inert(json_text: str) -> str:
    """JSON that an HTML parser reads as text: no markup, no comment and no line separator can begin in it."""
    for character in "<>&\u2028\u2029":
        json_text = json_text.replace(character, f"\\u{ord(character):04x}")
    return json_text


def render(document: ReportDocument | ComparisonDocument) -> str:
    """The page's text. Needs jinja2 (extra `report`)."""
    if isinstance(document, ComparisonDocument):
        return _render(document, "compare.html", ())
    return _render(document, "report.html", tuple(view.budget for view in document.budgets))


def _render(document: ReportDocument | ComparisonDocument, template: str, budgets: tuple[float, ...]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def svg(figure: Figure) -> Any:
        wide, narrow = draw(figure, budgets, narrow=False), draw(figure, budgets, narrow=True)
        return Markup(f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>')  # noqa: S704 - element() and escape() wrote every text in it

    environment.filters.update(percent=percent, points=points, multiple=multiple)
    environment.globals.update(svg=svg, span=span, cost=cost)
    return environment.get_template(template).render(
        doc=document,
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8") + css()),  # noqa: S704 - our own file
        script=Markup((_TEMPLATES / "report.js").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        data=Markup(_inert(to_json(document))),  # noqa: S704 - made inert above
    )


def write_html(document: ReportDocument | ComparisonDocument, path: str | Path) -> Path:
    """Write the page (folders are made). Returns its path."""
    return write_text(render(document), path)


def write_text(text: str, path: str | Path) -> Path:
    """Write a file in one step, so that a killed run leaves the old one."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".part")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(name, 0o644)
    os.replace(name, target)
    return target
