"""Score attempts with the process reward model in plain batches, for measuring; profiling uses the verifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from planner.models.lab.data import pad
from planner.models.lab.steps import Attempt, encode_attempts
from planner.models.lab.tokenizer import MINUS, PLUS, STEP

__all__ = ["step_scores"]

_BATCH = 64


@torch.inference_mode()
def step_scores(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, attempts: Sequence[Attempt]
) -> list[list[float]]:
    """P(+) of every step of every attempt, none for one without steps. Equal attempts are read once."""
    scores = {attempt: list[float]() for attempt in attempts}
    kept = [attempt for attempt in scores if attempt.steps]
    encoded = dict(zip(kept, encode_attempts(tokenizer, kept), strict=True))
    kept.sort(key=lambda attempt: len(encoded[attempt].ids))
    signs = model.lm_head.weight[[MINUS, PLUS]]
    for first in range(0, len(kept), _BATCH):
        group = kept[first : first + _BATCH]
        ids = pad([encoded[attempt].ids for attempt in group])
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        for row, attempt in enumerate(group):
            chances = (hidden[row, ids[row] == STEP] @ signs.T).softmax(-1)[:, 1]
            scores[attempt] = chances.tolist()
    return [scores[attempt] for attempt in attempts]
