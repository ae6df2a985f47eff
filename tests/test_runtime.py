"""Drivers, meter and ledger on scripted engines."""

import asyncio
import math
import random
from concurrent.futures import Future
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import END, SHAPE, ScriptedEngine, ScriptedVerifier, confident, drawn, judged

from planner.core import Answer, Completion, GenerationRequest, Outcome, Problem, Sampling
from planner.effects import Generate
from planner.errors import BudgetError, CapabilityError, EngineError, VerifierError
from planner.models.cost import sampling_cost, scoring_cost
from planner.models.latency import Latency, LatencyModel
from planner.models.protocols import Pending
from planner.runtime.driver import Job, iter_runs, run_flow, run_flows
from planner.runtime.ledger import Ledger
from planner.runtime.service import FlowService
from planner.strategies import (
    DVTS,
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
)

PROBLEM = Problem(problem_id="p", prompt="What?", step_separator="\n", max_tokens=50)


def specs():
    fields = {"temperature": st.just(0.8)}
    count = st.integers(1, 6)
    aggregation, selection = st.sampled_from(["min", "last", "mean", "prod"]), st.sampled_from(["max", "vote"])
    scoring = {"aggregation": aggregation, "selection": selection}
    steps = {**fields, **scoring, "max_steps": st.integers(1, 5), "max_step_tokens": st.integers(1, 30)}
    search = {**steps, "n": st.sampled_from([2, 4, 6]), "expansions": st.sampled_from([1, 2])}
    merging = {"merge_duplicates": st.booleans()}
    adaptive = {"max_n": count, "batch": st.integers(1, 3), **fields}
    return st.one_of(
        st.just(Greedy()),
        st.builds(Majority, n=count, policy_model=st.sampled_from([None, "large"]), **fields),
        st.builds(BestOfN, n=count, **fields, **scoring),
        st.builds(BeamSearch, **search, **merging),
        st.builds(DVTS, **search, **merging),
        st.builds(Lookahead, lookahead_steps=st.integers(1, 3), **search, **merging),
        st.builds(Revision, chains=st.integers(1, 3), revisions=st.integers(0, 3), aggregation=st.none(), **fields),
        st.builds(Revision, chains=st.integers(1, 3), revisions=st.integers(0, 2), **fields, **scoring),
        st.builds(Rebase, n=count, balance_temperature=st.floats(0.05, 2), **steps, **merging),
        st.builds(ParticleFiltering, n=count, resampling_temperature=st.floats(0.05, 2), **steps),
        st.builds(
            AdaptiveMajority, threshold=st.just(0.8), posterior=st.sampled_from(["beta", "dirichlet"]), **adaptive
        ),
        st.builds(
            ArbitratedMajority, threshold=st.sampled_from([0.6, 0.9]), answers=st.integers(2, 3),
            readings=st.integers(1, 3), aggregation=aggregation, **adaptive,
        ),
        st.builds(OddsVote, n=count, aggregation=aggregation, **fields),
        st.builds(AdaptiveBestOfN, min_gain=st.floats(0.001, 0.1), aggregation=aggregation, **adaptive),
        st.builds(
            ConfidenceVote, n=count, quantile=st.floats(0, 0.9), weighted=st.booleans(),
            threshold=st.sampled_from([None, 0.6, 0.9]), batch=st.integers(1, 3), **fields,
        ),
        st.builds(
            Cascade, n=st.integers(2, 4), max_n=st.integers(4, 6), second_n=st.sampled_from([2, 4]),
            second=st.sampled_from(["majority", "best_of_n", "beam_search", "dvts"]), second_policy_model=st.just("large"),
            expansions=st.sampled_from([1, 2]), **steps,
        ),
    )  # fmt: skip


def problems():
    return st.builds(
        lambda i, length: Problem(problem_id=str(i), prompt="?" * (1 + i % 7), step_separator="\n", max_tokens=length),
        st.integers(0, 10_000),
        st.integers(1, 60),
    )


def run(problem, spec, budget=None):
    engine, verifier = ScriptedEngine(drawn), ScriptedVerifier(judged)
    return (
        run_flow(
            problem, spec, {"m": engine, "large": engine}, verifier, default_policy_model="m", budget_flops=budget
        ),
        engine,
        verifier,
    )


