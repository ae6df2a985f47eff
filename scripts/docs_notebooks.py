"""The notebooks as pages: their text, code and recorded outputs. Whatever a notebook printed stays text."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

__all__ = ["notebook_files"]

_PICTURES = {"image/png": "png", "image/svg+xml": "svg"}


def notebook_files(folder: Path) -> dict[str, str | bytes]:
    """Pages and pictures of all notebooks in `folder`, by their place in the site."""
    made: dict[str, str | bytes] = {}
    for path in sorted(folder.glob("*.ipynb")):
        made |= _page(path)
    return made


def _page(path: Path) -> dict[str, str | bytes]:
    made: dict[str, str | bytes] = {}
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = _text(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source.replace(".ipynb)", ".md)"))
            continue
        parts.append(_fence(source, "python"))
        for output in cell["outputs"]:
            text, picture = _output(output)
            if picture is not None:
                place = f"notebooks/{path.stem}_{len(made) + 1}.{picture[0]}"
                made[place] = picture[1]
                parts.append(f"![Figure of the cell above]({Path(place).name}){{.figure}}")
            elif text.strip():
                parts.append(_fence(text.rstrip(), "text"))
    made[f"notebooks/{path.stem}.md"] = "\n\n".join(parts) + f"\n\nThe notebook: `notebooks/{path.name}`.\n"
    return made


def _output(output: dict[str, Any]) -> tuple[str, tuple[str, bytes] | None]:
    if output["output_type"] == "stream":
        return _text(output["text"]), None
    data = output.get("data", {})
    for kind, suffix in _PICTURES.items():
        if kind in data:
            raw = _text(data[kind])
            return "", (suffix, base64.b64decode(raw) if suffix == "png" else raw.encode())
    return _text(data.get("text/plain", "")), None


def _text(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)


def _fence(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    mark = "`" * max(3, longest + 1)
    return f"{mark}{language}\n{text}\n{mark}"
