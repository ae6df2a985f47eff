import json
from collections import Counter
from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta
from scripted import END, ScriptedEngine, ScriptedVerifier, drawn, judged
from strategy_specs import small_spec
from typer.testing import CliRunner

from planner.cli.app import app
from planner.cli.output import console
from planner.core import Candidate, Outcome, Problem
from planner.errors import CapabilityError, InputError
from planner.runtime.driver import run_flow
from planner.strategies import (
    DVTS,
    REGISTRY,
    AdaptiveBestOfN,
    AdaptiveMajority,
    ArbitratedMajority,
    BeamSearch,
    BestOfN,
    Cascade,
    ConfidenceVote,
    Greedy,
    Lookahead,
    Majority,
    OddsVote,
    ParticleFiltering,
    Rebase,
    Revision,
    Strategy,
    describe,
    from_dict,
    paths_in_flight,
    to_dict,
)
from planner.strategies.scoring import aggregate, odds, select
from planner.strategies.stopping import leading_probability, plurality_probability

PROBLEM = Problem(problem_id="p", prompt="What?", step_separator="\n", max_tokens=120)
SPECS = [
    Greedy(),
    Majority(n=5),
    BestOfN(n=5, aggregation="min", selection="max"),
    OddsVote(n=5),
    BeamSearch(n=8, expansions=4, max_steps=6),
    DVTS(n=8, expansions=4, max_steps=6, policy_model="m"),
    Lookahead(n=4, expansions=2, max_steps=6, lookahead_steps=2, merge_duplicates=True),
    Revision(chains=3, revisions=2, aggregation="last"),
    Rebase(n=5, max_steps=6),
    ParticleFiltering(n=5, max_steps=6),
    AdaptiveMajority(max_n=7, batch=3, posterior="dirichlet"),
    ArbitratedMajority(max_n=7, batch=3, answers=3, readings=2, aggregation="min"),
    AdaptiveBestOfN(max_n=7, batch=3, min_gain=1e-9),
    ConfidenceVote(n=7, quantile=0.3, threshold=0.9, batch=3),
    Cascade(n=4, max_n=6, second="dvts", second_n=4, expansions=2, max_steps=6, second_policy_model="m"),
]


def cascade(**fields):
    return {"strategy": "cascade", "hyperparameters": {"n": 4, "max_n": 8, "second": "dvts", "second_n": 4, **fields}}


def solve(spec, script, scores=judged, **budget):
    return run_flow(
        PROBLEM, spec, {"m": ScriptedEngine(script)}, ScriptedVerifier(scores), default_policy_model="m", **budget
    )


def test_every_strategy_has_a_spec_here():
    assert [s.name for s in SPECS] == list(REGISTRY)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