class FakeClock:
    """Stands still but for `advance`; `longest` is the longest advance."""

    def __init__(self):
        self.now = self.longest = 0.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds
        self.longest = max(self.longest, seconds)


class TimedEngine(ScriptedEngine):
    """Takes `latency`'s seconds of the fake clock for each call, times a random factor below `jitter`."""

    def __init__(self, script, clock, latency, jitter=1.0, **options):
        super().__init__(script, **options)
        self._clock, self._latency, self._jitter, self._rng = clock, latency, jitter, random.Random(0)

    def generate(self, requests):
        made = super().generate(requests)
        inputs = {}
        for r, c in zip(requests, made, strict=True):
            inputs[r.prompt, r.prefix] = max(inputs.get((r.prompt, r.prefix), 0), c.prompt_tokens - c.cached_tokens)
        seconds = self._latency.seconds(sum(inputs.values()), [c.generated_tokens for c in made])
        self._clock.advance(seconds * self._rng.uniform(min(1.0, self._jitter), self._jitter))
        return made


class TimedVerifier(ScriptedVerifier):
    def __init__(self, clock, latency, **options):
        super().__init__(judged, **options)
        self._clock, self._latency = clock, latency

    def score(self, requests):
        scored = super().score(requests)
        self._clock.advance(self._latency.seconds(sum(s.tokens for s in scored)))
        return scored


def latency_of(call, token, step, rise=0.0):
    steps = (step, step + rise)
    return Latency(
        call_seconds=call, token_seconds=token, rows=(1, 4), step_seconds=steps, slowdown=(1.0,),
        median_relative_error=0.0, held_out=1,
    )  # fmt: skip


def verifier_latency(call, token):
    return replace(latency_of(call, token, 0.0), rows=(), step_seconds=())


class WatchedLedger(Ledger):
    """Looks after every event whether anything was overspent."""

    def reserve(self, worst_flops):
        amount = super().reserve(worst_flops)
        self.look()
        return amount

    def settle(self, reserved_flops, spent_flops):
        super().settle(reserved_flops, spent_flops)
        self.look()

    def look(self):
        if self.limited:
            assert self.balance_flops >= 0
            assert self.spent_flops >= 0
            assert self.reserved_flops >= 0
            assert self.spent_flops + self.reserved_flops <= self.budget_flops


@pytest.fixture(autouse=True, scope="module")
def watched_ledgers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("planner.runtime.session.Ledger", WatchedLedger)
        yield


SCRIPTS = {
    "drawn": drawn,
    "talks": lambda r: "x" * 500,
    "stutters": lambda r: "\n" if len(r.prefix) < 3 else f"#### 1{END}",
    "is silent": lambda r: END,
    "is blank": lambda r: "",
    "repeats": lambda r: f"s\n#### {len(r.prefix) % 2}{END}",
}


@dataclass(frozen=True)
class Behaviour:
    script: str
    caches: bool
    incremental: bool
    tells_logprobs: bool
    max_batch: int
    jitter: float
    is_measured: bool

    def makers(self, clock):
        options = {"caches_prefixes": self.caches, "logprob": confident if self.tells_logprobs else None}
        latency = latency_of(0.05, 0.001, 0.01, 0.005)
        engines = {
            name: TimedEngine(SCRIPTS[self.script], clock, latency, self.jitter, name=name, **options)
            for name in ("m", "large")
        }
        return engines, TimedVerifier(clock, latency_of(0.02, 0.001, 0.0), incremental=self.incremental)

    @property
    def latency(self):
        known = {"m": latency_of(0.05, 0.001, 0.01, 0.005)}
        return LatencyModel(engines=known, verifier=verifier_latency(0.02, 0.001)) if self.is_measured else None


