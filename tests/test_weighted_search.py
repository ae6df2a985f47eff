"""Lookahead, REBASE, particle filtering and merging against trajectories worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import END, ScriptedEngine, ScriptedVerifier

from planner.core import Outcome, Problem
from planner.runtime.driver import run_flow
from planner.strategies import BeamSearch, Lookahead, ParticleFiltering, Rebase
from planner.strategies.allotment import shares, systematic


def search(spec, tree, scores, prompt="What?", greedy=None, **budget):
    problem = Problem(problem_id="p", prompt=prompt, step_separator="\n", max_tokens=100)
    engine = ScriptedEngine(lambda r: tree[r.prefix][r.index] if r.sampling.temperature else greedy[r.prefix])
    verifier = ScriptedVerifier(scores)
    run = run_flow(problem, spec, {"m": engine}, verifier, default_policy_model="m", **budget)
    sampled = [[(r.prefix, r.index) for r in batch if r.sampling.temperature] for batch in engine.batches]
    looked = [[r.prefix for r in batch if not r.sampling.temperature] for batch in engine.batches]
    return run, [b for b in sampled if b], [b for b in looked if b], verifier


def found(run):
    return [(c.text, c.scores) for c in run.answer.candidates]


FIRST = {"": ["a\n", "b\n", "c\n", "d\n"]}


def test_lookahead_by_hand():
    tree = {
        **FIRST,
        "a\n": [f"#### 1{END}", "a1\n"],
        "c\n": ["", "", f"#### 2{END}", "c3\n"],
        "c\nc3\n": [f"#### 2{END}", f"#### 4{END}"],
    }
    greedy = {"a\n": "A\n", "b\n": "B\n", "c\n": "C\n", "d\n": "D\n", "a\na1\n": f"#### 9{END}", "c\nc3\n": "X\n"}
    scores = {
        "a": 0.5, "b": 0.9, "c": 0.5, "d": 0.1, "a|A": 0.8, "b|B": 0.3, "c|C": 0.8, "d|D": 0.1,
        "a|#### 1": 0.6, "a|a1": 0.5, "a|a1|#### 9": 0.2, "c|#### 2": 0.4, "c|c3": 0.45, "c|c3|X": 0.7,
        "c|c3|#### 2": 0.3, "c|c3|#### 4": 0.65,
    }  # fmt: skip
    run, sampled, looked, verifier = search(Lookahead(n=4, expansions=2), tree, scores, greedy=greedy)
    assert sampled == [
        [("", 0), ("", 1), ("", 2), ("", 3)],
        [("a\n", 0), ("a\n", 1), ("c\n", 2), ("c\n", 3)],  # b's own step is best, but it leads nowhere; a and c tie
        [("c\nc3\n", 0), ("c\nc3\n", 1)],  # kept: c3 (0.7 further on) and the finished `a #### 1` (0.6)
    ]
    assert looked == [["a\n", "b\n", "c\n", "d\n"], ["a\na1\n", "c\nc3\n"]]  # what has finished does not look ahead
    assert [r.steps for r in verifier.batches[0]] == [("a", "A"), ("b", "B"), ("c", "C"), ("d", "D")]
    assert found(run) == [  # no scores of steps that are not the answer's
        ("a\n#### 1", (0.5, 0.6)),
        ("c\n#### 2", (0.5, 0.4)),
        ("c\nc3\n#### 2", (0.5, 0.45, 0.3)),
        ("c\nc3\n#### 4", (0.5, 0.45, 0.65)),
    ]
    assert (run.answer.answer, run.answer.outcome) == ("4", Outcome.FINISHED)
    assert run.usage.requests == 4 + 4 + 2 + (4 + 2) + (4 + 4 + 2)  # steps, looks ahead, scores


def test_lookahead_goes_as_many_steps_as_asked_and_no_further_than_the_end():
    tree = {"": ["a\n", "b\n"], "b\n": [f"#### 1{END}", f"#### 2{END}"]}
    greedy = {"a\n": f"#### 3{END}", "b\n": "B\n", "b\nB\n": "BB\n"}
    scores = {"a": 0.1, "a|#### 3": 0.2, "b": 0.1, "b|B": 0.1, "b|B|BB": 0.3, "b|#### 1": 0.5, "b|#### 2": 0.4}
    run, sampled, looked, _ = search(Lookahead(n=2, expansions=2, lookahead_steps=2), tree, scores, greedy=greedy)
    assert looked == [["a\n", "b\n"], ["b\nB\n"]]
    assert sampled[1] == [("b\n", 0), ("b\n", 1)]
    assert run.answer.answer == "1"


HALVES = 0.1 / math.log(2)  # at this temperature 0.1 more score doubles a share


def test_rebase_by_hand():
    tree = {
        **FIRST,
        "a\n": ["a0\n", f"#### 1{END}"],
        "b\n": ["", "", "b2\n"],
        "c\n": ["", "", "", "c3\n"],
        "a\na0\n": [f"#### 2{END}", f"#### 1{END}"],
        "b\nb2\n": ["", "", f"#### 2{END}"],
    }
    scores = {
        "a": 0.5, "b": 0.4, "c": 0.4, "d": 0.3,
        "a|a0": 0.4, "a|#### 1": 0.9, "b|b2": 0.4, "c|c3": 0.2,
        "a|a0|#### 2": 0.3, "a|a0|#### 1": 0.5, "b|b2|#### 2": 0.8,
    }  # fmt: skip
    run, sampled, _, _ = search(Rebase(n=4, balance_temperature=HALVES), tree, scores)
    assert sampled == [
        [("", 0), ("", 1), ("", 2), ("", 3)],
        # Weights 4:2:2:1 of four steps are 1.78, 0.89, 0.89 and 0.44: the remainders of b, c and a are the largest.
        [("a\n", 0), ("a\n", 1), ("b\n", 2), ("c\n", 3)],
        # Three steps are left; 4:4:1 are 1.33, 1.33 and 0.33: the one left over goes to the first of equal remainders.
        [("a\na0\n", 0), ("a\na0\n", 1), ("b\nb2\n", 2)],
    ]
    assert found(run) == [
        ("a\n#### 1", (0.5, 0.9)),
        ("a\na0\n#### 2", (0.5, 0.4, 0.3)),
        ("a\na0\n#### 1", (0.5, 0.4, 0.5)),
        ("b\nb2\n#### 2", (0.4, 0.4, 0.8)),
    ]
    assert run.answer.answer == "1"  # 0.9 + 0.5 against 0.3 + 0.8


def test_rebase_shares_equal_scores_equally_and_gives_unscored_paths_nothing():
    tree = {"": ["a\n", "\n", "c\n"], "a\n": [f"#### 1{END}"] * 2, "c\n": ["", "", f"#### 2{END}"]}
    scores = {"a": 0.5, "c": 0.5, "a|#### 1": 0.1, "c|#### 2": 0.3}
    run, sampled, _, _ = search(Rebase(n=3), tree, scores)
    assert sampled[1] == [("a\n", 0), ("a\n", 1), ("c\n", 2)]  # 1.5 each; the blank first step weighs nothing
    assert run.answer.answer == "2"  # 0.3 against twice 0.1


# Odds 1 : 3 : 1 : 3 cumulate to 1/8, 4/8, 5/8 and 1. The filter looks at (start + i) / 4 for i = 0..3.
ODDS = {"a": 0.5, "b": 0.75, "c": 0.5, "d": 0.75}


def test_particle_filtering_by_hand():
    # The starts of "Why?" are 0.086, 0.868 and 0.944.
    tree = {
        **FIRST,
        "a\n": [f"#### 1{END}"],
        "b\n": ["", "b1\n"],
        "c\n": ["", "", "c2\n"],
        "d\n": ["", "", "", "d3\n"],
        "b\nb1\n": [f"#### 2{END}", "b11\n"],
        "d\nd3\n": ["", "", f"#### 2{END}", f"#### 3{END}"],
    }
    scores = {
        **ODDS, "a|#### 1": 0.5, "b|b1": 0.75, "c|c2": 0.5, "d|d3": 0.75,
        "b|b1|#### 2": 0.8, "b|b1|b11": 0.5, "d|d3|#### 2": 0.75, "d|d3|#### 3": 0.8,
    }  # fmt: skip
    run, sampled, _, _ = search(ParticleFiltering(n=4), tree, scores, prompt="Why?")
    assert sampled == [
        [("", 0), ("", 1), ("", 2), ("", 3)],
        [("a\n", 0), ("b\n", 1), ("c\n", 2), ("d\n", 3)],  # points 0.02, 0.27, 0.52, 0.77
        [("b\nb1\n", 0), ("b\nb1\n", 1), ("d\nd3\n", 2), ("d\nd3\n", 3)],  # points 0.22, 0.47, 0.72, 0.97
        # Odds 4:1:3:4 cumulate to 0.33, 0.42, 0.67, 1; points 0.24, 0.49, 0.74, 0.99 are all finished ones: it stops.
    ]
    assert [c.text for c in run.answer.candidates] == [  # what was not drawn again was paid for all the same
        "a\n#### 1",
        "b\nb1\n#### 2",
        "d\nd3\n#### 2",
        "d\nd3\n#### 3",
    ]
    assert run.answer.answer == "2"  # 0.8 twice: the first


def test_a_finished_particle_holds_its_place_and_draws_nothing():
    # The starts of "What?" are 0.243, 0.051, 0.310: every particle is drawn once each time.
    tree = {
        **FIRST,
        "a\n": [f"#### 1{END}"],
        "b\n": ["", "b1\n"],
        "c\n": ["", "", "c2\n"],
        "d\n": ["", "", "", "d3\n"],
        "b\nb1\n": [f"#### 2{END}"],
        "c\nc2\n": ["", f"#### 2{END}"],
        "d\nd3\n": ["", "", "d33\n"],
        "d\nd3\nd33\n": [f"#### 4{END}"],
    }
    scores = {
        **ODDS, "a|#### 1": 0.5, "b|b1": 0.75, "c|c2": 0.5, "d|d3": 0.75, "b|b1|#### 2": 0.75, "c|c2|#### 2": 0.5,
        "d|d3|d33": 0.75, "d|d3|d33|#### 4": 0.6,
    }  # fmt: skip
    run, sampled, _, _ = search(ParticleFiltering(n=4), tree, scores)
    assert sampled[2:] == [[("b\nb1\n", 0), ("c\nc2\n", 1), ("d\nd3\n", 2)], [("d\nd3\nd33\n", 0)]]
    assert [c.answer for c in run.answer.candidates] == ["1", "2", "2", "4"]
    assert run.answer.answer == "2"


def test_a_low_resampling_temperature_follows_the_best_particle():
    tree = {**FIRST, "b\n": [f"#### {i}{END}" for i in range(4)]}
    scores = {"a": 0.5, "b": 1.0, "c": 0.5, "d": 0.0, **{f"b|#### {i}": 0.5 for i in range(4)}}
    _, sampled, _, _ = search(ParticleFiltering(n=4, resampling_temperature=0.01), tree, scores)
    assert sampled[1] == [("b\n", i) for i in range(4)]


@pytest.mark.parametrize("merge", [False, True])
def test_equal_paths_are_merged_where_asked(merge):
    tree = {
        "": ["s\n", "s\n", "s\n", "t\n"],
        "s\n": [f"#### 1{END}", f"#### 1{END}", f"#### 2{END}", f"#### 3{END}"],
        "t\n": ["", "", f"#### 5{END}", f"#### 5{END}"],
    }
    scores = {"s": 0.9, "t": 0.5, "s|#### 1": 0.4, "s|#### 2": 0.5, "s|#### 3": 0.6, "t|#### 5": 0.7}
    run, sampled, _, verifier = search(BeamSearch(n=4, expansions=2, merge_duplicates=merge), tree, scores)
    assert sampled[1] == [("s\n", 0), ("s\n", 1), *([("t\n", 2), ("t\n", 3)] if merge else [("s\n", 2), ("s\n", 3)])]
    assert [len(batch) for batch in verifier.batches] == ([2, 2] if merge else [2, 3])  # equal answers are asked once
    assert [c.answer for c in run.answer.candidates] == (["1", "5"] if merge else ["1", "1", "2", "3"])
    assert run.answer.answer == ("5" if merge else "3")


@pytest.mark.parametrize("kind", [Lookahead, Rebase, ParticleFiltering])
def test_the_best_so_far_is_returned_at_every_budget(kind):
    spec = kind(n=4, max_steps=4, max_step_tokens=8)
    tree = {**FIRST, **{f"{x}\n": [f"#### {i}{END}" for i in range(4)] for x in "abcd"}}
    greedy = {f"{x}\n": f"#### 7{END}" for x in "abcd"}

    def judge(steps):
        return 0.3 + 0.1 * "abcd".index(steps[0])

    full = search(spec, tree, judge, greedy=greedy)[0]
    assert full.answer.outcome is Outcome.FINISHED
    outcomes = set()
    for share in range(1, 300, 3):
        run = search(spec, tree, judge, greedy=greedy, budget_flops=full.cost.total_flops * share / 100)[0]
        assert run.cost.total_flops <= full.cost.total_flops * share / 100
        outcomes.add(run.answer.outcome)
        if run.answer.outcome is Outcome.FINISHED:
            assert run.answer == full.answer
    assert outcomes == {Outcome.FINISHED, Outcome.OUT_OF_BUDGET}


WEIGHTS = st.lists(st.floats(0, 1), min_size=1, max_size=12).filter(lambda ws: math.fsum(ws) > 0.01)


@given(WEIGHTS, st.integers(0, 40), st.floats(0, 0.999999))
def test_shares_and_systematic_draws_stay_within_one_of_the_weights(raw, n, start):
    weights = [w / math.fsum(raw) for w in raw]
    counts = shares(weights, n)
    drawn = systematic(weights, n, start)
    assert sum(counts) == len(drawn) == n
    assert drawn == sorted(drawn)
    for i, weight in enumerate(weights):
        assert abs(counts[i] - n * weight) < 1 + 1e-9
        assert abs(drawn.count(i) - n * weight) < 1 + 1e-9
        if weight == 0:
            assert drawn.count(i) == 0
