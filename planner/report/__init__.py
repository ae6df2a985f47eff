"""What a fitted policy says, for people: HTML, Markdown, JSON and the terminal (`planner.report.terminal`)."""

from __future__ import annotations

from pathlib import Path

from planner.report.build import build_report
from planner.report.document import ReportDocument, to_json
from planner.report.html import write_html, write_text
from planner.report.markdown import to_markdown

__all__ = ["ReportDocument", "build_report", "to_json", "to_markdown", "write_html", "write_report"]


def write_report(policy_path: str | Path, output: str | Path) -> Path:
    """Write the report of a policy folder.

    `output` ending in .html, .md or .json is one file of that kind; anything else is a folder that gets all three.
    Returns the file, or the folder's report.html. Raises PolicyError where the policy folder cannot be used.
    """
    document = build_report(policy_path)
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
