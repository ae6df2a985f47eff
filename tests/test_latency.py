"""Seconds: the latency model, how engines are timed, what plans say, and budgets in seconds."""

from __future__ import annotations

import json
import random
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from policy_fixture import document, predictor, prompt_of
from profile_worker import run
from scripted import END, ScriptedEngine, ScriptedVerifier, judged
from test_profile import RECIPE
from test_runtime import FakeClock, TimedEngine, TimedVerifier, latency_of, verifier_latency

from planner.api import Planner, load
from planner.batch import solve_file
from planner.budget import Budget
from planner.core import Outcome, Problem
from planner.errors import BankError, BudgetError, InputError
from planner.models.latency import Latency, LatencyModel, Timing, fit_latency
from planner.policy.fit import fit, is_current
from planner.policy.folder import read_policy
from planner.policy.seconds import seconds_documents
from planner.profiling.bank import Bank
from planner.profiling.columns import Configuration
from planner.profiling.outcomes import outcomes_from_bank
from planner.profiling.run import time_bank
from planner.profiling.timing import measure_latency
from planner.profiling.work import Makers
from planner.tasks.task import Task

LAW = Latency(
    call_seconds=0.01, token_seconds=2e-4, rows=(1, 4, 16, 64), step_seconds=(0.004, 0.005, 0.008, 0.02),
    slowdown=(1.0,), median_relative_error=0.0, held_out=1,
)  # fmt: skip


def calls(rng: random.Random, law: Latency, count: int = 60) -> list[Timing]:
    made = []
    for _ in range(count):
        generated = tuple(rng.randint(1, 60) for _ in range(rng.choice([1, 2, 4, 8, 16, 40, 64])))
        inputs = rng.randint(5, 400)
        made.append(Timing(law.seconds(inputs, generated), inputs, generated))
    return made


def test_a_fit_finds_the_law_that_the_calls_follow() -> None:
    found = fit_latency(calls(random.Random(0), LAW))
    assert found.median_relative_error < 0.01
    assert found.held_out == 20
    assert all(0.97 < ratio < 1.03 for ratio in found.slowdown)
    for rows in (1, 3, 16, 50, 64, 200):
        assert found.step(rows) == pytest.approx(LAW.step(rows), rel=0.05)
    assert found.seconds(300, [50] * 8) == pytest.approx(LAW.seconds(300, [50] * 8), rel=0.02)


def test_pauses_of_the_machine_do_not_bend_it_but_are_told() -> None:
    rng = random.Random(1)
    noisy = [
        Timing(t.seconds * (8.0 if rng.random() < 0.1 else rng.uniform(0.97, 1.03)), t.input_tokens, t.generated)
        for t in calls(rng, LAW, 120)
    ]
    found = fit_latency(noisy)
    assert found.seconds(200, [40] * 4) == pytest.approx(LAW.seconds(200, [40] * 4), rel=0.05)
    assert found.median_relative_error < 0.05
    assert found.slowdown[-1] > 4


def test_a_verifier_is_fitted_without_steps() -> None:
    found = fit_latency([Timing(0.01 + 1e-4 * n, n) for n in range(10, 400, 20)])
    assert found.rows == found.step_seconds == ()
    assert found.seconds(1000) == pytest.approx(0.11, rel=0.01)


timings = st.builds(
    Timing, st.floats(1e-4, 10), st.integers(0, 500), st.lists(st.integers(0, 80), min_size=1, max_size=70).map(tuple)
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(timings, min_size=6, max_size=20),
    st.integers(0, 100),
    st.lists(st.integers(0, 50), min_size=1, max_size=9),
)
def test_whatever_was_timed_more_never_takes_less(seen: list[Timing], inputs: int, generated: list[int]) -> None:
    found = fit_latency(seen)
    base = found.seconds(inputs, generated)
    assert 0 <= base <= found.seconds(inputs + 1, generated) + 1e-12
    assert base <= found.seconds(inputs, [*generated, 5]) + 1e-12
    assert base <= found.seconds(inputs, [generated[0] + 1, *generated[1:]]) + 1e-12
    assert Latency.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@given(st.lists(st.integers(0, 40), min_size=1, max_size=80))
def test_decoding_is_the_sum_of_its_steps(generated: list[int]) -> None:
    steps = sum(float(LAW.step(sum(n > t for n in generated))) for t in range(max(generated)))
    assert float(LAW.decode_seconds(np.array(generated))) == pytest.approx(steps)


