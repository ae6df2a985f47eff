"""Best-of-N, self-consistency and beam search of this package, its_hub and optillm on one vLLM server.

    sh scripts/vllm_env.sh && sh scripts/peers_env.sh
    .venv-peers/bin/python benchmarks/peers.py [--problems 64] [--n 8] [--rounds 3] [--json]

A laboratory policy and the laboratory's process reward model each run on a vLLM server; all tools use them over HTTP,
on the same problems, at the same N, temperature and token limit, with all problems in flight. A round has problems of
its own; within it the tools take turns. Tokens are the servers' own counts (`/metrics`), whatever a tool says; prefix
caches are emptied before each pass; answers are extracted and judged by one function. The temperature is 1 unless said
otherwise, since optillm has that written into its code.

What a tool has no adapter for is given through its own interface: its_hub's two reward model classes wrap the
laboratory's verifier, its vote gets a pattern for the final answer. What a tool cannot do stands in the output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from vllm_servers import Counts, Server, servers

from planner.core import Outcome, Problem, ScoreRequest, split_steps
from planner.errors import VerifierError
from planner.models.protocols import Verifier
from planner.models.shipped import load_engine, load_verifier
from planner.policy.statistics import Resamples
from planner.runtime.driver import Job, run_flows
from planner.strategies import BeamSearch, BestOfN, Majority, Strategy
from planner.strategies.scoring import aggregate
from planner.tasks.answers import extract_answer
from planner.tasks.task import load_task

MISSING = [name for name in ("its_hub", "optillm", "openai") if find_spec(name) is None]
if MISSING:
    raise SystemExit(f"needs {', '.join(MISSING)}: sh scripts/peers_env.sh, then .venv-peers/bin/python {__file__}")

import aiohttp  # noqa: E402
import openai  # noqa: E402
from its_hub.api import (  # noqa: E402
    AbstractOutcomeRewardModel,
    AbstractProcessRewardModel,
    APIError,
    ChatMessages,
)
from its_hub.core.algorithms import beam_search, bon, self_consistency  # noqa: E402
from its_hub.core.lms.openai_lm import OpenAICompatibleLanguageModel  # noqa: E402
from its_hub.core.lms.step_generation import StepGeneration  # noqa: E402
from its_hub.core.orchestrator import LMOrchestrator  # noqa: E402
from optillm.bon import best_of_n_sampling  # noqa: E402
from optillm.plugins import majority_voting_plugin  # noqa: E402
from optillm.self_consistency import AdvancedSelfConsistency  # noqa: E402

EXPANSIONS, MAX_STEPS, MAX_STEP_TOKENS = 4, 24, 48
CONNECTIONS = 64
METHODS = ("self-consistency", "best-of-N", "weighted best-of-N", "beam search")
TOOLS = ("planner", "its_hub", "optillm")
OPTILLM_TEMPERATURE = 1.0
FAILURES = (openai.OpenAIError, APIError, aiohttp.ClientError, RuntimeError, VerifierError)
"""What a peer raises where a request was refused: the problem failed, and the pass goes on."""

NOTES = {
    ("its_hub", "best-of-N"): "the last step's score through its outcome reward model; equal texts are scored once",
    ("its_hub", "weighted best-of-N"): "has none",
    ("its_hub", "beam search"): f"its first level draws N / M paths instead of N; a request that is refused fails the "
    f"problem; {MAX_STEP_TOKENS} tokens a step through the language model's own limit",
    ("optillm", "self-consistency"): "AdvancedSelfConsistency: one request after the other, temperature 1 in its code, "
    "clusters by similarity of whole texts, not answers; as a class, since its proxy has N = 5 in its code",
    ("optillm", "best-of-N"): "no interface for a verifier: the policy rates its own answers, which a laboratory model "
    "was not trained for (no number counts as 0, so the first is taken); temperature 1 in its code",
    ("optillm", "weighted best-of-N"): "has none",
    ("optillm", "beam search"): "has none (mcts and rstar expand whole turns, scored by the policy)",
    ("optillm", "majority vote (plugin)"): "its plugin majority_voting: one request with n = N",
}

Answerer: TypeAlias = "Callable[[Sequence[Problem]], list[str | None]]"
"""The answer to each problem; None: no final answer. `Failed` texts are counted apart."""


class Failed(str):
    """Stands for an answer: what went wrong instead."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One tool's method on a round's problems."""

    seconds: float
    correct: tuple[bool, ...]
    failures: tuple[str, ...]
    policy: Counts
    verifier: Counts