class TestContract:
    def test_is_a_frozen_strategy_under_its_own_name(self, spec):
        assert isinstance(spec, Strategy)
        assert REGISTRY[spec.name] is type(spec)
        with pytest.raises((FrozenInstanceError, AttributeError)):
            spec.policy_model = "other"

    def test_survives_json(self, spec):
        assert from_dict(json.loads(json.dumps(to_dict(spec)))) == spec

    def test_returns_a_finished_answer_or_says_that_it_has_none(self, spec):
        for i in range(30):
            problem = Problem(problem_id=str(i), prompt=f"What {i}?", step_separator="\n", max_tokens=60)
            engine, verifier = ScriptedEngine(drawn), ScriptedVerifier(judged)
            run = run_flow(problem, spec, {"m": engine}, verifier, default_policy_model="m")
            answer = run.answer
            if answer.outcome is Outcome.FINISHED:
                assert any(c.finished and c.text == answer.text for c in answer.candidates)
            else:
                assert answer.outcome is Outcome.TRUNCATED
                assert answer.answer is None
                assert not any(c.finished for c in answer.candidates)
            for request in [r for batch in engine.batches for r in batch]:
                assert 0 < request.sampling.max_tokens <= problem.max_tokens - len(request.prefix)
            assert bool(verifier.batches) <= spec.needs_verifier

    def test_honours_n(self, spec):
        # All different, so that a vote never stops early; a path of one step is over, so that a search draws n of them.
        n = paths_in_flight(to_dict(spec)["hyperparameters"])
        engine = ScriptedEngine(lambda r: f"#### {r.index}{END}")
        run = run_flow(PROBLEM, spec, {"m": engine}, ScriptedVerifier(lambda steps: 0.5), default_policy_model="m")
        requests = [r for batch in engine.batches for r in batch]
        second = getattr(spec, "second_n", 0)
        assert sorted(r.index for r in requests) == sorted([*range(n), *range(second)])
        assert len(run.answer.candidates) == n + second

    def test_its_fields_are_described(self, spec):
        (row,) = [row for row in describe() if row["name"] == spec.name]
        said = {k for k, v in row["hyperparameters"].items() if v == "required"}
        assert set(to_dict(spec)["hyperparameters"]) >= said
        assert row["summary"].endswith(".")
        assert (row["needs"] == ["verifier"]) <= spec.needs_verifier <= bool(row["needs"] or row["may_need"])

    def test_out_of_budget_at_once_is_an_answer(self, spec):
        answer = solve(spec, drawn, budget_flops=1.0).answer
        assert (answer.outcome, answer.answer, answer.text) == (Outcome.OUT_OF_BUDGET, None, "")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"strategy": "best_of_m"}, "greedy, majority"),
        ({"strategy": ["greedy"]}, "unknown strategy"),
        ({"strategy": "majority"}, "missing: n"),
        ({"strategy": "majority", "hyperparameters": {"n": 2, "beam_width": 4}}, "beam_width.*only n, temperature"),
        ({"strategy": "majority", "hyperparameters": 3}, "hyperparameters"),
        ({"strategy": "majority", "hyperparameters": {"n": 0}}, "majority: `n` = 0.*>= 1"),
        ({"strategy": "majority", "hyperparameters": {"n": 2.0}}, "whole number"),
        ({"strategy": "majority", "hyperparameters": {"n": True}}, "whole number"),
        ({"strategy": "majority", "hyperparameters": {"n": 2, "temperature": 0}}, "equal answers"),
        ({"strategy": "majority", "hyperparameters": {"n": 2, "temperature": -1}}, ">= 0"),
        ({"strategy": "majority", "hyperparameters": {"n": 2, "temperature": float("nan")}}, ">= 0"),
        ({"strategy": "majority", "hyperparameters": {"n": 2, "top_p": 0}}, r"\(0, 1\]"),
        ({"strategy": "best_of_n", "hyperparameters": {"n": 2, "aggregation": "avg"}}, "min or last or mean or prod"),
        ({"strategy": "best_of_n", "hyperparameters": {"n": 2, "selection": []}}, "max or vote"),
        ({"strategy": "beam_search", "hyperparameters": {"n": 6, "expansions": 4}}, "multiple of expansions = 4"),
        ({"strategy": "dvts", "hyperparameters": {"n": 2, "expansions": 4}}, "multiple of expansions = 4"),
        ({"strategy": "adaptive_majority", "hyperparameters": {"max_n": 4, "threshold": 0.5}}, r"\(0.5, 1\)"),
        ({"strategy": "adaptive_majority", "hyperparameters": {"max_n": 4, "threshold": 1}}, r"\(0.5, 1\)"),
        (
            {"strategy": "adaptive_majority", "hyperparameters": {"max_n": 4, "posterior": "normal"}},
            "beta or dirichlet",
        ),
        ({"strategy": "adaptive_best_of_n", "hyperparameters": {"max_n": 4, "min_gain": 0}}, r"\(0, 1\)"),
        ({"strategy": "lookahead", "hyperparameters": {"n": 4, "lookahead_steps": 0}}, ">= 1"),
        ({"strategy": "lookahead", "hyperparameters": {"n": 6}}, "multiple of expansions = 4"),
        ({"strategy": "beam_search", "hyperparameters": {"n": 4, "merge_duplicates": 1}}, "true or false"),
        ({"strategy": "rebase", "hyperparameters": {"n": 4, "balance_temperature": 0}}, "> 0"),
        ({"strategy": "particle_filtering", "hyperparameters": {"n": 4, "resampling_temperature": -1}}, "> 0"),
        ({"strategy": "particle_filtering", "hyperparameters": {"n": 4, "temperature": 0}}, "equal answers"),
        ({"strategy": "revision", "hyperparameters": {"chains": 0, "revisions": 1}}, ">= 1"),
        ({"strategy": "revision", "hyperparameters": {"chains": 1, "revisions": -1}}, ">= 0"),
        ({"strategy": "revision", "hyperparameters": {"chains": 2, "revisions": 1, "temperature": 0}}, "equal answers"),
        (
            {"strategy": "revision", "hyperparameters": {"chains": 1, "revisions": 1, "selection": "max"}},
            "selection.*vote",
        ),
        ({"strategy": "confidence_vote", "hyperparameters": {"n": 4, "quantile": 1}}, r"\[0, 1\)"),
        ({"strategy": "confidence_vote", "hyperparameters": {"n": 4, "threshold": 1.5}}, r"\(0.5, 1\)"),
        ({"strategy": "cascade", "hyperparameters": {"n": 4}}, "missing: max_n, second, second_n"),
        (cascade(n=1, temperature=0), "n.*>= 2"),
        (cascade(max_n=3), "max_n.*at least n = 4"),
        (cascade(escalate_below=0.8), "at most threshold = 0.75"),
        (cascade(escalate_below=2), r"\[0, 1\]"),
        (cascade(second_n=6), "second_n.*multiple of expansions = 4"),
        (cascade(second="beam"), "majority or best_of_n or beam_search or dvts"),
        (cascade(second="majority"), "second_policy_model.*another model"),
        (cascade(second="majority", policy_model="a", second_policy_model="a"), "another model"),
    ],
)
def test_a_bad_specification_names_field_and_rule(data, words):
    with pytest.raises(InputError, match=words):
        from_dict(data)


