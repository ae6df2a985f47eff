"""The engine `vllm`: any model that vLLM serves, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from planner.core import Completion, GenerationRequest, stable_hash
from planner.errors import EngineError, InputError
from planner.models.openai_dialect import Reply, ended_text
from planner.models.openai_tokens import LocalTokens
from planner.models.protocols import EngineInfo, Pending, collected
from planner.models.vllm_loop import VllmLoop, VllmSpec

__all__ = ["VllmEngine"]

_OWN = ("system", "name")
_REMEMBERED = 1 << 15


class VllmEngine:
    """Generates with vLLM: continuous batching, kept prefixes, a seed for each request.

    `spec` is `vllm:FOLDER_OR_NAME?NAME=VALUE&...`: `system` (a system prompt), `name`, and vLLM's own arguments
    (`dtype=float32`, `max_model_len=4096`, `tensor_parallel_size=2`, `enforce_eager=true`, ...).

    The prompt goes through the model's chat template here, and what is sent is token ids. A step is continued from the
    ids that were drawn; where a stop string cut a token, text is the truth and the answer so far is encoded again.
    The same request gives the same text on the same kind of device, up to rounding, which differs between batches.

    Raises:
        InputError: an option or argument that cannot be used, or a model that is not there.
        CapabilityError: vLLM is missing.
        EngineError: vLLM does not start.
    """

    def __init__(self, spec: str) -> None:
        options = VllmSpec.parse(spec, _OWN)
        self._loop = VllmLoop(options)
        system = options.own.get("system")
        self._tokens = LocalTokens(Path(self._loop.tokenizer), system)
        self._info = EngineInfo(
            name=options.own.get("name") or Path(options.model).name,
            fingerprint=stable_hash("vllm", options.digest, self._loop.device, system),
            shape=self._loop.shape,
            caches_prefixes=self._loop.caches_prefixes,
            max_context_tokens=self._loop.max_context_tokens,
        )
        # The ids of answers so far, as they were drawn; the oldest are forgotten.
        self._drawn: dict[tuple[str, str], tuple[int, ...]] = {}

    @property
    def info(self) -> EngineInfo:
        return self._info

    def count_tokens(self, prompt: str, prefix: str = "") -> int:
        return self._tokens.count(("prompt", prompt)) + (self._tokens.count(("prefix", prefix)) if prefix else 0)

    def reset(self) -> None:
        self._drawn.clear()
        self._loop.reset_prefixes()

    def close(self) -> None:
        """Stop vLLM; the engine cannot generate afterwards."""
        self._loop.close()

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """One completion for each request, in order.

        Raises:
            InputError: an input fills the model's context; nothing was started.
            EngineError: vLLM refuses a request or has died; the others are dropped.
        """
        return collected(self.submit(requests))

    def submit(self, requests: Sequence[GenerationRequest]) -> list[Pending[Completion]]:
        """Start each request and return at once. Raises as `generate` does before it asks."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        rows = list[tuple[tuple[int, ...], Any]]()
        for request in requests:
            ids, sampling = self._ids(request), request.sampling
            room = self._info.max_context_tokens - len(ids)
            parameters = SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=min(sampling.max_tokens, room),
                stop=list(sampling.stop),
                include_stop_str_in_output=True,
                seed=request.seed(self._info.fingerprint),
                logprobs=0,  # of the drawn tokens alone, before temperature and top_p
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            rows.append((ids, parameters))
        futures = self._loop.submit(rows)
        return [
            Pending(future, partial(self._completion, request, ids))
            for future, request, (ids, _) in zip(futures, requests, rows, strict=True)
        ]

    def _ids(self, request: GenerationRequest) -> tuple[int, ...]:
        ids = self._drawn.get((request.prompt, request.prefix)) if request.prefix else None
        if ids is None:
            ids = self._tokens.ids(("prompt", request.prompt))
            ids += self._tokens.ids(("prefix", request.prefix)) if request.prefix else ()
        if len(ids) >= self._info.max_context_tokens:
            raise InputError(
                f"the input takes {len(ids)} tokens", where=self._info.name, field="prompt",
                expected=f"fewer than the model's {self._info.max_context_tokens}",
                hint="Shorten the prompt, or choose a model with a longer context",
            )  # fmt: skip
        return ids

    def _completion(self, request: GenerationRequest, ids: tuple[int, ...], output: Any) -> Completion:
        made = output.outputs[0]
        stop = made.stop_reason if isinstance(made.stop_reason, str) else None  # else the id of an end token
        reply = Reply(text=made.text, finish_reason=str(made.finish_reason), stop_reason=stop)
        ended = ended_text(reply, request.sampling.stop)
        if ended is None:
            raise EngineError(f"vLLM ended with {made.finish_reason!r}; request: {request.prompt[:60]!r}")
        text, finish = ended
        drawn = tuple(made.token_ids)
        if finish == "stop" and text.endswith(self._tokens.text(drawn[-1:])):
            self._remember((request.prompt, request.prefix + text), ids + drawn)
        return Completion(
            text=text,
            finish=finish,
            prompt_tokens=len(ids),
            cached_tokens=min(output.num_cached_tokens or 0, len(ids)),
            generated_tokens=len(drawn),
            mean_logprob=min(0.0, made.cumulative_logprob / len(drawn)),
        )

    def _remember(self, key: tuple[str, str], ids: tuple[int, ...]) -> None:
        if len(self._drawn) >= _REMEMBERED:
            for old in list(islice(self._drawn, _REMEMBERED // 4)):
                del self._drawn[old]
        self._drawn[key] = ids