def check_budgets(rows, behaviour):
    jobs = [
        Job(replace(p, prompt=p.prompt + str(i)), spec, budget, seconds)
        for i, (p, spec, budget, seconds) in enumerate(rows)
    ]
    clock = FakeClock()
    engines, verifier = behaviour.makers(clock)
    runs = run_flows(
        jobs, engines, verifier, default_policy_model="m", max_batch=behaviour.max_batch, latency=behaviour.latency,
        clock=clock,
    )  # fmt: skip
    total = sum((r.usage for r in runs[1:]), runs[0].usage)
    assert total.generated_tokens == sum(e.generated_tokens for e in engines.values())
    assert total.computed_prompt_tokens == sum(e.computed_tokens for e in engines.values())
    assert total.computed_scored_tokens == verifier.computed_tokens
    for job, result in zip(jobs, runs, strict=True):
        assert job.budget_flops is None or result.cost.total_flops <= job.budget_flops
        assert job.budget_seconds is None or result.seconds <= job.budget_seconds + clock.longest
        if result.answer.outcome is not Outcome.OUT_OF_BUDGET:
            assert job.budget_seconds is None or result.seconds <= job.budget_seconds
            free = run_flow(job.problem, job.spec, *behaviour.makers(FakeClock()), default_policy_model="m")
            assert (result.answer, result.cost) == (free.answer, free.cost)


BUDGETED = given(
    st.lists(
        st.tuples(problems(), specs(), st.none() | st.floats(0, 3e6), st.none() | st.floats(0, 4)),
        min_size=1,
        max_size=3,
    ),
    st.builds(
        Behaviour,
        script=st.sampled_from(["drawn", *SCRIPTS]),
        caches=st.booleans(),
        incremental=st.booleans(),
        tells_logprobs=st.booleans(),
        max_batch=st.integers(1, 9),
        jitter=st.floats(0.1, 3),
        is_measured=st.booleans(),
    ),
)


@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@BUDGETED
def test_no_run_spends_more_than_its_budget(rows, behaviour):
    check_budgets(rows, behaviour)


@pytest.mark.slow
@settings(max_examples=100_000, deadline=None, suppress_health_check=list(HealthCheck))
@BUDGETED
def test_no_run_spends_more_than_its_budget_at_length(rows, behaviour):
    check_budgets(rows, behaviour)


@settings(max_examples=500, deadline=None)
@given(st.floats(0, 1e20), st.lists(st.tuples(st.floats(0, 1e20), st.floats(0, 1), st.booleans()), max_size=20))
def test_the_ledgers_balance_is_never_negative(budget, events):
    ledger, out, spent = Ledger(budget), [], 0
    for worst, share, settle_first in events:
        if out and settle_first:
            amount, part = out.pop(0)
            ledger.settle(amount, int(amount * part) if part < 1 else amount)
        balance = ledger.balance_flops
        amount = ledger.reserve(worst)
        assert (amount is None) == (math.ceil(worst) > balance)
        if amount is not None:
            out.append((amount, share / 2))
        assert ledger.balance_flops >= 0
        assert ledger.spent_flops >= spent
        spent = ledger.spent_flops
    for amount, part in out:
        ledger.settle(amount, int(amount * part))
    assert ledger.reserved_flops == 0
    assert ledger.spent_flops + ledger.balance_flops == math.floor(budget)


def alone(spec, script, budget_seconds, latency, *, jitter=1.0, budget_flops=None):
    clock = FakeClock()
    engine = TimedEngine(script, clock, latency.engines["m"], jitter, name="m")
    verifier = TimedVerifier(clock, latency.verifier, incremental=False)
    result = run_flow(
        PROBLEM, spec, {"m": engine, "large": engine}, verifier, default_policy_model="m", budget_flops=budget_flops,
        budget_seconds=budget_seconds, latency=replace(latency, engines=latency.engines | {"large": latency.engines["m"]}),
        clock=clock,
    )  # fmt: skip
    return result, engine


MEASURED = LatencyModel(engines={"m": latency_of(0.05, 0.001, 0.01, 0.003)}, verifier=verifier_latency(0.02, 0.001))


@settings(max_examples=300, deadline=None)
@given(specs(), st.floats(0, 4), st.sampled_from(sorted(SCRIPTS)), st.floats(0.1, 1))
def test_where_the_engine_is_no_slower_than_measured_no_deadline_is_missed(spec, budget, script, jitter):
    result, _ = alone(spec, SCRIPTS[script], budget, MEASURED, jitter=jitter)
    assert result.seconds <= budget