@given(st.floats(0, 3), st.integers(0, 300), st.integers(1, 100), st.integers(1, 500))
def test_affordable_tokens_are_the_most_that_fit(seconds: float, inputs: int, rows: int, at_most: int) -> None:
    count = LAW.affordable_tokens(seconds, input_tokens=inputs, rows=rows, at_most=at_most)
    assert 0 <= count <= at_most
    if count:
        assert LAW.seconds(inputs, [count] * rows) <= seconds * (1 + 1e-9)
    if count < at_most:
        assert LAW.seconds(inputs, [count + 1] * rows) > seconds * (1 - 1e-9)


def test_an_engine_seen_with_single_rows_takes_several_one_after_the_other() -> None:
    single = Latency.from_dict(LAW.to_dict() | {"rows": [1], "step_seconds": [0.004]})
    assert float(single.step(3)) == pytest.approx(0.012)


@pytest.mark.parametrize(
    "changes",
    [
        {"call_seconds": None}, {"token_seconds": -1e-6}, {"step_seconds": [0.02, 0.01, 0.03, 0.04]}, {"rows": [1, 4, 4, 64]},
        {"rows": [1]}, {"slowdown": []}, {"call_seconds": float("inf")},
    ],
)  # fmt: skip
def test_what_no_fit_could_have_written_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"planner latency"):
        LatencyModel.from_dict({"engines": {"m": LAW.to_dict() | changes}, "verifier": None})


def test_too_few_calls_and_calls_without_time_are_refused() -> None:
    with pytest.raises(InputError, match="at least 6"):
        fit_latency([Timing(1.0, 5)] * 5)
    with pytest.raises(InputError, match="took time"):
        fit_latency([Timing(1.0, 5)] * 6 + [Timing(0.0, 5)])


# --- timing ----------------------------------------------------------------------------------------------------------


def timed_makers(script: object, clock: FakeClock, **names: Latency) -> Makers:
    problems = tuple(
        Problem(problem_id=str(i), prompt="?" * (4 + 9 * (i % 7)) + str(i), step_separator="\n", max_tokens=60)
        for i in range(20)
    )
    engines = {name: TimedEngine(script, clock, law, name=name) for name, law in names.items()}
    task = Task(name="t", problems=problems, check=lambda a, b: a == b)
    return Makers(engines=engines, verifier=TimedVerifier(clock, verifier_latency(0.02, 1e-3)), task=task, max_batch=64)


def answer(request: object) -> str:
    rng = random.Random(str(request))
    return "step\n" * rng.randint(1, 5) + "x" * rng.randint(0, 40) + f"\n#### 1{END}"


def test_engines_and_verifier_are_timed_and_what_is_known_is_kept() -> None:
    clock = FakeClock()
    makers = timed_makers(answer, clock, m=LAW)
    measured = json.loads(json.dumps(measure_latency(makers, clock=clock)))
    model = LatencyModel.from_dict(measured)
    assert measured["engines"]["m"]["fingerprint"] == "m"
    assert model.engines["m"].median_relative_error < 0.02
    assert model.engines["m"].seconds(60, [50] * 4) == pytest.approx(LAW.seconds(60, [50] * 4), rel=0.03)
    assert model.verifier is not None
    assert model.verifier.seconds(500) == pytest.approx(0.52, rel=0.03)

    more = timed_makers(answer, clock, m=LAW, large=LAW)
    again = measure_latency(more, measured, clock=clock)
    assert again["engines"]["m"] == measured["engines"]["m"]
    assert set(again["engines"]) == {"m", "large"}
    assert not more.engines["m"].batches  # type: ignore[attr-defined]
    assert again["verifier"] == measured["verifier"]


def test_a_verifier_that_finds_nothing_to_score_is_not_timed() -> None:
    clock = FakeClock()
    assert measure_latency(timed_makers(lambda r: END, clock, m=LAW), clock=clock)["verifier"] is None


