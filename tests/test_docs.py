"""The documentation does what it says: its commands run, in order, and its site builds from what is on this machine.

Blocks of `sh` in README.md, and of `sh` and `python` in docs/, are run in a folder that holds what `make demo` leaves
behind, made here by the tiny recipe. Info strings change that:

    ```sh no-run REASON     not run (its commands and options must exist all the same); the reason is printed
    ```sh background        a server: started, awaited, ended with the page

`make TARGET` is checked with `make -n`. Port 8800 becomes a free one.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from planner.profiling.bank import Bank

ROOT = Path(__file__).resolve().parents[1]
_FENCE = re.compile(r"^```(sh|python)(?: +(no-run|background)\b *(.*?))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_OPENING = re.compile(r"^```(sh|bash|shell|console|python)\b.*$", re.MULTILINE)
NAVIGATION = tuple(
    re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2], re.MULTILINE)
)
WRITTEN = tuple(page for page in NAVIGATION if (ROOT / "docs" / page).exists())
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "COLUMNS": "120",
    "NO_COLOR": "1",
    "OMP_NUM_THREADS": "1",
    "NO_MKDOCS_2_WARNING": "1",
}


@dataclass(frozen=True, slots=True)
class Block:
    language: str
    mark: str | None
    why: str
    text: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = [Block(m[1], m[2], m[3] or "", m[4]) for m in _FENCE.finditer(text)]
    assert len(found) == len(_OPENING.findall(text)), f"{page}: a block is fenced in a way that is not run"
    return found


def run(words: list[str], place: Path, text: str | None = None) -> str:
    done = subprocess.run(words, input=text, cwd=place, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{text or shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def shell(text: str, place: Path) -> None:
    rest = []
    for line in text.splitlines():
        target = re.match(r"make +(\w[\w-]*)", line)
        if target:
            run(["make", "-n", target[1]], ROOT)
        else:
            rest.append(line)
    if rest:
        run(["sh", "-eu"], place, "\n".join(rest) + "\n")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` leaves, small; and the files of samples that the README speaks of."""
    place = tmp_path_factory.mktemp("docs") / "demo"
    place.mkdir()
    for name in ("models", "profiling"):
        (place / name).symlink_to(ROOT / name)
    (place / ".venv").mkdir()
    (place / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    planner = [sys.executable, "-m", "planner.cli"]
    run([*planner, "profile", "profiling/recipes/lab-tiny.toml", "-o", "runs/demo/bank", "--quiet"], place)
    run([*planner, "fit", "runs/demo/bank", "-o", "runs/demo/policy", "--folds", "3", "--trials", "20", "-q"], place)
    run([*planner, "report", "runs/demo/policy", "-o", "runs/demo/report.html"], place)
    shutil.copytree(place / "runs/demo/bank", place / "runs/tiny")
    bank = Bank.open(place / "runs/demo/bank")
    with (
        gzip.open(place / "samples.jsonl.gz", "wt") as samples,
        (place / "problems.jsonl").open("w") as problems,
    ):
        for p in bank.problems.itertuples():
            rows = bank.samples[(bank.samples["problem_id"] == p.problem_id) & (bank.samples["temperature"] > 0)]
            recorded = [{"text": s.text, "correct": bool(s.correct)} for s in rows.itertuples()]
            samples.write(json.dumps({"problem_id": p.problem_id, "policy": "m", "samples": recorded}) + "\n")
            problems.write(json.dumps({"problem_id": p.problem_id, "prompt": p.prompt}) + "\n")
    return place


@pytest.fixture(scope="module")
def site(demo: Path) -> Path:
    """One folder for all pages of docs/, as for somebody who reads them in order."""
    return Path(shutil.copytree(demo, demo.parent / "pages", symlinks=True))


def test_readme_commands_run(demo: Path) -> None:
    place = Path(shutil.copytree(demo, demo.parent / "readme", symlinks=True))
    for block in blocks(ROOT / "README.md"):
        if block.language == "sh" and block.mark is None:
            shell(block.text, place)


@pytest.mark.parametrize("page", WRITTEN)
def test_commands_run(page: str, site: Path) -> None:
    port = _free_port()
    servers: list[subprocess.Popen[str]] = []
    python: list[str] = []
    try:
        for block in blocks(ROOT / "docs" / page):
            text = block.text.replace("8800", str(port))
            if block.mark == "no-run":
                continue
            if block.mark == "background":
                servers.append(_serve(text, port, site))
            elif block.language == "python":
                python.append(text)  # a page's blocks share their names
                run([sys.executable, "-c", "\n".join(python)], site)
            elif "curl" in text and shutil.which("curl") is None:
                continue
            else:
                shell(text, site)
    finally:
        for server in servers:
            os.killpg(server.pid, signal.SIGINT)
            server.wait(timeout=30)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _serve(text: str, port: int, place: Path) -> subprocess.Popen[str]:
    server = subprocess.Popen(
        ["sh", "-euc", f"exec {text}"], cwd=place, env=ENVIRONMENT, text=True, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while True:
        assert server.poll() is None, f"ended: {text}"
        assert time.monotonic() < deadline
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5):
                return server
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)


