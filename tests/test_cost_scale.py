"""What a prompt's answers cost is foretold from the prompt, and plans are chosen by it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from policy_fixture import document, predictor, prompt_of
from simulated import simulate

from planner import Budget, load
from planner.errors import BudgetError, PolicyError
from planner.policy.choose import PlanTable, choose_one, choose_plans
from planner.policy.chooser import Chooser, share_budget
from planner.policy.cost_scale import CostScale, relative_log_cost
from planner.policy.difficulty import DifficultyPredictor, fit_difficulty
from planner.policy.evaluate import cross_validate
from planner.policy.features import extract
from planner.policy.fit import FitResult, fit_bank
from planner.policy.folder import read_policy, write_policy
from planner.policy.held_out import evaluate_on
from planner.policy.table import budget_grid, fit_plans, table_document
from planner.profiling.outcomes import outcomes_from_bank
from planner.report import write_report

TERMS = np.random.default_rng(1).integers(2, 12, 300)
PROMPTS = [prompt_of(int(t), i) for i, t in enumerate(TERMS)]
NOISE = np.exp(np.random.default_rng(2).normal(0, 0.05, (300, 2)))


def fitted(costs: np.ndarray) -> DifficultyPredictor:
    return fit_difficulty(PROMPTS, np.full(300, 4), np.full(300, 8), costs=costs)


@pytest.fixture(scope="module")
def told() -> DifficultyPredictor:
    """An answer costs as much as its prompt has terms, with the second model ten times that."""
    return fitted(TERMS[:, None] * np.array([1.0, 10.0]) * NOISE)


def test_it_follows_what_prompts_cost(told: DifficultyPredictor) -> None:
    scale = told.cost_scale
    assert scale is not None
    assert scale.explained > 0.9
    assert scale.oof_ is not None
    assert scale.oof_.mean() == pytest.approx(1.0)
    fresh = np.random.default_rng(3).integers(3, 11, 100)
    found = told.scales([prompt_of(int(t), 1000 + i) for i, t in enumerate(fresh)])
    expected = fresh / TERMS.mean()
    assert np.abs(np.log(found / expected)).mean() < 0.1
    assert told.oof_scale_ is not None
    assert np.array_equal(told.oof_scale_, scale.oof_)


def test_one_prompt_and_many_have_the_same(told: DifficultyPredictor) -> None:
    assert [float(told.scales([p])[0]) for p in PROMPTS[:20]] == pytest.approx(told.scales(PROMPTS[:20]), rel=1e-12)


@pytest.mark.parametrize("costs", [np.full((300, 1), 5.0), np.exp(np.random.default_rng(4).normal(0, 1, (300, 1)))])
def test_prompts_are_typical_where_they_tell_nothing_of_cost(costs: np.ndarray) -> None:
    found = fitted(costs)
    assert found.cost_scale is None
    assert (found.scales(PROMPTS[:5]) == 1).all()


def test_a_strange_prompt_is_never_taken_for_a_cheap_one(told: DifficultyPredictor) -> None:
    strange = ["Ωμέγα ψηφίο;", "短い問い"]
    assert (told.strangeness(strange) > 1).all()
    assert (told.scales(strange) >= 1).all()
    assert (told.cost_scale(extract(strange, told.spec).matrix) < 1).any()  # type: ignore[misc]


def test_saved_and_loaded_it_says_the_same(told: DifficultyPredictor, tmp_path: Path) -> None:
    told.save(tmp_path)
    again = DifficultyPredictor.load(tmp_path)
    assert np.array_equal(again.scales(PROMPTS[:50]), told.scales(PROMPTS[:50]))
    (tmp_path / "cost.json").unlink()  # the policy's costs are per unit of scale: they are nothing without it
    with pytest.raises(PolicyError, match="foretells costs is missing"):
        DifficultyPredictor.load(tmp_path)
    fitted(np.ones((300, 1))).save(tmp_path)  # over it: what is no longer true must not stay
    assert DifficultyPredictor.load(tmp_path).cost_scale is None


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("cost.json", "{}"),
        ("cost.json", "[1]"),
        ("cost.json", "{"),
        ("model_cost.txt", "tree\n"),
        ("model_cost.txt", None),
    ],
)
def test_damage_is_refused_with_the_file(
    told: DifficultyPredictor, tmp_path: Path, file: str, text: str | None
) -> None:
    told.save(tmp_path)
    if text is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(text)
    with pytest.raises(PolicyError, match="cost"):
        DifficultyPredictor.load(tmp_path)


def test_a_scale_that_is_not_positive_is_refused(told: DifficultyPredictor, tmp_path: Path) -> None:
    told.save(tmp_path)
    path = tmp_path / "cost.json"
    low = told.cost_scale.low  # type: ignore[union-attr]
    path.write_text(path.read_text().replace(repr(low), "-1.0"))
    with pytest.raises(PolicyError, match="low"):
        CostScale.load(tmp_path, len(told.spec.names))


# --- choosing by it ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scaled(told: DifficultyPredictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy") / "scaled"
    return write_policy(folder, document(), {}, told.save)


def test_a_dear_prompt_has_the_plan_of_a_smaller_budget(scaled: Path, tmp_path: Path) -> None:
    planner = load(scaled)
    plain = load(write_policy(tmp_path / "plain", document(), {}, fitted(np.ones((300, 1))).save))
    amount, seen = 14e6, set()
    for terms in (2, 4, 7, 11):
        prompt = prompt_of(terms, 77)
        plan = planner.choose(prompt, f"{amount} flops")
        seen.add(plan.index)
        same = plain.choose(prompt, f"{amount / plan.cost_scale} flops")
        assert plan.index == same.index
        assert plan.expected_accuracy == same.expected_accuracy
        assert plan.expected_cost.total == pytest.approx(plan.cost_scale * same.expected_cost.total)
        assert plan.expected_cost.p95 <= amount * (1 + 1e-6)
        assert plan.to_dict()["cost_scale"] == plan.cost_scale
        assert f"{plan.cost_scale:.2f} times a typical prompt's" in plan.explain()
    assert len(seen) > 1


def test_many_at_once_are_chosen_as_one_by_one(scaled: Path) -> None:
    planner = load(scaled)
    prompts = [prompt_of(int(t), 50 + i) for i, t in enumerate(TERMS[:40])]
    many = planner.choose_many(prompts, "14e6 flops")
    assert [p.index for p in many] == [planner.choose(prompt, "14e6 flops").index for prompt in prompts]


def test_refusal_names_what_this_prompt_needs(scaled: Path) -> None:
    planner = load(scaled)
    prompt = prompt_of(11, 5)
    scale = planner.choose(prompt, "1e9 flops").cost_scale
    with pytest.raises(BudgetError) as caught:
        planner.choose(prompt, f"{1.2e6 * scale * 0.9} flops")
    assert f"{1.2e6 * scale:.4g}" in str(caught.value)
    planner.choose(prompt, f"{1.2e6 * scale * 1.001} flops")


def test_a_total_is_shared_by_what_each_prompt_costs(scaled: Path) -> None:
    chooser: Chooser = load(scaled).chooser
    prompts = [prompt_of(int(t), 90 + i) for i, t in enumerate(TERMS[:60])]
    total = Budget.parse("3e8 flops")
    plans = share_budget(chooser, prompts, total).plans()
    assert sum(plan.expected_cost.p95 for plan in plans) <= 3e8 * (1 + 1e-9)
    scale = np.array([plan.cost_scale for plan in plans])
    spent = np.array([plan.expected_cost.p95 / plan.cost_scale for plan in plans])
    assert spent[scale < 0.8].mean() > spent[scale > 1.2].mean()


def test_what_pays_for_everything_pays_for_the_dearest_prompt(scaled: Path) -> None:
    chooser = load(scaled).chooser
    assert chooser.predictor.cost_scale is not None
    assert chooser.most == pytest.approx(32e6 * chooser.predictor.cost_scale.high)


def test_exploring_draws_from_what_this_prompt_can_have(scaled: Path) -> None:
    planner = load(scaled)
    for terms in (2, 11):
        prompt = prompt_of(terms, 8)
        plan = planner.choose(prompt, "14e6 flops")
        fits = {i for i, p in enumerate(document()["plans"]) if p["cost"]["easy"]["p95"] * plan.cost_scale <= 14e6}
        drawn = planner.chooser.decide([prompt] * 60, Budget.parse("14e6 flops"), explore=1.0, draw=random.Random(0))
        assert set(drawn.index.tolist()) == fits
        assert drawn.propensity == pytest.approx(np.full(60, 1 / len(fits)))


def test_without_a_limit_on_compute_a_plan_that_is_never_named_stays_out() -> None:
    never = document()
    never["plans"] = [*never["plans"], {**never["plans"][3], "named_from": None}]
    never["plans"][-1]["accuracy"] = {bucket: {"value": 0.99} for bucket in ("hard", "medium", "easy")}
    table = PlanTable.from_document(never)
    assert choose_plans(table, np.eye(3), np.inf).plan.max() < 5
    assert max(choose_one(table, row, np.inf) for row in np.eye(3)) < 5


def test_a_policy_without_it_takes_all_prompts_as_typical() -> None:
    chooser = Chooser(document(), predictor(), None)
    assert (chooser.outlook(PROMPTS[:5]).scale == 1).all()


# --- what fitting makes of it -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[FitResult, FitResult]:
    """A bank in which harder prompts are longer and have longer answers, fitted with and without cost scales."""
    bank, folder = simulate(240, 16)[0], tmp_path_factory.mktemp("fits")
    told = fit_bank(bank, folder / "told", folds=3, trials=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("planner.policy.difficulty.fit_cost_scale", lambda *a, **k: None)
        return told, fit_bank(bank, folder / "untold", folds=3, trials=40)


def test_knowing_what_prompts_cost_is_worth_accuracy_within_the_same_budgets(
    both: tuple[FitResult, FitResult],
) -> None:
    told, untold = ([e["methods"]["policy"]["accuracy"] for e in found.evaluation["budgets"]] for found in both)
    gains = np.array(told) - np.array(untold)
    assert gains.max() > 0.01
    assert gains.mean() > 0
    assert gains.min() > -0.02


def test_a_budget_holds_for_95_percent_of_held_out_runs(both: tuple[FitResult, FitResult]) -> None:
    for found in both:
        # At the smallest budgets the cheapest plan runs where none fits.
        for entry in found.evaluation["budgets"][1:]:
            for method in ("policy", "policy_oracle_difficulty", "best_fixed"):
                assert entry["methods"][method]["within_budget"] > 0.92, (entry["budget"], method)


def test_the_report_and_the_evaluation_say_how_well_it_is_told(
    both: tuple[FitResult, FitResult], tmp_path: Path
) -> None:
    told, untold = (found.evaluation["difficulty"]["cost"] for found in both)
    assert untold is None
    assert told["explained"] > 0.8
    assert told["spearman"] > 0.8
    assert told["p95_over_mean_scaled"] < 1.2 < told["p95_over_mean"]
    pages = [write_report(found.folder, tmp_path / f"{i}.html").read_text() for i, found in enumerate(both)]
    assert "What an answer costs, predicted from its prompt" in pages[0]
    assert "What an answer costs, predicted from its prompt" not in pages[1]


def test_on_other_problems_costs_and_true_buckets_are_judged_as_in_cross_validation(
    both: tuple[FitResult, FitResult],
) -> None:
    told = both[0]
    found = evaluate_on(read_policy(told.folder), load(told.folder).chooser.predictor, simulate(150, 16, seed=9)[0])
    assert found["predictor"]["cost"]["explained"] > 0.8
    for entry in found["budgets"][1:]:
        for method in ("policy", "policy_oracle_difficulty"):
            assert entry["methods"][method]["within_budget"] > 0.9, (entry["budget"], method)
    for plan in told.policy["plans"]:
        for cost in plan["cost"].values():
            assert cost["known_p95"] > 0


def test_a_problem_without_a_prompt_is_taken_as_typical() -> None:
    bank = simulate(90, 16)[0]
    bank.problems.loc[::3, "prompt"] = None
    outcomes = outcomes_from_bank(bank)
    budgets = [multiple * outcomes.reference_cost for multiple in budget_grid(outcomes)]
    held = cross_validate(outcomes, budgets, folds=3, seed=0, trials=20, verifier="prm")
    silent = np.array([prompt is None for prompt in outcomes.prompts])
    assert (held.scale[silent] == 1).all()
    assert (held.scale[~silent] != 1).any()


def test_what_costs_nothing_breaks_nothing() -> None:
    outcomes = outcomes_from_bank(simulate(60, 16, seed=5)[0])
    free = {name: getattr(outcomes, name).copy() for name in ("prefill", "decode", "verifier", "cost_p95")}
    for values in free.values():
        values[:, 0] = 0.0
        values[7] = 0.0
    outcomes = replace(outcomes, **free)
    budgets = [2.0**i * outcomes.reference_cost for i in range(6)]
    fitted_plans = fit_plans(outcomes, np.arange(60), budgets, trials=20, seed=0, verifier="prm")
    assert np.isfinite(fitted_plans.p95).all()
    assert fitted_plans.named_from()
    costs = outcomes.sample_costs
    assert np.isfinite(relative_log_cost(costs)).all()


def test_knowing_nothing_a_plan_fits_where_it_fits_over_all_problems() -> None:
    outcomes = outcomes_from_bank(simulate(90, 16, seed=3)[0])
    budgets = [multiple * outcomes.reference_cost for multiple in budget_grid(outcomes)]
    fitted = fit_plans(outcomes, np.arange(90), budgets, trials=40, seed=0, verifier="prm")
    shares = fitted.counts / fitted.counts.sum()
    assert shares @ fitted.p95 == pytest.approx(fitted.overall_p95)
    assert (shares @ fitted.known_p95 < fitted.overall_p95 * 0.95).any()  # a mixture's is not the mean of its parts'


def test_a_plan_is_named_from_the_first_budget_at_which_a_cell_or_the_best_fixed_is_it() -> None:
    outcomes = outcomes_from_bank(simulate(90, 16, seed=3)[0])
    budgets = [multiple * outcomes.reference_cost for multiple in budget_grid(outcomes)]
    fitted = fit_plans(outcomes, np.arange(90), budgets, trials=40, seed=0, verifier="prm")
    named = fitted.named_from()
    allowed = np.isin(np.arange(len(outcomes.configurations)), fitted.plans)
    for plan, budget in named.items():
        at = [cell["configuration"] for b in range(3) if (cell := fitted.cell(b, budget))]
        assert plan in (*at, fitted.best_fixed(budget, allowed))
    for row in table_document(fitted, budgets, outcomes.reference_cost):
        for place in (row["best_fixed"], *(cell["plan"] for cell in row["cells"].values())):
            assert named[fitted.plans[place]] <= row["budget"]
    assert len(set(named.values())) > len(budgets)  # not only where the table has rows
