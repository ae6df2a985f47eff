"""Reads a transformers `config.json` into what a decoder's cost depends on, and writes that back. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planner.errors import InputError

if TYPE_CHECKING:
    from planner.models.cost import ModelShape

__all__ = ["ARCHITECTURES", "NO_MODEL", "LatentAttention", "read_config", "written_config"]

_DENSE = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")
_GEMMA = ("gemma2", "gemma3_text")
_DEEPSEEK = ("deepseek_v2", "deepseek_v3")
_MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe", *_DEEPSEEK)
_PICTURES = {"gemma3": "gemma3_text"}
"""Models that see pictures, and the language model inside them."""

ARCHITECTURES = (*_DENSE, *_MIXTURES, *_PICTURES)
"""Values of `model_type` that are understood."""

NO_MODEL = "none"
"""The `model_type` of rules and tests, whose FLOPs are 0: they are known to be free, not of unknown cost."""

_NORMED = ("qwen3", "qwen3_moe", "gemma3_text")
_BIASED = ("llama", "qwen3", "qwen3_moe", *_GEMMA, *_DEEPSEEK)
"""Those whose `attention_bias` is for q, k, v and the output."""

# What these configs leave out, as published ones do, is transformers' default for them.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gemma2": {"tie_word_embeddings": True, "sliding_window": 4096},
    "gemma3_text": {
        "tie_word_embeddings": True, "sliding_window": 4096, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 256, "vocab_size": 262_208, "max_position_embeddings": 131_072,
    },
}  # fmt: skip
_FULL_EVERY = {"gemma2": 2, "gemma3_text": 6}
"""Of so many layers the last one attends to everything, the others slide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """DeepSeek's MLA: queries (through `query_rank`, 0: directly) and keys with values (through `key_value_rank`) are
    projected down and up again; a head's key is `nope_dim` of them and `rope_dim` shared by all heads."""

    query_rank: int
    key_value_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int

    @property
    def key_dim(self) -> int:
        return self.nope_dim + self.rope_dim

    @property
    def down_width(self) -> int:
        """Outputs of the down-projections."""
        return self.query_rank + self.key_value_rank + self.rope_dim

    @property
    def norm_width(self) -> int:
        return self.query_rank + self.key_value_rank

    def weights(self, hidden: int, heads: int) -> int:
        """Of all projections, the output's included."""
        queries = heads * self.key_dim
        up = self.query_rank * queries if self.query_rank else hidden * queries
        up += self.key_value_rank * heads * (self.nope_dim + self.value_dim)
        return hidden * self.down_width + up + heads * self.value_dim * hidden


