"""A file of prompts within one budget: resumed, never overspent."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from policy_fixture import prompt_of, write_fixture
from scripted import ScriptedVerifier, judged
from served import Moody

from planner.api import Planner, load
from planner.batch import read_prompts, solve_file
from planner.errors import EngineError, InputError

TOTAL = 200e6


@pytest.fixture(scope="module")
def planner(tmp_path_factory: pytest.TempPathFactory) -> Planner:
    return load(write_fixture(tmp_path_factory.mktemp("policy") / "fixture"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    rows = [{"id": i, "question": prompt_of(2 + i % 8, i)} for i in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def equipped() -> dict[str, object]:
    return {"engine": {"small": Moody()}, "verifier": ScriptedVerifier(judged)}


def results(path: Path) -> dict[str, dict[str, object]]:
    rows = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        row["plan"].pop("decision_id")
        assert row["problem_id"] not in rows
        rows[row["problem_id"]] = row
    return rows


def test_a_total_is_kept_and_an_interrupted_run_ends_as_a_whole_one(
    planner: Planner, source: Path, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "out" / "broken.jsonl"
    seen: list[tuple[int, int]] = []
    report = solve_file(
        planner, source, whole, total_budget=TOTAL, progress=lambda d, t, _: seen.append((d, t)), **equipped()
    )
    assert (report.prompts, report.resumed, seen[0], seen[-1]) == (24, 0, (0, 24), (24, 24))
    assert report.spent_flops is not None
    assert report.spent_flops <= TOTAL
    assert report.to_dict()["outcomes"] == report.outcomes
    rows = results(whole)
    assert sum(row["plan"]["budget"]["amount"] for row in rows.values()) <= TOTAL * (1 + 1e-9)
    assert report.spent_flops == pytest.approx(sum(row["cost"]["total_flops"] for row in rows.values()))

    class Fails(Moody):
        def generate(self, requests):  # type: ignore[no-untyped-def]
            self.broken = self.calls >= 6
            return super().generate(requests)

    with pytest.raises(EngineError):
        solve_file(
            planner,
            source,
            broken,
            total_budget=TOTAL,
            max_batch=8,
            engine={"small": Fails()},
            verifier=ScriptedVerifier(judged),
        )
    done = len(broken.read_text().splitlines())
    assert 0 < done < 24
    with broken.open("a") as file:
        file.write('{"problem_id": "half')
    again = solve_file(planner, source, broken, total_budget=TOTAL, **equipped())
    assert again.resumed == done
    assert results(broken) == rows
    assert solve_file(planner, source, broken, total_budget=TOTAL, **equipped()).resumed == 24


def test_results_of_another_budget_are_not_taken_for_ours(planner: Planner, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    report = solve_file(planner, source, out, budget="8x", **equipped())
    assert report.spent_flops is not None
    assert report.spent_flops <= 24 * 8e6
    with pytest.raises(InputError, match="another file, budget"):
        solve_file(planner, source, out, budget="32x", **equipped())
    out.write_text("no json\n")
    with pytest.raises(InputError, match="line 1"):
        solve_file(planner, source, out, budget="8x", **equipped())
    with pytest.raises(InputError, match="give either"):
        solve_file(planner, source, out, **equipped())


def test_prompts_need_a_text_and_ids_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "a"}\n{"prompt": "b", "problem_id": "x"}\n')
    assert len({key for key, _ in read_prompts(path)}) == 3
    path.write_text('{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 1}\n')
    with pytest.raises(InputError, match=r"line 2.*id that was there"):
        read_prompts(path)
    path.write_text('{"text": "a"}\n')
    with pytest.raises(InputError, match="no prompt"):
        read_prompts(path)


def test_the_async_twins(planner: Planner) -> None:
    async def both() -> None:
        assert await planner.achoose(prompt_of(3), "8x") == planner.choose(prompt_of(3), "8x")
        solution = await planner.asolve(prompt_of(3), "8x", **equipped())
        assert solution.text == planner.solve(prompt_of(3), "8x", **equipped()).text

    asyncio.run(both())
