"""FLOPs and parameters from a model's config (METHODS section 4). No torch: numbers only.

Two accounts. `architecture` counts matrix products of a forward pass: for each token at context length t

    2 * [ L*(d*h*dh + 2*d*kv*dh + h*dh*d + mlp) ] + 4*L*h*dh*t + 2*d*V (only where logits are computed)

with L layers, width d, h heads of dh, kv key-value heads, vocabulary V and `mlp` the MLP weights that one token
passes through: 3*d*f for a gated MLP of width f; for a mixture of experts the active experts, the shared expert and
the router. A sliding window w puts min(t, w) for t. Latent attention (DeepSeek's MLA) counts its own down- and
up-projections in place of q, k and v, and 2*h*(key + value width)*t in place of 4*h*dh*t; that is the form that keys
and values are expanded in, as prefill computes it (engines may decode in the latent space, at more FLOPs and less
memory traffic). Norms, activations, softmax and biases are left out (under 1 % from some hundreds of parameters of
width on). `2ND` is 2 x active parameters x tokens.

Token counts may be numbers or numpy arrays (broadcast); results are floats or float64 arrays, in FLOPs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from planner.models.architectures import LatentAttention, read_config, written_config

__all__ = ["ModelShape", "sampling_cost", "scoring_cost"]

Array: TypeAlias = npt.NDArray[Any]
N = TypeVar("N", float, Array)

_GATED = 3  # gate, up and down projections; every architecture above is gated


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What decides a decoder's size and cost. Build it with `from_config`.

    `windows` holds each layer's sliding window in tokens, None for full attention. `moe_layers` of the `layers` are
    mixtures: `experts` of width `expert_width`, of which `active_experts` see a token, and a shared expert of width
    `shared_width` (0: none). `latent` are the widths of latent attention, which has no use for `kv_heads` and
    `head_dim`. `max_context_tokens` is the longest input that the positions were made for. Of a model that sees
    pictures, only the language model is counted.
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
    layer_norms: int = 2
    latent: LatentAttention | None = None
    moe_layers: int = 0
    experts: int = 0
    active_experts: int = 0
    expert_width: int = 0
    shared_width: int = 0
    shared_gate: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, where: str = "config.json") -> ModelShape:
        """Read a transformers `config.json`.

        Raises:
            InputError: unknown `model_type`, or a size that is missing or not a positive whole number.
        """
        return cls(**read_config(config, where))

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], *, where: str = "config") -> ModelShape:
        """Inverse of `to_dict`."""
        return cls.from_config(document, where=where)

    def to_dict(self) -> dict[str, Any]:
        """The part of the config that the cost depends on, under the config's own names (JSON-able)."""
        return written_config(self)

    @property
    def parameters(self) -> int:
        """Weights of the checkpoint, tied embeddings once, all experts."""
        return self._parameters(self.experts)

    @property
    def active_parameters(self) -> int:
        """Weights that one token passes through: as `parameters`, with the active experts only."""
        return self._parameters(self.active_experts)

    def _parameters(self, experts: int) -> int:
        d, layer = self.hidden, self._attention_weights + self._attention_vectors + self.layer_norms * self.hidden
        dense = _GATED * d * self.mlp_width + (2 * self.mlp_width + d) * self.mlp_bias
        mixture = self._mixture_weights(experts)
        embeddings = d * self.vocabulary * (1 if self.tied_embeddings else 2)
        return (
            self.layers * layer + (self.layers - self.moe_layers) * dense + self.moe_layers * mixture + embeddings + d
        )

    @property
    def _attention_weights(self) -> int:
        if self.latent is not None:
            return self.latent.weights(self.hidden, self.heads)
        return self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)

    @property
    def _attention_vectors(self) -> int:
        """Biases and norms."""
        if self.latent is not None:
            biases, norms = self.latent.down_width, self.latent.norm_width
        else:
            biases = (self.heads + 2 * self.kv_heads) * self.head_dim
            norms = 2 * self.head_dim * self.query_key_norm
        return biases * self.qkv_bias + self.hidden * self.output_bias + norms

    @property
    def _key_value_width(self) -> int:
        """One head's key and value together: what a position of the context costs."""
        return 2 * self.head_dim if self.latent is None else self.latent.key_dim + self.latent.value_dim

    def _mixture_weights(self, experts: int) -> int:
        shared = _GATED * self.hidden * self.shared_width + self.hidden * self.shared_gate
        return _GATED * self.hidden * self.expert_width * experts + self.hidden * self.experts + shared

    @cached_property
    def flops_per_token(self) -> int:
        """Matrix products of one token that depend on neither context nor logits."""
        dense = _GATED * self.hidden * self.mlp_width
        return 2 * (
            self.layers * self._attention_weights
            + (self.layers - self.moe_layers) * dense
            + self.moe_layers * self._mixture_weights(self.active_experts)
        )

    @cached_property
    def flops_per_logits(self) -> int:
        """One position's logits over the vocabulary."""
        return 2 * self.hidden * self.vocabulary

    @cached_property
    def _window_layers(self) -> tuple[tuple[int | None, int], ...]:
        """Each window, and how many layers have it."""
        return tuple((window, self.windows.count(window)) for window in set(self.windows))

    def attention_flops(self, new_tokens: N, prefix_tokens: N | int = 0) -> N:
        """Scores and weighted sums of `new_tokens` causal positions after `prefix_tokens`: token i sees prefix + i."""
        start = _floats(prefix_tokens)
        end = start + _floats(new_tokens)
        total: Any = 0.0
        for window, layers in self._window_layers:
            total = total + layers * (_positions(end, window) - _positions(start, window))
        return _number(2 * self.heads * self._key_value_width * total)

    def prefill_flops(self, new_tokens: N, prefix_tokens: N | int = 0, *, logit_tokens: N | int = 1) -> N:
        """Forward pass over `new_tokens` after a kept prefix, with logits at `logit_tokens` of them.

        Attention is counted causally (token i sees prefix + i). Eager attention computes the full square
        T x (prefix + T): see `square_flops`.
        """
        linear = self.flops_per_token * _floats(new_tokens) + self.flops_per_logits * _floats(logit_tokens)
        return _number(linear + _floats(self.attention_flops(new_tokens, prefix_tokens)))

    def square_flops(self, new_tokens: N, prefix_tokens: N | int = 0, *, logit_tokens: N | int = 1) -> N:
        """As `prefill_flops`, with every token attending to all prefix + new positions, as eager attention computes it
        (masked, windows ignored). This is what a FLOP counter sees; nothing is charged by it."""
        new = _floats(new_tokens)
        square = 2 * self.layers * self.heads * self._key_value_width * new * (new + _floats(prefix_tokens))
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
    # A driver prices every request, one number at a time: numpy would take most of its time.
    return float(value) if isinstance(value, int | float) else np.asarray(value, dtype=np.float64)


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, float) or np.ndim(value) == 0 else value


def _positions(n: Any, window: int | None) -> Any:
    """sum over t = 1..n of min(t, window), in closed form."""
    if window is None:
        return n * (n + 1) / 2
    inside = min(n, window) if isinstance(n, float) else np.minimum(n, window)
    return inside * (inside + 1) / 2 + (n - inside) * window
