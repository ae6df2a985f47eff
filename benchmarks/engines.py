"""Tokens per second of a search by steps on vLLM, beside the same number of answers generated whole by it.

    .venv-vllm/bin/python benchmarks/engines.py [--model lab-small] [--problems 64] [--peers] [--json]

`whole`: best-of-N. `steps`: greedy answers, each step a request of its own that continues the one before, against the
same answers drawn whole (`whole_greedy`): the same tokens. `search`: beam search, `search with verifier` with the one
in this process; in all other passes scores are remembered, so that its time stands apart. Passes take turns, and ratios
within a round are what to read; beside them stands where the rest went: more requests, and prompt tokens that are
computed again where no whole block of them was kept. With --peers, `benchmarks/peers.py` follows in the environment of
its own that `scripts/peers_env.sh` makes, with as many problems in flight, and one report holds both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from planner.core import GenerationRequest, Problem, Sampling, ScoreRequest, StepScores
from planner.models.memo import RememberingVerifier
from planner.models.protocols import Verifier, VerifierInfo
from planner.models.shipped import load_verifier, shipped
from planner.models.vllm_engine import VllmEngine
from planner.runtime.driver import Job, Run, run_flows
from planner.strategies import BeamSearch, BestOfN, Strategy
from planner.tasks.lab import worked_problems

SEPARATOR = "\n"


@dataclass(frozen=True, slots=True)
class Measured:
    """One pass. `computed_prompt_tokens` are those that no cache had."""

    seconds: float
    cpu_seconds: float
    requests: int
    generated_tokens: int
    computed_prompt_tokens: int
    verifier_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.generated_tokens / self.seconds

    @property
    def tokens_per_cpu_second(self) -> float:
        return self.generated_tokens / self.cpu_seconds


class TimedVerifier:
    """Passes everything on; `seconds` were spent in scoring."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier, self.seconds = verifier, 0.0

    @property
    def info(self) -> VerifierInfo:
        return self._verifier.info

    def score(self, requests: Sequence[ScoreRequest]) -> list[StepScores]:
        start = time.perf_counter()
        try:
            return self._verifier.score(requests)
        finally:
            self.seconds += time.perf_counter() - start

    def count_tokens(self, prompt: str, steps: Sequence[str]) -> int:
        return self._verifier.count_tokens(prompt, steps)

    def reset(self) -> None:
        self._verifier.reset()


def flows(engine: VllmEngine, verifier: Verifier, problems: Sequence[Problem], spec: Strategy) -> Measured:
    """All problems at once through the driver that everything else goes through."""
    timed = TimedVerifier(verifier)
    engine.reset()
    start, cpu = time.perf_counter(), time.process_time()
    jobs = [Job(problem, spec) for problem in problems]
    runs: list[Run] = run_flows(jobs, {"m": engine}, timed, default_policy_model="m")
    return Measured(
        seconds=time.perf_counter() - start,
        cpu_seconds=time.process_time() - cpu,
        requests=sum(run.usage.requests for run in runs),
        generated_tokens=sum(run.usage.generated_tokens for run in runs),
        computed_prompt_tokens=sum(run.usage.computed_prompt_tokens for run in runs),
        verifier_seconds=timed.seconds,
    )


def answers(engine: VllmEngine, problems: Sequence[Problem], stop: tuple[str, ...]) -> Measured:
    """Greedy answers of all problems at once, step by step where there is a stop string."""
    engine.reset()
    sampling = Sampling(temperature=0.0, max_tokens=problems[0].max_tokens, stop=stop)
    start, cpu = time.perf_counter(), time.process_time()
    requests = tokens = computed = 0
    waiting = [GenerationRequest(prompt=problem.prompt, sampling=sampling) for problem in problems]
    under_way = {}
    while waiting or under_way:
        for request, pending in zip(waiting, engine.submit(waiting), strict=True):
            under_way[pending.future] = request, pending
        requests, waiting = requests + len(waiting), []
        for future in wait(under_way, return_when=FIRST_COMPLETED).done:
            request, pending = under_way.pop(future)
            made = pending.result()
            tokens, computed = tokens + made.generated_tokens, computed + made.prompt_tokens - made.cached_tokens
            if made.finish == "stop":
                waiting.append(replace(request, prefix=request.prefix + made.text))
    return Measured(time.perf_counter() - start, time.process_time() - cpu, requests, tokens, computed)


