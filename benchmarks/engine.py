"""Tokens per second of the transformers engine beside transformers' own `generate`, same model, prompts and batch.

    python benchmarks/engine.py [--json]

Ratios within one run are what to read: `whole_ratio` for whole answers, `steps_ratio` for the same answers drawn step
by step (each step a request of its own, with kept prefixes) against drawn whole.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from planner.core import GenerationRequest, Sampling
from planner.models.shipped import shipped
from planner.models.transformers_engine import TransformersEngine
from planner.tasks.lab import worked_problems

SEPARATOR = "\n"


def whole(engine: TransformersEngine, prompts: list[str], max_tokens: int) -> int:
    engine.reset()
    sampling = Sampling(temperature=0.8, max_tokens=max_tokens)
    made = engine.generate([GenerationRequest(prompt=p, sampling=sampling, index=i) for i, p in enumerate(prompts)])
    return sum(completion.generated_tokens for completion in made)


def steps(engine: TransformersEngine, prompts: list[str], max_tokens: int) -> int:
    engine.reset()
    sampling = Sampling(temperature=0.8, max_tokens=max_tokens, stop=(SEPARATOR,))
    texts, going, tokens = [""] * len(prompts), list(range(len(prompts))), 0
    for _ in range(24):
        requests = [GenerationRequest(prompt=prompts[i], prefix=texts[i], sampling=sampling, index=i) for i in going]
        made = engine.generate(requests)
        tokens += sum(completion.generated_tokens for completion in made)
        for i, completion in zip(going, made, strict=True):
            texts[i] += completion.text
        going = [i for i, completion in zip(going, made, strict=True) if completion.finish == "stop"]
        if not going:
            break
    return tokens


def plain_generate(name: str, prompts: list[str], max_tokens: int) -> Callable[[], int]:
    folder = shipped("models", f"lab/{name}")
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": p}], add_generation_prompt=True, tokenize=False)
        for p in prompts
    ]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)

    def run() -> int:
        with torch.inference_mode():
            made = model.generate(**inputs, do_sample=True, temperature=0.8, max_new_tokens=max_tokens)
        new = made[:, inputs["input_ids"].shape[1] :]
        return int((new != tokenizer.pad_token_id).sum())

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lab-medium")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    prompts = [problem.question for problem in worked_problems("profile", args.batch)]
    engine = TransformersEngine(shipped("models", f"lab/{args.model}"), device="cpu")
    runs: dict[str, Callable[[], int]] = {
        "engine_whole": lambda: whole(engine, prompts, args.max_tokens),
        "engine_steps": lambda: steps(engine, prompts, args.max_tokens),
        "transformers_generate": plain_generate(args.model, prompts, args.max_tokens),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(args.repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            tokens = run()
            if repeat:  # the first round warms up
                rates[name].append(tokens / (time.perf_counter() - started))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    result = {
        "model": args.model,
        "batch": args.batch,
        "threads": args.threads,
        "tokens_per_second": middle,
        "whole_ratio": middle["engine_whole"] / middle["transformers_generate"],
        "steps_ratio": middle["engine_steps"] / middle["engine_whole"],
    }
    if args.json:
        print(json.dumps(result))
        return
    for name, rate in middle.items():
        print(f"{name:24} {rate:8.0f} tokens/s")
    print(f"whole answers against transformers' generate: {result['whole_ratio']:.2f}x")
    print(f"step by step against whole: {result['steps_ratio']:.2f}x")


if __name__ == "__main__":
    main()