def test_a_request_is_cut_to_the_tokens_that_fit_in_the_time_left():
    # 0.05 for the call, 0.005 for five tokens of prompt, 0.01 for each further token.
    result, engine = alone(Greedy(), lambda r: "x" * 500, 0.2551, MEASURED)
    assert engine.batches[0][0].sampling.max_tokens == 20
    assert (result.answer.outcome, result.answer.text) == (Outcome.OUT_OF_BUDGET, "x" * 20)
    assert result.seconds == pytest.approx(0.255)
    assert result.usage.decode_steps == 20
    both, _ = alone(
        Greedy(), lambda r: "x" * 500, 0.2551, MEASURED, budget_flops=SHAPE.prefill_flops(5) + SHAPE.decode_flops(5, 7)
    )
    assert both.answer.text == "x" * 7
    wide, engine = alone(Majority(n=4), lambda r: "x" * 500, 0.2551, MEASURED)
    # A step of four rows takes 0.013.
    assert [r.sampling.max_tokens for r in engine.batches[0]] == [15] * 4
    assert wide.usage.decode_steps == 15


def test_a_slow_engine_stops_after_the_call_in_which_time_ran_out():
    script = lambda r: "s\n" if len(r.prefix) < 40 else f"#### 1{END}"  # noqa: E731
    clock = FakeClock()
    engine = TimedEngine(script, clock, latency_of(1.0, 0.0, 0.0))
    result = run_flow(
        PROBLEM, BeamSearch(n=1, expansions=1), {"m": engine}, ScriptedVerifier(judged), default_policy_model="m",
        budget_seconds=3.5, clock=clock,
    )  # fmt: skip
    assert (len(engine.batches), result.seconds) == (4, 4.0)
    assert result.answer.outcome is Outcome.OUT_OF_BUDGET
    assert result.answer.text == "s\n" * 4
    assert result.usage.scoring_rounds == 3  # the fourth step came too late to be scored


def test_an_answer_that_is_late_is_out_of_budget_and_shown_all_the_same():
    clock = FakeClock()
    engine = TimedEngine(lambda r: f"#### 1{END}", clock, latency_of(2.0, 0.0, 0.0))
    late = run_flow(PROBLEM, Greedy(), {"m": engine}, default_policy_model="m", budget_seconds=1.5, clock=clock)
    assert (late.answer.outcome, late.answer.answer) == (Outcome.OUT_OF_BUDGET, "1")
    in_time = run_flow(PROBLEM, Greedy(), {"m": engine}, default_policy_model="m", budget_seconds=2, clock=clock)
    assert in_time.answer.outcome is Outcome.FINISHED


def test_what_is_not_scored_in_time_is_not_asked_for():
    engine_seconds = 0.05 + 0.005 + 7 * 0.01
    result, _ = alone(BestOfN(n=1), lambda r: f"#### 1{END}", engine_seconds + 0.02, MEASURED)
    assert result.answer.outcome is Outcome.OUT_OF_BUDGET
    assert (result.answer.answer, result.usage.scored_tokens) == ("1", 0)
    scored, _ = alone(BestOfN(n=1), lambda r: f"#### 1{END}", engine_seconds + 0.05, MEASURED)
    assert scored.answer.outcome is Outcome.FINISHED


def test_no_limited_request_waits_for_one_that_is_not():
    engine = ScriptedEngine(lambda r: f"#### 1{END}")
    jobs = [Job(replace(PROBLEM, prompt=f"{i}"), Majority(n=2), None, 9.0 if i % 2 else None) for i in range(4)]
    clock = FakeClock()
    order = [i for i, _ in iter_runs(jobs, {"m": engine}, None, default_policy_model="m", clock=clock)]
    assert [[r.prompt for r in batch] for batch in engine.batches] == [["1", "1", "3", "3"], ["0", "0", "2", "2"]]
    assert order == [1, 3, 0, 2]


class LeavableEngine(ScriptedEngine):
    """Continuous: `slow` requests never end by themselves."""

    def __init__(self, script, slow, on_submit):
        super().__init__(script)
        self._slow, self._on_submit = slow, on_submit
        self.futures = []

    def submit(self, requests):
        made = self.generate(requests)
        for request, completion in zip(requests, made, strict=True):
            future = Future()
            if not self._slow(request):
                future.set_result(completion)
            self.futures.append(future)
        self._on_submit()
        return [Pending(future, lambda result: result) for future in self.futures[-len(requests) :]]


