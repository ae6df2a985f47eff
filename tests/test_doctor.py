"""`planner doctor` on the laboratory, on a fake server of many dialects, and where there is nobody."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from fake_server import Dialect, FakeServer, Fault
from scripted import END, ScriptedEngine, ScriptedVerifier
from typer import Typer
from typer.testing import CliRunner

from planner.cli.doctor import register
from planner.core import StepScores
from planner.errors import VerifierError
from planner.models.protocols import Engine, Verifier
from planner.models.shipped import load_engine, load_verifier
from planner.runtime.checkup import Checkup, check_up
from planner.strategies import REGISTRY, Greedy
from planner.strategies.base import validate

SAMPLING = {"greedy", "majority", "adaptive_majority", "confidence_vote"}
SEARCHES = {"beam_search", "dvts", "lookahead", "rebase", "particle_filtering"}


def command(*words: str, code: int) -> Any:
    app = Typer()
    register(app)
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, done.output
    return done.stdout


def states(found: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["state"] for row in found["checks"]}


def works(found: Checkup) -> set[str]:
    return {row.name for row in found.strategies if row.works}


def test_the_laboratory_is_well():
    found = json.loads(command("--engine", "lab:lab-small", "--verifier", "lab:lab-prm", "--json", code=0))
    assert set(states(found).values()) == {"ok"}
    assert not found["broken"]
    assert {row["name"] for row in found["strategies"] if row["works"]} == set(REGISTRY)
    measures = found["measures"]
    assert measures["generated_tokens_per_second"] > 0
    assert measures["scored_tokens_per_second"] > 0
    assert measures["cached_prefix_share"] > 0.5, "the laboratory's engine keeps prefixes"
    text = command("-e", "lab:lab-small", code=0)
    assert "will not: beam_search: needs a verifier" in text.replace("\n", " ")


def test_an_address_where_nobody_is():
    with FakeServer() as server:
        url = server.url
    found = json.loads(command("--engine", f"{url}?retries=0", "--json", code=1))
    assert states(found) == {"engine is reached": "broken"}
    says = found["checks"][0]["says"]
    assert url in says
    assert "What to do: start the server" in says
    assert found["strategies"] == []
    assert "start the server" in command("--engine", f"{url}?retries=0", code=1)


def test_names_that_are_none_are_broken_too():
    found = json.loads(command("-e", "lab:lab-huge", "--verifier", "judge:nobody:lab:lab-small", "--json", code=1))
    assert states(found) == {"engine is reached": "broken", "verifier is reached": "broken"}
    assert "lab-small" in found["checks"][0]["says"]


def doctor(
    server: FakeServer, verifier: Verifier | None = None, options: str = "", engine: Engine | None = None
) -> Checkup:
    spec = f"{server.url}?retries=0&timeout=5{options}"
    return check_up(
        spec,
        "scripted" if verifier else None,
        load_engine=lambda spec: engine or load_engine(spec),
        load_verifier=lambda spec: verifier,  # type: ignore[arg-type, return-value]
        prompt="What is 2 + 3?",
        step_separator="\n",
    )


def judge() -> ScriptedVerifier:
    return ScriptedVerifier(lambda steps: 0.25 + len(steps) % 2 / 2)


def test_a_server_is_tried_out():
    with FakeServer() as server:
        found = doctor(server, judge())
    assert not found.broken
    assert works(found) == set(REGISTRY)
    assert found.measures["cached_prefix_share"] == 0.0, "the fake server tells of no cache"
    notes = [check.says for check in found.checks if check.state == "note"]
    assert any("config" in note for note in notes), "budgets in FLOPs cannot be held without one"


@pytest.mark.parametrize(
    ("dialect", "lacking", "words"),
    [
        (Dialect(keeps_stop=False, names_stop=False), SEARCHES, "stops at a step's end"),
        (Dialect(completions=False, continues=False), SEARCHES, "partial answer"),
    ],
)
def test_what_a_server_lacks_tells_which_strategies_will_not_work_and_why(dialect, lacking, words):
    with FakeServer(dialect=dialect) as server:
        found = doctor(server, judge())
    assert not found.broken, "a server that lacks something is not broken"
    assert works(found) & lacking == set()
    assert works(found) >= SAMPLING | {"best_of_n"}
    for row in found.strategies:
        if row.name in lacking:
            assert words in row.why
            assert server.url in row.why


def test_what_may_surprise_is_noted():
    with FakeServer(dialect=Dialect(seeds=False, logprobs=False)) as server:
        found = doctor(server)
    noted = {check.name for check in found.checks if check.state == "note"}
    assert {"engine repeats itself", "engine tells log-probabilities", "engine's probe"} <= noted


def test_a_server_that_fails_while_it_is_tried_is_broken():
    with FakeServer() as server:
        engine = load_engine(f"{server.url}?retries=0&timeout=5")
        server.faults = lambda path, body, number: Fault("status", 500)
        found = doctor(server, engine=engine)
    (check,) = [check for check in found.checks if check.state == "broken"]
    assert check.name == "engine generates"
    assert "HTTP 500" in check.says


def test_an_engine_that_ignores_the_temperature_is_broken():
    def found_for(script: Any, **more: Any) -> Checkup:
        return check_up(
            "scripted", None, load_engine=lambda spec: ScriptedEngine(script, **more),
            load_verifier=load_verifier, step_separator="\n",
        )  # fmt: skip

    same = found_for(lambda request: f"#### 1{END}")
    assert {check.name for check in same.checks if check.state == "broken"} == {"engine samples"}
    well = found_for(lambda request: f"{request.index}\n#### {request.index}{END}")
    assert not well.broken


class Crooked(ScriptedVerifier):
    """Loses a score, or leaves [0, 1], or fails."""

    def __init__(self, how: str) -> None:
        super().__init__(lambda steps: 0.5)
        self.how, self.calls = how, 0

    def score(self, requests):  # type: ignore[no-untyped-def]
        self.calls += 1
        results = super().score(requests)
        if self.how == "fails":
            raise VerifierError("out of memory")
        changed = {
            "lost": lambda s: s[1:],
            "high": lambda s: (1.5,) * len(s),
            "unsteady": self.drift,
            "none": lambda s: (),
        }
        return [
            StepScores(scores=changed[self.how](r.scores), tokens=1, new_tokens=1, computed_tokens=1) for r in results
        ]

    def drift(self, scores: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(score / self.calls for score in scores)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("lost", "scores for"),
        ("high", r"outside [0, 1]"),
        ("unsteady", "alone and in a batch"),
        ("fails", "out of memory"),
        ("none", "scores for"),
    ],
)
def test_a_verifier_that_is_not_right_is_broken_and_stops_what_needs_it(how, words):
    with FakeServer() as server:
        found = doctor(server, Crooked(how))
    (check,) = [check for check in found.checks if check.state == "broken"]
    assert words in check.says
    assert works(found) & (SEARCHES | {"best_of_n"}) == set()
    assert works(found) >= SAMPLING


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown(Greedy):
    """Needs what doctor cannot know."""

    name = "unknown"
    secret: str

    def __post_init__(self) -> None:
        validate(self)


def test_a_strategy_of_ones_own_with_unknown_fields_is_not_tried(monkeypatch):
    monkeypatch.setitem(REGISTRY, "unknown", Unknown)
    with FakeServer() as server:
        found = doctor(server)
    (row,) = [row for row in found.strategies if row.name == "unknown"]
    assert row.works is None
    assert "secret" in row.why