NONSENSE = [
    ("temperature", -0.1, "a number >= 0"),
    ("temperature", 0, "a number > 0"),
    ("top_p", 1.1, r"a number in \(0, 1\]"),
    ("threshold", 1.2, r"a number in \(0.5, 1\)"),
    ("quantile", -0.1, r"a number in \[0, 1\)"),
    ("expansions", 3, "a multiple of expansions = 3"),
    ("n", 0, "a whole number >= [12]"),
    ("max_n", 0, "a whole number >= 1"),
    ("max_steps", 0, "a whole number >= 1"),
    ("aggregation", "median", "min or last or mean or prod"),
    ("selection", "best", "max or vote"),
]


@pytest.mark.parametrize("name", REGISTRY)
def test_every_strategy_refuses_what_makes_no_sense(name):
    good = to_dict(small_spec(name))["hyperparameters"]
    known = {f.name for f in fields(REGISTRY[name])}
    for field, value, rule in NONSENSE:
        if field not in known:
            continue
        # A number of samples that cannot be shared out names the samples, whatever they are called.
        named = "(n|second_n)" if field == "expansions" else field
        with pytest.raises(InputError, match=rf"{name}: `{named}` = .*expected {rule}"):
            from_dict({"strategy": name, "hyperparameters": {**good, field: value}})


@pytest.mark.parametrize("name", REGISTRY)
def test_a_strategy_that_needs_a_verifier_is_refused_without_one(name):
    spec, engine = small_spec(name), ScriptedEngine(drawn)
    if not spec.needs_verifier:
        assert run_flow(PROBLEM, spec, {"m": engine}, default_policy_model="m").usage.requests
        return
    with pytest.raises(CapabilityError, match=f"{name}: `verifier`: needs a verifier"):
        run_flow(PROBLEM, spec, {"m": engine}, default_policy_model="m")
    assert not engine.batches


def test_one_sample_may_be_greedy_and_describe_lists_all():
    assert Majority(n=1, temperature=0.0).n == 1
    rows = {row["name"]: row for row in describe()}
    assert rows["best_of_n"]["needs"] == ["verifier"]
    assert rows["majority"]["hyperparameters"]["n"] == "required"
    assert (rows["revision"]["needs"], rows["revision"]["may_need"]) == ([], ["verifier"])


