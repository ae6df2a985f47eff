"""What a fitted policy says, for people: HTML, Markdown, JSON and the terminal (`planner.report.terminal`)."""

from __future__ import annotations

from pathlib import Path

from planner.report.build import build_report
from planner.report.compare import build_comparison
from planner.report.document import ComparisonDocument, ReportDocument, to_json
from planner.report.html import write_html, write_text
from planner.report.markdown import to_markdown

__all__ = [
    "ComparisonDocument", "ReportDocument", "build_comparison", "build_report", "to_json", "to_markdown",
    "write_comparison", "write_html", "write_report",
]  # fmt: skip


def write_report(policy_path: str | Path, output: str | Path) -> Path:
    """Write the report of a policy folder.

    `output` ending in .html, .md or .json is one file of that kind; anything else is a folder that gets all three.
    Returns the file, or the folder's report.html. Raises PolicyError where the policy folder cannot be used.
    """
    return _write(build_report(policy_path), output)


def write_comparison(first: str | Path, second: str | Path, output: str | Path) -> Path:
    """Write two policy folders side by side; `output` as in `write_report`.

    Raises PolicyError where a folder cannot be used, InputError where the two are in different units.
    """
    return _write(build_comparison(first, second), output)


def _write(document: ReportDocument | ComparisonDocument, output: str | Path) -> Path:
    target = Path(output)
    match target.suffix.lower():
        case ".html" | ".htm":
            return write_html(document, target)
        case ".md":
            return write_text(to_markdown(document), target)
        case ".json":
            return write_text(to_json(document) + "\n", target)
    write_text(to_markdown(document), target / "report.md")
    write_text(to_json(document) + "\n", target / "report.json")
    return write_html(document, target / "report.html")
