"""Train the process reward model on exact step labels, starting from a policy model's weights.

python -m planner.models.lab.train_prm --minutes 30
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter, functional
from transformers import LlamaForCausalLM

from planner.models.lab.deepen import EXTRA_LAYERS, judge_on
from planner.models.lab.prm_data import CORRUPTED_PROBLEMS, SAMPLED_PROBLEMS, prm_batches, round_of_attempts
from planner.models.lab.progress import (
    Limit,
    Position,
    Tell,
    load_checkpoint,
    report_line,
    save_checkpoint,
    say,
    scheduled,
    training_device,
)
from planner.models.lab.shapes import load_model
from planner.models.lab.steps import UNLABELLED, Attempt, encode_attempts
from planner.models.lab.tokenizer import MINUS, PLUS, load_tokenizer
from planner.models.lab.train_policy import export
from planner.tasks.lab import STEP_SEPARATOR, worked_problems

__all__ = ["prm_losses", "train_prm"]

BATCH_TOKENS = 2048
ACCUMULATE = 1
TOKEN_WEIGHT = 0.5


def prm_losses(model: LlamaForCausalLM, ids: Tensor, steps: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropies (nats) over `<step>` tags, and over tokens up to the first wrong one (wrong ones count as
    much as right ones, being rare).

    The judgement at tokens is a help for training only: it shows where in a step the error is.
    """
    with torch.autocast(ids.device.type, dtype=torch.bfloat16):
        # Cut off from the embedding, so that gradients end where the frozen layers do.
        embedded = model.model.embed_tokens(ids).detach()
        hidden: Tensor = model.model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    hidden, signs = hidden.float(), model.lm_head.weight[[MINUS, PLUS]]

    def judged(labels: Tensor, chosen: Tensor) -> Tensor:
        if not bool(chosen.any()):
            return hidden.sum() * 0.0
        loss: Tensor = functional.cross_entropy(hidden[chosen] @ signs.T, labels[chosen])
        return loss

    on_tokens = (judged(tokens, tokens == 1) + judged(tokens, tokens == 0)) / 2
    return judged(steps, steps != UNLABELLED), on_tokens


def trained(model: LlamaForCausalLM) -> list[Parameter]:
    """What learns: the layers that were put on top, the last norm and the embedding (as the read-out); freezes the
    rest, so that what the policy model expects stays what it was."""
    model.requires_grad_(False)
    learning = [*model.model.layers[-EXTRA_LAYERS:].parameters(), *model.model.norm.parameters(), model.lm_head.weight]
    for parameter in learning:
        parameter.requires_grad_(True)
    return learning


def train_prm(
    start: Path,
    policies: Mapping[str, Path],
    runs: Path,
    limit: Limit,
    *,
    name: str,
    learning_rate: float,
    seed: int = 1,
    sampled: int = SAMPLED_PROBLEMS,
    corrupted: int = CORRUPTED_PROBLEMS,
    checkpoint_minutes: float = 3.0,
    tell: Tell = say,
) -> Position:
    """Train under `runs/name` from the weights in `start`; `policies` (folders by name) write the attempts.

    `sampled` and `corrupted` are the problems of a round (see `round_of_attempts`). A finished run goes on under a
    longer `limit`.
    """
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(start)
    examples = [
        one.ids for one in encode_attempts(tokenizer, [Attempt(p, p.steps) for p in worked_problems("train", 96)])
    ]
    device = training_device()
    model = judge_on(load_model(start), tokenizer.encode(STEP_SEPARATOR)[0], examples)
    model.to(device)  # type: ignore[arg-type]
    # No decay: the layers that are trained begin with weights that mean something, and the embedding is the read-out.
    learning = trained(model)
    optimizer = torch.optim.AdamW(learning, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    checkpoint = runs / name / "checkpoint.pt"
    position = load_checkpoint(checkpoint, model, optimizer)
    started = saved = told = time.monotonic()
    began_at, seconds_before = limit.share(position), position.seconds
    sums, steps_done = torch.zeros(2), 0
    sampling = 0.0
    while limit.share(position) < 1.0:
        before = time.monotonic()
        # Loaded every round: a policy that is still in training sends its newest weights.
        writers = {key: load_model(folder) for key, folder in policies.items()}
        attempts = round_of_attempts(writers, tokenizer, seed, position.chunk, sampled=sampled, corrupted=corrupted)
        sampling += time.monotonic() - before
        rng = random.Random(seed * 1_000_003 + position.chunk)
        batches = prm_batches(encode_attempts(tokenizer, attempts), BATCH_TOKENS, rng)
        for first in range(0, len(batches), ACCUMULATE):
            group = batches[first : first + ACCUMULATE]
            for ids, steps, tokens in ([tensor.to(device) for tensor in batch] for batch in group):
                on_steps, on_tokens = prm_losses(model, ids, steps, tokens)
                ((on_steps + TOKEN_WEIGHT * on_tokens) / len(group)).backward()
                sums += torch.stack((on_steps, on_tokens)).detach().cpu()
                steps_done += 1
                position.tokens += ids.numel()
            torch.nn.utils.clip_grad_norm_(learning, 1.0)
            for parameters in optimizer.param_groups:
                parameters["lr"] = scheduled(learning_rate, limit.share(position))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            position.step += 1
            position.seconds = seconds_before + time.monotonic() - started
            if limit.share(position) >= 1.0:
                break
        position.chunk += 1
        now = time.monotonic()
        if now - told > 20 or limit.share(position) >= 1.0:
            means = (sums / steps_done).tolist()
            share = limit.share(position)
            line = report_line(name, position, share, started, began_at, means[0])
            tell(share, f"{line}, tokens' {means[1]:.4f}, sampling {sampling:.0f} s")
            sums, steps_done, told = torch.zeros(2), 0, now
        if now - saved > checkpoint_minutes * 60 or limit.share(position) >= 1.0:
            # Exported first: a run that counts as finished has its model beside it.
            export(model, tokenizer, runs / name / "export")
            save_checkpoint(checkpoint, model, optimizer, position)
            saved = now
    return position


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/lab"))
    parser.add_argument("--start", default="lab-large")
    parser.add_argument("--writers", nargs="+", default=["lab-small", "lab-medium", "lab-large"])
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--tokens", type=float, default=float("inf"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="lab-prm")
    parser.add_argument("--sampled", type=int, default=SAMPLED_PROBLEMS)
    parser.add_argument("--corrupted", type=int, default=CORRUPTED_PROBLEMS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    policies = {name: args.runs / name / "export" for name in args.writers}
    limit = Limit(tokens=args.tokens, minutes=args.minutes)
    mix = {"sampled": args.sampled, "corrupted": args.corrupted}
    start, rate = args.runs / args.start / "export", args.learning_rate
    train_prm(start, policies, args.runs, limit, name=args.name, learning_rate=rate, seed=args.seed, **mix)


if __name__ == "__main__":
    main()
