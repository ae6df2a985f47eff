"""The commands, as a user runs them: on the laboratory, in a process of their own where it matters."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from planner.api import load
from planner.models.shipped import shipped
from planner.profiling.bank import Bank
from planner.tasks.lab import worked_problems

TINY = shipped("recipes", "lab-tiny.toml")
ENVIRONMENT = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
COMMANDS = (
    "profile", "import", "search", "fit", "choose", "solve", "evaluate", "report", "show", "strategies", "verifiers", "models",
    "doctor", "latency", "serve", "drift", "demo",
)  # fmt: skip


def planner(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "planner.cli", *map(str, words)], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "bank"
    planner("profile", TINY, "-o", folder, "--quiet")
    return folder


@pytest.fixture(scope="module")
def policy(bank: Path) -> Path:
    folder = bank.parent / "policy"
    planner("fit", bank, "-o", folder, "--quiet", "--folds", "3", "--trials", "20")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    assert "Example" in planner(command, "--help").stdout


def test_a_dry_run_estimates_and_writes_nothing(tmp_path):
    report = json.loads(planner("profile", TINY, "-o", tmp_path / "bank", "--dry-run", "--json").stdout)
    assert report["dry_run"] is True
    estimate = report["estimate"]
    assert all(estimate[name] > 0 for name in ("requests", "generated_tokens", "flops", "seconds"))
    assert not (tmp_path / "bank").exists()


def test_killed_in_the_middle_and_resumed_is_the_bank_of_an_uninterrupted_run(bank, tmp_path):
    killed = tmp_path / "bank"
    words = [sys.executable, "-m", "planner.cli", "profile", str(TINY), "-o", str(killed), "--quiet"]
    for parts in (1, 4):
        process = subprocess.Popen(words, env=ENVIRONMENT)
        deadline = time.monotonic() + 120
        while sum(1 for _ in killed.glob("*s/part-*")) < parts and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = json.loads(planner(*words[3:], "--json").stdout)
    assert resumed["estimate"]["done_chunks"] > 0
    whole, again = Bank.open(bank).to_pandas(), Bank.open(killed).to_pandas()
    for table, frame in whole.items():
        key = frame.columns[0]
        left, right = (f.sort_values(key, ignore_index=True) for f in (frame, again[table]))
        pd.testing.assert_frame_equal(left, right, atol=1e-4, rtol=0)
    assert planner(*words[3:], "--json").stdout.count('"generated_tokens": 0') == 1


def test_choose_show_and_report_from_a_fitted_bank(policy, tmp_path):
    plan = json.loads(
        planner("choose", "Calculate 58 - 3 * 6.", "--budget", "32x", "--policy", policy, "--json").stdout
    )
    assert plan["strategy"] in {row["name"] for row in json.loads(planner("strategies", "--json").stdout)}
    assert plan["policy_model"] == "lab-small"
    explained = planner("choose", "Calculate 58 - 3 * 6.", "--policy", policy, "--explain").stdout
    assert "difficulty" in explained
    assert "budget" in planner("show", policy).stdout.lower()
    for suffix in ("html", "md", "json"):
        planner("report", policy, "-o", tmp_path / f"report.{suffix}")
        assert (tmp_path / f"report.{suffix}").stat().st_size > 1000


def test_evaluate_the_policy_and_on_a_bank(policy, bank):
    validated = json.loads(planner("evaluate", policy, "--json").stdout)
    on_bank = json.loads(planner("evaluate", policy, "--bank", bank, "--json").stdout)
    assert set(validated) == set(on_bank)
    assert (validated["held_out"], on_bank["held_out"]) == (True, False)
    for found in (validated, on_bank):
        assert all(entry["methods"]["policy"]["accuracy"] is not None for entry in found["budgets"])
    shown = planner("evaluate", policy).stdout
    assert "best fixed strategy" in shown
    assert "log loss" in shown


def test_solve_runs_the_plan_within_its_budget(policy):
    for budget in ("3x", "8x", "64x"):
        solved = json.loads(
            planner("solve", "Calculate 58 - 3 * 6.", "--budget", budget, "--policy", policy, "--json").stdout
        )
        reference = json.loads((policy / "policy.json").read_text())["reference_cost"]
        spent = sum(v for k, v in solved["cost"].items() if k in ("prefill_flops", "decode_flops", "verifier_flops"))
        assert 0 < spent <= float(budget[:-1]) * reference
        assert solved["outcome"] in ("finished", "truncated", "out_of_budget")


def test_the_shipped_policy_answers_with_a_warning():
    done = planner("choose", "Find the Greatest Common Divisor (GCD) of these numbers: 84, 36.", "--budget", "8x")
    assert "laboratory" in done.stderr


def test_the_shipped_policy_plans_a_hard_and_an_easy_held_out_prompt_differently():
    shipped_policy = load(shipped("models", "lab/policy"))
    prompts = [p.question for p in worked_problems("held_out", 60)]
    prompts.sort(key=lambda prompt: shipped_policy.choose(prompt, "64x").difficulty["hard"])
    easy, hard = (
        json.loads(planner("choose", prompt, "--budget", "64x", "--json").stdout)
        for prompt in (prompts[0], prompts[-1])
    )
    assert hard["difficulty"]["hard"] > 0.5 > easy["difficulty"]["hard"]
    assert hard["strategy"] != easy["strategy"]


class TestBadInput:
    """Exit code 2, and a message that says where, what and what to do."""

    def test_missing_gold(self, tmp_path, bank):
        (tmp_path / "problems.jsonl").write_text('{"prompt": "1 + 1?", "answer": "2"}\n{"prompt": "1 + 2?"}\n')
        recipe = re.sub(r"\[task\][^[]*", '[task]\nname = "problems.jsonl"\n\n', TINY.read_text())
        (tmp_path / "recipe.toml").write_text(recipe)
        error = planner("profile", tmp_path / "recipe.toml", "-o", tmp_path / "bank", code=2).stderr
        assert re.search(r"problems\.jsonl.*2.*answer", error, re.DOTALL)
        assert not (tmp_path / "bank").exists()

    def test_empty_file(self, tmp_path):
        (tmp_path / "empty.jsonl").write_text("")
        error = planner("import", tmp_path / "empty.jsonl", "-o", tmp_path / "bank", code=2).stderr
        assert "empty.jsonl" in error

    def test_negative_budget(self, policy):
        error = planner("choose", "1 + 1", "--budget=-1", "--policy", policy, code=2).stderr
        assert "budget" in error
        assert "positive" in error

    def test_policy_of_another_schema(self, policy, tmp_path):
        other = tmp_path / "policy"
        shutil.copytree(policy, other)
        document = json.loads((other / "policy.json").read_text())
        (other / "policy.json").write_text(json.dumps(document | {"schema_version": 99}))
        for command in ("show", "report"):
            error = planner(command, other, code=2).stderr
            assert "schema_version" in error
            assert "99" in error
            assert "again" in error

    def test_corrupt_parquet_leaves_the_bank_as_it_was(self, bank, tmp_path):
        damaged = tmp_path / "bank"
        shutil.copytree(bank, damaged)
        part = next((damaged / "samples").glob("part-*"))
        part.write_bytes(part.read_bytes()[:100])
        before = {p: p.read_bytes() for p in damaged.rglob("*.parquet")}
        manifest = (damaged / "manifest.json").read_text()
        for words in (("fit", damaged, "-o", tmp_path / "policy"), ("profile", TINY, "-o", damaged)):
            error = planner(*words, code=2).stderr
            assert part.name in error.replace("\n", "")
        assert {p: p.read_bytes() for p in damaged.rglob("*.parquet")} == before
        assert (damaged / "manifest.json").read_text() == manifest
        assert not (tmp_path / "policy").exists()
