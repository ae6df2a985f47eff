"""Beam search by our driver beside a lock-step loop, in one run: same models, problems, strategy and random streams.

    python benchmarks/search.py [--json]

The lock-step loop handles one problem at a time, scores each path's whole text in every round with plain transformers,
and goes on where n paths have finished: as search-and-learn does, finished paths leave and the best n / expansions of
the others go on with n steps, until none is left. It may reuse the policy's kept prefixes, and neither meters nor keeps
a budget.

Ours differs in three things. Each is turned on beside the lock-step loop (`alone`), and one after the other (`in_turn`,
whose ratios multiply to the whole):

    stopping     the strategy as shipped: a finished path holds its place, and n finished paths are enough
    incremental  a step costs the verifier its own tokens, and equal answers are scored once
    batching     all problems in flight in `run_flows`

`wall_ratio` is of seconds on the clock; `cpu_ratio`, `in_turn` and `alone` are of this process's own, which are the
same on an idle machine and hold on a busy one. `verifier_token_ratio`: tokens that the verifier computed, theirs to
ours. `same_answers`: problems for which ours gives what the lock-step loop gives that differs from it in nothing but
`batching` and `incremental`; whole and incremental scores differ in their last bits.

`engine_share`: tokens per second of our run's generation to those of the same step requests given to the engine
directly, in the process's own seconds. Ours is all of the run but the verifier's calls, so driver, strategy, meter and
every batch that is less than full count against it. Directly: all requests of one depth of all problems together,
longest inputs first, in batches of `--max-batch`, prefixes kept as in our run, and nothing done with what comes back.
The two take turns, and the quickest of `--repeats` counts for each.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from planner import core
from planner.core import Answer, Completion, GenerationRequest, Outcome, Problem, ScoreRequest, StepScores
from planner.effects import Flow, Generate, Score
from planner.models.cards import fill_in, load_card
from planner.models.protocols import Engine, EngineInfo, Verifier, VerifierInfo
from planner.models.shipped import load_engine, load_verifier, shipped
from planner.runtime.driver import Job, run_flows
from planner.strategies import BeamSearch, Strategy
from planner.strategies.allotment import Allotment, Round
from planner.strategies.paths import SearchPath
from planner.strategies.scoring import conclude
from planner.strategies.step_search import step_search
from planner.tasks.task import load_task

SWITCHES = ("stopping", "incremental", "batching")


class RunOnBeamSearch(BeamSearch):
    """Beam search that finished paths leave: n steps for the best unfinished ones until there is none."""

    def solve(self, problem: Problem) -> Flow[Answer]:
        found, short = yield from step_search(problem, self, _run_on(self.n, self.expansions), width=self.n)
        return conclude(found, self.aggregation, self.selection, out_of_budget=short)


@dataclass(frozen=True)
class EveryPath:
    """The same search that has each path scored, though another one has the same text."""

    search: BeamSearch

    name: ClassVar[str] = "every_path"
    needs_verifier: ClassVar[bool] = True
    replayable: ClassVar[bool] = False
    policy_model: ClassVar[None] = None

    def solve(self, problem: Problem) -> Flow[Answer]:
        flow, reply, paths = self.search.solve(problem), None, list[ScoreRequest]()
        while True:
            try:
                effect = flow.send(reply)
            except StopIteration as stop:
                answer: Answer = stop.value
                return answer
            if isinstance(effect, Generate):
                reply = yield effect
                texts = [request.prefix + made.text for request, made in zip(effect.requests, reply, strict=True)]
                steps = [core.split_steps(text, problem.step_separator) for text in texts]
                paths = [ScoreRequest(prompt=problem.prompt, steps=step) for step in steps]
            else:
                wanted = set(effect.requests)
                every = tuple(path for path in paths if path in wanted)
                scored = dict(zip(every, (yield Score(requests=every)), strict=True))
                reply = tuple(scored[request] for request in effect.requests)


def _run_on(n: int, expansions: int) -> Allotment:
    def allot(found: Round) -> list[SearchPath]:
        rows = [(value, path) for value, path in zip(found.values, found.paths, strict=True) if not path.finished]
        kept = [path for _, path in sorted(rows, key=lambda row: row[0], reverse=True)[: n // expansions]]
        each = math.ceil(n / len(kept)) if kept else 0
        return [path for path in kept for _ in range(each)][:n]

    return allot


class WholeVerifier:
    """Every answer from its first token, a padded batch each call, by plain transformers: nothing is kept."""

    def __init__(self, folder: Path) -> None:
        self._card = load_card(folder / "verifier.toml")
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        signs = (self._card.negative, self._card.positive)
        self._signs = self._tokenizer.convert_tokens_to_ids(signs)
        self._tag = self._tokenizer.convert_tokens_to_ids(self._card.tag)
        if None in (*self._signs, self._tag):
            raise SystemExit(
                f"{folder}: the lock-step loop reads two tokens' logits at a tag; this card has another way"
            )
        self.info = VerifierInfo(name=folder.name, fingerprint="whole", shape=None, incremental=False)

    def _text(self, prompt: str, steps: Sequence[str]) -> str:
        c = self._card
        shown = [fill_in(c.step if i else c.first, {"question": prompt, "step": step}) for i, step in enumerate(steps)]
        return fill_in(c.prompt, {"question": prompt}) + c.joiner.join(shown)

    def count_tokens(self, prompt: str, steps: Sequence[str]) -> int:
        return len(self._tokenizer(self._text(prompt, steps), add_special_tokens=False)["input_ids"])

    def reset(self) -> None: ...

    @torch.inference_mode()
    def score(self, requests: Sequence[ScoreRequest]) -> list[StepScores]:
        """In passes of as many inputs as our verifier computes at a time."""
        return [row for i in range(0, len(requests), 64) for row in self._pass(requests[i : i + 64])]

    def _pass(self, requests: Sequence[ScoreRequest]) -> list[StepScores]:
        texts = [self._text(request.prompt, request.steps) for request in requests]
        inputs = self._tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        hidden = self._model.model(**inputs).last_hidden_state
        found = []
        for ids, mask, states in zip(inputs["input_ids"], inputs["attention_mask"], hidden, strict=True):
            logits = self._model.lm_head(states[ids == self._tag])[:, self._signs]
            tokens = int(mask.sum())
            scores = tuple(logits.softmax(-1)[:, 1].tolist())
            found.append(StepScores(scores=scores, tokens=tokens, new_tokens=tokens, computed_tokens=tokens))
        return found


@dataclass(frozen=True)
class Took:
    """Seconds on the clock, and of this process."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Took:
        return cls(time.perf_counter(), time.process_time())

    def __add__(self, other: Took) -> Took:
        return Took(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Took) -> Took:
        return Took(self.wall - other.wall, self.cpu - other.cpu)


