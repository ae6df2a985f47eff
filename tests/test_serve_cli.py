"""`planner serve`, `planner solve FILE`, `planner drift` and the examples, as a user runs them: on the laboratory."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
from served import ServerProcess

from planner.cli import main
from planner.tasks.lab import worked_problems

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}


def example(name: str, **environment: str) -> str:
    words = [sys.executable, f"examples/{name}"]
    done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT | environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def planner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The command line in this process: standard output, or standard error where it leaves with `code`."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["planner", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        assert (left.value.code or 0) == code, said
        return said.out if code == 0 else said.err

    return run


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve") / "decisions.jsonl"


@pytest.fixture(scope="module")
def url(log: Path) -> Iterator[str]:
    """The laboratory behind `planner serve`."""
    said = log.with_name("said.txt")
    with ServerProcess(said, "--decision-log", log) as server:
        yield server.url
    assert "serving lab-small, lab-medium, auto at" in said.read_text()


def test_the_openai_example_runs_on_the_laboratory(url: str) -> None:
    said = example("openai_client.py", OPENAI_BASE_URL=f"{url}/v1")
    assert "lab-small@8x" in said
    assert "tokens over all calls:" in said
    assert "[plan]" in said
    assert "[progress]" in said


def test_http_answers_as_solve_does_and_the_log_is_read(url: str, log: Path, planner: Callable[..., str]) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    prompt = worked_problems("held_out", 1)[0].question
    messages = [{"role": "user", "content": prompt}]
    online = client.chat.completions.create(model="auto@8x", messages=messages)
    client.close()
    offline = json.loads(planner("solve", prompt, "--budget", "8x", "--json"))
    assert online.choices[0].message.content == offline["text"]
    assert online.planner["flops"]["total"] == pytest.approx(offline["cost"]["total_flops"])
    drift = json.loads(planner("drift", log, "--json"))
    assert drift["decisions"] >= 3
    assert prompt not in log.read_text()
    assert "decisions" in planner("drift", log)


def test_a_file_is_solved_within_its_total_and_resumed(tmp_path: Path, planner: Callable[..., str]) -> None:
    source, out = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    problems = worked_problems("held_out", 6)
    source.write_text("".join(json.dumps({"prompt": p.question}) + "\n" for p in problems))
    words = ("solve", source, "--total-budget", "60x", "-o", out, "--json")
    first = json.loads(planner(*words))
    assert (first["prompts"], first["resumed"]) == (6, 0)
    assert len(out.read_text().splitlines()) == 6
    again = json.loads(planner(*words))
    assert again["resumed"] == 6
    assert again["spent_flops"] == pytest.approx(first["spent_flops"])
    assert "6 prompts" in planner("solve", source, "-t", "60x", "-o", out, "--quiet")
    assert "one of the two" in planner("solve", source, "-t", "60x", "-b", "8x", code=2)
    assert "file of prompts" in planner("solve", "What is 1 + 1?", "-t", "60x", code=2)


def test_the_plain_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "plain_python.py"))
    said = capsys.readouterr().out
    assert "alternatives within the budget" in said
    assert "answer:" in said


def test_what_cannot_be_served_is_refused_with_one_message(planner: Callable[..., str]) -> None:
    assert "API key" in planner("serve", "--host", "0.0.0.0", code=2)  # noqa: S104
    wrong = planner("serve", "--engine", "lab-small=lab:lab-medium", code=2)
    assert "--allow-mismatch lab-medium" in wrong
    assert "Example" in planner("serve", "--help")
    assert "Example" in planner("drift", "--help")


def test_the_choose_benchmark_prints_its_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.spec_from_file_location("benchmark_choose", ROOT / "benchmarks" / "choose.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    monkeypatch.setattr(module, "peer", lambda: "not measured here")
    words = ["choose.py", "--json", "--count", "50", "--many", "500", "--repeats", "1"]
    for given in (words, [word for word in words if word != "--json"]):
        monkeypatch.setattr(sys, "argv", given)
        module.main()
    first, _, rest = capsys.readouterr().out.partition("\n")
    said = json.loads(first)
    assert all(said[name] > 0 for name in ("p50_us", "p99_us", "many_per_s"))
    assert (said["peer_p50_us"], said["peer_reason"]) == (None, "not measured here")
    assert "not measured: not measured here" in rest
