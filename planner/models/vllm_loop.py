"""vLLM in this process: its engine, and the one thread that makes and steps it.

Requests join and leave the running batch between any two steps. vLLM keeps what it computes with in globals of the
process, so where the engine core runs in this process too (VLLM_ENABLE_V1_MULTIPROCESSING=0), two engines step in turn.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qsl

from planner.core import stable_hash
from planner.errors import EngineError, InputError
from planner.models.checkpoint import file_digests
from planner.models.cost import ModelShape

__all__ = ["VllmLoop", "VllmSpec"]

_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # what is printed belongs to us: it may be JSON
    "VLLM_NO_USAGE_STATS": "1",
}
_DEFAULTS: Mapping[str, Any] = {
    "generation_config": "vllm",  # what a request says and nothing else
    "disable_log_stats": True,
    "seed": 0,
}
_CPU_BLOCK = 32
"""Tokens of a prefix-cache block on a CPU: the smallest that vLLM takes there (its default, 128, misses most steps)."""

_IN_TURN = Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSpec:
    """`vllm:MODEL?NAME=VALUE&...`: a checkpoint's folder or name, options of our own, and vLLM's own arguments."""

    model: str
    own: Mapping[str, str]
    arguments: Mapping[str, Any]

    @classmethod
    def parse(cls, spec: str, own: Sequence[str]) -> VllmSpec:
        """Options named in `own` are ours and text; the others are EngineArgs of vLLM, JSON where they can be read so.

        Raises InputError for an option that is empty or given twice, and where no model is named.
        """
        model, _, query = spec.removeprefix("vllm:").partition("?")
        if not model:
            raise InputError("no model", field="engine", value=spec, expected="vllm:FOLDER or vllm:NAME")
        mine, theirs = dict[str, str](), dict[str, Any]()
        for name, text in parse_qsl(query, keep_blank_values=True):
            if not text or name in mine or name in theirs:
                raise InputError("is empty or given twice", where=spec, field=name, value=text, expected="one value")
            if name in own:
                mine[name] = text
            else:
                theirs[name] = _value(text)
        return cls(model=model, own=mine, arguments=theirs)

    @property
    def digest(self) -> str:
        """Of the model's name and, where it is a folder, of its files; of what changes its numbers."""
        folder = Path(self.model)
        known = file_digests(folder) if folder.is_dir() else self.model
        return stable_hash(known, sorted((k, str(v)) for k, v in self.arguments.items() if k in _CHANGES_TEXTS))


_CHANGES_TEXTS = ("dtype", "quantization", "kv_cache_dtype", "revision", "hf_overrides", "max_model_len", "seed")


