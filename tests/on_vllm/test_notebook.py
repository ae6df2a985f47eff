"""The notebook about one's own model, run on a real vLLM: behind its server, and in the kernel's own process."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here: see scripts/vllm_env.sh", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]


def test_the_notebook_runs_on_vllm(servers, lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import notebooks

    model = lab("lab-small")
    monkeypatch.setenv("PLANNER_ENGINE", f"{servers['lab-small']}?tokenizer={model}&config={model}/config.json")
    monkeypatch.setenv("PLANNER_VLLM_MODEL", f"{model}?dtype=float32&enforce_eager=true")
    done = notebooks.execute(ROOT / "notebooks/04_your_own_model.ipynb", tmp_path)
    told = [o["text"] for c in done["cells"] if c["cell_type"] == "code" for o in c["outputs"] if "text" in o]
    said = "".join(told)
    for words in ("vLLM in this environment: yes", "token_prompts: True", "in this process, ", "once more: 0 tokens"):
        assert words in said
    assert "left out: needs vLLM" not in said
    assert "stands in" not in said
