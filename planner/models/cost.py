"""FLOPs and parameters from a model's config (METHODS section 4). No torch: numbers only.

Two accounts. `architecture` counts matrix products of a forward pass: for each token at context length t

    2 * [ L*(d*h*dh + 2*d*kv*dh + h*dh*d + mlp) ] + 4*L*h*dh*t + 2*d*V (only where logits are computed)

with L layers, width d, h heads of dh, kv key-value heads, vocabulary V and `mlp` the MLP weights that one token
passes through: 3*d*f for a gated MLP of width f; for a mixture of experts the active experts, the shared expert and
the router. A sliding window w puts min(t, w) for t. Norms, activations, softmax and biases are left out (under 1 %
from some hundreds of parameters of width on). `2ND` is 2 x active parameters x tokens.

Token counts may be numbers or numpy arrays (broadcast); results are floats or float64 arrays, in FLOPs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from planner.errors import InputError

__all__ = ["ARCHITECTURES", "ModelShape", "sampling_cost", "scoring_cost"]

Array: TypeAlias = npt.NDArray[Any]
N = TypeVar("N", float, Array)

ARCHITECTURES = ("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe")
"""Values of `model_type` that are understood."""

_DENSE = ("llama", "mistral", "qwen2", "qwen3")
_GATED = 3  # gate, up and down projections; every architecture above is gated


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What decides a decoder's size and cost. Build it with `from_config`.

    `windows` holds each layer's sliding window in tokens, None for full attention. `moe_layers` of the `layers` are
    mixtures: `experts` of width `expert_width`, of which `active_experts` see a token, and a shared expert of width
    `shared_width` (0: none). `max_context_tokens` is the longest input that the positions were made for.
    """

    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    vocabulary: int
    tied_embeddings: bool
    max_context_tokens: int
    windows: tuple[int | None, ...]
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    query_key_norm: bool = False
    moe_layers: int = 0
    experts: int = 0
    active_experts: int = 0
    expert_width: int = 0
    shared_width: int = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, where: str = "config.json") -> ModelShape:
        """Read a transformers `config.json`.

        Raises:
            InputError: unknown `model_type`, or a size that is missing or not a positive whole number.
        """
        return _read(_Fields(config, where))

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], *, where: str = "config") -> ModelShape:
        """Inverse of `to_dict`."""
        return cls.from_config(document, where=where)

    def to_dict(self) -> dict[str, Any]:
        """The part of the config that the cost depends on, under the config's own names (JSON-able)."""
        document: dict[str, Any] = {
            "model_type": self.model_type,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.mlp_width,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied_embeddings,
            "max_position_embeddings": self.max_context_tokens,
        }
        window = next((w for w in self.windows if w is not None), None)
        if window is not None:
            document |= {
                "sliding_window": window,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention" if w else "full_attention" for w in self.windows],
            }
        if self.model_type == "qwen2_moe":
            document["qkv_bias"] = self.qkv_bias
        elif self.model_type in ("llama", "qwen3", "qwen3_moe"):
            document["attention_bias"] = self.qkv_bias
        if self.mlp_bias:
            document["mlp_bias"] = True
        if self.model_type == "mixtral":
            document |= {"num_local_experts": self.experts, "num_experts_per_tok": self.active_experts}
        elif self.experts:
            document |= {
                "num_experts": self.experts,
                "num_experts_per_tok": self.active_experts,
                "moe_intermediate_size": self.expert_width,
                # Which layers are mixtures does not matter to the cost, only how many.
                "mlp_only_layers": list(range(self.layers - self.moe_layers)),
            }
            if self.shared_width:
                document["shared_expert_intermediate_size"] = self.shared_width
        return document

    @property
    def parameters(self) -> int:
        """Weights of the checkpoint, tied embeddings once, all experts."""
        return self._parameters(self.experts)

    @property
    def active_parameters(self) -> int:
        """Weights that one token passes through: as `parameters`, with the active experts only."""
        return self._parameters(self.active_experts)

    def _parameters(self, experts: int) -> int:
        d, q, kv = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        layer = self._attention_weights + 2 * d
        layer += (q + 2 * kv) * self.qkv_bias + d * self.output_bias + 2 * self.head_dim * self.query_key_norm
        dense = _GATED * d * self.mlp_width + (2 * self.mlp_width + d) * self.mlp_bias
        mixture = self._mixture_weights(experts)
        embeddings = d * self.vocabulary * (1 if self.tied_embeddings else 2)
        return (
            self.layers * layer + (self.layers - self.moe_layers) * dense + self.moe_layers * mixture + embeddings + d
        )

    @property
    def _attention_weights(self) -> int:
        return self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)

    def _mixture_weights(self, experts: int) -> int:
        shared = _GATED * self.hidden * self.shared_width + (self.hidden if self.shared_width else 0)
        return _GATED * self.hidden * self.expert_width * experts + self.hidden * self.experts + shared

    @property
    def flops_per_token(self) -> int:
        """Matrix products of one token that depend on neither context nor logits."""
        dense = _GATED * self.hidden * self.mlp_width
        return 2 * (
            self.layers * self._attention_weights
            + (self.layers - self.moe_layers) * dense
            + self.moe_layers * self._mixture_weights(self.active_experts)
        )

    @property
    def flops_per_logits(self) -> int:
        """One position's logits over the vocabulary."""
        return 2 * self.hidden * self.vocabulary

    def attention_flops(self, new_tokens: N, prefix_tokens: N | int = 0) -> N:
        """Scores and weighted sums of `new_tokens` causal positions after `prefix_tokens`: token i sees prefix + i."""
        start = np.asarray(prefix_tokens, dtype=np.float64)
        end = start + np.asarray(new_tokens, dtype=np.float64)
        total: Any = 0.0
        for window in set(self.windows):
            total = total + self.windows.count(window) * (_positions(end, window) - _positions(start, window))
        return _number(4 * self.heads * self.head_dim * total)

    def prefill_flops(self, new_tokens: N, prefix_tokens: N | int = 0, *, logit_tokens: N | int = 1) -> N:
        """Forward pass over `new_tokens` after a kept prefix, with logits at `logit_tokens` of them.

        Attention is counted causally (token i sees prefix + i). Eager attention computes the full square
        T x (prefix + T): see `square_flops`.
        """
        linear = self.flops_per_token * _floats(new_tokens) + self.flops_per_logits * _floats(logit_tokens)
        return _number(linear + np.asarray(self.attention_flops(new_tokens, prefix_tokens)))

    def square_flops(self, new_tokens: N, prefix_tokens: N | int = 0, *, logit_tokens: N | int = 1) -> N:
        """As `prefill_flops`, with every token attending to all prefix + new positions, as eager attention computes it
        (masked, windows ignored). This is what a FLOP counter sees; nothing is charged by it."""
        new = _floats(new_tokens)
        square = 4 * self.layers * self.heads * self.head_dim * new * (new + _floats(prefix_tokens))
        return _number(self.flops_per_token * new + self.flops_per_logits * _floats(logit_tokens) + square)

    def decode_flops(self, context_tokens: N, generated_tokens: N | int) -> N:
        """`generated_tokens` passes of one token each, token i (from 1) attending to context + i, logits for each."""
        new = _floats(generated_tokens)
        attention: Any = self.attention_flops(new, _floats(context_tokens))
        return _number((self.flops_per_token + self.flops_per_logits) * new + attention)

    def score_flops(self, new_tokens: N, prefix_tokens: N | int = 0, *, logit_tokens: N | int) -> N:
        """A verifier's pass over `new_tokens` after a kept prefix, read out at `logit_tokens` positions.

        A two-token read-out is charged a whole row of logits: that is what the language-model head computes.
        """
        return self.prefill_flops(new_tokens, prefix_tokens, logit_tokens=logit_tokens)

    def flops_2nd(self, tokens: N) -> N:
        """The papers' account: 2 x active parameters x tokens."""
        return _number(2.0 * self.active_parameters * _floats(tokens))