@dataclass
class WatchedEngine:
    """Notes what it is asked for."""

    engine: Engine
    requests: list[GenerationRequest] = field(default_factory=list)
    tokens: int = 0

    @property
    def info(self) -> EngineInfo:
        return self.engine.info

    def count_tokens(self, prompt: str, prefix: str = "") -> int:
        return self.engine.count_tokens(prompt, prefix)

    def reset(self) -> None:
        self.engine.reset()

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        made = self.engine.generate(requests)
        self.requests += requests
        self.tokens += sum(completion.generated_tokens for completion in made)
        return made


@dataclass
class WatchedVerifier:
    """Notes how long it took, and the tokens that were computed."""

    verifier: Verifier
    took: Took = field(default_factory=lambda: Took(0.0, 0.0))
    tokens: int = 0

    @property
    def info(self) -> VerifierInfo:
        return self.verifier.info

    def count_tokens(self, prompt: str, steps: Sequence[str]) -> int:
        return self.verifier.count_tokens(prompt, steps)

    def reset(self) -> None:
        self.verifier.reset()

    def score(self, requests: Sequence[ScoreRequest]) -> list[StepScores]:
        started = Took.now()
        scored = self.verifier.score(requests)
        self.took += Took.now() - started
        self.tokens += sum(result.computed_tokens for result in scored)
        return scored