def test_the_commands_table_shows_what_a_strategy_may_need(monkeypatch):
    monkeypatch.setattr(console, "_width", 400)
    lines = CliRunner().invoke(app, ["strategies"]).output.splitlines()
    cells = {
        cell[1].strip(): [c.strip() for c in cell] for cell in (line.split("│") for line in lines) if len(cell) > 4
    }
    assert list(cells) == list(REGISTRY)
    assert cells["best_of_n"][3:5] == ["verifier", "-"]
    assert cells["cascade"][3:5] == ["-", "verifier"]
    assert cells["majority"][3:5] == ["-", "-"]


def test_a_switch_that_is_off_is_left_out():
    assert "merge_duplicates" not in to_dict(BeamSearch(n=4))["hyperparameters"]
    assert to_dict(BeamSearch(n=4, merge_duplicates=True))["hyperparameters"]["merge_duplicates"] is True
    said = to_dict(ConfidenceVote(n=4, weighted=False))["hyperparameters"]
    assert (said["weighted"], said["quantile"]) == (False, 0.0)
    assert "threshold" not in said


def made(key, *scores, finished=True):
    return Candidate(text=f"{key}{scores}", answer=key, key=key, finished=finished, scores=scores or None)


def test_aggregations():
    scores = (0.5, 0.2, 0.4)
    assert [aggregate(scores, how) for how in ("min", "last", "prod")] == [0.2, 0.4, pytest.approx(0.04)]
    assert aggregate(scores, "mean") == pytest.approx(1.1 / 3)
    assert aggregate((), "mean") != aggregate((), "mean")  # unknown is NaN


def test_selection():
    a, b, b2, none = made("a", 0.6), made("b", 0.4), made("b", 0.5), made(None, 0.9)
    cut = made(None, 0.99, finished=False)
    assert select([a, b, b2, cut], "last", "max") is a
    assert select([a, b, b2, none, cut], "last", "vote") is b2
    assert select([a, b, b2, none, cut], "last", "max") is none  # its score is the highest; it only cannot vote
    assert select([none, cut], "last", "vote") is none
    assert select([cut], "last", "vote") is cut
    assert select([], "last", "max") is None
    assert select([made("a", 0.5), made("b", 0.5)], "last", "max").key == "a"
    assert select([made("b"), made("a"), made("a"), made("b")], "last", "vote").key == "b"
    assert select([made("b"), made("a", 0.0)], "last", "max").key == "a"  # scored over unscored
    assert select([made("a", 0.0), made("b", 0.0)], "last", "vote").key == "a"


def test_votes_by_odds_follow_the_surer_score():
    # 0.9 has nine times the odds of 0.5, and so outweighs what sums of scores do not.
    sure, doubtful = made("a", 0.9), [made("b", 0.5) for _ in range(3)]
    assert select([sure, *doubtful], "last", "vote").key == "b"
    assert select([sure, *doubtful], "last", "odds") is sure
    assert select([sure, *doubtful, *[made("b", 0.5)] * 7], "last", "odds").key == "b"
    assert [odds(0.5), odds(0.75)] == [1.0, 3.0]
    assert [odds(1.0), odds(0.0)] == pytest.approx([9999, 1 / 9999])
    assert select([made("b"), made("a"), made("a")], "last", "odds").key == "a"  # unscored votes count 1 each


def test_an_open_vote_is_decided_by_votes_and_odds():
    found = [made(key) for key in "aaabbcd"]
    spec = ArbitratedMajority(max_n=7, answers=3, readings=2)
    assert spec.read(found) == [0, 1, 3, 4, 5]

    def scored(**scores):
        rows = [made(c.key, scores[f"{c.key}{found[:i].count(c)}"]) if i in (0, 1, 3, 4, 5) else c
                for i, c in enumerate(found)]  # fmt: skip
        return rows, [0, 1, 3, 4, 5]

    rows, read = scored(a0=0.5, a1=0.5, b0=0.5, b1=0.75, c0=0.79)
    # a: 3 votes at odds 1; b: 2 at (1 + 3) / 2; c: 1 at 4, less the last digit.
    assert spec.choose(rows, read).key == "b"
    assert spec.choose(rows, read) is rows[4]
    rows, read = scored(a0=0.5, a1=0.5, b0=0.5, b1=0.5, c0=0.9)
    assert spec.choose(rows, read).key == "c"
    rows, read = scored(a0=0.5, a1=0.5, b0=0.6, b1=0.6, c0=0.75)
    assert spec.choose(rows, read) is rows[0]  # three votes each: the first seen
    assert spec.choose(found, read) is None
    assert spec.read([made("a"), made("a"), made(None)]) == []


