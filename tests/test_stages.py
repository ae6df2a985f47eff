"""Revision, confidence votes, cascades and stopping by expected improvement, worked out by hand."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from scripted import END, ScriptedEngine, ScriptedVerifier

from planner.core import Outcome, Problem
from planner.errors import CapabilityError, InputError
from planner.profiling.recipe import load_recipe
from planner.runtime.driver import run_flow
from planner.strategies import (
    REGISTRY,
    AdaptiveBestOfN,
    Cascade,
    ConfidenceVote,
    Revision,
    from_dict,
    paths_in_flight,
    to_dict,
)
from planner.strategies.improvement import expected_gain
from planner.strategies.revision import revision_prompt

PROBLEM = Problem(
    problem_id="p", prompt="Q?", step_separator="\n", max_tokens=100, revision_template="{prompt} not {attempts}!"
)


def solve(spec, script, scores=lambda steps: 0.5, *, logprob=None, problem=PROBLEM, **budget):
    engines = {name: ScriptedEngine(script, name=name, logprob=logprob) for name in ("m", "large")}
    verifier = ScriptedVerifier(scores)
    run = run_flow(problem, spec, engines, verifier, default_policy_model="m", **budget)
    return run, engines, verifier


def asked(engine):
    return [[(r.prompt, r.index) for r in batch] for batch in engine.batches]


# --- revision -----------------------------------------------------------------------------------------------------


def test_each_chain_revises_in_sight_of_its_own_attempts():
    answers = {
        ("Q?", 0): "#### 1",
        ("Q?", 1): "#### 2",
        ("Q? not #### 1!", 2): "#### 3",
        ("Q? not #### 2!", 3): "#### 2",
        ("Q? not #### 1\n\n#### 3!", 4): "#### 1",
        ("Q? not #### 2\n\n#### 2!", 5): "#### 3",
    }
    run, engines, verifier = solve(Revision(chains=2, revisions=2), lambda r: answers[r.prompt, r.index] + END)
    assert asked(engines["m"]) == [list(answers)[:2], list(answers)[2:4], list(answers)[4:]]
    assert [c.answer for c in run.answer.candidates] == ["1", "2", "3", "2", "1", "3"]
    assert run.answer.answer == "1"  # two votes each: the first
    assert run.usage.rounds == 3
    assert not verifier.batches


def test_a_revision_may_be_chosen_by_score():
    def script(request):
        return f"#### {request.index}{END}"

    spec = Revision(chains=1, revisions=3, aggregation="last", selection="max", temperature=0.0)
    run, _, verifier = solve(spec, script, lambda steps: 0.9 if steps[-1] == "#### 2" else 0.3)
    assert run.answer.answer == "2"
    assert [r.prompt for r in verifier.batches[0]] == ["Q?"] * 4  # the answer is scored for the question itself
    assert spec.needs_verifier
    assert not Revision(chains=1, revisions=3).needs_verifier
    with pytest.raises(CapabilityError, match="verifier"):
        run_flow(PROBLEM, spec, {"m": ScriptedEngine(script)}, default_policy_model="m")


def test_only_the_last_four_attempts_are_shown_and_braces_stay():
    assert revision_prompt(PROBLEM, [f" {i}\n" for i in range(6)]) == "Q? not 2\n\n3\n\n4\n\n5!"
    odd = replace(PROBLEM, prompt="{attempts} {x}")
    assert revision_prompt(odd, ["{prompt}"]) == "{attempts} {x} not {prompt}!"
    plain = Problem(problem_id="p", prompt="Why?")
    assert revision_prompt(plain, ["one"]).startswith("Why?\n\n")
    with pytest.raises(InputError, match="revision_template"):
        revision_prompt(replace(PROBLEM, revision_template="again: {prompt}"), ["x"])


def test_a_chain_that_cannot_be_paid_further_answers_with_what_it_has():
    def script(request):
        return f"#### {request.index}{END}"

    free, _, _ = solve(Revision(chains=2, revisions=2), script)
    seen = set()
    for share in range(5, 200, 5):
        run, _, _ = solve(Revision(chains=2, revisions=2), script, budget_flops=free.cost.total_flops * share / 100)
        assert run.cost.total_flops <= free.cost.total_flops * share / 100
        seen.add((run.answer.outcome, len(run.answer.candidates)))
    assert {(Outcome.OUT_OF_BUDGET, 2), (Outcome.OUT_OF_BUDGET, 4), (Outcome.FINISHED, 6)} <= seen


# --- confidence ---------------------------------------------------------------------------------------------------

# Answers 1 1 1 2 2 with probabilities 0.2 0.2 0.2 0.5 0.4.
CONFIDENT = {
    "": [f"a#### 1{END}", f"b#### 1{END}", f"c#### 1{END}", f"d#### 2{END}", f"e#### 2{END}", "never ends" * 20]
}
PROBABILITY = {"a": 0.2, "b": 0.2, "c": 0.2, "d": 0.5, "e": 0.4, "n": 0.99}


def logprob(text):
    return math.log(PROBABILITY[text[0]])


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "d#### 2"),  # 0.9 against 0.6, and d is the surest of its voters
        ({"weighted": False}, "a#### 1"),  # three votes against two
        ({"weighted": False, "quantile": 0.4}, "d#### 2"),  # of equally unsure a, b, c the last two do not vote
        ({"weighted": False, "quantile": 0.39}, "a#### 1"),  # 39 % of five is one: a and b against d and e
    ],
)
def test_votes_weigh_the_models_own_confidence(fields, text):
    run, _, _ = solve(ConfidenceVote(n=6, **fields), CONFIDENT, logprob=logprob)
    assert (run.answer.text, run.answer.outcome) == (text, Outcome.FINISHED)
    assert all(c.scores is None for c in run.answer.candidates)  # confidence is no score
    assert len(run.answer.candidates) == 6


def test_without_log_probabilities_every_vote_counts_one():
    run, _, _ = solve(ConfidenceVote(n=5, quantile=0.4), CONFIDENT)
    assert run.answer.answer == "1"


def test_a_confident_lead_stops_the_draw():
    texts = {"": [f"d#### 2{END}", f"a#### 1{END}", f"e#### 2{END}", f"b#### 2{END}", f"c#### 1{END}", END]}
    spec = ConfidenceVote(n=5, threshold=0.8, batch=2)
    run, engines, _ = solve(spec, texts, logprob=logprob)
    # 0.5 of 0.7 is under four fifths, 1.1 of 1.3 above.
    assert [len(b) for b in engines["m"].batches] == [2, 2]
    assert run.answer.answer == "2"
    stubborn, engines, _ = solve(ConfidenceVote(n=5, threshold=0.9, batch=2), texts, logprob=logprob)
    assert [len(b) for b in engines["m"].batches] == [2, 2, 1]
    assert stubborn.answer.answer == "2"
    silent, _, _ = solve(ConfidenceVote(n=4, threshold=0.6, batch=2), lambda r: END)
    assert (silent.usage.requests, silent.answer.answer) == (4, None)


# --- stopping by expected improvement -----------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_the_expected_gain_is_the_normal_predictives(scores):
    n, best = len(scores), max(scores)
    mean = math.fsum(scores) / n
    spread = 1 / 12 + sum((s - mean) ** 2 for s in scores) + n / (n + 1) * (mean - 0.5) ** 2
    law = norm((0.5 + sum(scores)) / (n + 1), math.sqrt(spread / (n + 1) * (n + 2) / (n + 1)))
    steps = [best + (1 - best) * (i + 0.5) / 2000 for i in range(2000)]
    # E[min(max(x, best), 1)] - best is the integral of P(x > level) from best to 1.
    assert expected_gain(scores) == pytest.approx(sum(law.sf(steps)) / 2000 * (1 - best), abs=1e-6)


def test_best_of_n_stops_when_a_better_score_is_not_to_be_expected():
    low = {"": [f"#### {i}{END}" for i in range(8)]}
    judge = [0.1, 0.2, 0.1, 0.97, 0.1, 0.2, 0.1, 0.2]
    spec = AdaptiveBestOfN(max_n=8, batch=2, min_gain=0.02)
    run, engines, verifier = solve(spec, low, lambda steps: judge[int(steps[-1][-1])])
    assert [len(b) for b in engines["m"].batches] == [2, 2]
    assert [len(b) for b in verifier.batches] == [2, 2]  # each sample is scored once
    assert (run.answer.answer, run.answer.outcome) == ("3", Outcome.FINISHED)
    patient, _, _ = solve(replace(spec, min_gain=1e-6), low, lambda steps: judge[int(steps[-1][-1])])
    assert len(patient.answer.candidates) == 8


def test_best_of_n_goes_on_where_nothing_could_be_scored():
    run, _, verifier = solve(AdaptiveBestOfN(max_n=4), lambda r: "never ends" * 20)
    assert len(run.answer.candidates) == 4
    assert run.answer.outcome is Outcome.TRUNCATED
    assert not verifier.batches


# --- cascade ------------------------------------------------------------------------------------------------------

SEARCH = Cascade(n=4, max_n=6, second="beam_search", second_n=4, expansions=2)


def votes(digits, large="9", search="7"):
    def script(request):
        if request.sampling.stop:
            return f"#### {search}{END}"
        return f"#### {digits[request.index]}{END}" if request.index < len(digits) else f"#### {large}{END}"

    return script


@pytest.mark.parametrize(
    ("digits", "answer", "drawn"),
    [
        ("111234", "1", 4),  # three of four agree: it stops
        ("112322", "2", 6),  # two of four: more samples, and all six vote
        ("123456", "7", 8),  # all differ: the search decides
    ],
)
def test_agreement_decides_what_comes_next(digits, answer, drawn):
    run, engines, _ = solve(SEARCH, votes(digits))
    assert run.answer.answer == answer
    assert len(run.answer.candidates) == drawn
    assert not engines["large"].batches


def test_a_larger_model_may_be_asked():
    spec = Cascade(n=4, max_n=4, second="majority", second_n=3, second_policy_model="large")
    assert not spec.needs_verifier
    run, engines, _ = solve(spec, votes("1234"))
    assert asked(engines["large"]) == [[("Q?", 4), ("Q?", 5), ("Q?", 6)]]
    assert run.answer.answer == "9"
    assert [c.answer for c in run.answer.candidates] == [*"1234", *"999"]
    with pytest.raises(CapabilityError, match="second_policy_model"):
        run_flow(PROBLEM, spec, {"m": ScriptedEngine(votes("1"))}, default_policy_model="m")
    engines = {"m": ScriptedEngine(votes("1")), "large": ScriptedEngine(votes("1"), shape=None)}
    with pytest.raises(CapabilityError, match="config"):
        run_flow(PROBLEM, spec, engines, default_policy_model="m", budget_flops=1e9)


def test_best_of_n_of_the_same_model_keeps_the_first_samples():
    spec = Cascade(n=4, max_n=4, second="best_of_n", second_n=2)
    run, engines, verifier = solve(spec, votes("123456"), lambda steps: 0.9 if steps[-1] == "#### 2" else 0.1)
    assert asked(engines["m"]) == [[("Q?", i) for i in range(4)], [("Q?", 4), ("Q?", 5)]]
    assert [len(b) for b in verifier.batches] == [6]
    assert run.answer.answer == "2"
    assert len(run.answer.candidates) == 6


def test_where_the_second_stage_finishes_nothing_the_first_vote_stands():
    def script(request):
        return "and on " * 30 if request.sampling.stop else f"#### {request.index % 3}{END}"

    run, _, _ = solve(replace(SEARCH, escalate_below=0.75), script)
    assert (run.answer.answer, run.answer.outcome) == ("0", Outcome.FINISHED)


def test_a_cascade_on_a_budget_keeps_its_first_vote():
    free, _, _ = solve(SEARCH, votes("123456"))
    seen = set()
    for share in range(5, 300, 5):
        run, _, _ = solve(SEARCH, votes("123456"), budget_flops=free.cost.total_flops * share / 100)
        assert run.cost.total_flops <= free.cost.total_flops * share / 100
        seen.add((run.answer.outcome, run.answer.answer))
    assert {(Outcome.OUT_OF_BUDGET, "1"), (Outcome.FINISHED, "7")} <= seen


# --- a strategy of a user -------------------------------------------------------------------------------------------


def test_a_strategy_of_a_user_is_registered_in_one_line(monkeypatch):
    class Mine(ConfidenceVote):
        name = "mine"

    monkeypatch.setitem(REGISTRY, Mine.name, Mine)
    spec = from_dict({"strategy": "mine", "hyperparameters": {"n": 2}})
    assert type(spec) is Mine
    assert solve(spec, votes("12"))[0].answer.answer == "1"


def test_a_recipe_runs_them_all_and_knows_the_second_model(tmp_path):
    text = """
    [[policy_models]]
    engine = "lab:lab-small"
    [[policy_models]]
    engine = "lab:lab-medium"
    name = "large"
    [verifier]
    engine = "lab:lab-prm"
    [[runs]]
    strategy = "rebase"
    n = [4, 8]
    [[runs]]
    strategy = "revision"
    chains = [1, 2]
    revisions = 1
    [[runs]]
    strategy = "cascade"
    n = 4
    max_n = 8
    second = "majority"
    second_n = 4
    second_policy_model = "LARGE"
    """
    path = tmp_path / "all.toml"
    path.write_text(text.replace("LARGE", "large"))
    recipe = load_recipe(path)
    assert [spec.name for spec, _ in recipe.runs] == ["rebase"] * 2 + ["revision"] * 2 + ["cascade"]
    assert [paths_in_flight(to_dict(spec)["hyperparameters"]) for spec, _ in recipe.runs] == [4, 8, 2, 4, 4]
    path.write_text(text)
    with pytest.raises(InputError, match=r"second_policy_model.*LARGE.*large"):
        load_recipe(path)