class VllmLoop:
    """Runs requests on vLLM. `shape` is None where the model's cost is unknown.

    Raises:
        InputError: an argument that vLLM does not know or take, or a model that is not there.
        EngineError: the engine core does not start.
    """

    def __init__(self, spec: VllmSpec, **further: Any) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="vllm")
        self._waiting: dict[str, Future[Any]] = {}
        self._numbers = itertools.count()
        self._broken: BaseException | None = None
        self._engine = self._worker.submit(_start, spec, {**_DEFAULTS, **further, **spec.arguments}).result()
        config = self._engine.vllm_config
        self.max_context_tokens = int(config.model_config.max_model_len)
        self.caches_prefixes = bool(config.cache_config.enable_prefix_caching)
        self.device = str(config.device_config.device_type)
        self.shape = _shape(config.model_config.hf_config.to_dict())
        self.tokenizer = config.model_config.tokenizer
        # In this process the core is an object, else a client of another process.
        self._turn = _IN_TURN if hasattr(self._engine, "model_executor") else nullcontext()

    def submit(self, requests: Sequence[tuple[Sequence[int], Any]]) -> list[Future[Any]]:
        """Add (token ids, sampling or pooling parameters); futures of vLLM's final outputs, in order. Returns at once.

        A future that is cancelled aborts its request. Raises EngineError once the engine has died or was closed.
        """
        if self._broken is not None:
            raise _dead(self._broken)
        futures: list[Future[Any]] = [Future() for _ in requests]
        self._worker.submit(self._add, list(zip(futures, requests, strict=True)))
        return futures

    def reset_prefixes(self) -> None:
        """Forget the keys and values of all prefixes. Nothing may be running."""
        self._worker.submit(self._engine.reset_prefix_cache).result()

    def close(self) -> None:
        """Stop vLLM; what still runs fails. The loop cannot be used afterwards."""
        if self._broken is None:
            self._worker.submit(self._end).result()
        self._worker.shutdown()

    # --- in the worker's thread -----------------------------------------------------------------------------------

    def _add(self, rows: Sequence[tuple[Future[Any], tuple[Sequence[int], Any]]]) -> None:
        from vllm.inputs import tokens_input

        idle = not self._waiting
        for future, (ids, parameters) in rows:
            name = str(next(self._numbers))
            try:
                self._engine.add_request(name, tokens_input(prompt_token_ids=list(ids)), parameters)
            except ValueError as error:
                future.set_exception(EngineError(f"vLLM refuses a request of {len(ids)} tokens: {error}"))
            except BaseException as error:
                future.set_exception(_dead(error))
                self._fail(error)
                raise
            else:
                self._waiting[name] = future
                future.add_done_callback(partial(self._ended, name))
        if idle and self._waiting:
            self._worker.submit(self._step)

    def _step(self) -> None:
        try:
            with self._turn:
                outputs = self._engine.step()
        except BaseException as error:
            self._fail(error)
            raise
        for output in outputs:
            future = self._waiting.pop(output.request_id, None) if output.finished else None
            if future is not None and future.set_running_or_notify_cancel():
                future.set_result(output)
        if self._waiting:
            self._worker.submit(self._step)  # behind what was submitted meanwhile

    def _ended(self, name: str, future: Future[Any]) -> None:
        if future.cancelled() and self._broken is None:
            self._worker.submit(self._abort, name)

    def _abort(self, name: str) -> None:
        if self._waiting.pop(name, None) is not None:
            self._engine.abort_request([name])

    def _end(self) -> None:
        self._fail(EngineError("the engine was closed"))
        self._engine.engine_core.shutdown()

    def _fail(self, error: BaseException) -> None:
        self._broken = error
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if future.set_running_or_notify_cancel():
                future.set_exception(_dead(error))


def _start(spec: VllmSpec, arguments: dict[str, Any]) -> Any:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.llm_engine import LLMEngine

    known = {field.name for field in fields(EngineArgs)} - {"model"}
    if unknown := sorted(set(arguments) - known):
        raise InputError("no such argument of vLLM", where=f"vllm:{spec.model}", field=unknown[0],
                         value=arguments[unknown[0]], expected="a field of vllm.EngineArgs")  # fmt: skip
    if current_platform.is_cpu():
        arguments.setdefault("block_size", _CPU_BLOCK)
        # Where a seeded request's prompt is read in parts, vLLM 0.32 turns its generator back, which a CPU's cannot.
        if arguments.get("runner") != "pooling":
            arguments.setdefault("enable_chunked_prefill", False)
    try:
        return LLMEngine.from_engine_args(EngineArgs(model=spec.model, **arguments))
    except (ValueError, OSError) as error:  # what its validation and the model's files raise
        raise InputError(
            f"vLLM cannot serve it: {str(error)[:500]}", where="engine vllm", field="model", value=spec.model
        ) from error
    except RuntimeError as error:
        raise EngineError(f"vLLM did not start with {spec.model}: {error}") from error


def _shape(config: dict[str, Any]) -> ModelShape | None:
    try:
        return ModelShape.from_config(config, where="config.json")
    except InputError:
        return None  # an architecture whose cost is not known is served all the same


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _dead(error: BaseException) -> EngineError:
    return EngineError(f"vLLM has stopped ({type(error).__name__}: {error}); see its log", retryable=False)