@dataclass
class Measured:
    took: Took
    generation: Took
    generated_tokens: int
    verifier_tokens: int
    answers: list[Answer]
    requests: list[GenerationRequest]

    def accuracy(self, problems: Sequence[Problem], check: Callable[[str, str], bool]) -> float:
        """Unfinished answers are not correct."""
        pairs = zip(self.answers, problems, strict=True)
        return statistics.fmean(
            a.outcome is Outcome.FINISHED and a.answer is not None and bool(check(a.answer, str(p.gold)))
            for a, p in pairs
        )

    def to_dict(self) -> dict[str, float]:
        return {
            "generated_tokens": self.generated_tokens,
            "generation_requests": len(self.requests),
            "verifier_tokens": self.verifier_tokens,
        }


def lock_step(problem: Problem, spec: Strategy, engine: Engine, verifier: Verifier) -> Answer:
    """Do what the flow asks for, and nothing beside it."""
    flow = spec.solve(problem)
    reply = None
    while True:
        try:
            effect = flow.send(reply)
        except StopIteration as stop:
            answer: Answer = stop.value
            return answer
        if isinstance(effect, Generate):
            reply = tuple(engine.generate(effect.requests))
        else:
            reply = tuple(verifier.score(effect.requests))


@dataclass
class Bench:
    """Both sides of the comparison on the same loaded models."""

    engine: Engine
    ours: Verifier
    whole: Verifier
    problems: Sequence[Problem]
    fields: dict[str, float]
    max_batch: int

    def measure(self, on: Sequence[str]) -> Measured:
        """The whole run with these switches on; nothing is kept from before."""
        search = (BeamSearch if "stopping" in on else RunOnBeamSearch)(**self.fields)  # type: ignore[arg-type]
        spec: Strategy = search if "incremental" in on else EveryPath(search)
        engine = WatchedEngine(self.engine)
        verifier = WatchedVerifier(self.ours if "incremental" in on else self.whole)
        engine.reset()
        verifier.reset()
        started = Took.now()
        if "batching" in on:
            jobs = [Job(problem, spec) for problem in self.problems]
            runs = run_flows(jobs, {"m": engine}, verifier, default_policy_model="m", max_batch=self.max_batch)
            answers = [run.answer for run in runs]
        else:
            answers = [lock_step(problem, spec, engine, verifier) for problem in self.problems]
        took = Took.now() - started
        return Measured(took, took - verifier.took, engine.tokens, verifier.tokens, answers, engine.requests)

    def direct(self, requests: Sequence[GenerationRequest]) -> Took:
        """The same requests without a search around them."""
        depths: dict[int, list[GenerationRequest]] = {}
        separators = {problem.prompt: problem.step_separator for problem in self.problems}
        for request in requests:
            depths.setdefault(request.prefix.count(separators[request.prompt]), []).append(request)
        rounds = []
        for _, same in sorted(depths.items()):
            same.sort(key=lambda r: self.engine.count_tokens(r.prompt, r.prefix), reverse=True)
            rounds += [same[i : i + self.max_batch] for i in range(0, len(same), self.max_batch)]
        self.engine.reset()
        started = Took.now()
        for batch in rounds:
            self.engine.generate(batch)
        return Took.now() - started


