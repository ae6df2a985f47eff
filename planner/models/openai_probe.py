"""Finds out by a dozen short requests what a server does: fields that it does not know are often ignored in silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from planner.core import Sampling
from planner.errors import CapabilityError
from planner.models.openai_dialect import Prompt, Reply, make_body, reader
from planner.models.openai_options import Capabilities, Endpoint, OpenAIOptions
from planner.models.openai_tokens import TokenCounter, turns
from planner.models.openai_wire import Call, Refused, Wire

__all__ = ["probe_server"]

_PROMPT = "Calculate 12 + 30 - 7. Write every step on a line of its own."
_GREEDY = Sampling(temperature=0.0, max_tokens=16)
_HOT = Sampling(temperature=1.5, max_tokens=16)
_UNKNOWN = (400, 403, 404, 405, 415, 422, 501)
"""Statuses by which servers refuse a path, a field or a kind of prompt that they do not know."""


def probe_server(
    wire: Wire, options: OpenAIOptions, model: str, tokens: TokenCounter, context: int | None
) -> Capabilities:
    """What the server at the other end does. `context` is its limit in tokens where it is known.

    Raises:
        CapabilityError: the endpoint that `options` asks for (or any, where it asks for none) is not served.
        EngineError: the server cannot be reached.
    """
    return _Probe(wire, options, model, tokens).run(context)


@dataclass(slots=True)
class _Probe:
    wire: Wire
    options: OpenAIOptions
    model: str
    tokens: TokenCounter
    notes: list[str] = field(default_factory=list)

    def run(self, context: int | None) -> Capabilities:
        endpoint, prompt, first = self._endpoint()
        found = Capabilities(
            endpoint=endpoint,
            token_prompts=endpoint == "completions" and not isinstance(prompt, str),
            usage=first.prompt_tokens is not None and first.generated_tokens is not None,
            counts=self.tokens.kind,
            max_context_tokens=context,
        )
        seeds, again = self._seeds(endpoint, prompt)
        keeps, told = self._stops(endpoint, prompt, first.text)
        with_logprobs = self._ask(endpoint, [(prompt, _GREEDY, {"logprobs": True})])
        logprobs = with_logprobs is not None and with_logprobs[0].mean_logprob is not None
        if not logprobs:
            self.notes.append("no log-probabilities: confidence votes cannot be taken")
        if self.tokens.kind == "estimate":
            self.notes.append("tokens are estimated before a request: give `tokenizer` a folder for exact counts")
        if not found.usage:
            self.notes.append("the server does not report usage: our own counts stand in for it")
        if context is None:
            self.notes.append("the context's length is unknown: give `config` or `max_context_tokens`")
        return replace(
            found,
            seeds=seeds,
            stop_in_output=keeps,
            stops_told=told,
            logprobs=logprobs,
            continues=endpoint == "completions" or self._continues(),
            reports_cached=any(reply.cached_tokens for reply in [first, *again, *(with_logprobs or ())]),
            notes=tuple(self.notes),
        )

    def _endpoint(self) -> tuple[Endpoint, Prompt, Reply]:
        """The first endpoint that answers, the form of prompt that it takes, and its answer."""
        messages, ids = turns(_PROMPT, self.options.system), self.tokens.ids(("prompt", _PROMPT))
        text = self.tokens.plain(_PROMPT)
        forms: list[tuple[Endpoint, Prompt]] = [("chat", messages)]
        # A template that only the server knows cannot be written into a text.
        texts: list[tuple[Endpoint, Prompt]] = [("completions", text)] if self.tokens.kind != "server" else []
        if ids is None:
            forms += texts
        else:
            forms = [("completions", ids), *texts, *forms]
        refusals = []
        for endpoint, prompt in forms:
            if self.options.endpoint not in ("auto", endpoint):
                continue
            try:
                (reply,) = self.wire.ask([self._call(endpoint, prompt, _GREEDY, {})])
            except Refused as refusal:
                if refusal.status not in _UNKNOWN:
                    raise
                refusals.append(str(refusal))
                continue
            if endpoint == "completions" and self.tokens.kind == "estimate":
                self.notes.append("prompts go out as plain text, without a chat template")
            return endpoint, prompt, reply
        raise CapabilityError(
            f"the server refuses: {'; '.join(refusals)}", where="engine", field="endpoint", value=self.options.endpoint,
            hint="Try the other endpoint; for completions without a `tokenizer`, the prompt is sent as plain text",
        )  # fmt: skip

    def _seeds(self, endpoint: Endpoint, prompt: Prompt) -> tuple[bool, list[Reply]]:
        """Whether equal seeds give equal texts and others do not."""
        replies = self._ask(endpoint, [(prompt, _HOT, {"seed": seed}) for seed in (1, 1, 2, 3)])
        if replies is None:
            self.notes.append("seeds are refused: the same request may give another text")
            return False, []
        same, twin, *others = [reply.text for reply in replies]
        if same != twin or all(text == same for text in others):
            self.notes.append("seeds are ignored: the same request may give another text")
            return False, replies
        return True, replies

    def _stops(self, endpoint: Endpoint, prompt: Prompt, text: str) -> tuple[bool, bool]:
        """(a stop string is kept in the text, a stop can be told from the end token)."""
        stops = tuple(dict.fromkeys(text[1:]))[:4]
        if not stops:
            self.notes.append("stop strings could not be tried: the model ended at once")
            return False, False
        sampling = replace(_GREEDY, stop=stops)
        for keep in (True, False):
            replies = self._ask(endpoint, [(prompt, sampling, {"keep_stop": keep})])
            if replies is None:
                continue
            if keep and replies[0].text.endswith(stops):
                return True, True
            told = replies[0].stop_reason in stops
            if not told:
                self.notes.append("a step's end cannot be told from the answer's end: no search by steps")
            return False, told
        self.notes.append("stop strings are refused: no search by steps")
        return False, False

    def _continues(self) -> bool:
        """Whether an assistant's turn goes on where it was left: its input must be one token longer than the opened
        turn, and longer again by a step separator (templates that strip messages would lose it)."""
        answers = ("", "1", "1\n\n")
        one = replace(_GREEDY, max_tokens=1)
        cases = [(turns(_PROMPT, self.options.system, a), one, {"continued": bool(a)}) for a in answers]
        replies = self._ask("chat", cases)
        if replies is None:
            self.notes.append("the chat endpoint refuses to continue an answer: no search by steps, no revision")
            return False
        opened, begun, parted = (reply.prompt_tokens for reply in replies)
        if opened is None or begun is None or parted is None:
            self.notes.append("whether an answer is continued cannot be told without usage: taken as no")
            return False
        if not 1 <= begun - opened <= 2:
            self.notes.append("the chat endpoint starts anew instead of continuing an answer: no search by steps")
            return False
        if parted <= begun:
            self.notes.append("the chat template strips the step separator of a continued answer: no search by steps")
            return False
        return True

    def _ask(self, endpoint: Endpoint, cases: Sequence[tuple[Prompt, Sampling, dict[str, Any]]]) -> list[Reply] | None:
        """The replies, None where the server refuses this kind of request."""
        try:
            return self.wire.ask([self._call(endpoint, *case) for case in cases])
        except Refused as refusal:
            if refusal.status not in _UNKNOWN:
                raise
            return None

    def _call(self, endpoint: Endpoint, prompt: Prompt, sampling: Sampling, extra: dict[str, Any]) -> Call[Reply]:
        path = "completions" if endpoint == "completions" else "chat/completions"
        body = make_body(self.model, endpoint, prompt, sampling, **extra)
        label = f"the probe's {sorted(extra) or 'first request'}"
        return Call(path=path, body=body, read=reader(endpoint), label=label)
