"""The cost formula against torch's FLOP counter and real parameter counts, and its own laws."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from planner.errors import InputError
from planner.models.architectures import ARCHITECTURES
from planner.models.cost import ModelShape, sampling_cost, scoring_cost

_SIZES = {
    "vocab_size": 211,
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 24,  # six heads of 24 are wider than the hidden size: the two must not be confused
    "intermediate_size": 160,
    "max_position_embeddings": 256,
}
_MIXTURE = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 80,
}

_LATENT = {
    "num_key_value_heads": 6, "head_dim": 8, "kv_lora_rank": 20, "q_lora_rank": 28, "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8, "v_head_dim": 10, "n_routed_experts": 6, "n_shared_experts": 2, "num_experts_per_tok": 2,
    "moe_intermediate_size": 48, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1, "num_mtp_layers": 0,
}  # fmt: skip

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama without GQA": ("llama", {"num_key_value_heads": 6}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen2": ("qwen2", {}),
    "qwen2 tied, later layers slide": (
        "qwen2",
        {"tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2},
    ),
    "qwen3": ("qwen3", {}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral sliding": ("mistral", {"sliding_window": 16}),
    "mixtral": ("mixtral", {"num_local_experts": 6, "num_experts_per_tok": 2}),
    "qwen2_moe": ("qwen2_moe", _MIXTURE),
    "qwen2_moe, half the layers dense": ("qwen2_moe", {**_MIXTURE, "decoder_sparse_step": 2}),
    "qwen2_moe, first layer dense": ("qwen2_moe", {**_MIXTURE, "mlp_only_layers": [0]}),
    "gemma2 tied, every other layer slides": ("gemma2", {"sliding_window": 16, "tie_word_embeddings": True}),
    "gemma3 with biases, three of four slide": (
        "gemma3_text",
        {"sliding_window": 16, "layer_types": ["sliding_attention"] * 3 + ["full_attention"], "attention_bias": True},
    ),
    "deepseek_v3": ("deepseek_v3", _LATENT),
    "deepseek_v3, biases": ("deepseek_v3", _LATENT | {"attention_bias": True}),
    "deepseek_v2 without a query rank": ("deepseek_v2", _LATENT | {"q_lora_rank": None, "topk_method": "greedy"}),
    "qwen3_moe": ("qwen3_moe", {k: v for k, v in _MIXTURE.items() if not k.startswith("shared")}),
}


def _real(case: str) -> tuple[Any, ModelShape]:
    """(transformers config, our shape read from what that config writes)."""
    pytest.importorskip("transformers")
    from transformers import AutoConfig

    kind, more = CASES[case]
    config = AutoConfig.for_model(
        kind, **{**_SIZES, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False} | more
    )
    return config, ModelShape.from_config(json.loads(config.to_json_string()))


def _model(config: Any, device: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    # The counter sees neither fused attention nor grouped expert products.
    config._experts_implementation = "eager"
    with torch.device(device):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def _counted(run: Callable[[], object]) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("case", CASES)
def test_parameters_are_those_of_the_real_class(case: str) -> None:
    config, shape = _real(case)
    assert shape.parameters == _model(config, "meta").num_parameters()
    if shape.moe_layers:
        idle = shape.experts - shape.active_experts
        assert shape.parameters - shape.active_parameters == shape.moe_layers * idle * 3 * 96 * shape.expert_width
    else:
        assert shape.active_parameters == shape.parameters


@pytest.mark.parametrize("case", CASES)
def test_prefill_is_what_the_counter_sees(case: str) -> None:
    import torch

    config, shape = _real(case)
    model = _model(config, "cpu")
    ids = torch.randint(3, 211, (1, 48), generator=torch.Generator().manual_seed(1))
    for length, logits in ((48, 1), (48, 48), (7, 3)):
        counted = _counted(
            lambda length=length, logits=logits: model(
                input_ids=ids[:, :length], use_cache=False, logits_to_keep=logits
            )
        )
        assert counted == pytest.approx(shape.square_flops(length, logit_tokens=logits), rel=0.02)
    # A kept prefix: 12 new tokens see 36 kept ones (sliding layers keep less than the square says).
    if not any(shape.windows):
        cache = _cache_of(model, ids[:, :36])
        counted = _counted(
            lambda: model(input_ids=ids[:, 36:], use_cache=True, logits_to_keep=2, **{_cache_name(model): cache})
        )
        expected = shape.square_flops(12, 36, logit_tokens=2) + _expanded_again(shape, 36)
        assert counted == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("case", CASES)
def test_cached_decoding_is_what_the_counter_sees(case: str) -> None:
    import torch

    config, shape = _real(case)
    model = _model(config, "cpu")
    ids = torch.randint(3, 211, (1, 60), generator=torch.Generator().manual_seed(2))
    # 10 tokens of context and 40 steps: the windows of 16 fill on the way.
    cache, name = _cache_of(model, ids[:, :10]), _cache_name(model)
    each = [
        _counted(lambda at=at: model(input_ids=ids[:, at : at + 1], use_cache=True, **{name: cache}))
        for at in range(10, 50)
    ]
    for place, counted in enumerate(each):
        expected = shape.decode_flops(10 + place, 1) + _expanded_again(shape, 10 + place)
        assert counted == pytest.approx(expected, rel=0.02)
    if shape.latent is None:
        assert sum(each) == pytest.approx(shape.decode_flops(10, 40), rel=0.02)


def _expanded_again(shape: ModelShape, kept: int) -> int:
    """transformers keeps latents and projects all of them up in every pass; no engine that is used does, so no cost
    counts it."""
    latent = shape.latent
    if latent is None:
        return 0
    return shape.layers * 2 * kept * latent.key_value_rank * shape.heads * (latent.nope_dim + latent.value_dim)


def _cache_name(model: Any) -> str:
    """transformers 5 renamed the keyword; the old one warns there."""
    import inspect

    names = inspect.signature(model.forward).parameters
    return "cache" if "cache" in names else "past_key_values"


def _cache_of(model: Any, ids: Any) -> Any:
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=ids, use_cache=True, **{_cache_name(model): cache})
    return cache


@pytest.mark.parametrize("case", CASES)
def test_round_trip_keeps_every_figure(case: str) -> None:
    _, shape = _real(case)
    again = ModelShape.from_dict(json.loads(json.dumps(shape.to_dict())))
    assert again == shape
    assert again.decode_flops(100, 50) == shape.decode_flops(100, 50)


def _plain(kind: str = "llama", **more: object) -> ModelShape:
    return ModelShape.from_config({"model_type": kind, **_SIZES, **more})


def test_formula_by_hand() -> None:
    # METHODS section 4, written out: d 96, L 4, h 6, kv 2, dh 24, f 160, V 211.
    shape = _plain()
    per_token = 2 * 4 * (96 * 144 + 2 * 96 * 48 + 144 * 96 + 3 * 96 * 160)
    assert shape.flops_per_token == per_token
    assert shape.flops_per_logits == 2 * 96 * 211
    assert shape.decode_flops(30, 1) == per_token + 4 * 4 * 144 * 31 + 2 * 96 * 211
    assert shape.prefill_flops(3, logit_tokens=1) == 3 * per_token + 4 * 4 * 144 * (1 + 2 + 3) + 2 * 96 * 211
    assert shape.square_flops(3, 2, logit_tokens=0) == 3 * per_token + 4 * 4 * 144 * 3 * 5


def test_causal_attention_is_half_the_square_to_leading_order() -> None:
    shape = _plain()
    for length in (100, 1000, 10_000):
        square = shape.square_flops(length, logit_tokens=0) - shape.flops_per_token * length
        # sum of 1..T is T (T + 1) / 2
        assert shape.attention_flops(length) == pytest.approx(square / 2 * (1 + 1 / length))
    # After a prefix it lies halfway between the first and the last token's context.
    square = shape.square_flops(50, 400, logit_tokens=0) - shape.flops_per_token * 50
    assert shape.attention_flops(50, 400) / square == pytest.approx((400 + 25.5) / 450)


def test_pieces_add_up_to_the_whole() -> None:
    for shape in (_plain(), _plain("mistral", sliding_window=7)):
        whole = shape.prefill_flops(90, logit_tokens=90)
        parts = shape.prefill_flops(40, logit_tokens=40) + shape.prefill_flops(50, 40, logit_tokens=50)
        assert parts == pytest.approx(whole)
        assert shape.decode_flops(0, 90) == pytest.approx(whole)
        steps = sum(shape.decode_flops(t, 1) for t in range(90))
        assert steps == pytest.approx(whole)


def test_a_window_caps_the_context() -> None:
    full, sliding = _plain("mistral"), _plain("mistral", sliding_window=16)
    assert sliding.windows == (16,) * 4
    assert sliding.attention_flops(16) == full.attention_flops(16)
    assert sliding.attention_flops(1, 5000) == 4 * 4 * 144 * 16
    assert sliding.attention_flops(1000) == 4 * 4 * 144 * sum(min(t, 16) for t in range(1, 1001))
    mixed = _plain("qwen2", use_sliding_window=True, sliding_window=16, max_window_layers=3)
    assert mixed.windows == (None, None, None, 16)
    assert mixed.attention_flops(1, 5000) == 4 * 144 * (3 * 5001 + 16)


@pytest.mark.parametrize(
    ("kind", "more", "windows"),
    [
        ("llama", {"sliding_window": 8}, (None,) * 4),
        ("qwen2", {"sliding_window": 8}, (None,) * 4),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": False, "max_window_layers": 0}, (None,) * 4),
        ("mistral", {"sliding_window": None}, (None,) * 4),
        (
            "qwen3",
            {
                "sliding_window": 8,
                "use_sliding_window": True,
                "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
            },
            (None, 8, None, 8),
        ),
    ],
)
def test_which_layers_slide(kind: str, more: dict[str, Any], windows: tuple[int | None, ...]) -> None:
    assert _plain(kind, **more).windows == windows


def test_gemmas_rules_where_a_config_leaves_them_out() -> None:
    alternating = _plain("gemma2", num_hidden_layers=5)
    assert alternating.windows == (4096, None, 4096, None, 4096)
    assert alternating.tied_embeddings
    assert _plain("gemma2", sliding_window=None).windows == (None,) * 4
    sixth = _plain("gemma3_text", num_hidden_layers=7, sliding_window=512)
    assert sixth.windows == (512,) * 5 + (None, 512)
    assert _plain("gemma3_text", sliding_window=512, sliding_window_pattern=2).windows == (512, None, 512, None)


def test_of_a_model_that_sees_pictures_the_language_model_is_counted() -> None:
    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}
    shape = ModelShape.from_config(
        {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152}}
    )
    assert (shape.model_type, shape.heads, shape.kv_heads, shape.head_dim) == ("gemma3_text", 8, 4, 256)
    with pytest.raises(InputError, match=r"text_config.*hidden_size"):
        ModelShape.from_config({"model_type": "gemma3", "text_config": {}})
    with pytest.raises(InputError, match="model_type"):
        ModelShape.from_config({"model_type": "gemma3"})


def test_latent_attention_by_hand() -> None:
    """METHODS section 4: its own down- and up-projections in place of q, k and v."""
    shape = _plain("deepseek_v3", **_LATENT, num_hidden_layers=1)
    attention = 96 * 28 + 28 * 6 * 20 + 96 * (20 + 8) + 20 * 6 * (12 + 10) + 6 * 10 * 96
    assert shape.flops_per_token == 2 * (attention + 3 * 96 * 160)
    assert shape.attention_flops(1, 99) == 2 * 6 * (20 + 10) * 100
    direct = _plain("deepseek_v3", **_LATENT | {"q_lora_rank": None}, num_hidden_layers=1)
    assert direct.flops_per_token - shape.flops_per_token == 2 * (96 * 6 * 20 - 96 * 28 - 28 * 6 * 20)
    with pytest.raises(InputError, match="kv_lora_rank"):
        _plain("deepseek_v3", **_LATENT | {"kv_lora_rank": None})


def test_2nd_counts_tied_embeddings_once_and_active_experts_only() -> None:
    tied, untied = _plain(tie_word_embeddings=True), _plain()
    assert untied.parameters - tied.parameters == 211 * 96
    assert tied.flops_2nd(1000) == 2000.0 * tied.parameters
    mixture = _plain("mixtral", num_local_experts=6, num_experts_per_tok=2)
    assert mixture.flops_2nd(1.0) == 2.0 * mixture.active_parameters
    assert mixture.active_parameters < mixture.parameters
    # At short contexts the two accounts differ by the input embedding, the norms and the attention only.
    counted = untied.decode_flops(0, 1)
    assert untied.flops_2nd(1) == pytest.approx(counted + 2 * 211 * 96, rel=0.02)


def test_arrays_broadcast_and_agree_with_numbers() -> None:
    shape = _plain("mistral", sliding_window=16)
    contexts, generated = np.array([[1], [10], [200]]), np.array([1, 7, 64, 500])
    table = shape.decode_flops(contexts, generated)
    assert table.shape == (3, 4)
    assert table.dtype == np.float64
    for row, context in enumerate(contexts[:, 0]):
        for column, new in enumerate(generated):
            assert table[row, column] == pytest.approx(shape.decode_flops(int(context), int(new)))
    prefill = shape.prefill_flops(generated, 5, logit_tokens=np.array([1, 2, 3, 4]))
    assert prefill[2] == pytest.approx(shape.prefill_flops(64, 5, logit_tokens=3))
    assert shape.flops_2nd(generated).tolist() == [shape.flops_2nd(int(n)) for n in generated]
    number = shape.prefill_flops(12)
    assert type(number) is float
    assert type(shape.flops_2nd(3)) is float
    assert shape.attention_flops(0) == 0.0
    assert _plain().decode_flops(10**9, np.array([10**9]))[0] > 2**63  # more than 64-bit integers hold


def test_sampling_and_scoring_costs_are_made_of_the_same_parts() -> None:
    shape = _plain()
    prefill, decode = sampling_cost(shape, 20, 30)
    assert prefill == shape.prefill_flops(20)
    assert decode == shape.decode_flops(20, 30)
    assert scoring_cost(shape, 40, 12, 3) == shape.prefill_flops(40, 12, logit_tokens=3)
    _, several = sampling_cost(shape, 20, np.array([10, 30]))
    assert several[1] == decode


def test_unknown_architectures_are_refused() -> None:
    for kind in ("gpt2", None):
        with pytest.raises(InputError, match="model_type") as caught:
            ModelShape.from_config({"model_type": kind, **_SIZES}, where="somewhere/config.json")
        assert "somewhere/config.json" in str(caught.value)
        assert all(name in str(caught.value) for name in ARCHITECTURES)


@pytest.mark.parametrize("bad", [0, -4, 2.5, "96", True, None])
def test_bad_sizes_name_the_field(bad: object) -> None:
    with pytest.raises(InputError, match="hidden_size"):
        _plain(hidden_size=bad)
    if bad is not None:  # absent means as many as the heads
        with pytest.raises(InputError, match="num_key_value_heads"):
            _plain(num_key_value_heads=bad)


def test_missing_expert_counts_and_wrong_layer_types_are_refused() -> None:
    with pytest.raises(InputError, match="num_local_experts"):
        _plain("mixtral")
    with pytest.raises(InputError, match="layer_types"):
        _plain("mistral", sliding_window=8, layer_types=["sliding_attention"])
    with pytest.raises(InputError, match="num_experts`"):
        _plain("qwen3_moe")
    assert _plain("qwen3_moe", **_MIXTURE) == _plain(
        "qwen3_moe", num_local_experts=6, **{k: v for k, v in _MIXTURE.items() if k != "num_experts"}
    )
    assert _plain(num_key_value_heads=None).kv_heads == 6
    assert _plain(head_dim=None).head_dim == 16