def test_requests_in_flight_are_cancelled_at_the_deadline_and_charged_their_worst_case():
    clock = FakeClock()
    engine = LeavableEngine(lambda r: f"#### {r.index}{END}", lambda r: r.index == 2, lambda: clock.advance(5))
    result = run_flow(PROBLEM, Majority(n=3), {"m": engine}, default_policy_model="m", budget_seconds=4, clock=clock)
    assert [future.cancelled() for future in engine.futures] == [False, False, True]
    assert result.answer.outcome is Outcome.OUT_OF_BUDGET
    assert {c.answer for c in result.answer.candidates} == {"0", "1"}
    worst = sampling_cost(SHAPE, 5, PROBLEM.max_tokens)[1]
    assert result.cost.decode_flops == worst + 2 * sampling_cost(SHAPE, 5, 7)[1]
    assert result.usage.generated_tokens == PROBLEM.max_tokens + 2 * 7


def test_the_service_keeps_deadlines_too():
    async def main():
        clock = FakeClock()
        engine = TimedEngine(lambda r: f"#### 1{END}", clock, latency_of(2.0, 0.0, 0.0))
        flows = FlowService({"m": engine}, None, default_policy_model="m", max_batch=1, clock=clock)
        try:
            jobs = [Job(PROBLEM, Majority(n=2), None, seconds) for seconds in (3.0, None)]
            return await asyncio.gather(*(flows.run(job) for job in jobs))
        finally:
            await flows.aclose()

    limited, free = asyncio.run(main())
    assert limited.answer.outcome is Outcome.OUT_OF_BUDGET
    assert free.answer.outcome is Outcome.FINISHED


def test_the_ledger_counts_seconds_from_its_opening():
    clock = FakeClock()
    clock.advance(7)
    ledger = Ledger(10, 2.0, clock)
    assert ledger.balance_seconds == 2.0
    clock.advance(0.5)
    assert (ledger.spent_seconds, ledger.balance_seconds, ledger.late) == (0.5, 1.5, False)
    clock.advance(2)
    assert (ledger.balance_seconds, ledger.late, ledger.balance_flops) == (0.0, True, 10)
    assert Ledger(clock=clock).balance_seconds is None
    with pytest.raises(BudgetError, match="budget_seconds"):
        Ledger(None, math.nan)


def test_the_ledger_refuses_what_cannot_be():
    ledger = Ledger(10)
    assert ledger.reserve(6) == 6
    assert ledger.reserve(5) is None
    with pytest.raises(ValueError, match="charged against"):
        ledger.settle(6, 7)
    assert Ledger().reserve(1e30) == 0
    assert Ledger().balance_flops is None
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(BudgetError):
            Ledger(bad)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(problems(), specs(), st.none() | st.floats(1e4, 3e6)), min_size=1, max_size=6), st.integers(1, 9)
)
def test_batched_is_as_alone_and_usage_adds_up(rows, max_batch):
    jobs = [Job(replace(p, prompt=p.prompt + str(i)), s, b) for i, (p, s, b) in enumerate(rows)]
    engine, verifier = ScriptedEngine(drawn), ScriptedVerifier(judged)
    engines = {"m": engine, "large": engine}
    together = run_flows(jobs, engines, verifier, default_policy_model="m", max_batch=max_batch)
    for job, result in zip(jobs, together, strict=True):
        alone, _, _ = run(job.problem, job.spec, job.budget_flops)
        assert result == alone
    total = sum((r.usage for r in together[1:]), together[0].usage)
    assert total.generated_tokens == engine.generated_tokens
    assert total.computed_prompt_tokens == engine.computed_tokens
    assert total.computed_scored_tokens == verifier.computed_tokens
    assert all(len(b) <= max_batch for b in engine.batches)