@dataclass(frozen=True, slots=True)
class Setup:
    policy: Server
    verifier: Verifier
    n: int
    temperature: float
    max_tokens: int


def ours(setup: Setup) -> dict[str, Answerer]:
    folder = setup.policy.folder
    engine = load_engine(
        f"{setup.policy.url}?model={setup.policy.name}&tokenizer={folder}&config={folder}/config.json"
        f"&concurrency={CONNECTIONS}"
    )
    common: dict[str, Any] = {"n": setup.n, "temperature": setup.temperature}

    def runner(spec: Strategy) -> Answerer:
        def answer(problems: Sequence[Problem]) -> list[str | None]:
            jobs = [Job(problem, spec) for problem in problems]
            runs = run_flows(jobs, {"m": engine}, setup.verifier, default_policy_model="m")
            return [run.answer.answer if run.answer.outcome is Outcome.FINISHED else None for run in runs]

        return answer

    return {
        "self-consistency": runner(Majority(**common)),
        "best-of-N": runner(BestOfN(**common, selection="max")),
        "weighted best-of-N": runner(BestOfN(**common, selection="vote")),
        "beam search": runner(
            BeamSearch(**common, expansions=EXPANSIONS, max_steps=MAX_STEPS, max_step_tokens=MAX_STEP_TOKENS)
        ),
    }


