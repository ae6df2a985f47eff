"""What MkDocs builds from the code itself: the command reference, the changelog, the notebooks, diagrams.

Named in mkdocs.yml under `hooks`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docs_commands import command_reference
from docs_diagram import flowchart
from docs_notebooks import notebook_files
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
_FENCE = re.compile(r"^```(sh|python) (no-run|background)\b *(.*)$", re.MULTILINE)
_MERMAID = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that no file in docs/ holds."""
    made: dict[str, str | bytes] = {
        "reference/cli.md": command_reference(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        **notebook_files(ROOT / "notebooks"),
    }
    for place, content in made.items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Say above a block of commands why the tests leave it out; draw the charts."""
    markdown = _FENCE.sub(_titled, markdown)
    return _MERMAID.sub(lambda m: f'<div class="diagram">{flowchart(m[1])}</div>', markdown)


def _titled(match: re.Match[str]) -> str:
    language, mark, why = match.groups()
    title = "In a terminal of its own" if mark == "background" else f"Not run by the tests: {why}"
    return f'```{language} title="{title}"'
