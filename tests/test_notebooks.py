"""The notebooks run from nothing, tell their story with figures, and hold nothing that acts or betrays a machine.

One run of all five takes about a minute and a half of one core.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 700_000
ALLOWED = {"text/plain", "image/png"}
HOSTILE = "</code></pre><script>alert(1)</script> ![x](https://evil.example/a.png) ````\n``` {{ 7 * 7 }}"


def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def outputs(notebook: Any) -> list[Any]:
    return [o for cell in notebook["cells"] if cell["cell_type"] == "code" for o in cell["outputs"]]


def printed(notebook: Any) -> str:
    found = [o["text"] for o in outputs(notebook) if o["output_type"] == "stream"]
    return "".join(text if isinstance(text, str) else "".join(text) for text in found)


def check(notebook: Any) -> None:
    """Whatever it shows is text or a picture, small, and from no particular machine."""
    for output in outputs(notebook):
        assert output["output_type"] in {"stream", "display_data", "execute_result"}
        assert set(output.get("data", {})) <= ALLOWED
    assert len(json.dumps(notebook)) < MOST_BYTES
    assert not re.search(r"/(?:home|root|tmp|work|Users)/|site-packages", printed(notebook))
    assert "nan" not in re.findall(r"\w+", printed(notebook).lower())


def test_there_are_five() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_tells_its_story_with_figures(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nbclient", reason="nbclient is not installed (extra `notebooks`)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (extra `notebooks`)")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `notebooks`)")
    scripts(monkeypatch)
    for name in ("PLANNER_SAMPLES", "PLANNER_ENGINE", "PLANNER_CONFIG", "PLANNER_VLLM_MODEL", "PLANNER_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    import notebooks

    done = notebooks.execute(path, tmp_path)
    check(done)
    figures = [o for o in outputs(done) if "image/png" in o.get("data", {})]
    assert figures
    assert len(printed(done)) > 300
    told = [c for c in done["cells"] if c["cell_type"] == "markdown"]
    assert len(told) >= 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_committed_one_has_outputs_and_is_plain(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    check(notebook)
    assert any("image/png" in o.get("data", {}) for o in outputs(notebook)), "run scripts/notebooks.py"
    assert set(notebook["metadata"]) == {"language_info"}
    assert all(not c["metadata"] and c.get("execution_count") is None for c in notebook["cells"])


def test_hostile_output_of_a_notebook_is_text_on_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts(monkeypatch)
    from docs_notebooks import notebook_files

    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": "# Title"},
        {
            "cell_type": "code", "metadata": {}, "execution_count": None, "source": "print(answer)",
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": HOSTILE},
                {"output_type": "display_data", "metadata": {}, "data": {"text/html": "<script>alert(2)</script>"}},
                {"output_type": "execute_result", "metadata": {}, "data": {"text/html": "<b>", "text/plain": HOSTILE}},
            ],
        },
    ]  # fmt: skip
    (tmp_path / "01_x.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}))
    page = notebook_files(tmp_path)["notebooks/01_x.md"]
    assert isinstance(page, str)
    assert "alert(2)" not in page
    markdown = pytest.importorskip("markdown", reason="markdown is not installed (extra `docs`)")
    html = markdown.markdown(page, extensions=["pymdownx.superfences", "pymdownx.highlight"])
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("alert(1)") == 2
