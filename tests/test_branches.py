"""Attention over shared prefixes is attention over copies of them."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from planner.models.keyvalues import Decoder, padded

PREFIXES = [[5, 6, 7, 8, 9, 10, 11], [12], [13, 14, 15]]
OWNERS = [2, 0, 0, 2, 2, 1]  # uneven, and not in order


@pytest.fixture(scope="module", params=[4, 2], ids=["as many key-value heads", "grouped queries"])
def model(request):
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
            num_key_value_heads=request.param, head_dim=8, max_position_embeddings=256, attn_implementation="sdpa",
        )
    ).eval()  # fmt: skip


def start(decoder):
    ids, counts = padded(PREFIXES, decoder.device)
    cache = decoder.start([None] * len(PREFIXES), [0] * len(PREFIXES))
    decoder.advance(ids, counts, cache)
    return cache


@torch.inference_mode()
@pytest.mark.parametrize("new", [1, 3])
def test_it_is_the_same_as_with_copies(model, new):
    decoder = Decoder(model)
    tokens = torch.randint(0, 32, (60, len(OWNERS), new), generator=torch.Generator().manual_seed(1))
    found = []
    for shared in (False, True):
        cache, hidden, rows = start(decoder), [], torch.arange(len(OWNERS))
        owners = torch.tensor(OWNERS)
        cache = decoder.branch(cache, owners) if shared else cache.take(owners)
        assert (cache.branches is not None) == shared
        for step, ids in enumerate(tokens):  # longer than the room that is added at a time
            hidden.append(decoder.advance(ids[rows], torch.full((len(rows),), new), cache))
            if step == 2:  # prefix 0 loses its rows
                keep = torch.tensor([0, 3, 5])
                cache, rows = cache.take(keep), rows[keep]
        found.append((hidden, [cache.row(place, 40) for place in range(len(rows))], cache.row(1, 2)))
    for mine, copied in zip(found[1][0], found[0][0], strict=True):
        torch.testing.assert_close(mine, copied, atol=1e-5, rtol=0)
    for mine, copied in zip(found[1][1], found[0][1], strict=True):
        torch.testing.assert_close(mine, copied, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1][2], found[0][2], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_model_that_calls_its_attention_by_itself_gets_copies(model, monkeypatch):
    monkeypatch.setattr(model, "_can_set_attn_implementation", lambda: False)
    decoder = Decoder(model)
    assert decoder.branch(start(decoder), torch.tensor(OWNERS)).branches is None
