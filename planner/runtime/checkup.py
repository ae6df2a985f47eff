"""Tries out an engine and a verifier: what they are, whether they do what is asked, how fast, and what will run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypeAlias

from planner.core import Completion, GenerationRequest, Problem, Sampling, ScoreRequest, split_steps
from planner.errors import CapabilityError, InputError, PlannerError
from planner.models.protocols import Engine, Verifier
from planner.runtime.driver import Job, run_flows
from planner.strategies import REGISTRY, Strategy

__all__ = ["Check", "Checkup", "StrategyCheck", "check_up"]

State: TypeAlias = Literal["ok", "note", "broken"]

PROMPT = "Calculate 12 + 30 - 7. Write every step on a line of its own."
_TOKENS = 64
_SAMPLES = 16
_TRIED: dict[str, Any] = {
    "n": 4, "max_n": 4, "chains": 2, "revisions": 1, "second": "best_of_n", "second_n": 4, "max_steps": 2,
    "max_step_tokens": 32,
}  # fmt: skip
"""Hyperparameters for a short run of any strategy that has them."""


@dataclass(frozen=True, slots=True)
class Check:
    """`broken`: what it is asked for does not work; `note`: worth knowing."""

    name: str
    state: State
    says: str


@dataclass(frozen=True, slots=True)
class StrategyCheck:
    """`works` None: it was not tried. `why` says why not, or what is missing for all of it."""

    name: str
    works: bool | None
    why: str = ""


@dataclass(slots=True)
class Checkup:
    """What was found. `measures` by name, the unit in the name; a measure that could not be taken is not there."""

    engine: str
    verifier: str | None
    checks: list[Check] = field(default_factory=list)
    measures: dict[str, float] = field(default_factory=dict)
    strategies: list[StrategyCheck] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        return any(check.state == "broken" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        rows: dict[str, Any] = {
            name: [{f.name: getattr(row, f.name) for f in fields(row)} for row in getattr(self, name)]
            for name in ("checks", "strategies")
        }
        return {
            "engine": self.engine, "verifier": self.verifier, "broken": self.broken, "measures": self.measures, **rows
        }  # fmt: skip

    def say(self, name: str, state: State, says: str) -> None:
        self.checks.append(Check(name, state, says))


def check_up(
    engine_spec: str,
    verifier_spec: str | None,
    *,
    load_engine: Callable[[str], Engine],
    load_verifier: Callable[[str], Verifier],
    prompt: str = PROMPT,
    step_separator: str | None = None,
) -> Checkup:
    """Load both and try them on `prompt`, some hundreds of tokens a strategy. Errors of theirs become checks that are
    broken. `step_separator` None: a blank line, or a line break where the model writes no blank lines."""
    found = Checkup(engine_spec, verifier_spec)
    engine = _load(found, "engine", engine_spec, load_engine)
    verifier = None if verifier_spec is None else _load(found, "verifier", verifier_spec, load_verifier)
    if engine is not None:
        _identify_engine(found, engine)
        text = _sample(found, engine, prompt)
        if text is None:
            return found
        separator = step_separator or ("\n" if "\n\n" not in text and "\n" in text else "\n\n")
        _step(found, engine, prompt, separator)
        if verifier is not None:
            _score(found, verifier, prompt, split_steps(text, separator))
        problem = Problem(problem_id="checkup", prompt=prompt, step_separator=separator, max_tokens=_TOKENS)
        broken_verifier = verifier_spec is not None and (verifier is None or found.broken)
        for name, kind in REGISTRY.items():
            found.strategies.append(_strategy(found, name, kind, problem, engine, verifier, broken_verifier))
    elif verifier is not None:
        _score(found, verifier, prompt, ("12 + 30 = 42", "42 - 7 = 35", "#### 35"))
    return found


def _load(found: Checkup, what: str, spec: str, load: Callable[[str], Any]) -> Any:
    started = time.perf_counter()
    try:
        loaded = load(spec)
    except PlannerError as error:
        found.say(f"{what} is reached", "broken", str(error))
        return None
    seconds = time.perf_counter() - started
    found.say(f"{what} is reached", "ok", f"{spec} in {seconds:.1f} s")
    return loaded


def _identify_engine(found: Checkup, engine: Engine) -> None:
    info = engine.info
    size = f"{info.shape.parameters:,} parameters" if info.shape else "of unknown size"
    found.say("engine is known", "ok", f"{info.name}, {size}, context {info.max_context_tokens:,} tokens")
    if info.shape is None:
        found.say(
            "engine is priced", "note", "no config: budgets in FLOPs cannot be held; give its config.json (`&config=`)"
        )
    for note in getattr(getattr(engine, "capabilities", None), "notes", ()):
        found.say("engine's probe", "note", note)


def _generate(found: Checkup, name: str, engine: Engine, requests: list[GenerationRequest]) -> list[Completion] | None:
    try:
        return engine.generate(requests)
    except CapabilityError as error:
        found.say(name, "note", str(error))
    except PlannerError as error:
        found.say(name, "broken", str(error))
    return None


def _sample(found: Checkup, engine: Engine, prompt: str) -> str | None:
    """The greedy answer; None where the engine does not generate."""
    cold = GenerationRequest(prompt=prompt, sampling=Sampling(temperature=0.0, max_tokens=_TOKENS))
    greedy = _generate(found, "engine generates", engine, [cold])
    if greedy is None:
        return None
    found.say("engine generates", "ok", f"{greedy[0].generated_tokens} tokens: {greedy[0].text[:60]!r}")
    hot = [
        GenerationRequest(prompt=prompt, sampling=Sampling(temperature=1.0, max_tokens=_TOKENS), index=i)
        for i in range(_SAMPLES)
    ]
    started = time.perf_counter()
    drawn = _generate(found, "engine samples", engine, hot)
    seconds = time.perf_counter() - started
    if drawn is None:
        return None
    texts = {completion.text for completion in drawn}
    if len(texts) == 1:
        found.say("engine samples", "broken", f"{_SAMPLES} draws at temperature 1 are all the same: is it ignored?")
    else:
        found.say("engine samples", "ok", f"{len(texts)} different texts in {_SAMPLES} draws")
    found.measures["generated_tokens_per_second"] = sum(c.generated_tokens for c in drawn) / seconds
    again = _generate(found, "engine repeats itself", engine, hot[:2])
    if again is not None and [c.text for c in again] != [c.text for c in drawn[:2]]:
        found.say(
            "engine repeats itself", "note",
            "the same request gave another text: a run that is interrupted does not resume to the same bank",
        )  # fmt: skip
    elif again is not None:
        found.say("engine repeats itself", "ok", "the same request gave the same text")
    if any(c.mean_logprob is None for c in drawn):
        found.say(
            "engine tells log-probabilities", "note", "no: confidence votes count 1 each, judges cannot read them"
        )
    return greedy[0].text


def _step(found: Checkup, engine: Engine, prompt: str, separator: str) -> None:
    """One step and its continuation, as a search asks for them."""
    sampling = Sampling(temperature=0.0, max_tokens=_TOKENS, stop=(separator,))
    name = "engine stops and goes on"
    first = _generate(found, name, engine, [GenerationRequest(prompt=prompt, sampling=sampling)])
    if first is None:
        return
    if first[0].finish != "stop":
        found.say(name, "note", f"no step ended with {separator!r} within {_TOKENS} tokens: give --step-separator")
        return
    if not first[0].text.endswith(separator):
        found.say(name, "broken", f"a step lost its separator {separator!r}: {first[0].text[-20:]!r}")
        return
    branches = [
        GenerationRequest(
            prompt=prompt, prefix=first[0].text, sampling=Sampling(temperature=0.8, max_tokens=8), index=i
        )
        for i in range(4)
    ]
    further = _generate(found, name, engine, branches)
    if further is None:
        return
    share = sum(c.cached_tokens for c in further) / sum(c.prompt_tokens for c in further)
    found.measures["cached_prefix_share"] = share
    found.say(name, "ok", f"a step of {first[0].generated_tokens} tokens, then 4 branches of it")
    if engine.info.caches_prefixes and not share:
        found.say(
            "engine keeps prefixes", "note",
            "none of these short prefixes was found again (a server may cache whole blocks only, or not tell)",
        )  # fmt: skip


def _score(found: Checkup, verifier: Verifier, prompt: str, steps: tuple[str, ...]) -> None:
    info = verifier.info
    size = f"{info.shape.parameters:,} parameters" if info.shape else "of unknown size"
    reads = "whole answers" if info.outcome else "step by step"
    found.say("verifier is known", "ok", f"{info.name}, {size}, {reads}")
    if info.shape is None:
        found.say("verifier is priced", "note", "no config: budgets in FLOPs cannot be held")
    steps = steps or ("12 + 30 = 42",)
    answers = [steps, steps[:1], (*steps, "So this is the end.")]
    requests = [ScoreRequest(prompt=prompt, steps=each) for each in answers]
    try:
        verifier.reset()
        started = time.perf_counter()
        results = verifier.score(requests)
        seconds = time.perf_counter() - started
        verifier.reset()
        alone = verifier.score(requests[:1])
    except PlannerError as error:
        found.say("verifier scores", "broken", str(error))
        return
    computed = sum(result.computed_tokens for result in results)
    if computed:
        found.measures["scored_tokens_per_second"] = computed / seconds
    for each, result in zip(answers, results, strict=True):
        wanted = 1 if info.outcome else len(each)
        if len(result.scores) > wanted or (not info.outcome and len(result.scores) != wanted):
            found.say("verifier scores", "broken", f"{len(result.scores)} scores for {len(each)} steps")
            return
        if not all(0 <= score <= 1 for score in result.scores):
            found.say("verifier scores", "broken", f"scores outside [0, 1]: {result.scores}")
            return
    if not any(result.scores for result in results):
        found.say("verifier scores", "broken", "it could tell of none of 3 answers")
        return
    shown = ", ".join(f"{score:.3f}" for score in results[0].scores) or "unscored"
    found.say("verifier scores", "ok", f"the greedy answer's: {shown}")
    gap = max((abs(a - b) for a, b in zip(alone[0].scores, results[0].scores, strict=False)), default=0.0)
    if gap > 1e-2 or len(alone[0].scores) != len(results[0].scores):
        found.say("verifier is steady", "broken", f"alone and in a batch, one answer's scores differ by {gap:.2g}")
    else:
        found.say("verifier is steady", "ok", f"alone as in a batch, within {gap:.1g}")


def _strategy(
    found: Checkup, name: str, kind: type[Strategy], problem: Problem, engine: Engine, verifier: Verifier | None,
    broken_verifier: bool,
) -> StrategyCheck:  # fmt: skip
    known = {f.name: f.default for f in fields(kind)}  # type: ignore[arg-type]
    if missing := [each for each, default in known.items() if default is MISSING and each not in _TRIED]:
        return StrategyCheck(name, None, f"not tried: what its {', '.join(missing)} should be is not known here")
    try:
        spec = kind(**{each: value for each, value in _TRIED.items() if each in known})
    except InputError as error:
        return StrategyCheck(name, None, f"not tried: {error}")
    if spec.needs_verifier and (verifier is None or broken_verifier):
        return StrategyCheck(name, False, "its verifier does not work" if broken_verifier else "needs a verifier")
    try:
        run_flows([Job(problem, spec)], {"engine": engine}, verifier, default_policy_model="engine")
    except CapabilityError as error:
        return StrategyCheck(name, False, str(error))
    except PlannerError as error:
        found.say(f"strategy {name}", "broken", str(error))
        return StrategyCheck(name, False, str(error))
    return StrategyCheck(name, True)