def test_majority_counts_equal_numbers_as_one_answer():
    texts = [f"#### 4{END}", f"#### 25{END}", END, f"#### 25.0{END}", "cut #### "]
    answer = solve(Majority(n=5), {"": texts}).answer
    assert answer.answer in ("25", "25.0")
    assert answer.outcome is Outcome.FINISHED


def test_best_of_n_scores_only_finished_ones_and_falls_back_to_the_vote():
    texts = {"": [f"x\n#### 1{END}", f"#### 2{END}", f"y\n#### 2{END}", END, "z" * 500]}
    scores = {"x": 0.2, "x|#### 1": 0.9, "#### 2": 0.4, "y": 0.9, "y|#### 2": 0.3}
    engine, verifier = ScriptedEngine(texts), ScriptedVerifier(scores)
    run = run_flow(PROBLEM, BestOfN(n=5, selection="max"), {"m": engine}, verifier, default_policy_model="m")
    assert run.answer.answer == "1"
    assert [r.steps for batch in verifier.batches for r in batch] == [("x", "#### 1"), ("#### 2",), ("y", "#### 2")]
    assert [c.scores for c in run.answer.candidates] == [(0.2, 0.9), (0.4,), (0.9, 0.3), None, None]
    paid = run.cost.prefill_flops + run.cost.decode_flops
    worst = paid * 3  # pays for the worst case of each wave, not for the scores
    for budget in (paid + 1, worst):
        poor = run_flow(PROBLEM, BestOfN(n=5, selection="max"), {"m": ScriptedEngine(texts)}, ScriptedVerifier(scores),
                        default_policy_model="m", budget_flops=budget)  # fmt: skip
        assert poor.cost.total_flops <= budget
        if poor.cost.verifier_flops == 0:
            assert poor.answer.outcome is Outcome.OUT_OF_BUDGET
            assert poor.answer.answer == "2"


@pytest.mark.parametrize(
    ("votes", "beta", "dirichlet"), [("1111111111", 4, 4), ("1213111111", 8, 10), ("1212121212", 10, 10)]
)
def test_adaptive_majority_stops_when_the_leader_is_safe(votes, beta, dirichlet):
    for posterior, drawn_samples in (("beta", beta), ("dirichlet", dirichlet)):
        spec = AdaptiveMajority(max_n=10, threshold=0.95, batch=2, posterior=posterior)
        run = solve(spec, {"": [f"#### {v}{END}" for v in votes]})
        assert run.usage.requests == drawn_samples
        assert run.answer.answer == "1"


def test_plurality_probability_against_closed_forms():
    # X ~ Gamma(2) above two Exp(1): the integral of x e^-x (1 - e^-x)^2 is 1 - 2/4 + 1/9.
    assert plurality_probability((1, 0, 0)) == pytest.approx(11 / 18, abs=1e-12)
    assert plurality_probability((4, 4, 4, 4, 4)) == pytest.approx(1 / 5, abs=1e-12)
    for first, second in ((0, 0), (7, 0), (30, 12), (300, 290)):
        assert plurality_probability((first, second)) == pytest.approx(leading_probability(first, second), abs=1e-9)
    assert plurality_probability((3,)) == pytest.approx(leading_probability(3, 0), abs=1e-12)
    assert plurality_probability((6, 1, 1)) < leading_probability(6, 1)


@given(st.integers(0, 30), st.integers(0, 30))
def test_leading_probability_is_the_beta_tail(a, b):
    assert leading_probability(a, b) == pytest.approx(beta.sf(0.5, a + 1, b + 1), abs=1e-12)
    assert leading_probability(a, b) + leading_probability(b, a) == pytest.approx(1)


def test_no_votes_never_stop():
    assert not AdaptiveMajority(max_n=4).stops(Counter())