def run(model: str, count: int, n: int, repeats: int) -> tuple[Measured, list[dict[str, Measured]]]:
    """(the search with its verifier, `repeats` rounds of all other passes one after the other)."""
    engine = VllmEngine(f"vllm:{shipped('models', f'lab/{model}')}?dtype=float32&enforce_eager=true")
    verifier = RememberingVerifier(load_verifier("lab:lab-prm"))
    problems = [
        Problem(problem_id=str(i), prompt=p.question, step_separator=SEPARATOR, max_tokens=256)
        for i, p in enumerate(worked_problems("profile", count, seed=7))
    ]
    search = BeamSearch(n=n, expansions=2, max_steps=24, max_step_tokens=48)
    flows(engine, verifier, problems, BestOfN(n=n))  # warms up, and has its answers scored
    scored = flows(engine, verifier, problems, search)
    rounds = [
        {
            "whole": flows(engine, verifier, problems, BestOfN(n=n)),
            "search": flows(engine, verifier, problems, search),
            "whole_greedy": answers(engine, problems, ()),
            "steps": answers(engine, problems, (SEPARATOR,)),
        }
        for _ in range(repeats)
    ]
    engine.close()
    return scored, rounds


def ratios(rounds: Sequence[Mapping[str, Measured]]) -> dict[str, float]:
    """Medians over rounds: tokens per second against those of the whole answers, and per second of this process's CPU,
    which other work on the machine does not touch."""
    pairs = {"search": "whole", "steps": "whole_greedy"}
    found = {}
    for name, whole in pairs.items():
        wall = [r[name].tokens_per_second / r[whole].tokens_per_second for r in rounds]
        cpu = [r[name].tokens_per_cpu_second / r[whole].tokens_per_cpu_second for r in rounds]
        found |= {f"{name}_ratio": statistics.median(wall), f"{name}_cpu_ratio": statistics.median(cpu)}
    return found


def peers(model: str, problems: int, rounds: int) -> dict[str, Any]:
    """What `benchmarks/peers.py --json` prints; its table goes to standard error."""
    script = Path(__file__).with_name("peers.py")
    python = script.parents[1] / ".venv-peers" / "bin" / "python"
    if not python.exists():
        raise SystemExit("--peers needs their environment: sh scripts/peers_env.sh")
    options = ["--model", model, "--problems", str(problems), "--rounds", str(rounds), "--json"]
    made = subprocess.run([python, script, *options], stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    found: dict[str, Any] = json.loads(made.stdout.splitlines()[-1])
    print(found["table"], file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="lab-small")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="its_hub and optillm beside it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    scored, rounds = run(options.model, options.problems, options.n, options.repeats)
    middle = {
        name: sorted((r[name] for r in rounds), key=lambda m: m.tokens_per_second)[len(rounds) // 2]
        for name in rounds[0]
    }
    rows = {
        name: asdict(m) | {"tokens_per_second": round(m.tokens_per_second)}
        for name, m in {"search with verifier": scored, **middle}.items()
    }
    if options.json:
        beside = {"peers": peers(options.model, options.problems, options.repeats)} if options.peers else {}
        print(json.dumps({"model": options.model, "passes": rows, **ratios(rounds), **beside}))
        return
    for name, row in rows.items():
        print(
            f"{name:>20}: {row['tokens_per_second']:6} tokens/s; {row['requests']} requests for "
            f"{row['generated_tokens']} tokens, {row['computed_prompt_tokens']} prompt tokens computed, verifier "
            f"{row['verifier_seconds']:.1f} of {row['seconds']:.1f} s"
        )
    for name, value in ratios(rounds).items():
        print(f"{name:>20}: {value:.2f}", flush=True)
    if options.peers:
        peers(options.model, options.problems, options.repeats)


if __name__ == "__main__":
    main()
