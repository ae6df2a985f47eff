"""Where a pooling verifier's inputs are computed: vLLM's server, or vLLM in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from planner.errors import EngineError, VerifierError
from planner.models.openai_options import OpenAIOptions
from planner.models.openai_wire import Call, Unreadable, Wire

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

    def rows(self, inputs: Sequence[tuple[int, ...]]) -> list[Rows]:
        groups = [inputs[start : start + _INPUTS] for start in range(0, len(inputs), _INPUTS)]
        try:
            answers = self._wire.ask([self._call(group) for group in groups])
        except EngineError as error:
            raise VerifierError(f"{error}; for a verifier: {self._remedy}") from error
        return [rows for answer in answers for rows in answer]

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

    def rows(self, inputs: Sequence[tuple[int, ...]]) -> list[Rows]:
        from vllm import PoolingParams

        futures = self._loop.submit([(ids, PoolingParams(task="token_classify")) for ids in inputs])
        try:
            outputs = [future.result() for future in futures]
        except EngineError as error:
            raise VerifierError(f"{self._name}: {error}") from error
        finally:
            for future in futures:
                future.cancel()  # does nothing to those that are done
        return [[_row(row) for row in output.outputs.data.tolist()] for output in outputs]

    def close(self) -> None:
        self._loop.close()


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
