"""Train one policy model: next-token loss on worked solutions, never the same problem twice.

python -m planner.models.lab.train_policy --name lab-medium --minutes 42
"""

from __future__ import annotations

import argparse
import random
import time
from functools import lru_cache
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from planner.models.lab.data import Batch, batches_of, chunk_of_problems, encode_solved, training_prompts
from planner.models.lab.grow import grow
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
from planner.models.lab.shapes import SHAPES, load_model, new_model
from planner.models.lab.tokenizer import train_tokenizer
from planner.tasks.lab import training_stream

__all__ = ["lab_tokenizer", "solution_loss", "train_policy"]

BATCH_TOKENS = 1536
ACCUMULATE = 2
"""Batches a step: lengths, and with them families, differ between batches, so one alone would be one-sided."""


@lru_cache(maxsize=1)
def lab_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of every laboratory model, learned from the training stream."""
    problems = list(islice(training_stream(999), 6000))
    prompts = training_prompts(problems, 0.1, random.Random(999))
    return train_tokenizer(f"{prompt}\n{p.solution}" for prompt, p in zip(prompts, problems, strict=True))


def solution_loss(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    """Summed cross-entropy (nats) over the batch's solution tokens; logits are computed only there."""
    ids, mask = batch.ids.to(model.device), batch.mask.to(model.device)
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][mask]
        logits = model.lm_head(hidden)
    return functional.cross_entropy(logits.float(), ids[:, 1:][mask], reduction="sum")


def train_policy(
    name: str,
    runs: Path,
    limit: Limit,
    *,
    revised: float = 0.1,
    seed: int = 1,
    checkpoint_minutes: float = 3.0,
    tell: Tell = say,
) -> Position:
    """Train the model called `name` under `runs/name`, resuming from its checkpoint; exports it there too.

    `revised` is the share of problems that show earlier attempts. A finished run goes on under a longer `limit`.
    A shape that is grown from another model needs that one's run in `runs`. Raises InputError where it is not there.
    """
    torch.manual_seed(seed)
    shape, tokenizer = SHAPES[name], lab_tokenizer()
    model = new_model(shape)
    if shape.grown_from is not None:
        grow(load_model(runs / shape.grown_from / "export"), model)
    model.to(training_device())  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=shape.learning_rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    checkpoint = runs / name / "checkpoint.pt"
    position = load_checkpoint(checkpoint, model, optimizer)
    started = saved = told = time.monotonic()
    began_at, seconds_before = limit.share(position), position.seconds
    loss_sum, token_sum = 0.0, 0
    while limit.share(position) < 1.0:
        rng = random.Random(seed * 1_000_003 + position.chunk)
        problems = chunk_of_problems(seed, position.chunk)
        batches = batches_of(
            encode_solved(tokenizer, problems, training_prompts(problems, revised, rng)), BATCH_TOKENS, rng
        )
        for first in range(0, len(batches), ACCUMULATE):
            group = batches[first : first + ACCUMULATE]
            counted = sum(int(batch.mask.sum()) for batch in group)
            for batch in group:
                loss = solution_loss(model, batch)
                (loss / counted).backward()
                loss_sum += float(loss.detach())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for parameters in optimizer.param_groups:
                parameters["lr"] = scheduled(shape.learning_rate, limit.share(position))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            token_sum += counted
            position.step += 1
            position.tokens += sum(batch.ids.numel() for batch in group)
            position.seconds = seconds_before + time.monotonic() - started
            if limit.share(position) >= 1.0:
                break
        position.chunk += 1
        now = time.monotonic()
        if now - told > 15 or limit.share(position) >= 1.0:
            share = limit.share(position)
            tell(share, report_line(name, position, share, started, began_at, loss_sum / token_sum))
            loss_sum, token_sum, told = 0.0, 0, now
        if now - saved > checkpoint_minutes * 60 or limit.share(position) >= 1.0:
            # Exported first: a run that counts as finished has its model beside it.
            export(model, tokenizer, runs / name / "export")
            save_checkpoint(checkpoint, model, optimizer, position)
            saved = now
    return position


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a checkpoint that transformers and vLLM load unchanged."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", choices=list(SHAPES), required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/lab"))
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--tokens", type=float, default=float("inf"))
    parser.add_argument("--revised", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    limit = Limit(tokens=args.tokens, minutes=args.minutes)
    train_policy(args.name, args.runs, limit, revised=args.revised, seed=args.seed)


if __name__ == "__main__":
    main()