def test_flows_share_batches_without_a_barrier():
    def script(request: GenerationRequest) -> str:
        if "long" in request.prompt:
            return "s\n" if len(request.prefix) < 8 else f"#### 1{END}"
        return f"#### 1{END}"

    long, short = (Problem(problem_id=x, prompt=x, step_separator="\n") for x in ("long", "short"))
    jobs = [Job(long, BeamSearch(n=1, expansions=1)), Job(short, Majority(n=3)), Job(short, Greedy())]
    engine = ScriptedEngine(script)
    order = [i for i, _ in iter_runs(jobs, {"m": engine}, ScriptedVerifier(judged), default_policy_model="m")]
    assert [len(b) for b in engine.batches] == [5, 1, 1, 1, 1]
    assert order == [1, 2, 0]


def test_samples_of_one_prompt_share_its_prefill():
    result, engine, _ = run(PROBLEM, Majority(n=4))
    texts = [len(c.text) for c in result.answer.candidates]
    assert result.usage.prompt_tokens == len(PROBLEM.prompt)
    assert result.usage.generated_tokens >= sum(texts)
    assert result.cost.prefill_flops == SHAPE.prefill_flops(len(PROBLEM.prompt))
    decode = sum(sampling_cost(SHAPE, 5, c.generated_tokens)[1] for c in engine.generate(engine.batches[0]))
    assert result.cost.decode_flops == decode


CHAIN = {"": ["aa\n"], "aa\n": ["bbb\n"], "aa\nbbb\n": [f"#### 1{END}"]}


@pytest.mark.parametrize(("caches", "prompt_tokens"), [(True, 5), (False, 5 + 8 + 12)])
def test_a_steps_prefix_is_free_only_where_it_is_kept(caches, prompt_tokens):
    spec = BeamSearch(n=1, expansions=1)
    engine = ScriptedEngine(CHAIN, caches_prefixes=caches)
    result = run_flow(PROBLEM, spec, {"m": engine}, ScriptedVerifier(judged), default_policy_model="m")
    assert result.usage.prompt_tokens == prompt_tokens
    assert result.usage.generated_tokens == 3 + 4 + 7


@pytest.mark.parametrize("incremental", [True, False])
def test_an_incremental_verifier_is_charged_each_step_once(incremental):
    engine, verifier = ScriptedEngine(CHAIN), ScriptedVerifier(judged, incremental=incremental)
    result = run_flow(PROBLEM, BeamSearch(n=1, expansions=1), {"m": engine}, verifier, default_policy_model="m")
    lengths = [5 + 3, 5 + 3 + 4, 5 + 3 + 4 + 7]
    if incremental:
        assert result.usage.scored_tokens == lengths[-1]
        parts = [scoring_cost(SHAPE, 8, 0, 1), scoring_cost(SHAPE, 4, 8, 1), scoring_cost(SHAPE, 7, 12, 1)]
    else:
        assert result.usage.scored_tokens == sum(lengths)
        parts = [scoring_cost(SHAPE, n, 0, k + 1) for k, n in enumerate(lengths)]
    assert result.cost.verifier_flops == sum(parts)


@pytest.mark.parametrize(("incremental", "tokens"), [(True, 5 + 3 + 7 + 7), (False, 2 * (5 + 3 + 7))])
def test_answers_scored_together_share_prompt_and_equal_steps(incremental, tokens):
    engine = ScriptedEngine({"": [f"aa\n#### 1{END}", f"aa\n#### 2{END}"]})
    verifier = ScriptedVerifier(judged, incremental=incremental)
    result = run_flow(PROBLEM, BestOfN(n=2), {"m": engine}, verifier, default_policy_model="m")
    assert result.usage.scored_tokens == tokens


def test_refunds_pay_for_more_samples_than_worst_cases_would():
    engine = ScriptedEngine(lambda r: f"#### 1{END}")
    problem = replace(PROBLEM, max_tokens=1000)
    free = run_flow(problem, Majority(n=8), {"m": engine}, default_policy_model="m")
    cap = SHAPE.prefill_flops(5) + SHAPE.decode_flops(5, 1000) * 1.2
    tight = run_flow(
        problem,
        Majority(n=8),
        {"m": ScriptedEngine(lambda r: f"#### 1{END}")},
        default_policy_model="m",
        budget_flops=cap,
    )
    assert tight.answer == free.answer
    assert tight.cost == free.cost
    assert tight.cost.total_flops <= cap