def test_commands_that_are_not_run_exist_and_say_why(capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    from planner.cli.app import application

    commands = typer.main.get_command(application()).commands  # type: ignore[attr-defined]
    reasons: Counter[str] = Counter()
    checked = 0
    for page in (ROOT / "README.md", *(ROOT / "docs" / page for page in WRITTEN)):
        for block in blocks(page):
            if block.mark != "no-run":
                continue
            assert block.why, f"{page}: no-run without a reason"
            lines = block.text.strip().replace("\\\n", " ").splitlines()
            reasons[block.why] += len(lines)
            for line in lines:
                words = shlex.split(line)
                if words[0] != "planner":
                    continue
                command = commands[words[1]]
                command = getattr(command, "commands", {}).get("".join(words[2:3]), command)
                known = {option for p in command.params for option in p.opts}
                unknown = {word for word in words[2:] if word.startswith("-")} - known
                assert not unknown, f"{page}: {line}"
                checked += 1
    assert checked
    with capsys.disabled():
        print(f"\ndocs: {sum(reasons.values())} commands not run")
        for why, count in reasons.items():
            print(f"  {count}: {why}")


def test_every_page_is_in_the_navigation() -> None:
    there = {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")}
    assert there == set(WRITTEN)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages. Skipped where the extra `docs` is not installed."""
    pytest.importorskip("material", reason="mkdocs-material is not installed (extra `docs`)")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed (extra `docs`)")
    folder = tmp_path_factory.mktemp("site")
    build = (
        "import socket, sys\n"
        "def refuse(*_): raise OSError('the build reached for the network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from mkdocs.__main__ import cli\n"
        f"sys.argv = ['mkdocs', 'build', '--strict', '--site-dir', {str(folder)!r}]\n"
        "cli()\n"
    )
    run([sys.executable, "-c", build], ROOT)
    return folder


class TestSite:
    def test_every_page_is_there_and_loads_nothing_from_elsewhere(self, built: Path) -> None:
        loads = re.compile(
            r"""<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//|<link\b[^>]*\brel="(?!canonical)[^"]*"[^>]*\bhref="(?:https?:)?//|@import|url\(["']?(?:https?:)?//"""
        )
        for page in NAVIGATION:
            text = (built / page).with_suffix(".html").read_text(encoding="utf-8")
            assert not loads.search(text), page
        for style in built.rglob("*.css"):
            assert not re.search(r"@import|url\(\s*[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style.name

    def test_the_references_are_made_from_the_code(self, built: Path) -> None:
        commands = (built / "reference/cli.html").read_text(encoding="utf-8")
        for words in ("planner choose", "planner profile", "planner lab train", "--total-budget", "2 GFLOPs"):
            assert words in commands, words
        python = (built / "reference/python.html").read_text(encoding="utf-8")
        for name in ("planner.api.Planner.choose", "planner.budget.Budget", "planner.models.protocols.Engine"):
            assert f'id="{name}"' in python, name
        assert "Raises BudgetError where the budget cannot be read" in python

    def test_the_chart_is_drawn_while_building(self, built: Path) -> None:
        page = (built / "architecture.html").read_text(encoding="utf-8")
        chart = page.partition('<div class="diagram">')[2].partition("</div>")[0]
        assert chart.count("<rect") > 5
        assert "effects, core, errors" in chart
        assert 'class="mermaid"' not in page

    def test_the_changelog_is_the_repositorys(self, built: Path) -> None:
        assert "Keep a Changelog" in (built / "changelog.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "source", ["flowchart TD\n a --> b\n b --> a", "flowchart TD\n a -.-> b", "flowchart TD\n a[round]"]
)
def test_a_chart_that_cannot_be_drawn_is_an_error(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from docs_diagram import flowchart

    with pytest.raises(ValueError):
        flowchart(source)
