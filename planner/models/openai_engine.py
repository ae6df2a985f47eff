"""The engine `openai`: any server that speaks OpenAI's dialect (vLLM, SGLang, llama.cpp, hosted APIs) over HTTP.

vLLM takes unsaid sampling parameters (top_k, a repetition penalty) from the model's generation_config: start it with
`--generation-config vllm` for what a request says and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType

from planner.core import Completion, GenerationRequest, stable_hash
from planner.errors import CapabilityError, EngineError, InputError
from planner.models.openai_dialect import SEEDS, Prompt, Reply, ended_text, make_body, read_models, reader
from planner.models.openai_options import Capabilities, OpenAIOptions
from planner.models.openai_probe import probe_server
from planner.models.openai_tokens import EstimatedTokens, LocalTokens, ServerTokens, Text, TokenCounter, turns
from planner.models.openai_wire import Call, Refused, Wire
from planner.models.protocols import EngineInfo, Pending

__all__ = ["OpenAIEngine", "UsageMismatch"]

_UNKNOWN_CONTEXT = 1 << 20
"""Stands for a context of unknown length: the server refuses what it cannot take, and its refusal is reported."""

_MISMATCHES = 100


@dataclass(frozen=True, slots=True)
class UsageMismatch:
    """The server read another number of prompt tokens than we counted: its tokenizer or template is not ours."""

    request: str
    counted_tokens: int
    server_tokens: int


class OpenAIEngine:
    """Generates through `/completions` or `/chat/completions`.

    Where tokens can be counted exactly (a local tokenizer, or vLLM's `/tokenize`), the prompt goes through the chat
    template first and is sent as token ids with the answer so far, so that the model reads exactly what was counted and
    no step separator is lost; a server that takes no ids is sent the templated text where there is a local tokenizer.
    Otherwise chat messages are sent, and an answer is continued only if the probe saw the server do so.

    A fingerprint knows the model by its served name (and `revision`) and by the system prompt, template and endpoint,
    not by the server's address. The server keeps prefixes in its own way: `reset` does nothing.

    `capabilities` None: the server is probed. Close the engine, or use it as a context manager, to give back its
    connections at once.

    Raises:
        InputError: no model is named and the server has not exactly one, or a file that cannot be used.
        CapabilityError: the endpoint asked for is not served.
        EngineError: the server cannot be reached.
    """

    def __init__(
        self, options: OpenAIOptions, *, name: str | None = None, capabilities: Capabilities | None = None
    ) -> None:
        self._options = options
        shape = options.shape()
        self._wire = Wire(
            options.base_urls,
            api_key=os.environ[options.api_key_env] if options.api_key_env else None,
            timeout=options.timeout,
            retries=options.retries,
            concurrency=options.concurrency,
        )
        self._mismatches: list[UsageMismatch] = []
        self.usage_mismatch_count = 0
        with ExitStack() as undo:
            undo.callback(self._wire.close)
            self._model, served_context = self._identify()
            context = options.max_context_tokens or served_context or (shape.max_context_tokens if shape else None)
            self._tokens = self._counter(capabilities)
            self._found = capabilities or probe_server(self._wire, options, self._model, self._tokens, context)
            undo.pop_all()
        self._context = self._found.max_context_tokens or context
        caches = self._found.reports_cached if options.prefix_cache is None else options.prefix_cache
        template = self._tokens.digest if isinstance(self._tokens, LocalTokens) else None
        base = [self._model, options.revision, options.system, template]
        self._info = EngineInfo(
            name=name or self._model,
            fingerprint=stable_hash("openai", base, self._found.endpoint, self._found.token_prompts),
            shape=shape,
            caches_prefixes=caches,
            max_context_tokens=self._context or _UNKNOWN_CONTEXT,
        )

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def capabilities(self) -> Capabilities:
        """What the server does."""
        return self._found

    @property
    def usage_mismatches(self) -> tuple[UsageMismatch, ...]:
        """The first 100 requests whose prompt the server counted otherwise than we; `usage_mismatch_count` of all."""
        return tuple(self._mismatches)

    def probe(self) -> Capabilities:
        """Ask the server again what it does; the engine keeps what it found at first. Raises EngineError."""
        return probe_server(self._wire, self._options, self._model, self._tokens, self._context)

    def count_tokens(self, prompt: str, prefix: str = "") -> int:
        """Exact or estimated as `capabilities.counts` says; a server that counts is asked once for each new text."""
        return self._tokens.count(("prompt", prompt)) + (self._tokens.count(("prefix", prefix)) if prefix else 0)

    def reset(self) -> None:
        pass

    def close(self) -> None:
        """Close all connections; the engine cannot generate afterwards."""
        self._wire.close()

    def __enter__(self) -> OpenAIEngine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """One completion for each request, in order; all are sent at once, as far as `concurrency` allows.

        Raises:
            CapabilityError: a request needs what the server lacks; nothing was sent.
            InputError: an input fills the model's context; nothing was sent.
            EngineError: a request failed for good, naming endpoint, request and remedy; the others were cancelled.
        """
        replies = self._wire.ask(self._calls(requests))
        return [self._completion(request, reply) for request, reply in zip(requests, replies, strict=True)]

    def submit(self, requests: Sequence[GenerationRequest]) -> list[Pending[Completion]]:
        """Send each request, as far as `concurrency` allows, and return at once. Raises as `generate` does before it
        sends anything; a cancelled future closes its connection."""
        futures = self._wire.start(self._calls(requests))
        return [
            Pending(future, partial(self._completion, request))
            for request, future in zip(requests, futures, strict=True)
        ]

    # --- asking ---------------------------------------------------------------------------------------------------

    def _calls(self, requests: Sequence[GenerationRequest]) -> list[Call[Reply]]:
        for request in requests:
            self._check(request)
        texts: list[Text] = [("prompt", request.prompt) for request in requests]
        self._tokens.prepare([*texts, *(("prefix", request.prefix) for request in requests if request.prefix)])
        return [self._call(request) for request in requests]

    def _check(self, request: GenerationRequest) -> None:
        if request.prefix and not self._found.continues:
            raise self._lacks("goes on with a partial answer", "a `tokenizer` folder and the completions endpoint")
        if request.sampling.stop and not self._found.stops_told:
            raise self._lacks("stops at a step's end", "a server that has include_stop_str_in_output (vLLM, SGLang)")

    def _lacks(self, what: str, remedy: str) -> CapabilityError:
        return CapabilityError(
            f"{self._options.base_urls[0]} ({self._found.endpoint}) cannot serve a request that {what}; "
            f"the probe found: {'; '.join(self._found.notes) or 'nothing more'}",
            where=f"engine {self._info.name}",
            hint=f"Use strategies that sample whole answers, or {remedy}",
        )

    def _call(self, request: GenerationRequest) -> Call[Reply]:
        found, sampling = self._found, request.sampling
        if found.counts != "estimate" and self._context is not None:
            used = self.count_tokens(request.prompt, request.prefix)
            if used >= self._context:
                raise InputError(
                    f"the input takes {used} tokens", where=self._info.name, field="prompt",
                    expected=f"fewer than the model's {self._context}",
                    hint="Shorten the prompt, or choose a model with a longer context",
                )  # fmt: skip
            sampling = replace(sampling, max_tokens=min(sampling.max_tokens, self._context - used))
        body = make_body(
            self._model,
            found.endpoint,
            self._prompt(request),
            sampling,
            seed=request.seed(self._info.fingerprint) % SEEDS if found.seeds else None,
            logprobs=found.logprobs,
            keep_stop=found.stop_in_output,
            continued=found.endpoint == "chat" and bool(request.prefix),
        )
        path = "completions" if found.endpoint == "completions" else "chat/completions"
        label = _label(request)
        return Call(path=path, body=body, read=reader(found.endpoint), label=label, affinity=request.prompt)

    def _prompt(self, request: GenerationRequest) -> Prompt:
        if self._found.endpoint == "chat":
            return turns(request.prompt, self._options.system, request.prefix)
        ids = self._tokens.ids(("prompt", request.prompt)) if self._found.token_prompts else None
        if ids is None:
            return self._tokens.plain(request.prompt) + request.prefix
        return [*ids, *((self._tokens.ids(("prefix", request.prefix)) or ()) if request.prefix else ())]

    # --- answers --------------------------------------------------------------------------------------------------

    def _completion(self, request: GenerationRequest, reply: Reply) -> Completion:
        ended = ended_text(reply, request.sampling.stop)
        if ended is None:
            raise EngineError(
                f"{self._options.base_urls[0]}: the server ended with {reply.finish_reason!r}; request: "
                f"{_label(request)}. What to do: see the server's log, or leave this prompt out",
                retryable=reply.finish_reason == "abort",
            )
        text, finish = ended
        counted = self.count_tokens(request.prompt, request.prefix)
        prompt_tokens = counted if reply.prompt_tokens is None else reply.prompt_tokens
        if prompt_tokens != counted and self._found.counts != "estimate":
            self.usage_mismatch_count += 1
            if len(self._mismatches) < _MISMATCHES:
                self._mismatches.append(UsageMismatch(_label(request), counted, prompt_tokens))
        generated = reply.generated_tokens
        if generated is None:
            ending = 1 if finish == "end" else 0
            counted_text = self._tokens.count(("prefix", text)) if text else 0
            generated = min(request.sampling.max_tokens, counted_text + ending)
        return Completion(
            text=text,
            finish=finish,
            prompt_tokens=prompt_tokens,
            cached_tokens=min(reply.cached_tokens or 0, prompt_tokens),
            generated_tokens=max(1, generated),
            mean_logprob=reply.mean_logprob,
        )

    # --- setting up -----------------------------------------------------------------------------------------------

    def _identify(self) -> tuple[str, int | None]:
        """(the model's served name, its context where the server says)."""
        wanted = self._options.model
        call = Call(path="models", read=read_models, label="the list of models", optional=wanted is not None)
        try:
            (served,) = self._wire.ask([call])
        except Refused as refusal:
            # Some hosts keep no list; a refused key will be refused again by the request that matters.
            if wanted is None or refusal.status in (401, 403):
                raise
            return wanted, None
        if wanted is None:
            if len(served) != 1:
                raise InputError(
                    f"the server has {len(served)} models", where=self._options.base_urls[0], field="model",
                    expected="one of " + ", ".join(name for name, _ in served[:20]),
                )  # fmt: skip
            return served[0]
        return wanted, dict(served).get(wanted)

    def _counter(self, capabilities: Capabilities | None) -> TokenCounter:
        options = self._options
        if options.tokenizer is not None:
            return LocalTokens(options.tokenizer, options.system)
        if capabilities is None or capabilities.counts == "server":
            try:
                return ServerTokens(self._wire, self._model, options.system)
            except Refused:
                if capabilities is not None:
                    raise
        return EstimatedTokens(options.system)


def _label(request: GenerationRequest) -> str:
    head = request.prompt[:60] + ("..." if len(request.prompt) > 60 else "")
    after = f" after {len(request.prefix)} characters of answer" if request.prefix else ""
    return f"prompt {head!r}{after}, draw {request.index}"