def test_what_the_balance_cuts_short_is_marked():
    engine = ScriptedEngine(lambda r: "x" * 500)
    cap = SHAPE.prefill_flops(5) + SHAPE.decode_flops(5, 10)
    result = run_flow(PROBLEM, Majority(n=2), {"m": engine}, default_policy_model="m", budget_flops=cap)
    assert result.answer.outcome is Outcome.OUT_OF_BUDGET
    assert result.answer.text == "x" * 10
    assert len(result.answer.candidates) == 1
    assert result.usage.requests == 1


def test_without_a_config_the_account_is_in_tokens():
    result = run_flow(PROBLEM, Majority(n=2), {"m": ScriptedEngine(drawn, shape=None)}, default_policy_model="m")
    assert result.usage.generated_tokens > 0
    assert math.isnan(result.cost.total_flops)
    with pytest.raises(CapabilityError, match="config"):
        run_flow(
            PROBLEM, Majority(n=2), {"m": ScriptedEngine(drawn, shape=None)}, default_policy_model="m", budget_flops=1e9
        )


def test_what_is_missing_is_said_before_anything_is_generated():
    engine = ScriptedEngine(drawn)
    jobs = [Job(PROBLEM, Greedy()), Job(PROBLEM, BestOfN(n=2))]
    with pytest.raises(CapabilityError, match="verifier"):
        run_flows(jobs, {"m": engine}, None, default_policy_model="m")
    with pytest.raises(CapabilityError, match=r"policy_model.*other"):
        run_flows([Job(PROBLEM, Greedy(policy_model="other"))], {"m": engine}, None, default_policy_model="m")
    assert not engine.batches


def test_each_job_may_name_its_model():
    engines = {name: ScriptedEngine(lambda r, name=name: f"#### {name}{END}", name=name) for name in ("1", "2")}
    jobs = [Job(PROBLEM, Greedy(policy_model=name)) for name in ("2", "1", None)]
    runs = run_flows(jobs, engines, None, default_policy_model="1")
    assert [r.answer.answer for r in runs] == ["2", "1", "1"]


class Probe:
    """A strategy of a user: asks once and reports how it was closed."""

    name, needs_verifier, replayable, policy_model = "probe", False, False, None

    def __init__(self, requests=1):
        self.closed, self.requests = False, requests

    def solve(self, problem):
        try:
            request = GenerationRequest(prompt=problem.prompt, sampling=Sampling(max_tokens=5))
            reply = yield Generate(requests=(request,) * self.requests)
            return Answer(answer=str(len(reply)), text="", outcome=Outcome.FINISHED)
        finally:
            self.closed = True


@pytest.mark.parametrize("error", [EngineError("down", retryable=True), VerifierError("down")])
def test_a_failure_ends_the_run_and_closes_every_flow(error):
    def fail(request):
        raise error

    probes = [Probe(), Probe()]
    with pytest.raises(type(error), match="down"):
        run_flows([Job(PROBLEM, p) for p in probes], {"m": ScriptedEngine(fail)}, None, default_policy_model="m")
    assert all(p.closed for p in probes)


def test_an_engine_that_breaks_its_word_is_an_error():
    class Talkative(ScriptedEngine):
        def generate(self, requests):
            return [Completion(text="x" * 9, finish="end", prompt_tokens=5, generated_tokens=9) for _ in requests]

    class Silent(ScriptedEngine):
        def generate(self, requests):
            return []

    for kind, words in ((Talkative, "more tokens"), (Silent, "0 results for 1")):
        with pytest.raises(EngineError, match=words):
            run_flow(PROBLEM, Probe(), {"m": kind(drawn)}, default_policy_model="m")


def test_an_empty_question_is_answered_and_an_uncaught_end_of_budget_is_an_outcome():
    empty = run_flow(PROBLEM, Probe(0), {"m": ScriptedEngine(drawn)}, default_policy_model="m")
    assert (empty.answer.answer, empty.usage.rounds) == ("0", 0)
    poor = run_flow(PROBLEM, Probe(), {"m": ScriptedEngine(drawn)}, default_policy_model="m", budget_flops=1)
    assert poor.answer.outcome is Outcome.OUT_OF_BUDGET
    assert run_flows([], {"m": ScriptedEngine(drawn)}, None, default_policy_model="m") == []
