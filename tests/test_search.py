"""Beam search and DVTS against trajectories worked out by hand."""

import pytest
from scripted import END, ScriptedEngine, ScriptedVerifier

from planner.core import Outcome, Problem
from planner.runtime.driver import run_flow
from planner.strategies import DVTS, BeamSearch

PROBLEM = Problem(problem_id="p", prompt="What?", step_separator="\n", max_tokens=100)

# One small tree: prefix to continuations by slot, and each path's last score. b leads, a and c tie.
TREE = {
    "": ["a\n", "b\n", "c\n", "d\n"],
    "b\n": ["b0\n", f"#### 1{END}"],
    "a\n": ["", "", "a2\n", "a3\n"],
    "a\na2\n": [f"#### 2{END}", "a21\n"],
    "a\na2\na21\n": [f"#### 1{END}", f"#### 3{END}"],
    "c\n": ["", "", "c2\n", "c3\n"],
    "c\nc2\n": [f"#### 5{END}", f"#### 6{END}"],
}
SCORES = {
    "a": 0.5, "b": 0.9, "c": 0.5, "d": 0.1,
    "b|b0": 0.3, "b|#### 1": 0.4, "a|a2": 0.8, "a|a3": 0.3,
    "a|a2|#### 2": 0.6, "a|a2|a21": 0.6, "a|a2|a21|#### 1": 0.6, "a|a2|a21|#### 3": 0.55,
    "c|c2": 0.7, "c|c3": 0.7, "c|c2|#### 5": 0.2, "c|c2|#### 6": 0.2,
}  # fmt: skip


def search(spec, tree=TREE, scores=SCORES, problem=PROBLEM, **budget):
    engine, verifier = ScriptedEngine(tree), ScriptedVerifier(scores)
    run = run_flow(problem, spec, {"m": engine}, verifier, default_policy_model="m", **budget)
    return run, [[(r.prefix, r.index) for r in batch] for batch in engine.batches], verifier


@pytest.mark.parametrize(("selection", "answer"), [("max", "2"), ("vote", "1")])
def test_beam_search_by_hand(selection, answer):
    run, asked, verifier = search(BeamSearch(n=4, expansions=2, selection=selection))
    assert asked == [
        [("", 0), ("", 1), ("", 2), ("", 3)],
        [("b\n", 0), ("b\n", 1), ("a\n", 2), ("a\n", 3)],  # b, then a: the tie with c goes to the first drawn
        [("a\na2\n", 0), ("a\na2\n", 1)],  # kept: a2 and the finished `b #### 1`
        [("a\na2\na21\n", 0), ("a\na2\na21\n", 1)],  # four paths have finished after this: it stops
    ]
    assert [(c.text, c.scores) for c in run.answer.candidates] == [
        ("b\n#### 1", (0.9, 0.4)),
        ("a\na2\n#### 2", (0.5, 0.8, 0.6)),
        ("a\na2\na21\n#### 1", (0.5, 0.8, 0.6, 0.6)),
        ("a\na2\na21\n#### 3", (0.5, 0.8, 0.6, 0.55)),
    ]
    assert run.answer.answer == answer
    assert run.answer.outcome is Outcome.FINISHED
    assert run.usage.rounds == 8
    assert sum(len(batch) for batch in verifier.batches) == 12


def test_dvts_by_hand():
    run, asked, _ = search(DVTS(n=4, expansions=2))
    assert asked == [
        [("", 0), ("", 1), ("", 2), ("", 3)],
        [("b\n", 0), ("b\n", 1), ("c\n", 2), ("c\n", 3)],  # the best of a, b and the best of c, d
        [("c\nc2\n", 0), ("c\nc2\n", 1)],  # the first subtree's best is finished: it is over
    ]
    assert [(c.answer, c.scores[-1]) for c in run.answer.candidates] == [("1", 0.4), ("5", 0.2), ("6", 0.2)]
    assert run.answer.answer == "1"


def test_one_group_of_dvts_is_beam_search_with_one_kept_path():
    tree = {**TREE, "b\n": ["b0\n"] * 3 + [f"#### 1{END}"]}
    beam, dvts = (search(kind(n=4, expansions=4), tree) for kind in (BeamSearch, DVTS))
    assert beam[1] == dvts[1]
    assert beam[0].answer == dvts[0].answer


