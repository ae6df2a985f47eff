"""The table of published models against transformers' own classes on the meta device, and against published sizes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from planner.cli.models import register
from planner.errors import InputError
from planner.models.published import PublishedModel, describe_models, find_published, published_models

MODELS = published_models()


def _built(model: PublishedModel) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**model.config)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_class_and_of_the_publisher(name: str) -> None:
    model = MODELS[name]
    # DeepSeek's routers keep 256 biases each that are no parameters for torch: 15 thousand of 671 billion.
    assert model.shape.parameters == pytest.approx(model.parameters, rel=1e-7)
    assert model.shape.active_parameters == pytest.approx(model.active_parameters, rel=0.02)
    assert _built(model).num_parameters() == model.shape.parameters


def test_the_table_covers_what_is_promised() -> None:
    kinds = {model.shape.model_type for model in MODELS.values()}
    assert kinds == {"llama", "qwen2", "mistral", "mixtral", "gemma2", "gemma3_text", "deepseek_v3"}
    ids = [each for model in MODELS.values() for each in model.ids]
    assert len(ids) == len(set(ids))
    assert {name for name, model in MODELS.items() if model.thinking} >= {"R1-Distill-Qwen-7B", "DeepSeek-R1"}
    assert MODELS["Llama-3.2-1B"].shape.tied_embeddings
    assert MODELS["Qwen2.5-7B"].shape.kv_heads == 4
    assert MODELS["Mistral-7B-v0.1"].shape.windows == (4096,) * 32
    assert MODELS["Gemma-3-1B"].shape.windows.count(None) == 4


def test_flops_written_out() -> None:
    """METHODS section 4 by hand, for the four kinds of attention."""
    llama = MODELS["Llama-3.1-8B"].shape
    layer = 4096 * 4096 * 2 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    assert llama.decode_flops(999, 1) == 2 * 32 * layer + 4 * 32 * 4096 * 1000 + 2 * 4096 * 128256
    window = MODELS["Mistral-7B-v0.1"].shape
    assert window.attention_flops(1, 20_000) == 4 * 32 * 4096 * 4096
    gemma = MODELS["Gemma-2-9B"].shape
    assert gemma.attention_flops(1, 8_000) == 4 * 16 * 256 * (21 * 4096 + 21 * 8001)
    deepseek = MODELS["DeepSeek-V3"].shape
    attention = 7168 * 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 * 128 * 256 + 128 * 128 * 7168
    experts = 3 * 7168 * 2048 * 9 + 7168 * 256
    weights = 61 * attention + 3 * 3 * 7168 * 18432 + 58 * experts
    assert deepseek.decode_flops(999, 1) == 2 * weights + 61 * 2 * 128 * 320 * 1000 + 2 * 7168 * 129280


def test_names_and_hub_ids_find_a_model_and_others_are_told_the_nearest() -> None:
    assert find_published("meta-llama/llama-3.1-8b-instruct") is MODELS["Llama-3.1-8B"]
    assert find_published("qwen2.5-7b") is MODELS["Qwen2.5-7B"]
    with pytest.raises(InputError, match=r"`model` = 'Llama-3\.1-9B'.*Llama-3\.1-8B.*planner models"):
        find_published("Llama-3.1-9B")
    with pytest.raises(InputError, match="DeepSeek-V3"):
        find_published("xyzzy")


def test_the_command_lists_them() -> None:
    app = Typer()
    register(app)
    rows = json.loads(CliRunner().invoke(app, ["--json"]).stdout)
    assert rows == json.loads(json.dumps(describe_models()))
    (row,) = (row for row in rows if row["name"] == "Mixtral-8x7B")
    assert (row["parameters"], round(row["active_parameters"] / 1e9, 1)) == (46_702_792_704, 12.9)
    assert row["flops_per_token"]["1000"] > row["flops_per_token"]["1"] > 2 * 12e9
    (short,) = (row for row in rows if row["name"] == "Qwen2.5-Math-7B")
    assert list(short["flops_per_token"]) == ["1", "1000"], "no cost beyond the model's context"
    assert "DeepSeek-V3" in CliRunner().invoke(app, []).stdout
