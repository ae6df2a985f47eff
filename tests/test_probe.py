"""A probe is learned where it pays, drawn first, kept, charged once, and followed by what it shows."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from scripted import SHAPE, ScriptedEngine, ScriptedVerifier
from simulated import simulate

from planner.api import load
from planner.core import Outcome, Problem, Sampling
from planner.effects import sample
from planner.errors import OutOfBudget, PolicyError
from planner.policy.fit import fit_bank
from planner.policy.folder import read_policy, write_policy
from planner.policy.predictor import DifficultyPredictor
from planner.policy.probe import continued
from planner.policy.refine import candidate_features, probe_features
from planner.profiling.along import Along, shares_samples
from planner.profiling.columns import Configuration
from planner.profiling.outcomes import outcomes_from_bank
from planner.profiling.recorded import Pricing, recorded_samples
from planner.profiling.replay import best_of_k, draw_orders, replay_votes
from planner.runtime.driver import run_flow
from planner.strategies import BestOfN, Majority
from planner.strategies.scoring import make_candidate


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    # Prompts tell nothing, half of the problems are easy and half hopeless: only samples can tell which.
    bank, _ = simulate(200, 24, levels=(0.97, 0.97, 0.03, 0.03), told=False)
    return fit_bank(bank, tmp_path_factory.mktemp("probe") / "policy", folds=3, trials=60)


def test_it_is_stored_where_it_pays(fitted) -> None:
    found = fitted.evaluation["probe"]
    assert found["pays"]
    assert found["gain_ci"][0] > 0
    probe = fitted.policy["probe"]
    assert probe["samples"] in (2, 4)
    assert f"{probe['samples']} samples of small are drawn first" in found["note"]
    last = found["budgets"][-1]
    assert last["probed"]["cost"] < 0.9 * last["unprobed"]["cost"]
    assert last["probed"]["accuracy"] > last["unprobed"]["accuracy"] - 0.01
    for plan in probe["plans"]:
        for cost in plan["cost"].values():
            assert cost["policy"] + cost["verifier"] + cost["probe"] == pytest.approx(cost["total"])
            assert 0 < cost["probe"] <= cost["total"] * (1 + 1e-9)


def test_it_is_left_out_where_all_problems_are_alike(tmp_path) -> None:
    bank, _ = simulate(60, 8, scores=False, levels=(0.9, 0.9, 0.9, 0.9), seed=2)
    result = fit_bank(bank, tmp_path / "policy", folds=2, trials=20)
    assert result.policy["probe"] is None
    assert not result.evaluation["probe"]["pays"]
    assert result.evaluation["probe"]["note"].endswith("none is drawn")
    assert load(result.folder).probe is None


def test_single_samples_leave_nothing_to_judge_a_probe_by(tmp_path) -> None:
    bank, _ = simulate(40, 1, scores=False, greedy=False)
    result = fit_bank(bank, tmp_path / "policy", folds=2, trials=20)
    assert "no probe could be tried" in result.evaluation["probe"]["note"]


def answering(text_of):
    return ScriptedEngine(lambda request: text_of(request.index) + "<end>", name="small", shape=SHAPE)


def scripted_run(fitted, text_of, score):
    planner = load(fitted.folder)
    engine, verifier = answering(text_of), ScriptedVerifier(lambda steps: score)
    problem = Problem(problem_id="p", prompt="Compute 3 + 4.", max_tokens=64)
    budget = planner.document["budgets"][-1]
    plan = planner.choose(problem.prompt, budget)
    assert plan.probe == fitted.policy["probe"]["samples"]
    assert "Solving begins with a probe" in plan.reason
    return planner.solve(problem, budget, engine=engine, verifier=verifier), engine, plan


def test_what_it_shows_decides_and_its_samples_are_kept(fitted) -> None:
    agreed, engine, plan = scripted_run(fitted, lambda i: "#### 7", 0.95)
    asked = Counter((r.sampling, r.index) for batch in engine.batches for r in batch)
    assert max(asked.values()) == 1, "no sample is drawn twice"
    assert agreed.usage.generated_tokens == engine.generated_tokens
    assert agreed.outcome is Outcome.FINISHED
    assert agreed.answer == "7"
    torn, other, _ = scripted_run(fitted, lambda i: f"#### {i}", 0.05)
    assert agreed.plan != torn.plan
    assert agreed.plan.expected_accuracy > 0.8 > 0.5 > torn.plan.expected_accuracy
    assert list(agreed.plan.difficulty.values())[-1] == 1.0
    assert "after a probe of" in torn.plan.reason
    assert torn.plan.expected_cost.probe > 0
    first = {(r.sampling, r.index) for r in other.batches[0]}
    assert len(first) == plan.probe
    for solution in (agreed, torn):
        assert solution.cost.total_flops <= plan.context.amount


def test_what_is_spent_never_exceeds_the_budget(fitted) -> None:
    planner = load(fitted.folder)
    engine, verifier = ScriptedEngine(lambda r: "word " * 4000, name="small"), ScriptedVerifier(lambda steps: 0.5)
    problem = Problem(problem_id="p", prompt="Compute 3 + 4.", max_tokens=20_000)
    budget = planner.document["probe"]["from_budget"]
    priciest = engine.info.shape.decode_flops(14, 20_000)
    for share in (0.3, 1.5, 3.0):  # of one sample, of the probe, of what follows
        solution = planner.solve(problem, max(budget, share * priciest), engine=engine, verifier=verifier)
        assert solution.cost.total_flops <= max(budget, share * priciest)


def test_seconds_and_small_budgets_are_not_probed(fitted) -> None:
    planner = load(fitted.folder)
    start = planner.document["probe"]["from_budget"]
    assert planner.choose("Compute 3 + 4.", 0.9 * start).probe == 0
    assert planner.choose("Compute 3 + 4.", start).probe > 0
    assert planner.choose("Write a poem about rain.", start).probe == 0
    assert planner.choose_many(["Compute 3 + 4."], start) == [planner.choose("Compute 3 + 4.", start)]


def test_a_policy_without_or_with_a_damaged_probe(fitted, tmp_path) -> None:
    policy = {k: v for k, v in fitted.policy.items() if k != "probe"}
    save = DifficultyPredictor.load(fitted.folder / "predictor").save
    folder = write_policy(tmp_path / "old", policy, {}, save)
    assert load(folder).choose("Compute 3 + 4.", policy["budgets"][-1]).probe == 0
    damaged = read_policy(fitted.folder).policy["probe"]
    del damaged["refinement"]["slope"]
    folder = write_policy(tmp_path / "damaged", {**policy, "probe": damaged}, {}, save)
    with pytest.raises(PolicyError, match="refinement"):
        load(folder)
    assert "NaN" not in json.dumps(fitted.policy["probe"])


def test_a_flow_is_answered_from_what_is_kept() -> None:
    problem = Problem(problem_id="p", prompt="Q", max_tokens=32)
    sampling = Sampling(temperature=0.8, top_p=1.0, max_tokens=32)
    engine = answering(lambda i: f"#### {i % 2}")

    def flow():
        kept = yield from sample(problem, ["", ""], sampling, policy_model="small")
        requests = next(sample(problem, ["", ""], sampling, policy_model="small")).requests
        spec = Majority(n=5, temperature=0.8, top_p=1.0, policy_model="small")
        return (yield from continued(spec.solve(problem), "small", dict(zip(requests, kept, strict=True)), {}))

    class Kept(Majority):
        def solve(self, problem):
            return flow()

    whole = run_flow(problem, Majority(n=5, policy_model="small"), {"small": engine}, default_policy_model="small")
    engine.batches.clear()
    run = run_flow(problem, Kept(n=5, policy_model="small"), {"small": engine}, default_policy_model="small")
    assert run.answer == whole.answer
    assert run.usage.generated_tokens == whole.usage.generated_tokens
    assert run.cost.total_flops == whole.cost.total_flops
    assert [len(batch) for batch in engine.batches] == [2, 3]


def test_a_balance_that_pays_for_none_of_the_rest_leaves_what_is_kept() -> None:
    problem = Problem(problem_id="p", prompt="Q", max_tokens=32)
    sampling = Sampling(temperature=0.8, top_p=1.0, max_tokens=32)
    requests = next(sample(problem, ["", ""], sampling, policy_model="small")).requests
    replies = answering(lambda i: "#### 5").generate(requests)
    spec = BestOfN(n=4, policy_model="small")
    flow = continued(spec.solve(problem), "small", dict(zip(requests, replies, strict=True)), {})
    asked = next(flow)
    assert [r.index for r in asked.requests] == [2, 3]
    scoring = flow.throw(OutOfBudget("no balance"))
    assert len(scoring.requests) == 1
    with pytest.raises(StopIteration) as end:
        flow.throw(OutOfBudget("no balance"))
    assert end.value.value.answer == "5"
    assert end.value.value.outcome is Outcome.OUT_OF_BUDGET


def test_along_orders_means_are_what_replay_gives() -> None:
    bank, _ = simulate(30, 8, flops=True)
    outcomes = outcomes_from_bank(bank, subsets=64)
    samples = bank.samples
    pricing = Pricing.from_manifest(bank.manifest)
    streams = recorded_samples(samples[samples["role"] == "score"], outcomes.problem_ids, pricing, [])
    recorded = next(r for r in streams if r.temperature)
    orders = draw_orders(recorded.draws, 400, seed=3)
    shared = [c for c in outcomes.configurations if shares_samples(c, recorded)]
    assert {c.strategy for c in shared} == {"majority", "best_of_n", "odds_vote", "adaptive_majority"}
    assert not any(c.strategy == "greedy" for c in shared)
    fields = {"n": 4, "temperature": 0.8, "top_p": 1.0}
    scored = {"policy_model": "small", "verifier": "prm", "strategy": "best_of_n"}
    chosen = [
        Configuration(strategy="majority", hyperparameters=fields, policy_model="small"),
        Configuration(hyperparameters=fields | {"aggregation": "mean", "selection": "max"}, **scored),
        Configuration(hyperparameters=fields | {"aggregation": "mean", "selection": "vote"}, **scored),
    ]
    along = Along.of(recorded, orders, chosen)
    exact = [
        replay_votes(recorded.draws, orders, [4]).accuracy[:, 0], best_of_k(recorded.draws, "mean", [4])[:, 0],
        replay_votes(recorded.draws, orders, [4], "mean").accuracy[:, 0],
    ]  # fmt: skip
    for mine, other in zip(along.value.mean(axis=1), exact, strict=True):
        assert np.abs(mine - other).max() < 0.1
        assert abs(mine.mean() - other.mean()) < 0.01
    generation, scoring = along.cost(0, least=6)
    assert (scoring == 0).all()
    assert np.allclose(generation, along.spent(6))
    assert (along.cost(1, least_scored=6)[1] == along.scoring_of(6)).all()


def test_live_and_recorded_probes_show_the_same() -> None:
    bank, _ = simulate(12, 6)
    outcomes = outcomes_from_bank(bank)
    samples = bank.samples
    pricing = Pricing.from_manifest(bank.manifest)
    rows = samples[(samples["role"] == "score") & (samples["temperature"] > 0)]
    (recorded,) = recorded_samples(rows, outcomes.problem_ids, pricing, [])
    orders = draw_orders(recorded.draws, 3, seed=0)
    shown = probe_features(recorded.draws, orders, 4, recorded.tokens)
    of = {(r.problem_id, r.index): r for r in rows.itertuples(index=False)}
    for look in range(3):
        for p, key in enumerate(outcomes.problem_ids):
            drawn = [of[key, int(slot)] for slot in orders.index[look, p, :4]]
            found = [
                make_candidate(
                    f"#### {r.answer_key}", ended=True, scores=tuple(r.scores), generated_tokens=r.generated_tokens
                )
                for r in drawn
            ]
            live = candidate_features(found, 4)
            assert np.allclose(live, shown[look, p], equal_nan=True)