def test_equal_texts_draw_from_different_streams():
    tree = {"": ["s\n"] * 4, "s\n": [f"#### {i}{END}" for i in range(4)]}
    _, asked, _ = search(
        BeamSearch(n=4, expansions=2), tree, dict.fromkeys(["s", *(f"s|#### {i}" for i in range(4))], 0.5)
    )
    assert asked[1] == [("s\n", 0), ("s\n", 1), ("s\n", 2), ("s\n", 3)]


def test_a_blank_step_is_no_step():
    tree = {"": ["\n", f"a\n{END}"], "\n": ["x\n", "  \n"], "a\n": [END, "b\n"], "\nx\n": [END, END]}
    # Slot 0 opens with a blank step, which is not scored and ranks last; `a` goes on and then ends with nothing more.
    run, asked, verifier = search(BeamSearch(n=2, expansions=2), tree, {"a": 0.5, "a|b": 0.1})
    assert asked == [[("", 0), ("", 1)], [("a\n", 0), ("a\n", 1)]]
    assert [r.steps for batch in verifier.batches for r in batch] == [("a",), ("a", "b")]
    ended = run.answer.candidates[0]
    assert (ended.text, ended.scores, ended.finished, ended.answer) == ("a\n", (0.5,), True, None)
    assert run.answer.text == "a\n"


def test_a_path_whose_text_holds_an_answer_is_finished_without_the_end_token():
    run, asked, _ = search(BeamSearch(n=1, expansions=1), {"": ["\\boxed{7}\nmore\n"]}, {"\\boxed{7}": 0.5})
    assert len(asked) == 1
    assert (run.answer.answer, run.answer.outcome) == ("7", Outcome.FINISHED)


@pytest.mark.parametrize(
    "limits", [{"max_step_tokens": 5}, {"max_steps": 1}, {"max_tokens": 5}], ids=lambda limits: next(iter(limits))
)
def test_a_path_that_met_a_limit_is_truncated_and_never_chosen_over_a_finished_one(limits):
    problem = Problem(problem_id="p", prompt="What?", step_separator="\n", max_tokens=limits.pop("max_tokens", 100))
    tree = {"": ["long\n" if limits.get("max_steps") else "a very long step\n", END], "a ver": []}
    run, _, _ = search(BeamSearch(n=2, expansions=1, **limits), tree, {"long": 0.99}, problem)
    assert run.answer.outcome is Outcome.FINISHED
    assert run.answer.text == ""
    alone, _, _ = search(BeamSearch(n=1, expansions=1, **limits), tree, {"long": 0.99}, problem)
    assert (alone.answer.outcome, alone.answer.answer) == (Outcome.TRUNCATED, None)
    assert alone.answer.text


def test_a_path_that_reaches_the_answers_length_exactly_is_truncated():
    problem = Problem(problem_id="p", prompt="What?", step_separator="\n", max_tokens=4)
    run, asked, _ = search(BeamSearch(n=1, expansions=1), {"": ["a\n"], "a\n": ["b\n"]}, {"a": 0.5}, problem)
    assert asked == [[("", 0)], [("a\n", 0)]]
    assert (run.answer.outcome, run.answer.text) == (Outcome.TRUNCATED, "a\nb\n")


@pytest.mark.parametrize("kind", [BeamSearch, DVTS])
def test_the_best_so_far_is_returned_at_every_budget(kind):
    full, _, _ = search(kind(n=4, expansions=2))
    outcomes = set()
    for share in range(1, 140):
        cap = full.cost.total_flops * share / 100
        run, _, _ = search(kind(n=4, expansions=2, max_step_tokens=8), budget_flops=cap)
        assert run.cost.total_flops <= cap
        outcomes.add(run.answer.outcome)
        if run.answer.outcome is Outcome.FINISHED:
            assert run.answer.answer == full.answer.answer
    assert outcomes == {Outcome.FINISHED, Outcome.OUT_OF_BUDGET}