def compare(bench: Bench, check: Callable[[str, str], bool], repeats: int) -> dict[str, Any]:
    in_turn = [SWITCHES[:k] for k in range(len(SWITCHES) + 1)]
    plans = dict.fromkeys([*in_turn, *((switch,) for switch in SWITCHES)])
    bench.measure(SWITCHES)  # warms up
    runs: dict[tuple[str, ...], list[Measured]] = {on: [] for on in plans}
    for on in plans:
        if on != SWITCHES:
            runs[on].append(bench.measure(on))
    direct: list[Took] = []
    for _ in range(repeats):
        runs[SWITCHES].append(bench.measure(SWITCHES))
        direct.append(bench.direct(runs[SWITCHES][-1].requests))
    wall = {on: statistics.median(run.took.wall for run in of) for on, of in runs.items()}
    cpu = {on: statistics.median(run.took.cpu for run in of) for on, of in runs.items()}
    theirs, ours, stopping = runs[()][0], runs[SWITCHES][0], runs[SWITCHES[:1]][0]
    # The quickest of each: what a neighbour does to the caches only ever adds.
    generation = min(run.generation.cpu for run in runs[SWITCHES])
    straight = min(took.cpu for took in direct)
    return {
        "wall_ratio": wall[()] / wall[SWITCHES],
        "cpu_ratio": cpu[()] / cpu[SWITCHES],
        "verifier_token_ratio": theirs.verifier_tokens / ours.verifier_tokens,
        "engine_share": straight / generation,
        "accuracy": {
            "lock_step": theirs.accuracy(bench.problems, check),
            "ours": ours.accuracy(bench.problems, check),
        },
        "same_answers": sum(a.answer == b.answer for a, b in zip(stopping.answers, ours.answers, strict=True)),
        "in_turn": {on[-1]: cpu[before] / cpu[on] for before, on in itertools.pairwise(in_turn)},
        "alone": {switch: cpu[()] / cpu[(switch,)] for switch in SWITCHES},
        "tokens_per_second": {
            "search": ours.generated_tokens / generation,
            "direct": ours.generated_tokens / straight,
        },
        "runs": {
            "+".join(on) or "lock_step": runs[on][0].to_dict() | {"seconds": wall[on], "cpu_seconds": cpu[on]}
            for on in plans
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lab:lab-medium")
    parser.add_argument("--verifier", default="lab:lab-prm")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--split", default="held_out")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--expansions", type=int, default=4)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--max-batch", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5, help="Of our run, in turn with the engine alone.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    task = load_task("lab", split=args.split, count=args.problems)
    kind, _, name = args.verifier.partition(":")
    folder = shipped("models", f"lab/{name}") if kind == "lab" else Path(name)
    bench = Bench(
        load_engine(args.model), load_verifier(args.verifier), WholeVerifier(folder), task.problems,
        {"n": args.n, "expansions": args.expansions, "temperature": args.temperature}, args.max_batch,
    )  # fmt: skip
    gc.collect()
    gc.freeze()  # collecting walks over every loaded module otherwise, now in one run and now in another
    result = vars(args) | compare(bench, task.check, args.repeats)
    if args.json:
        print(json.dumps(result))
        return
    print(f"{'':34} seconds  of its own  generated  verifier tokens")
    for name, run in result["runs"].items():
        print(f"{name:34} {run['seconds']:7.1f}  {run['cpu_seconds']:10.1f}  {run['generated_tokens']:9,}", end="")
        print(f"  {run['verifier_tokens']:15,}")
    print(f"lock-step against ours: {result['wall_ratio']:.1f}x the time ({result['cpu_ratio']:.1f}x its own seconds), "
          f"{result['verifier_token_ratio']:.1f}x the verifier's tokens")  # fmt: skip
    for title in ("in_turn", "alone"):
        print(f"{title}: " + ", ".join(f"{name} {ratio:.2f}x" for name, ratio in result[title].items()))
    print(f"accuracy: lock-step {result['accuracy']['lock_step']:.3f}, ours {result['accuracy']['ours']:.3f}; "
          f"same answers as the loop that stops: {result['same_answers']} of {args.problems}")  # fmt: skip
    print(f"generation at {result['engine_share']:.1%} of the engine's own throughput")


if __name__ == "__main__":
    main()