def sampling_cost(shape: ModelShape, prompt_tokens: N, generated_tokens: N | int) -> tuple[N, N]:
    """(prefill, decode) FLOPs of one completion. Samples of one prompt share the prefill: charge it once.

    Every generated token is charged its own pass, the last one too (a search step goes on from it).
    """
    return shape.prefill_flops(prompt_tokens), shape.decode_flops(prompt_tokens, generated_tokens)


def scoring_cost(shape: ModelShape, new_tokens: N, prefix_tokens: N | int, logit_tokens: N | int) -> N:
    """FLOPs of scoring an input of which `prefix_tokens` are kept; `logit_tokens` is the number of new steps."""
    return shape.score_flops(new_tokens, prefix_tokens, logit_tokens=logit_tokens)


def _floats(value: Any) -> Any:
    return np.asarray(value, dtype=np.float64)


def _number(value: Any) -> Any:
    return float(value) if np.ndim(value) == 0 else value


def _positions(n: Any, window: int | None) -> Any:
    """sum over t = 1..n of min(t, window), in closed form."""
    inside = n if window is None else np.minimum(n, window)
    return inside * (inside + 1) / 2 + (n - inside) * (window or 0)


class _Fields:
    """Typed reads from a config, with errors that name the place."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self.config, self.where = config, where

    def count(self, name: str, default: int | None = None) -> int:
        value = self.config.get(name)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise InputError(
                "a size of the model cannot be read",
                where=self.where,
                field=name,
                value=value,
                expected="a positive whole number",
            )
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.config.get(name, default)
        return default if value is None else bool(value)

    def windows(self, layers: int, kind: str) -> tuple[int | None, ...]:
        """Each layer's window; `layer_types` decides where it is given, else the architecture's own rule."""
        size = self.config.get("sliding_window")
        qwen = kind.startswith("qwen")
        if kind == "llama" or size is None or (qwen and not self.flag("use_sliding_window")):
            return (None,) * layers
        window = self.count("sliding_window")
        types: Sequence[str] | None = self.config.get("layer_types")
        if types is not None:
            if len(types) != layers:
                raise InputError(
                    f"{len(types)} entries for {layers} layers", where=self.where, field="layer_types", value=types
                )
            return tuple(window if kind == "sliding_attention" else None for kind in types)
        first = self.config.get("max_window_layers", 0) if kind in ("qwen2", "qwen3", "qwen2_moe") else 0
        return tuple(window if layer >= (first or 0) else None for layer in range(layers))


def _read(f: _Fields) -> ModelShape:
    kind = f.config.get("model_type")
    if kind not in ARCHITECTURES:
        raise InputError(
            "the cost of this architecture is not known",
            where=f.where,
            field="model_type",
            value=kind,
            expected="one of " + ", ".join(ARCHITECTURES),
            hint="A cost that was guessed would be worse than none",
        )
    hidden, heads, layers = f.count("hidden_size"), f.count("num_attention_heads"), f.count("num_hidden_layers")
    bias = {"qwen2": True, "qwen2_moe": f.flag("qkv_bias", True), "mistral": False, "mixtral": False}
    moe: dict[str, int] = {}
    if kind == "mixtral":
        moe = {
            "moe_layers": layers,
            "experts": f.count("num_local_experts"),
            "expert_width": f.count("intermediate_size"),
        }
    elif kind not in _DENSE:
        step, dense = f.count("decoder_sparse_step", 1), f.config.get("mlp_only_layers") or ()
        # transformers 5 saves a Qwen3 mixture's experts under another name than published configs do.
        renamed = "num_experts" not in f.config and "num_local_experts" in f.config
        moe = {
            "moe_layers": sum(1 for layer in range(layers) if layer not in dense and (layer + 1) % step == 0),
            "experts": f.count("num_local_experts" if renamed else "num_experts"),
            "expert_width": f.count("moe_intermediate_size"),
        }
        if kind == "qwen2_moe":
            moe["shared_width"] = f.count("shared_expert_intermediate_size")
    if moe:
        moe["active_experts"] = f.count("num_experts_per_tok")
    return ModelShape(
        model_type=kind,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=f.count("num_key_value_heads", heads),
        head_dim=f.count("head_dim", hidden // heads),
        mlp_width=f.count("intermediate_size"),
        vocabulary=f.count("vocab_size"),
        tied_embeddings=f.flag("tie_word_embeddings"),
        max_context_tokens=f.count("max_position_embeddings"),
        windows=f.windows(layers, kind),
        qkv_bias=bias.get(kind, f.flag("attention_bias")),
        output_bias=kind in ("llama", "qwen3", "qwen3_moe") and f.flag("attention_bias"),
        mlp_bias=kind == "llama" and f.flag("mlp_bias"),
        query_key_norm=kind in ("qwen3", "qwen3_moe"),
        **moe,
    )