class ItsHubProcessReward(AbstractProcessRewardModel):
    """The laboratory's verifier behind its_hub's interface, as its own LocalVllmProcessRewardModel is: a score for
    each (partial) response. Scored on threads of its own: its_hub's semaphore sits on the loop's."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier, self._threads = verifier, ThreadPoolExecutor(CONNECTIONS)

    def score(self, prompt_or_messages: Any, steps: Any) -> Any:
        prompt = ChatMessages.from_prompt_or_messages(prompt_or_messages).to_prompt()
        asked = {i: split_steps(text, "\n") for i, text in enumerate(steps)}
        asked = {i: parts for i, parts in asked.items() if parts}
        scored = self._verifier.score([ScoreRequest(prompt=prompt, steps=parts) for parts in asked.values()])
        found = dict(zip(asked, scored, strict=True))
        return [aggregate(found[i].scores, "last") if i in found else -math.inf for i in range(len(steps))]

    async def ascore(self, prompt_or_messages: Any, steps: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.score, prompt_or_messages, steps)


class ItsHubOutcomeReward(AbstractOutcomeRewardModel):
    """The same for whole conversations of a question and its answer."""

    def __init__(self, process: ItsHubProcessReward) -> None:
        self._process = process

    def score(self, messages: Any, **_: Any) -> Any:
        question = messages[0][0].extract_text_content()
        return self._process.score(question, [talk[-1].extract_text_content() for talk in messages])

    async def ascore(self, messages: Any, orchestrator: Any = None, **_: Any) -> Any:
        question = messages[0][0].extract_text_content()
        return await self._process.ascore(question, [talk[-1].extract_text_content() for talk in messages])


def its_hub(setup: Setup) -> dict[str, Answerer]:
    orchestrator = LMOrchestrator(max_concurrency=CONNECTIONS)
    process = ItsHubProcessReward(setup.verifier)
    pattern = self_consistency.create_regex_projection_function(r"####\s*([^\n]+)")
    separator, ending = "\n", "####"
    steps = StepGeneration(MAX_STEPS, step_token=separator, stop_token=ending, temperature=setup.temperature)

    def runner(algorithm: Any, max_tokens: int) -> Answerer:
        async def one(lm: Any, problem: Problem) -> str | None:
            try:
                chosen = await algorithm.ainfer(lm, problem.prompt, setup.n)
            except FAILURES as error:
                return Failed(f"{type(error).__name__}: {error}")
            return extract_answer(chosen["content"] or "")

        async def every(problems: Sequence[Problem]) -> list[str | None]:
            # Its connections belong to one event loop.
            lm = OpenAICompatibleLanguageModel(
                setup.policy.url, "none", setup.policy.name, max_completion_tokens=max_tokens,
                temperature=setup.temperature, max_concurrency=CONNECTIONS,
            )  # fmt: skip
            async with lm:
                return list(await asyncio.gather(*(one(lm, problem) for problem in problems)))

        return lambda problems: asyncio.run(every(problems))

    beams = setup.n // EXPANSIONS
    return {
        "self-consistency": runner(
            self_consistency.SelfConsistency(pattern, orchestrator=orchestrator), setup.max_tokens
        ),
        "best-of-N": runner(bon.BestOfN(ItsHubOutcomeReward(process), orchestrator), setup.max_tokens),
        "beam search": runner(beam_search.BeamSearch(steps, process, beams), MAX_STEP_TOKENS),
    }


def optillm(setup: Setup) -> dict[str, Answerer]:
    client = openai.OpenAI(base_url=setup.policy.url, api_key="none")
    limits = {"max_tokens": setup.max_tokens}

    def consistency(question: str) -> str:
        voter = AdvancedSelfConsistency(client, setup.policy.name, num_samples=setup.n, request_config=limits)
        clusters = voter.evaluate("", question)["aggregated_result"]["clusters"]
        return clusters[0]["answer"] if clusters else ""

    def best(question: str) -> str:
        return best_of_n_sampling("", question, client, setup.policy.name, n=setup.n, request_config=limits)[0]

    def vote(question: str) -> str:
        config = limits | {"k": setup.n, "temperature": setup.temperature}
        return majority_voting_plugin.run("", question, client, setup.policy.name, request_config=config)[0]

    def runner(solve: Callable[[str], str]) -> Answerer:
        def one(problem: Problem) -> str | None:
            try:
                text = solve(problem.prompt)
            except FAILURES as error:
                return Failed(f"{type(error).__name__}: {error}")
            # What failed inside comes back as a text.
            return Failed(text) if text.startswith("Error: ") else extract_answer(text)

        def answer(problems: Sequence[Problem]) -> list[str | None]:
            with ThreadPoolExecutor(CONNECTIONS) as threads:
                return list(threads.map(one, problems))

        return answer

    found = {"majority vote (plugin)": runner(vote)}
    if setup.temperature == OPTILLM_TEMPERATURE:
        found |= {"self-consistency": runner(consistency), "best-of-N": runner(best)}
    return found


def measure(answer: Answerer, problems: Sequence[Problem], check: Any, policy: Server, verifier: Server) -> Pass:
    policy.forget()
    verifier.forget()
    before, scored = policy.counts(), verifier.counts()
    start = time.perf_counter()
    answers = answer(problems)
    seconds = time.perf_counter() - start
    right = [
        not isinstance(found, Failed) and found is not None and bool(check(found, problem.gold))
        for found, problem in zip(answers, problems, strict=True)
    ]
    failures = tuple(str(found) for found in answers if isinstance(found, Failed))
    return Pass(
        seconds, tuple(right), failures, policy.counts().since(before), verifier.counts().since(scored)
    )  # fmt: skip


def row(passes: Sequence[Pass]) -> dict[str, Any]:
    """One line of the table: sums over rounds, tokens for each problem, the median round's seconds."""
    correct = np.array([c for p in passes for c in p.correct], dtype=float)

    def each(read: Callable[[Pass], int]) -> float:
        return round(sum(read(p) for p in passes) / len(correct), 1)

    return {
        "accuracy": round(float(correct.mean()), 4),
        "accuracy_interval": [round(x, 4) for x in Resamples.draw(len(correct)).interval(correct)],
        "generated_tokens": each(lambda p: p.policy.generated_tokens),
        "prompt_tokens": each(lambda p: p.policy.prompt_tokens),
        "computed_prompt_tokens": each(lambda p: p.policy.prompt_tokens - p.policy.cached_tokens),
        "sequences": each(lambda p: p.policy.sequences),
        "verifier_tokens": each(lambda p: p.verifier.prompt_tokens),
        "seconds": round(statistics.median(p.seconds for p in passes), 2),
        "failed": sum(len(p.failures) for p in passes),
        "first_failure": next((f[:300] for p in passes for f in p.failures), None),
    }


