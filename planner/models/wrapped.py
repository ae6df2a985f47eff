"""Engines around engines: one that prices tokens by a config its engine does not know, and one for reasoning models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from planner.core import Completion, GenerationRequest, stable_hash
from planner.errors import CapabilityError, InputError
from planner.models.cost import ModelShape
from planner.models.protocols import ContinuousEngine, Engine, EngineInfo, Pending
from planner.tasks.answers import THINKING

__all__ = ["Thinking", "priced", "thinking_apart"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """A reasoning model's delimiters. `opened`: its chat template writes the first one, so that an answer begins within
    the thinking. `splits`: the task has a step separator made for such thinking."""

    opening: str
    closing: str
    opened: bool = True
    splits: bool = False


class _Wrapped:
    """Passes everything on, changed by `_asked` and `_told`."""

    def __init__(self, engine: Engine, info: EngineInfo) -> None:
        self.engine, self._info = engine, info

    @property
    def info(self) -> EngineInfo:
        return self._info

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """One completion for each request, in order. Raises what the engine raises."""
        replies = self.engine.generate([self._asked(request) for request in requests])
        return [self._told(request, reply) for request, reply in zip(requests, replies, strict=True)]

    def count_tokens(self, prompt: str, prefix: str = "") -> int:
        request = self._asked(GenerationRequest(prompt=prompt, prefix=prefix))
        return self.engine.count_tokens(request.prompt, request.prefix)

    def reset(self) -> None:
        self.engine.reset()

    def _asked(self, request: GenerationRequest) -> GenerationRequest:
        return request

    def _told(self, request: GenerationRequest, reply: Completion) -> Completion:
        return reply


class _Thinking(_Wrapped):
    def __init__(self, engine: Engine, thinking: Thinking) -> None:
        fields = [thinking.opening, thinking.closing, thinking.opened, thinking.splits]
        info = replace(engine.info, fingerprint=stable_hash("thinking", engine.info.fingerprint, fields))
        super().__init__(engine, info)
        self._thinking = thinking

    def _asked(self, request: GenerationRequest) -> GenerationRequest:
        how = self._thinking
        if not how.splits:
            if request.prefix or request.sampling.stop:
                raise CapabilityError(
                    "a reasoning model's thinking is not made of the steps that a search by steps scores",
                    where=f"engine {self._info.name}", field="thinking", value=[how.opening, how.closing],
                    hint="Use strategies that sample whole answers, or give the task a step_separator of its own",
                )  # fmt: skip
            return request
        prefix = request.prefix.replace(THINKING[0], how.opening).replace(THINKING[1], how.closing)
        return replace(request, prefix=prefix.removeprefix(how.opening) if how.opened else prefix)

    def _told(self, request: GenerationRequest, reply: Completion) -> Completion:
        how = self._thinking
        if how.splits:
            # Written the same way for every model, so that what reads an answer knows what is none.
            text = reply.text.replace(how.opening, THINKING[0]).replace(how.closing, THINKING[1])
            opens = how.opened and not request.prefix and not text.startswith(THINKING[0])
            return replace(reply, text=THINKING[0] + text if opens else text)
        _, closed, after = reply.text.rpartition(how.closing)
        if closed:
            return replace(reply, text=after.lstrip())
        # Without the closing delimiter it is still thinking, unless it ended: then a server took the thoughts away.
        still = reply.finish != "end" or reply.text.lstrip().startswith(how.opening)
        return replace(reply, text="" if still else after)


class _Continuous(_Wrapped):
    engine: ContinuousEngine

    def submit(self, requests: Sequence[GenerationRequest]) -> list[Pending[Completion]]:
        """Start each request and return at once. Raises what the engine raises."""
        pending = self.engine.submit([self._asked(request) for request in requests])
        return [
            Pending(each.future, partial(self._read, request, each))
            for request, each in zip(requests, pending, strict=True)
        ]

    def _read(self, request: GenerationRequest, pending: Pending[Completion], raw: Any) -> Completion:
        return self._told(request, pending.read(raw))


class _ContinuousThinking(_Continuous, _Thinking):
    pass


def priced(engine: Engine, shape: ModelShape, *, field: str = "model") -> Engine:
    """`engine`, its tokens priced by `shape` where it does not know its own. Raises InputError where it does and theirs
    differ in size."""
    own = engine.info.shape
    if own is not None:
        if own.parameters != shape.parameters:
            raise InputError(
                f"has {shape.parameters:,} parameters", where=f"engine {engine.info.name}", field=field,
                expected=f"the {own.parameters:,} of the engine's own config",
            )  # fmt: skip
        return engine
    kind = _Continuous if isinstance(engine, ContinuousEngine) else _Wrapped
    return kind(engine, replace(engine.info, shape=shape))


def thinking_apart(engine: Engine, thinking: Thinking) -> Engine:
    """`engine` for a reasoning model: what stands between the delimiters is no part of its answers.

    A text is what follows the thinking, empty while the model still thinks; requests by steps raise CapabilityError.
    With `splits` texts keep their thinking, between <think> and </think> whatever the model's own delimiters are, and
    may be asked for by steps.
    """
    kind = _ContinuousThinking if isinstance(engine, ContinuousEngine) else _Thinking
    return kind(engine, thinking)