def read_config(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a ModelShape. Raises InputError for an unknown `model_type` and for sizes that cannot be read."""
    kind = config.get("model_type")
    if kind == NO_MODEL:
        sizes = ("hidden", "layers", "heads", "kv_heads", "head_dim", "mlp_width", "vocabulary", "max_context_tokens")
        return {"model_type": kind, "tied_embeddings": False, "windows": (), **dict.fromkeys(sizes, 0)}
    if kind in _PICTURES and isinstance(config.get("text_config"), Mapping):
        inner = {"model_type": _PICTURES[kind], **config["text_config"]}
        return read_config(inner, f"{where}, text_config")
    if kind not in (*_DENSE, *_MIXTURES):
        raise InputError(
            "the cost of this architecture is not known",
            where=where,
            field="model_type",
            value=kind,
            expected="one of " + ", ".join(ARCHITECTURES),
            hint="A cost that was guessed would be worse than none: where a config may be left out, leave it out, and "
            "count in tokens",
        )
    f = _Fields({**_DEFAULTS.get(kind, {}), **config}, where)
    hidden, heads, layers = f.count("hidden_size"), f.count("num_attention_heads"), f.count("num_hidden_layers")
    biased = {"qwen2": True, "qwen2_moe": f.flag("qkv_bias", True), "mistral": False, "mixtral": False}
    return {
        "model_type": kind,
        "hidden": hidden,
        "layers": layers,
        "heads": heads,
        "kv_heads": f.count("num_key_value_heads", heads),
        "head_dim": f.count("head_dim", hidden // heads),
        "mlp_width": f.count("intermediate_size"),
        "vocabulary": f.count("vocab_size"),
        "tied_embeddings": f.flag("tie_word_embeddings"),
        "max_context_tokens": f.count("max_position_embeddings"),
        "windows": _windows(f, layers, kind),
        "qkv_bias": biased.get(kind, f.flag("attention_bias")),
        "output_bias": kind in _BIASED and f.flag("attention_bias"),
        "mlp_bias": kind == "llama" and f.flag("mlp_bias"),
        "query_key_norm": kind in _NORMED,
        "layer_norms": 4 if kind in _GEMMA else 2,
        "latent": _latent(f) if kind in _DEEPSEEK else None,
        **(_mixture(f, layers, kind) if kind in _MIXTURES else {}),
    }


def written_config(shape: ModelShape) -> dict[str, Any]:
    """The part of the config that the cost depends on, under the config's own names (JSON-able)."""
    if shape.model_type == NO_MODEL:
        return {"model_type": NO_MODEL}
    document: dict[str, Any] = {
        "model_type": shape.model_type,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.mlp_width,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied_embeddings,
        "max_position_embeddings": shape.max_context_tokens,
    }
    window = next((w for w in shape.windows if w is not None), None)
    if window is not None:
        document |= {
            "sliding_window": window,
            "use_sliding_window": True,
            "layer_types": ["sliding_attention" if w else "full_attention" for w in shape.windows],
        }
    elif shape.model_type in _GEMMA:
        document["sliding_window"] = None
    if shape.model_type == "qwen2_moe":
        document["qkv_bias"] = shape.qkv_bias
    elif shape.model_type in _BIASED:
        document["attention_bias"] = shape.qkv_bias
    if shape.mlp_bias:
        document["mlp_bias"] = True
    if shape.latent is not None:
        document |= {
            "q_lora_rank": shape.latent.query_rank or None,
            "kv_lora_rank": shape.latent.key_value_rank,
            "qk_nope_head_dim": shape.latent.nope_dim,
            "qk_rope_head_dim": shape.latent.rope_dim,
            "v_head_dim": shape.latent.value_dim,
        }
    return document | _written_mixture(shape)


def _written_mixture(shape: ModelShape) -> dict[str, Any]:
    if not shape.experts:
        return {}
    if shape.model_type == "mixtral":
        return {"num_local_experts": shape.experts, "num_experts_per_tok": shape.active_experts}
    document: dict[str, Any] = {
        "num_experts_per_tok": shape.active_experts,
        "moe_intermediate_size": shape.expert_width,
    }
    # Which layers are mixtures does not matter to the cost, only how many.
    dense = shape.layers - shape.moe_layers
    if shape.model_type in _DEEPSEEK:
        return document | {
            "n_routed_experts": shape.experts,
            "n_shared_experts": shape.shared_width // shape.expert_width,
            "first_k_dense_replace": dense,
        }
    document |= {"num_experts": shape.experts, "mlp_only_layers": list(range(dense))}
    if shape.shared_width:
        document["shared_expert_intermediate_size"] = shape.shared_width
    return document


class _Fields:
    """Typed reads from a config, with errors that name the place."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self.config, self.where = config, where

    def count(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        value = self.config.get(name)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(
                "a size of the model cannot be read",
                where=self.where,
                field=name,
                value=value,
                expected="a positive whole number" if least else "a whole number, 0 or more",
            )
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.config.get(name, default)
        return default if value is None else bool(value)


def _windows(f: _Fields, layers: int, kind: str) -> tuple[int | None, ...]:
    """Each layer's window; `layer_types` decides where it is given, else the architecture's own rule."""
    unused = kind.startswith("qwen") and not f.flag("use_sliding_window")
    if kind == "llama" or kind in _DEEPSEEK or f.config.get("sliding_window") is None or unused:
        return (None,) * layers
    window = f.count("sliding_window")
    types: Sequence[str] | None = f.config.get("layer_types")
    if types is not None:
        if len(types) != layers:
            raise InputError(
                f"{len(types)} entries for {layers} layers", where=f.where, field="layer_types", value=types
            )
        return tuple(window if each == "sliding_attention" else None for each in types)
    if kind in _GEMMA:
        every = f.count("sliding_window_pattern", _FULL_EVERY[kind])
        return tuple(window if (layer + 1) % every else None for layer in range(layers))
    first = f.config.get("max_window_layers", 0) if kind in ("qwen2", "qwen3", "qwen2_moe") else 0
    return tuple(window if layer >= (first or 0) else None for layer in range(layers))


def _latent(f: _Fields) -> LatentAttention:
    return LatentAttention(
        query_rank=f.count("q_lora_rank", 0, least=0),
        key_value_rank=f.count("kv_lora_rank"),
        nope_dim=f.count("qk_nope_head_dim"),
        rope_dim=f.count("qk_rope_head_dim"),
        value_dim=f.count("v_head_dim"),
    )


def _mixture(f: _Fields, layers: int, kind: str) -> dict[str, Any]:
    if kind == "mixtral":
        return {
            "moe_layers": layers,
            "experts": f.count("num_local_experts"),
            "active_experts": f.count("num_experts_per_tok"),
            "expert_width": f.count("intermediate_size"),
        }
    if kind in _DEEPSEEK:
        width = f.count("moe_intermediate_size")
        every, first = f.count("moe_layer_freq", 1), f.count("first_k_dense_replace", 0, least=0)
        return {
            "moe_layers": sum(1 for layer in range(layers) if layer >= first and layer % every == 0),
            "experts": f.count("n_routed_experts"),
            "active_experts": f.count("num_experts_per_tok"),
            "expert_width": width,
            "shared_width": width * f.count("n_shared_experts", 0, least=0),
        }
    step, dense = f.count("decoder_sparse_step", 1), f.config.get("mlp_only_layers") or ()
    # transformers 5 saves a Qwen3 mixture's experts under another name than published configs do.
    renamed = "num_experts" not in f.config and "num_local_experts" in f.config
    found = {
        "moe_layers": sum(1 for layer in range(layers) if layer not in dense and (layer + 1) % step == 0),
        "experts": f.count("num_local_experts" if renamed else "num_experts"),
        "active_experts": f.count("num_experts_per_tok"),
        "expert_width": f.count("moe_intermediate_size"),
    }
    if kind == "qwen2_moe":
        found |= {"shared_width": f.count("shared_expert_intermediate_size"), "shared_gate": True}
    return found