def run(options: argparse.Namespace) -> dict[tuple[str, str], list[Pass]]:
    """The passes of each (tool, method), one a round, in turn, every other round backwards."""
    task = load_task("lab", count=options.problems * options.rounds, split="held_out", seed=7)
    python = Path(__file__).parents[1] / ".venv-vllm" / "bin" / "python"
    if not python.exists():
        raise SystemExit("needs a vLLM: sh scripts/vllm_env.sh")
    with (
        tempfile.TemporaryDirectory() as logs,
        servers(python, Path(logs), options.model, "lab-prm") as (policy, scorer),
    ):
        verifier = load_verifier(f"{scorer.url}?tokenizer={scorer.folder}&concurrency={CONNECTIONS}")
        setup = Setup(policy, verifier, options.n, options.temperature, task.problems[0].max_tokens)
        made = {"planner": ours(setup), "its_hub": its_hub(setup), "optillm": optillm(setup)}
        turns = [
            (tool, method) for method in (*METHODS, "majority vote (plugin)") for tool in TOOLS if method in made[tool]
        ]
        for tool, method in turns:  # connections, tokenizers and kernels are warm for all
            made[tool][method](task.problems[:2])
        passes: dict[tuple[str, str], list[Pass]] = {turn: [] for turn in turns}
        for number in range(options.rounds):
            problems = task.problems[number * options.problems : (number + 1) * options.problems]
            for tool, method in turns if number % 2 == 0 else turns[::-1]:
                passes[tool, method].append(measure(made[tool][method], problems, task.check, policy, scorer))
    return passes


def lines(rows: Mapping[tuple[str, str], Mapping[str, Any]], temperature: float) -> list[str]:
    """The table for a terminal, what cannot be done included."""
    shown = [
        f"{'':8} {'':22} accuracy             | a problem: generated, prompt (computed) tokens, sequences, verifier's "
        "tokens | seconds"
    ]
    for method in (*METHODS, "majority vote (plugin)"):
        for tool in TOOLS:
            note = NOTES.get((tool, method), "")
            found = rows.get((tool, method))
            if found is None:
                if note:
                    why = note if "has none" in note else f"not at temperature {temperature:g}: {note}"
                    shown.append(f"{tool:8} {method:22} {why}")
                continue
            low, high = found["accuracy_interval"]
            cells = [
                f"{tool:8} {method:22} {found['accuracy']:.3f} [{low:.3f}, {high:.3f}]",
                f"{found['generated_tokens']:7.1f} {found['prompt_tokens']:8.1f} "
                f"({found['computed_prompt_tokens']:.1f}) {found['sequences']:6.1f} {found['verifier_tokens']:8.1f}",
                f"{found['seconds']:6.2f}",
            ]
            if found["failed"]:
                cells.append(f"{found['failed']} failed: {found['first_failure']}")
            shown.append(" | ".join(cells))
            if note:
                shown.append(f"{'':31} ({note})")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="lab-small")
    parser.add_argument("--problems", type=int, default=64, help="in each round")
    parser.add_argument("--n", type=int, default=8, help=f"samples or paths, a multiple of {EXPANSIONS}")
    parser.add_argument("--temperature", type=float, default=OPTILLM_TEMPERATURE)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.n < EXPANSIONS or options.n % EXPANSIONS:
        parser.error(f"--n {options.n}: expected a multiple of {EXPANSIONS}")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="its_hub")
    logging.disable(logging.ERROR)  # the peers report each request
    rows = {turn: row(passes) for turn, passes in run(options).items()}
    versions = {name: version(name) for name in ("its_hub", "optillm")}
    text = "\n".join(lines(rows, options.temperature))
    heading = (
        f"{options.model}, N {options.n}, temperature {options.temperature:g}, {options.rounds} rounds; {versions}"
    )
    if options.json:
        table = [{"tool": tool, "method": method, **found} for (tool, method), found in rows.items()]
        notes = [{"tool": tool, "method": method, "note": note} for (tool, method), note in NOTES.items()]
        found = {"versions": versions, "rows": table, "notes": notes, "table": f"{heading}\n{text}"}
        print(json.dumps({**vars(options), **found}))
        return
    print(f"{heading}\n{text}")


if __name__ == "__main__":
    main()