# --- banks and policies ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bank_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timed")
    rows = [{"problem_id": f"p{i}", "prompt": f"problem {i}", "answer": str(1 + i % 3)} for i in range(12)]
    (folder / "problems.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "recipe.toml").write_text(RECIPE)
    run(folder / "recipe.toml", folder / "bank")
    # Engines that follow a script take no time worth telling: a law of our own stands in for them.
    measured = {
        "engines": {name: LAW.to_dict() | {"fingerprint": name} for name in ("small", "large")},
        "verifier": verifier_latency(0.02, 1e-3).to_dict() | {"fingerprint": "v"},
    }
    Bank.open(folder / "bank").update_manifest({"latency": measured})
    return folder / "bank"


@pytest.fixture(scope="module")
def fitted(bank_path: Path) -> Path:
    fit(bank_path, bank_path.with_name("policy"), folds=2, trials=20)
    return bank_path.with_name("policy")


def test_profiling_times_the_engines_and_counts_what_runs_wait_for(bank_path: Path, tmp_path: Path) -> None:
    run(bank_path.with_name("recipe.toml"), tmp_path / "bank")
    bank = Bank.open(tmp_path / "bank")
    model = LatencyModel.from_dict(bank.manifest["latency"])
    assert set(model.engines) == {"small", "large"}
    assert model.verifier is not None
    runs = bank.runs
    assert (runs["scoring_rounds"] < runs["rounds"]).all()
    assert (runs["decode_steps"] <= runs["generated_tokens"]).all()
    assert (runs["decode_steps"] > 0).all()
    before = bank.manifest["latency"]
    run(bank_path.with_name("recipe.toml"), tmp_path / "bank")
    assert Bank.open(tmp_path / "bank").manifest["latency"] == before


def all_seconds(bank: Bank) -> list[tuple[Configuration, dict[str, dict[str, float]] | None]]:
    outcomes, latency = outcomes_from_bank(bank, subsets=8), LatencyModel.from_dict(bank.manifest["latency"])
    everything = range(len(outcomes.configurations))
    return list(
        zip(outcomes.configurations, seconds_documents(bank, outcomes, latency, everything, seed=0), strict=True)
    )


def test_every_configuration_says_how_long_it_takes(bank_path: Path) -> None:
    bank = Bank.open(bank_path)
    samples, runs, judge = bank.samples, bank.runs, verifier_latency(0.02, 1e-3)
    checked = set()
    for c, found in all_seconds(bank):
        assert found is not None
        assert all(0 < cell["mean"] <= cell["p99"] * 1.0001 for cell in found.values())
        fields, seconds = c.hyperparameters, found["overall"]
        mine = samples[(samples["policy_model"] == c.policy_model) & (samples["role"] == "score")]
        mine = mine[mine["temperature"] == fields.get("temperature", 0.0)]
        if c.samples == len(mine) // 12 and c.strategy in ("greedy", "majority", "best_of_n"):
            # All that was recorded is drawn, so nothing is left to chance.
            each = []
            for _, rows in mine.groupby("problem_id"):
                each.append(LAW.seconds(rows["prompt_tokens"].iloc[0], rows["generated_tokens"]))
                if c.verifier is not None:
                    scored = rows["verifier_tokens"].dropna()
                    prompt = min(rows["prompt_tokens"].iloc[0], *scored) if len(scored) else 0
                    each[-1] += judge.seconds(prompt + (scored - prompt).sum())
            assert seconds["mean"] == pytest.approx(np.mean(each), rel=1e-6)
            assert seconds["p99"] == pytest.approx(np.quantile(np.repeat(each, 32), 0.99), rel=1e-6)
        elif c.strategy == "beam_search":
            rows = runs[[json.loads(text)["n"] == fields["n"] for text in runs["hyperparameters"]]]
            each = [
                LAW.call_seconds * (r.rounds - r.scoring_rounds) + LAW.token_seconds * r.prompt_tokens
                + r.decode_steps * float(LAW.step(r.generated_tokens / r.decode_steps))
                + judge.call_seconds * r.scoring_rounds + judge.token_seconds * r.scored_tokens
                for r in rows.itertuples()
            ]  # fmt: skip
            assert seconds["mean"] == pytest.approx(np.mean(each), rel=1e-6)
        else:
            continue
        checked.add(c.strategy)
    assert checked == {"greedy", "majority", "best_of_n", "beam_search"}


def test_a_vote_that_stops_later_takes_longer(bank_path: Path) -> None:
    groups: dict[str, list[tuple[float, float]]] = {}
    for c, found in all_seconds(Bank.open(bank_path)):
        if c.strategy == "adaptive_majority":
            assert found is not None
            fields = {k: v for k, v in c.hyperparameters.items() if k != "threshold"}
            means = groups.setdefault(f"{c.policy_model} {fields}", [])
            means.append((c.hyperparameters["threshold"], found["overall"]["mean"]))
    assert groups
    for means in groups.values():
        seconds = [mean for _, mean in sorted(means)]
        assert all(a <= b * 1.0001 for a, b in pairwise(seconds))
    assert any(max(means)[1] > 1.02 * min(means)[1] for means in groups.values())


def test_the_policy_keeps_them(fitted: Path, bank_path: Path) -> None:
    policy = read_policy(fitted).policy
    assert policy["latency"] == Bank.open(bank_path).manifest["latency"]
    assert all(set(plan["seconds"]) == {"hard", "medium", "easy", "overall"} for plan in policy["plans"])
    planner = load(fitted)
    assert planner.choose("problem 1", "60 s").seconds_p99 <= 60  # type: ignore[operator]


def test_timing_anew_makes_a_policy_out_of_date(fitted: Path, bank_path: Path) -> None:
    assert is_current(fitted, bank_path)
    bank = Bank.open(bank_path)
    before = bank.manifest["latency"]
    slower = {**before, "engines": {**before["engines"], "small": {**before["engines"]["small"], "call_seconds": 1.0}}}
    bank.update_manifest({"latency": slower})
    assert not is_current(fitted, bank_path)
    bank.update_manifest({"latency": before})


def test_a_bank_may_be_timed_anew_by_engines_of_its_own(bank_path: Path, tmp_path: Path) -> None:
    run(bank_path.with_name("recipe.toml"), tmp_path / "bank")
    engines = {name: ScriptedEngine(answer, name=name) for name in ("small", "large")}
    bank = Bank.open(tmp_path / "bank")
    bank.update_manifest({"latency": None})
    measured = time_bank(tmp_path / "bank", engines=engines, verifier=ScriptedVerifier(judged))
    assert Bank.open(tmp_path / "bank").manifest["latency"] == json.loads(json.dumps(measured))
    others = {name: ScriptedEngine(answer, name=f"another {name}") for name in engines}
    with pytest.raises(BankError, match="fingerprint"):
        time_bank(tmp_path / "bank", engines=others, verifier=ScriptedVerifier(judged))
    Bank.create(tmp_path / "imported", {"source": "samples"})
    with pytest.raises(BankError, match="imported"):
        time_bank(tmp_path / "imported")


def test_runs_of_a_bank_from_before_have_unknown_seconds(bank_path: Path, tmp_path: Path) -> None:
    old = tmp_path / "bank"
    shutil.copytree(bank_path, old)
    for part in (old / "runs").glob("part-*.parquet"):
        table = parquet.read_table(part, partitioning=None)
        parquet.write_table(table.drop_columns(["scoring_rounds", "decode_steps"]), part, write_page_checksum=True)
    assert Bank.open(old).runs["decode_steps"].isna().all()
    known = {c.strategy: seconds is not None for c, seconds in all_seconds(Bank.open(old))}
    assert known["greedy"]
    assert known["best_of_n"]
    assert not known["beam_search"]


# --- choosing and solving --------------------------------------------------------------------------------------------


def timed_document() -> dict[str, object]:
    """The fixture's plans at 0.1, 0.2, 0.9, 1.5 and 0.4 seconds; hard prompts take twice as long."""
    policy = document()
    plans = []
    for plan, seconds in zip(policy["plans"], (0.1, 0.2, 0.9, 1.5, 0.4), strict=True):
        times = {"hard": 2 * seconds, "medium": seconds, "easy": seconds, "overall": seconds}
        plans.append(plan | {"seconds": {b: {"mean": s / 2, "p99": s} for b, s in times.items()}})
    law = latency_of(0.0, 0.0, 0.01).to_dict()
    verifier = verifier_latency(0.0, 1e-4).to_dict()
    return policy | {"plans": plans, "latency": {"engines": {"small": law}, "verifier": verifier}}


@pytest.fixture(scope="module")
def planner() -> Planner:
    return Planner(timed_document(), predictor())


def test_the_best_plan_whose_99th_percentile_fits_is_chosen(planner: Planner) -> None:
    hard, easy = prompt_of(9), prompt_of(2)
    assert planner.choose(hard, "10 s").hyperparameters.get("n") == 16
    slow = planner.choose(hard, "10 s")
    assert slow.seconds_p99 == pytest.approx(3.0, rel=0.1)
    assert slow.expected_seconds == pytest.approx(1.5, rel=0.1)
    quick = planner.choose(hard, "1.99 s")
    assert quick.strategy == "best_of_n"
    assert quick.hyperparameters["n"] == 4
    assert quick.seconds_p99 <= 1.99
    assert planner.choose(easy, "0.15 s").strategy == "greedy"
    assert "99 times in 100" in quick.reason
    assert quick.to_dict()["budget"] == {"amount": 1.99, "unit": "seconds"}
    assert json.loads(json.dumps(quick.to_dict()))["seconds_p99"] == quick.seconds_p99
    assert "best_of_n(n=16" not in quick.explain()


def test_both_caps_hold(planner: Planner) -> None:
    hard = prompt_of(9)
    assert planner.choose(hard, "8e6 flops and 10 s").hyperparameters["n"] == 4
    assert planner.choose(hard, "32e6 flops and 1.99 s").hyperparameters["n"] == 4
    both = planner.choose(hard, "32x and 10 s")
    assert (both.hyperparameters["n"], both.to_dict()["budget"]) == (
        16,
        {"amount": 32.0, "unit": "x", "and_seconds": 10.0},
    )
    with pytest.raises(BudgetError, match="no plan fits"):
        planner.choose(hard, "1000 flops and 10 s")


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 4), st.none() | st.floats(1e6, 5e7), st.lists(st.integers(2, 10), min_size=2, max_size=12))
def test_many_prompts_get_what_each_gets_alone(seconds: float, flops: float | None, terms: list[int]) -> None:
    planner = Planner(timed_document(), predictor())
    budget = f"{seconds!r} s" if flops is None else f"{flops!r} flops and {seconds!r} s"
    prompts = [prompt_of(n, i) for i, n in enumerate(terms)]
    try:
        alone = [planner.choose(prompt, budget) for prompt in prompts]
    except BudgetError:
        assume(False)
    assert planner.choose_many(prompts, budget) == alone
    assert all(plan.seconds_p99 <= seconds * (1 + 1e-9) for plan in alone)


