"""Profiling: recipes are checked, work is cut into chunks, and a killed run resumes to the same bank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from profile_worker import RoundingVerifier, SlowEngine, run
from scripted import ScriptedEngine, ScriptedVerifier, drawn, judged

from planner.core import GenerationRequest, Sampling
from planner.errors import BankError, InputError
from planner.profiling.bank import Bank
from planner.profiling.recipe import load_recipe
from planner.profiling.run import profile, task_of
from planner.profiling.work import Makers, chunks_of
from planner.runtime.driver import run_flow
from planner.strategies import BeamSearch, BestOfN
from planner.tasks.task import load_task

RECIPE = """
[task]
name = "problems.jsonl"
step_separator = "\\n"
max_tokens = 64

[[policy_models]]
engine = "test:small"
name = "small"

[[policy_models]]
engine = "test:large"
name = "large"

[verifier]
engine = "test:prm"

[samples]
temperatures = [0.7, 1.0]
count = 4
difficulty_count = 3

[[runs]]
strategy = "beam_search"
n = [2, 4]
expansions = 2
max_steps = 4
max_step_tokens = 32
policy_models = ["small"]

[[runs]]
strategy = "majority"
n = [2, 4]
temperature = 0.7

[run]
chunk_problems = 5
max_batch = 16
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rows = [{"problem_id": f"p{i}", "prompt": f"problem {i}", "answer": str(1 + i % 3)} for i in range(12)]
    (tmp_path / "problems.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


def same(left: Bank, right: Bank) -> None:
    for table, frame in left.to_pandas().items():
        key = frame.columns[0]
        pd.testing.assert_frame_equal(
            frame.sort_values(key, ignore_index=True), right.to_pandas()[table].sort_values(key, ignore_index=True)
        )


def test_everything_of_the_recipe_is_made(recipe: Path, tmp_path: Path) -> None:
    report = run(recipe, tmp_path / "bank")
    bank = Bank.open(tmp_path / "bank")
    samples, runs = bank.samples, bank.runs
    assert len(bank.problems) == 12
    assert len(samples) == report.new_samples == 12 * 2 * (1 + 2 * 4 + 3)
    assert len(runs) == report.new_runs == 12 * 2
    assert samples["key"].is_unique
    assert samples.groupby("role").size().to_dict() == {"difficulty": 12 * 2 * 3, "score": 12 * 2 * 9}
    assert samples[samples["role"] == "difficulty"]["index"].min() == 1_000_000
    assert samples["correct"].notna().all()
    scored = samples["scores"].notna()
    assert (samples[scored]["role"] == "score").all()
    assert (samples[scored]["temperature"] > 0).all()
    assert samples[scored]["finished"].all()
    assert runs["correct"].notna().all()
    assert (runs["decode_flops"] > 0).all()
    assert bank.manifest["policy_models"]["small"]["config"]["model_type"] == "llama"
    assert bank.manifest["verifier"]["incremental"] is True
    assert report.generated_tokens == samples["generated_tokens"].sum() + runs["generated_tokens"].sum()
    assert json.loads(json.dumps(report.to_dict()))["estimate"]["total_chunks"] == 3 * (2 * 4 + 2)


def test_bank_and_live_strategies_agree(recipe: Path, tmp_path: Path) -> None:
    engines = {name: ScriptedEngine(drawn, name=name) for name in ("small", "large")}
    profile(recipe, tmp_path / "bank", engines=engines, verifier=ScriptedVerifier(judged))
    bank, task = (
        Bank.open(tmp_path / "bank"),
        load_task(tmp_path / "problems.jsonl", max_tokens=64, step_separator="\n"),
    )
    samples, runs = bank.samples.set_index("key"), bank.runs.set_index("problem_id")
    runs = runs[runs["hyperparameters"].str.contains('"n": 4')]
    for problem in task.problems:
        verifier = ScriptedVerifier(judged)
        done = run_flow(problem, BestOfN(n=4, temperature=0.7), engines, verifier, default_policy_model="small")
        for index, candidate in enumerate(done.answer.candidates):
            sampling = Sampling(temperature=0.7, max_tokens=64)
            row = samples.loc[GenerationRequest(prompt=problem.prompt, sampling=sampling, index=index).key("small")]
            assert (row["text"], row["finished"]) == (candidate.text, candidate.finished)
            assert (None if row["scores"] is None else tuple(row["scores"])) == candidate.scores
        spec = BeamSearch(n=4, expansions=2, max_steps=4, max_step_tokens=32)
        live = run_flow(problem, spec, engines, ScriptedVerifier(judged), default_policy_model="small")
        row = runs.loc[problem.problem_id]
        assert row["text"] == live.answer.text
        assert row["generated_tokens"] == live.usage.generated_tokens
        assert row["verifier_flops"] == live.cost.verifier_flops


class Joinable(ScriptedEngine):
    """Continuous, as far as a chunk's samples are concerned."""

    def submit(self, requests):
        raise AssertionError("samples are a batch")


def test_a_continuous_engine_is_asked_for_all_samples_of_a_chunk_at_once(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    task, _ = task_of(loaded)

    def made(kind: type[ScriptedEngine]) -> tuple[list[int], list[list[dict]]]:
        engine = kind(drawn, name="large")
        makers = Makers(engines={"large": engine}, verifier=ScriptedVerifier(judged), task=task, max_batch=16)
        chunks = [chunk for chunk in chunks_of(loaded, makers) if chunk.table == "samples"]
        rows = [chunk.make(chunk.missing(makers, ()), makers) for chunk in chunks]
        return [len(batch) for batch in engine.batches], rows

    at_once, rows = made(Joinable)
    in_batches, same_rows = made(ScriptedEngine)
    # Chunks of 5, 5 and 2 problems: 1 greedy answer, 4 at each of two temperatures, 3 for difficulty.
    assert at_once == [5, 5, 2, 20, 20, 8, 20, 20, 8, 15, 15, 6]
    assert in_batches == [5, 5, 2, 16, 4, 16, 4, 8, 16, 4, 16, 4, 8, 15, 15, 6]
    assert rows == same_rows


def test_again_makes_nothing_anew(recipe: Path, tmp_path: Path) -> None:
    run(recipe, tmp_path / "bank")
    before = {p: p.read_bytes() for p in (tmp_path / "bank").rglob("*.*") if p.is_file()}
    engines = {name: SlowEngine(drawn, name=name) for name in ("small", "large")}
    report = profile(recipe, tmp_path / "bank", engines=engines, verifier=RoundingVerifier())
    assert report.generated_tokens == 0
    assert report.estimate.done_chunks == report.estimate.total_chunks
    assert not any(engine.batches for engine in engines.values())
    assert before == {p: p.read_bytes() for p in (tmp_path / "bank").rglob("*.*") if p.is_file()}
    with pytest.raises(BankError, match="a bank already"):
        run(recipe, tmp_path / "bank", resume=False)


def test_dry_run_estimates_and_writes_nothing(recipe: Path, tmp_path: Path) -> None:
    report = run(recipe, tmp_path / "dry", dry_run=True)
    assert not (tmp_path / "dry").exists()
    made = run(recipe, tmp_path / "bank")
    assert report.estimate.generated_tokens == pytest.approx(made.generated_tokens, rel=0.4)
    assert report.estimate.flops is not None
    assert report.estimate.flops > 0
    assert (report.estimate.done_chunks, report.generated_tokens) == (0, 0)


def test_a_larger_recipe_makes_what_is_missing(recipe: Path, tmp_path: Path) -> None:
    run(recipe, tmp_path / "bank")
    old = Bank.open(tmp_path / "bank").samples
    recipe.write_text(RECIPE.replace("count = 4\n", "count = 6\n").replace("[0.7, 1.0]", "[0.7, 1.0, 1.3]"))
    report = run(recipe, tmp_path / "bank")
    assert report.new_samples == 12 * 2 * (2 + 2 + 6)
    assert report.new_runs == 0
    new = Bank.open(tmp_path / "bank").samples.set_index("key")
    assert new.loc[old["key"], "text"].tolist() == old["text"].tolist()


@pytest.mark.parametrize("parts", [0, 2, 8, 26])
def test_a_killed_run_resumes_to_the_same_bank(recipe: Path, tmp_path: Path, parts: int) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(recipe, whole)
    here = Path(__file__).parent
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    command = [sys.executable, str(here / "profile_worker.py"), str(recipe), str(broken), "0.02"]
    with subprocess.Popen(command, env=env) as worker:
        deadline = time.monotonic() + 30
        while len([*broken.glob("[sr]*/part-*")]) < parts or not (broken / "manifest.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        worker.kill()
    cut = Bank.open(broken)
    assert parts <= len(cut.parts("samples") | cut.parts("runs")) < 30
    kept = len(cut.samples)
    report = run(recipe, broken)
    assert report.new_samples + kept == 12 * 2 * 12
    same(Bank.open(whole), Bank.open(broken))


def test_conflicts(recipe: Path, tmp_path: Path) -> None:
    run(recipe, tmp_path / "bank")
    others = {"small": ScriptedEngine(drawn, name="newer"), "large": ScriptedEngine(drawn, name="large")}
    with pytest.raises(BankError, match="small is another model"):
        profile(recipe, tmp_path / "bank", engines=others, verifier=RoundingVerifier())
    recipe.write_text(RECIPE.replace("count = 4\n", "count = 4\nscore = false\n"))
    with pytest.raises(BankError, match="scored when they are made"):
        run(recipe, tmp_path / "bank")
    recipe.write_text(RECIPE)
    problems = tmp_path / "problems.jsonl"
    problems.write_text(problems.read_text().replace("problem 3", "problem three"))
    with pytest.raises(BankError, match="another prompt"):
        run(recipe, tmp_path / "bank")
    (part := next((tmp_path / "bank" / "samples").glob("*.parquet"))).write_bytes(b"PAR1")
    with pytest.raises(BankError, match=part.name):
        run(recipe, tmp_path / "bank")


def test_a_damaged_part_moved_away_is_made_again(recipe: Path, tmp_path: Path) -> None:
    run(recipe, tmp_path / "whole")
    run(recipe, tmp_path / "bank")
    for table in ("samples", "runs"):
        min((tmp_path / "bank" / table).glob("*.parquet")).unlink()
    assert run(recipe, tmp_path / "bank").generated_tokens > 0
    same(Bank.open(tmp_path / "whole"), Bank.open(tmp_path / "bank"))


def test_repeated_prompts_are_one_problem(recipe: Path, tmp_path: Path) -> None:
    with (tmp_path / "problems.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"problem_id": "again", "prompt": "problem 3", "answer": "1"}))
    report = run(recipe, tmp_path / "bank")
    assert "1 problems repeat" in report.flags[0]
    bank = Bank.open(tmp_path / "bank")
    assert len(bank.problems) == 12
    assert bank.manifest["flags"] == list(report.flags)
    assert np.isfinite(bank.runs["decode_flops"]).all()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[task]", "[tsk]", ["`tsk`", "no such table"]),
        ("count = 4", "cuont = 4", ["[samples]", "`cuont`", "temperatures"]),
        ("count = 4", "count = 0", ["[samples]", "`count` = 0", "whole number >= 1"]),
        ("[0.7, 1.0]", "[0.0]", ["`temperatures`", "> 0"]),
        ("[0.7, 1.0]", '["hot"]', ["`temperatures`", "a list of numbers"]),
        ('engine = "test:prm"', "", ["[verifier]", "`engine`", "missing"]),
        ('[verifier]\nengine = "test:prm"', "", ["beam_search", "needs a verifier"]),
        ('"beam_search"', '"beam"', ["[[runs]]", "unknown strategy", "dvts"]),
        ("n = [2, 4]\nexpansions", "n = [2, 3]\nexpansions", ["[[runs]]", "`n` = 3", "multiple"]),
        ('policy_models = ["small"]', 'policy_models = ["tiny"]', ["tiny", "small, large"]),
        ("temperature = 0.7", "temperature = 0.5", ["majority", "not covered"]),
        ('name = "large"', 'name = "small"', ["two have one name"]),
        ("[run]", "[run", ["not TOML"]),
    ],
)
def test_wrong_recipes_are_told(recipe: Path, old: str, new: str, told: list[str]) -> None:
    assert old in RECIPE
    recipe.write_text(RECIPE.replace(old, new))
    with pytest.raises(InputError) as error:
        load_recipe(recipe)
    for part in ["recipe.toml", *told]:
        assert part in str(error.value)


def test_shipped_recipes_are_valid() -> None:
    for path in (Path(__file__).parents[1] / "profiling" / "recipes").glob("*.toml"):
        assert load_recipe(path).name == path.stem
