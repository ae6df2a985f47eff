"""What a plan needs to be run, whoever runs it: the engine of a cascade's second policy model among it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from policy_fixture import document, predictor, prompt_of
from scripted import END, ScriptedEngine, ScriptedVerifier, judged

from planner.api import Planner, load
from planner.batch import solve_file
from planner.cli import main
from planner.core import Outcome
from planner.errors import CapabilityError, InputError
from planner.policy.equipment import models_of, named_engines
from planner.policy.folder import write_policy
from planner.serve import Gateway, Settings
from planner.serve.calls import parse_call
from planner.serve.start import make_gateway

HARD = prompt_of(9)
CASCADE = {
    "n": 2, "max_n": 2, "second": "majority", "second_n": 3, "second_policy_model": "large", "temperature": 0.8,
    "threshold": 0.9, "escalate_below": 0.9,
}  # fmt: skip


def cascading(small: str = "small", large: str = "large", *, plans: slice = slice(None)) -> dict[str, Any]:
    """The fixture's policy whose dearest plan is a cascade from one policy model to another."""
    found = document()
    found["plans"] = [plan | {"policy_model": small} for plan in found["plans"]]
    fields = CASCADE | {"second_policy_model": large}
    found["plans"][3] = found["plans"][3] | {"strategy": "cascade", "hyperparameters": fields, "verifier": None}
    found["plans"] = found["plans"][plans]
    known = found["policy_models"].pop("small")
    found["policy_models"] = {small: known, large: known}
    if len(found["plans"]) == 1:
        found["table"] = []
        found["budgets"] = []
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "cascade"
    write_policy(path, cascading(), {}, predictor().save)
    return path


@pytest.fixture(scope="module")
def planner(folder: Path) -> Planner:
    return load(folder)


@pytest.fixture
def engines() -> dict[str, ScriptedEngine]:
    """The small model never agrees with itself, the large one always does."""
    return {
        "small": ScriptedEngine(lambda r: f"#### {r.index}{END}", name="small"),
        "large": ScriptedEngine(lambda r: f"#### 7{END}", name="large"),
    }


@pytest.fixture
def by_name(engines: dict[str, ScriptedEngine], monkeypatch: pytest.MonkeyPatch) -> None:
    """`--engine NAME` is one of `engines`."""
    monkeypatch.setattr("planner.policy.equipment.load_engine", engines.__getitem__)


def asked(engines: Mapping[str, ScriptedEngine]) -> dict[str, int]:
    return {name: sum(map(len, engine.batches)) for name, engine in engines.items()}


def test_a_plan_names_the_models_that_it_may_ask() -> None:
    plan = {"policy_model": "small", "hyperparameters": {"n": 4}}
    assert models_of(plan) == ("small",)
    assert models_of(plan | {"hyperparameters": {"second_policy_model": None}}) == ("small",)
    assert models_of(plan | {"hyperparameters": {"second_policy_model": "large"}}) == ("small", "large")
    assert models_of(plan | {"hyperparameters": {"second_policy_model": "small"}}) == ("small",)


def test_solving_asks_the_second_model(planner: Planner, engines: dict[str, ScriptedEngine]) -> None:
    solution = planner.solve(HARD, "32x", engine=engines)
    assert (solution.plan.strategy, solution.answer, solution.outcome) == ("cascade", "7", Outcome.FINISHED)
    assert asked(engines) == {"small": 2, "large": 3}


def test_without_the_second_model_another_plan_is_chosen(planner: Planner, engines: dict[str, ScriptedEngine]) -> None:
    for given in ({"small": engines["small"]}, engines["small"]):
        solution = planner.solve(HARD, "32x", engine=given, verifier=ScriptedVerifier(judged))
        assert solution.plan.strategy == "best_of_n"
    assert asked(engines)["large"] == 0


def test_where_no_plan_can_run_the_missing_engine_or_verifier_is_named(engines: dict[str, ScriptedEngine]) -> None:
    only = Planner(cascading(plans=slice(3, 4)), predictor())
    with pytest.raises(CapabilityError, match=r"\['small'\].*no plan.*expected small with large"):
        only.solve(HARD, "32x", engine={"small": engines["small"]})
    with pytest.raises(CapabilityError, match="expected small with large"):
        Gateway(only, {"small": engines["small"]}, None, Settings())
    scored = Planner(cascading(plans=slice(2, 3)), predictor())
    with pytest.raises(CapabilityError, match=r"verifier.*expected prm"):
        scored.solve(HARD, "32x", engine=engines)


def test_a_file_is_answered_by_both_models(
    planner: Planner, engines: dict[str, ScriptedEngine], tmp_path: Path
) -> None:
    source, out = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    source.write_text(json.dumps({"prompt": HARD}) + "\n")
    solve_file(planner, source, out, budget="32x", engine=engines)
    assert json.loads(out.read_text())["answer"] == "7"
    assert asked(engines) == {"small": 2, "large": 3}


@pytest.mark.usefixtures("by_name")
def test_the_command_takes_an_engine_for_each_model(
    folder: Path,
    engines: dict[str, ScriptedEngine],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [
        "planner",
        "solve",
        HARD,
        "-b",
        "32x",
        "--policy",
        str(folder),
        "-e",
        "small=small",
        "-e",
        "large",
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr()
    assert not left.value.code, said.err
    solution = json.loads(said.out)
    assert (solution["plan"]["strategy"], solution["answer"]) == ("cascade", "7")
    assert asked(engines) == {"small": 2, "large": 3}


@pytest.mark.usefixtures("by_name")
def test_a_server_asks_both_models(folder: Path, engines: dict[str, ScriptedEngine]) -> None:
    settings = Settings(allow_mismatch=("small", "large"))
    gateway = make_gateway(folder, ["large=large", "small"], None, settings)

    async def main() -> Any:
        gateway.open()
        body = {"model": "auto", "messages": [{"role": "user", "content": HARD}], "budget": "32x"}
        try:
            return await gateway.answer(
                gateway.decide(parse_call("chat", body, header_budget=None, names=gateway.names))
            )
        finally:
            await gateway.aclose()

    answered = asyncio.run(main())
    assert answered.decision.plan.strategy == "cascade"
    assert answered.run.answer.answer == "7"
    assert asked(engines) == {"small": 2, "large": 3}


@pytest.mark.usefixtures("by_name")
def test_an_engine_is_named_once(planner: Planner) -> None:
    plans = planner.document["plans"]
    assert set(named_engines(plans, ["small", "large=large"])) == {"small", "large"}
    with pytest.raises(InputError, match="named twice"):
        named_engines(plans, ["small", "small=large"])


def test_the_laboratorys_models_are_loaded_for_both_stages() -> None:
    found, verifier, allowed = Planner(cascading("lab-small", "lab-medium", plans=slice(3, 4)), predictor()).equip(
        None, None
    )
    assert {name: engine.info.name for name, engine in found.items()} == {
        "lab-small": "lab-small",
        "lab-medium": "lab-medium",
    }
    assert (verifier, allowed) == (None, None)
