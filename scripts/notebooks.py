"""Runs the notebooks anew and keeps their outputs: `.venv/bin/python scripts/notebooks.py [NOTEBOOK...]`.

Needs the extra `notebooks`. What a run adds and another run would change (times, machine, execution ids) is left out,
so that a notebook's difference shows what it says.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
_TIMEOUT_SECONDS = 900


def execute(path: Path, place: Path) -> Any:
    """The notebook after a run in the folder `place`. Raises CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as sockets:  # no port is opened
        NotebookClient(
            notebook,
            config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
            kernel_name="python3",
            timeout=_TIMEOUT_SECONDS,
            startup_timeout=_TIMEOUT_SECONDS,
            resources={"metadata": {"path": str(place)}},
            record_timing=False,
        ).execute()
    return plain(notebook)


def plain(notebook: Any) -> Any:
    """The notebook without what differs between two runs that say the same."""
    notebook.metadata = nbformat.from_dict({"language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [_plain_output(o) for o in cell.outputs if not _is_noise(o)]
    return notebook


def _is_noise(output: Any) -> bool:
    """What libraries write to standard error: progress and notices."""
    return output.output_type == "stream" and output.name == "stderr"


def _plain_output(output: Any) -> Any:
    if "execution_count" in output:
        output.execution_count = None
    if "data" in output:
        output.metadata = nbformat.from_dict({})
        if "image/png" in output.data:
            output.data.pop("text/plain", None)
    return output


def main(paths: list[Path]) -> None:
    for path in paths or sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as place:
            nbformat.write(execute(path, Path(place)), path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
