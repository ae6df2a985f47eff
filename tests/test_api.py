"""The planner as a program uses it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from policy_fixture import document, prompt_of, write_fixture

import planner
from planner.api import Planner, default_planner, load
from planner.errors import BudgetError, InputError, PolicyError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fixture(tmp_path_factory.mktemp("policy") / "fixture")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Planner:
    return load(folder)


def test_hard_and_easy_prompts_differ_at_the_same_budget(loaded: Planner) -> None:
    hard, easy = loaded.choose(prompt_of(9), "32x"), loaded.choose(prompt_of(2), "32x")
    assert (hard.strategy, hard.hyperparameters["n"], hard.verifier) == ("best_of_n", 16, "prm")
    assert (easy.strategy, easy.verifier) == ("majority", None)
    assert hard.difficulty["hard"] > 0.5 > hard.difficulty["easy"]
    assert list(easy.difficulty) == ["hard", "medium", "easy"]
    assert hard.spec.policy_model == hard.policy_model == "small"
    assert hard.accuracy_interval[0] < hard.expected_accuracy < hard.accuracy_interval[1]
    assert hard.expected_cost.total == pytest.approx(24e6)
    assert hard.expected_cost.p95 <= 32e6
    assert hard.warnings == ()
    assert hard.reason.endswith(".")
    assert "\n" not in hard.reason


def test_to_dict_and_explain(loaded: Planner) -> None:
    plan = loaded.choose(prompt_of(9), "8x")
    assert json.loads(json.dumps(plan.to_dict()))["budget"] == {"amount": 8.0, "unit": "x"}
    text = plan.explain()
    assert plan.reason in text
    assert "next better: 32 MFLOPs would buy best_of_n(n=16" in text
    assert "greedy with small" in text
    assert "no budget of the table" in loaded.choose(prompt_of(9), "1000x").explain()


def test_many_are_what_one_by_one_gives(loaded: Planner) -> None:
    prompts = [prompt_of(t, s) for t in range(2, 10) for s in range(5)] + ["Write a poem about rain.", "写一首诗"]
    many = loaded.choose_many(prompts, "16x")
    assert many == [loaded.choose(prompt, "16x") for prompt in prompts]
    assert len({plan.decision_id for plan in many}) == len(prompts)
    assert loaded.choose_many([], 1) == []
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda p: loaded.choose(p, "16x"), prompts)) == many


@pytest.mark.parametrize(("budget", "flops"), [("8x", 8e6), (8e6, 8e6), ("8 MFLOPs", 8e6)])
def test_budgets_mean_the_same_in_every_unit(loaded: Planner, budget: str | float, flops: float) -> None:
    assert loaded.choose(prompt_of(9), budget).context.amount == flops


def test_a_budget_in_tokens_is_priced_by_the_models_config(loaded: Planner) -> None:
    assert 1e5 < loaded.choose(prompt_of(9), "1000 tokens").context.amount / 1000 < 2e5


def test_a_budget_that_pays_for_nothing_names_the_cheapest(loaded: Planner) -> None:
    with pytest.raises(BudgetError, match=r"greedy with small, needs 1.2 MFLOPs \(1.20x\)"):
        loaded.choose(prompt_of(3), "0.5x")
    for bad in (-1, 0, float("nan"), "eight", "3 s"):
        with pytest.raises(BudgetError):
            loaded.choose(prompt_of(3), bad)
    with pytest.raises(InputError, match="text"):
        loaded.choose(None, 8e6)  # type: ignore[arg-type]


def test_strange_and_open_ended_prompts_are_marked(loaded: Planner) -> None:
    strange = loaded.choose("Quelle est la capitale de la France, et pourquoi?", "32x")
    assert "unlike anything profiled" in " ".join(strange.warnings)
    assert list(strange.difficulty.values()) == pytest.approx([0.3, 0.4, 0.3])
    poem = loaded.choose("Write a poem about the sea.", "32x")
    assert "open-ended" in " ".join(poem.warnings)
    assert poem.strategy != "majority"


def test_the_default_policy_is_named_by_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANNER_POLICY", str(folder))
    assert default_planner().document["name"] == "fixture"
    assert planner.choose(prompt_of(2), "32x").strategy == "majority"
    assert len(planner.choose_many([prompt_of(2)] * 3, "32x")) == 3
    monkeypatch.setenv("PLANNER_POLICY", str(folder / "missing"))
    with pytest.raises(PolicyError, match="missing"):
        planner.choose(prompt_of(2), "32x")


def test_what_planner_exports() -> None:
    assert set(planner.__all__) == {
        *("Budget", "Plan", "Planner", "PlannerError", "Solution", "__version__"),
        *("choose", "choose_many", "load", "solve"),
    }
    assert all(getattr(planner, name) is not None for name in planner.__all__)
    assert set(planner.__all__) <= set(dir(planner))
    with pytest.raises(AttributeError, match="nothing"):
        planner.nothing  # noqa: B018


def test_choosing_imports_nothing_heavy(folder: Path) -> None:
    code = f"""
import sys, time
started = time.perf_counter()
import planner
seconds = time.perf_counter() - started
planner.load({str(folder)!r}).choose({prompt_of(4)!r}, "8x").explain()
heavy = "torch transformers optuna sklearn pandas scipy lightgbm plotly pyarrow math_verify sympy".split()
assert seconds < 0.3, seconds
print([name for name in heavy if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert ran.stdout.strip() == "[]", ran.stdout + ran.stderr


def test_a_policy_whose_plans_cannot_be_built_is_refused() -> None:
    from planner.policy.difficulty import fit_difficulty

    broken = document()
    broken["plans"] = [broken["plans"][0] | {"strategy": "telepathy"}]
    broken["table"] = []
    base = fit_difficulty([None], [1], [2])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="telepathy"):
        Planner(broken, base)
