"""Where a pooling verifier's inputs are computed: vLLM's server, or vLLM in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeAlias, TypeVar

from planner.errors import EngineError, VerifierError
from planner.models.openai_options import OpenAIOptions
from planner.models.openai_wire import Call, Unreadable, Wire
from planner.models.protocols import Pending

__all__ = ["HttpPool", "LoopPool", "Rows"]

T = TypeVar("T")
Rows: TypeAlias = list[list[float]]
"""For each step tag of an input, in order, the values that were read out there."""

_INPUTS = 32
"""Inputs in one HTTP request; the server batches them with others'."""


class HttpPool:
    """vLLM's `POST /pooling`. `remedy` says how the server is to be started. Raises EngineError where it cannot be
    reached."""

    def __init__(self, options: OpenAIOptions, remedy: str) -> None:
        self._remedy, self.model = remedy, options.model
        self._wire = Wire(
            options.base_urls,
            api_key=os.environ[options.api_key_env] if options.api_key_env else None,
            timeout=options.timeout,
            retries=options.retries,
            concurrency=options.concurrency,
        )

    def get(self, path: str, read: Callable[[Any], T]) -> T:
        """What the server says at `path`."""
        (found,) = self._wire.ask([Call(path=path, read=read, label=path)])
        return found

    def start(self, inputs: Sequence[tuple[int, ...]]) -> list[Pending[Rows]]:
        groups = [inputs[start : start + _INPUTS] for start in range(0, len(inputs), _INPUTS)]
        answers = self._wire.start([self._call(group) for group in groups])
        parts = [
            part
            for group, answer in zip(groups, answers, strict=True)
            for part in _parts(answer, len(group), lambda error: f"{error}; for a verifier: {self._remedy}")
        ]
        return [Pending(part, partial(_at, number % _INPUTS)) for number, part in enumerate(parts)]

    def close(self) -> None:
        self._wire.close()

    def _call(self, group: Sequence[tuple[int, ...]]) -> Call[list[Rows]]:
        body = {
            "model": self.model,
            "input": [list(ids) for ids in group],
            "task": "token_classify",
            "use_activation": True,
        }
        tokens = sum(len(ids) for ids in group)
        label = f"pooling of {len(group)} inputs, {tokens} tokens"
        return Call(path="pooling", body=body, at_root=True, read=_reader(len(group), tokens), label=label)


class LoopPool:
    """vLLM's step loop in this process; `loop` runs a pooling model."""

    def __init__(self, loop: Any, name: str) -> None:
        self._loop, self._name = loop, name

    def start(self, inputs: Sequence[tuple[int, ...]]) -> list[Pending[Rows]]:
        from vllm import PoolingParams

        futures = self._loop.submit([(ids, PoolingParams(task="token_classify")) for ids in inputs])
        parts = [part for future in futures for part in _parts(future, 1, lambda error: f"{self._name}: {error}")]
        return [Pending(part, _pooled) for part in parts]

    def close(self) -> None:
        self._loop.close()


def _parts(whole: Future[Any], count: int, told: Callable[[EngineError], str]) -> list[Future[Any]]:
    """`count` futures that end as `whole` does, each with its result; a failure is the verifier's. `whole` is cancelled
    once all of them are."""
    parts: list[Future[Any]] = [Future() for _ in range(count)]

    def end(ended: Future[Any]) -> None:
        if ended.cancelled():
            for part in parts:
                part.cancel()
            return
        failure = ended.exception()
        if isinstance(failure, EngineError):
            failure = VerifierError(told(failure))
        for part in parts:
            if not part.set_running_or_notify_cancel():
                continue
            if failure is None:
                part.set_result(ended.result())
            else:
                part.set_exception(failure)

    def drop(part: Future[Any]) -> None:
        if part.cancelled() and all(each.cancelled() for each in parts):
            whole.cancel()

    for part in parts:
        part.add_done_callback(drop)
    whole.add_done_callback(end)
    return parts


def _at(number: int, answer: Sequence[Rows]) -> Rows:
    return answer[number]


def _pooled(output: Any) -> Rows:
    return [_row(row) for row in output.outputs.data.tolist()]


def _reader(inputs: int, tokens: int) -> Callable[[Any], list[Rows]]:
    def read(document: Any) -> list[Rows]:
        rows = document.get("data") if isinstance(document, Mapping) else None
        if not isinstance(rows, list) or len(rows) != inputs or not all(isinstance(row, Mapping) for row in rows):
            raise Unreadable(f"not {inputs} rows in `data`")
        usage = document.get("usage")
        read_tokens = usage.get("prompt_tokens") if isinstance(usage, Mapping) else None
        if read_tokens is not None and read_tokens != tokens:
            raise Unreadable(f"the server read {read_tokens} tokens where {tokens} were sent")
        ordered = sorted(rows, key=lambda row: row.get("index", 0))
        return [[_row(values) for values in row.get("data", ())] for row in ordered]

    return read


def _row(values: Any) -> list[float]:
    """One place's values; a single one may come bare."""
    return [float(value) for value in values] if isinstance(values, list) else [float(values)]
