"""Decision logs: rotation, exploration, and what drift is seen in them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from policy_fixture import prompt_of, write_fixture

from planner.api import load
from planner.budget import Budget
from planner.errors import InputError
from planner.policy.chooser import Chooser
from planner.policy.drift import measure_drift
from planner.policy.plan import Plan
from planner.serve.decision_log import DecisionLog


@pytest.fixture(scope="module")
def chooser(tmp_path_factory: pytest.TempPathFactory) -> Chooser:
    loaded = load(write_fixture(tmp_path_factory.mktemp("policy") / "fixture")).chooser
    # The fixture's counts are made up; here they are what its predictor sees in the prompts it was fitted on.
    mix = loaded.outlook(profiled(300)).distribution.mean(axis=0)
    counts = dict(zip(loaded.table.buckets, (300 * mix).tolist(), strict=True))
    return Chooser({**loaded.document, "bucket_counts": counts}, loaded.predictor, None)


def record(chooser: Chooser, plan: Plan, prompt: str, cost_ratio: float = 1.0) -> dict[str, object]:
    return {
        "kind": "decision", "decision_id": plan.decision_id, "outcome": "finished", "plan": {"index": plan.index},
        "propensity": plan.propensity, "amount": plan.context.amount, "unit": "flops", "difficulty": dict(plan.difficulty),
        "expected_accuracy": plan.expected_accuracy, "expected_cost": plan.expected_cost.total,
        "flops": {"total": plan.expected_cost.total * cost_ratio}, **chooser.describe_prompt(prompt),
    }  # fmt: skip


def served_log(
    path: Path, chooser: Chooser, prompts: list[str], success, *, explore: float = 0.0, cost_ratio: float = 1.0
) -> Path:  # type: ignore[no-untyped-def]
    log, draw = DecisionLog(path, max_bytes=10**7, files=3), random.Random(0)
    for prompt in prompts:
        plan = Plan(chooser.decide((prompt,), Budget.parse("32x"), explore=explore, draw=draw), 0)
        log.write(record(chooser, plan, prompt, cost_ratio))
        log.write({"kind": "feedback", "decision_id": plan.decision_id, "score": float(draw.random() < success(plan))})
    log.close()
    return path


def profiled(count: int) -> list[str]:
    """Prompts as the fixture's predictor was fitted on, a third of each difficulty."""
    return [prompt_of(int(t), 1000 + i) for i, t in enumerate(np.random.default_rng(1).integers(2, 10, count))]


def test_traffic_as_profiled_shows_no_drift(chooser: Chooser, tmp_path: Path) -> None:
    log = served_log(tmp_path / "log", chooser, profiled(400), lambda plan: plan.expected_accuracy)
    report = measure_drift(log, chooser)
    assert report.findings == ()
    assert (report.decisions, report.rated, report.estimates) == (400, 400, ())
    assert not [cell for cell in report.cells if cell.profile_again]
    assert "no drift found" in report.text()
    json.dumps(report.to_dict(), allow_nan=False)


def test_worse_success_and_dearer_runs_name_their_cells(chooser: Chooser, tmp_path: Path) -> None:
    log = served_log(tmp_path / "log", chooser, profiled(400), lambda plan: plan.expected_accuracy - 0.3, cost_ratio=2)
    report = measure_drift(log, chooser)
    assert any("success drifts" in finding for finding in report.findings)
    again = [cell for cell in report.cells if cell.profile_again]
    assert again
    assert all("2.00 times" in cell.why for cell in again)
    assert any("points from expected" in cell.why for cell in again)
    assert "profile again" in report.text()


def test_other_prompts_and_harder_ones_are_seen(chooser: Chooser, tmp_path: Path) -> None:
    strange = [f"Nomme la capitale numéro {i}, s'il te plaît?" for i in range(60)]
    assert (
        "prompts drift"
        in measure_drift(served_log(tmp_path / "a", chooser, strange, lambda p: 0.5), chooser).findings[0]
    )
    hard = [prompt_of(9, i) for i in range(200)]
    found = measure_drift(served_log(tmp_path / "b", chooser, hard, lambda p: p.expected_accuracy), chooser).findings
    assert any(f.startswith("difficulty drifts: hard") for f in found)


def test_exploring_estimates_plans_that_are_not_usually_taken(chooser: Chooser, tmp_path: Path) -> None:
    truth = dict(zip(range(5), (0.3, 0.5, 0.6, 0.9, 0.4), strict=True))
    log = served_log(tmp_path / "log", chooser, profiled(1500), lambda plan: truth[plan.index], explore=0.5)
    estimates = {e.plan: e for e in measure_drift(log, chooser).estimates}
    assert len(estimates) == 5
    for index, success in truth.items():
        found = estimates[chooser.names[index]]
        assert found.low - 0.05 < success < found.high + 0.05
        assert found.success == pytest.approx(success, abs=0.12)


def test_explored_plans_fit_and_their_propensities_are_true(chooser: Chooser) -> None:
    draw, prompts = random.Random(1), [prompt_of(9)] * 4000
    decisions = chooser.decide(prompts, Budget.parse("8x"), explore=0.3, draw=draw)
    taken = np.bincount(decisions.index, minlength=5) / len(prompts)
    for row in (0, 1, 2, 3, 17):
        plan = Plan(decisions, row)
        assert plan.propensity == pytest.approx(taken[plan.index], abs=0.03)
        assert plan.expected_cost.p95 <= 8e6
    explored = next(p for p in decisions.plans() if p.index != decisions.usual[0])
    assert "drawn at random to explore" in explored.reason
    assert taken[3] == taken[4] == 0  # they cost more than the budget


def test_logs_rotate_and_are_read_together(chooser: Chooser, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = DecisionLog(path, max_bytes=4000, files=3)
    plan = Plan(chooser.decide((prompt_of(3),), Budget.parse("8x")), 0)
    for _ in range(40):
        log.write(record(chooser, plan, prompt_of(3)))
    log.close()
    parts = sorted(p.name for p in tmp_path.iterdir())
    assert parts == ["log.jsonl", "log.jsonl.1", "log.jsonl.2"]
    assert all(p.stat().st_size <= 4000 for p in tmp_path.iterdir())
    lines = sum(len(p.read_text().splitlines()) for p in tmp_path.iterdir())
    with path.open("a") as file:
        file.write('{"kind": "deci')
    assert measure_drift(path, chooser).decisions == lines
    path.write_text('{"kind": "deci\n{}\n')
    with pytest.raises(InputError, match=r"log\.jsonl, line 1"):
        measure_drift(path, chooser)


def test_what_is_no_log_is_refused(chooser: Chooser, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        measure_drift(tmp_path / "none", chooser)
    (tmp_path / "empty").write_text("")
    with pytest.raises(InputError, match="no planned decision"):
        measure_drift(tmp_path / "empty", chooser)
    (tmp_path / "other").write_text('{"kind": "decision", "plan": {"index": 99}}\n')
    with pytest.raises(InputError, match="another policy"):
        measure_drift(tmp_path / "other", chooser)