def test_exploring_stays_within_the_seconds(planner: Planner) -> None:
    prompts = [prompt_of(2, i) for i in range(40)]
    found = planner.chooser.decide(prompts, Budget(0.5, "seconds"), explore=1.0, draw=random.Random(0))
    assert {planner.document["plans"][i]["strategy"] for i in found.index.tolist()} == {"greedy", "majority"}


def test_too_few_seconds_are_refused_naming_the_quickest_plan(planner: Planner) -> None:
    with pytest.raises(BudgetError, match=r"no plan ends in time.*greedy.*0\.1.*Give at least"):
        planner.choose(prompt_of(2), "0.01 s")
    for total in ("5 s", "8x and 5 s"):
        with pytest.raises(BudgetError, match="cannot be shared"):
            planner.choose_many([prompt_of(2)], total_budget=total)


def test_a_policy_without_seconds_says_how_to_get_them() -> None:
    untimed = Planner(document(), predictor())
    plan = untimed.choose(prompt_of(2), "8x")
    assert (plan.expected_seconds, plan.seconds_p99) == (None, None)
    for budget in ("3 s", "8x and 3 s"):
        with pytest.raises(BudgetError, match=r"planner latency BANK.*planner fit"):
            untimed.choose(prompt_of(2), budget)


def test_solving_holds_the_deadline(planner: Planner) -> None:
    engine = ScriptedEngine(lambda r: "x" * 500, name="small")
    # The policy says 0.01 seconds a token, so fewer than the task's 64 tokens are asked for.
    solution = planner.solve(prompt_of(2), "0.3 s", engine=engine)
    asked = {r.sampling.max_tokens for batch in engine.batches for r in batch}
    assert all(0 < tokens <= 30 for tokens in asked)
    assert solution.outcome is Outcome.OUT_OF_BUDGET
    assert solution.to_dict()["seconds"] == solution.seconds >= 0
    free = ScriptedEngine(lambda r: f"#### 7{END}", name="small")
    assert planner.solve(prompt_of(2), "100 s", engine=free).outcome is Outcome.FINISHED


def test_a_file_is_answered_one_prompt_after_the_other(planner: Planner, tmp_path: Path) -> None:
    source = tmp_path / "prompts.jsonl"
    source.write_text("\n".join(json.dumps({"prompt": prompt_of(2, i)}) for i in range(3)))
    engine = ScriptedEngine(lambda r: f"#### 7{END}", name="small")
    report = solve_file(planner, source, tmp_path / "timed.jsonl", budget="60 s", engine=engine)
    assert report.outcomes == {"finished": 3}
    assert all(len({r.prompt for r in batch}) == 1 for batch in engine.batches)
    records = [json.loads(line) for line in (tmp_path / "timed.jsonl").read_text().splitlines()]
    assert all(record["seconds"] > 0 for record in records)
    solve_file(planner, source, tmp_path / "free.jsonl", budget="8x", engine=engine)
    assert "seconds" not in json.loads((tmp_path / "free.jsonl").read_text().splitlines()[0])
