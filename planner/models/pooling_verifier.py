"""Process reward models on vLLM's pooling runner: over HTTP (`POST /pooling`) or in this process.

vLLM reads scores out at one token, the step tag, which it must be told; told a wrong one, it answers with nothing and
no error. So the tag is tried out first, and every answer must hold a row for each tag that was sent.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode

from planner.core import ScoreRequest, StepScores, stable_hash
from planner.errors import CapabilityError, EngineError, InputError, VerifierError
from planner.models.card_tokens import CardTokens
from planner.models.cards import VerifierCard, load_card
from planner.models.openai_dialect import read_models
from planner.models.openai_options import OpenAIOptions
from planner.models.pooling_backends import HttpPool, LoopPool, Rows
from planner.models.protocols import Pending, VerifierInfo, collected

__all__ = ["PoolingVerifier", "open_pooling", "vllm_arguments", "vllm_flags"]

_TRIED = ("What is 1 + 2?", ("1 + 2 = 3", "#### 3"))
_PROCESS_MODELS = ("Qwen2ForProcessRewardModel",)
"""Architectures whose own head vLLM reads out at every token."""

_OWN = ("card", "name")
_NO_SERVER = ("system", "endpoint", "prefix_cache")


class Pool(Protocol):
    """Where inputs are pooled."""

    def start(self, inputs: Sequence[tuple[int, ...]]) -> list[Pending[Rows]]:
        """For each input of token ids, the values at each of its step tags; returns at once. A result raises
        VerifierError."""
        ...

    def close(self) -> None: ...


class PoolingVerifier:
    """The score of each step at its tag, by a card of a process reward model. Every request computes all its tokens.

    Raises VerifierError at construction where the pool does not read out at the card's tag, and for an input longer
    than the model's context (it is never cut).
    """

    def __init__(
        self, pool: Pool, tokens: CardTokens, info: VerifierInfo, *, max_context_tokens: int | None, remedy: str
    ) -> None:
        self._pool, self._tokens, self._info = pool, tokens, info
        self._limit, self._remedy = max_context_tokens, remedy
        self._try_tag()

    @property
    def info(self) -> VerifierInfo:
        return self._info

    def count_tokens(self, prompt: str, steps: Sequence[str]) -> int:
        return self._tokens.count(prompt, steps)

    def reset(self) -> None:
        pass

    def close(self) -> None:
        """Give connections or vLLM back; the verifier cannot score afterwards."""
        self._pool.close()

    def score(self, requests: Sequence[ScoreRequest]) -> list[StepScores]:
        """Step scores for each request, in order."""
        return collected(self.submit(requests))

    def submit(self, requests: Sequence[ScoreRequest]) -> list[Pending[StepScores]]:
        """Start each request and return at once. Raises VerifierError for an input that is too long, and starts nothing
        then."""
        inputs = [self._tokens.whole(request.prompt, request.steps) for request in requests]
        for ids, _ in inputs:
            if self._limit is not None and len(ids) > self._limit:
                raise VerifierError(
                    f"{self._info.name}: an input of {len(ids)} tokens is longer than its {self._limit}"
                )
        started = self._pool.start([ids for ids, _ in inputs])
        return [
            Pending(each.future, partial(self._scores, ids, tags, each))
            for each, (ids, tags) in zip(started, inputs, strict=True)
        ]

    def _scores(self, ids: Sequence[int], tags: Sequence[int], pooled: Pending[Rows], raw: Any) -> StepScores:
        rows = pooled.read(raw)
        places = self._places(ids, rows)  # the tag's token may stand in the question too
        scores = tuple(self._probability(rows[places[tag]]) for tag in tags)
        return StepScores(scores=scores, tokens=len(ids), new_tokens=len(ids), computed_tokens=len(ids))

    def _places(self, ids: Sequence[int], rows: Rows) -> dict[int, int]:
        """Which row belongs to which position."""
        at = [position for position, token in enumerate(ids) if token == self._tokens.tag]
        if len(rows) != len(at):
            raise VerifierError(
                f"{self._info.name}: vLLM returned {len(rows)} rows for an input with {len(at)} step tags (token "
                f"{self._tokens.tag}). Its step_tag_id is another one, or its model pools otherwise: {self._remedy}"
            )
        return {position: row for row, position in enumerate(at)}

    def _probability(self, row: Sequence[float]) -> float:
        """Of one value (the chance of a right step) or two (wrong, right)."""
        if len(row) not in (1, 2) or not all(0 <= value <= 1 for value in row):
            raise VerifierError(
                f"{self._info.name}: vLLM returned {list(row)[:4]} for a step, where one or two probabilities were "
                f"expected: {self._remedy}"
            )
        return float(row[-1])

    def _try_tag(self) -> None:
        """The input up to its last tag has one row fewer than with it, and each has as many as tags, only if that very
        token is the pool's step tag."""
        ids, tags = self._tokens.whole(*_TRIED)
        inputs = [ids[: tags[-1]], ids[: tags[-1] + 1]]
        for tried, rows in zip(inputs, collected(self._pool.start(inputs)), strict=True):
            self._places(tried, rows)
            for row in rows:
                self._probability(row)


def open_pooling(spec: str) -> PoolingVerifier:
    """The verifier that `spec` names.

    `vllm:FOLDER_OR_NAME?card=CARD&NAME=VALUE&...`: in this process; further options are vLLM's own arguments.
    `http://HOST/v1?tokenizer=FOLDER&card=CARD&model=NAME&...`: vLLM's server; further options as an engine's
    (planner.models.openai_options), and the folder's config.json prices tokens where no `config` is given.
    Without `card`, the folder's verifier.toml is read.

    Raises:
        InputError: an option, card, tokenizer or model that cannot be used.
        CapabilityError: vLLM has no pooling for the card's read-out.
        EngineError, VerifierError: vLLM cannot be reached, does not start, or does not read out at the card's tag.
    """
    return _in_process(spec) if spec.startswith("vllm:") else _over_http(spec)


def vllm_arguments(card: VerifierCard, folder: str | Path) -> dict[str, Any]:
    """vLLM's arguments (EngineArgs) to serve the card's model. Raises CapabilityError where it has no such pooling."""
    return _arguments(card, _tokenizer(folder), str(folder))


def vllm_flags(card: VerifierCard, folder: str | Path) -> list[str]:
    """The same as flags of vLLM's server."""
    return _flags(vllm_arguments(card, folder))


def _arguments(card: VerifierCard, tokenizer: Any, model: str) -> dict[str, Any]:
    from transformers import PretrainedConfig

    tokens = CardTokens(card, tokenizer, model)
    config, _ = PretrainedConfig.get_config_dict(model)
    architecture = str((config.get("architectures") or ["unknown"])[0])
    arguments: dict[str, Any] = {
        "runner": "pooling",
        "pooler_config": {"task": "token_classify", "tok_pooling_type": "STEP", "step_tag_id": tokens.tag},
    }
    if architecture in _PROCESS_MODELS and card.head:
        return arguments
    base = architecture.removesuffix("ForCausalLM")
    if card.head or base == architecture:
        raise CapabilityError(
            f"vLLM does not pool an {architecture} with {'a head' if card.head else 'two tokens'}",
            where=model, field="card", value=card.name,
            expected=f"a card with positive and negative on a causal model, or {' or '.join(_PROCESS_MODELS)}",
            hint=f"Score in this process instead: transformers:{model}",
        )  # fmt: skip
    # A head of one output, made of the difference of the two tokens' rows, whose sigmoid is the softmax over both.
    arguments["hf_overrides"] = {
        "architectures": [f"{base}ForSequenceClassification"],
        "method": "from_2_way_softmax",
        "classifier_from_token": tokenizer.convert_ids_to_tokens(tokens.signs),
    }
    return arguments


def _flags(arguments: Mapping[str, Any]) -> list[str]:
    pairs = [(f"--{name.replace('_', '-')}", value) for name, value in arguments.items()]
    return [text for flag, value in pairs for text in (flag, value if isinstance(value, str) else json.dumps(value))]


def _tokenizer(folder: str | Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise InputError(
            f"no tokenizer can be loaded ({str(error)[:120]})", where="verifier", field="tokenizer", value=str(folder),
            expected="a folder with tokenizer.json and tokenizer_config.json",
        ) from None  # fmt: skip


def _in_process(spec: str) -> PoolingVerifier:
    from planner.models.vllm_loop import VllmLoop, VllmSpec

    options = VllmSpec.parse(spec, _OWN)
    card = load_card(options.own.get("card") or Path(options.model) / "verifier.toml")
    tokenizer = _tokenizer(options.model)
    arguments = _arguments(card, tokenizer, options.model)
    name = options.own.get("name") or card.name or Path(options.model).name
    tokens = CardTokens(card, tokenizer, name)
    loop = VllmLoop(options, **arguments)
    info = VerifierInfo(
        name=name,
        fingerprint=stable_hash("vllm pooling", options.digest, loop.device, tokens.format()),
        shape=loop.shape,
        incremental=False,
    )
    try:
        return PoolingVerifier(
            LoopPool(loop, name), tokens, info, max_context_tokens=loop.max_context_tokens,
            remedy="leave the pooling arguments to the card",
        )  # fmt: skip
    except VerifierError:
        loop.close()
        raise


def _over_http(spec: str) -> PoolingVerifier:
    base, _, query = spec.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    own = {key: value for key, value in pairs if key in _OWN}
    if misplaced := [key for key, _ in pairs if key in _NO_SERVER]:
        raise InputError("is an engine's option and no verifier's", where=base, field=misplaced[0])
    rest = urlencode([(key, value) for key, value in pairs if key not in _OWN])
    options = OpenAIOptions.from_spec(f"{base}?{rest}" if rest else base)
    folder = options.tokenizer
    if folder is None:
        raise InputError(
            "a verifier's input is written here", where=base, field="tokenizer",
            expected="the folder of the served model's tokenizer",
        )  # fmt: skip
    card, tokenizer, remedy = load_card(own.get("card") or folder / "verifier.toml"), _tokenizer(folder), "start vLLM"
    if (folder / "config.json").is_file():
        options = replace(options, config=options.config or folder / "config.json")
        remedy += f" with {shlex.join(_flags(_arguments(card, tokenizer, str(folder))))}"
    pool = HttpPool(options, remedy)
    try:
        return _served(pool, options, card, tokenizer, own.get("name"), remedy)
    except (InputError, EngineError, VerifierError):
        pool.close()
        raise


def _served(
    pool: HttpPool, options: OpenAIOptions, card: VerifierCard, tokenizer: Any, name: str | None, remedy: str
) -> PoolingVerifier:
    served = dict(pool.get("models", read_models))
    if options.model is None and len(served) != 1:
        raise InputError(
            f"the server has {len(served)} models", where=options.base_urls[0], field="model",
            expected="one of " + ", ".join(list(served)[:20]),
        )  # fmt: skip
    model = pool.model = options.model or next(iter(served))
    name, shape = name or card.name or model, options.shape()
    tokens = CardTokens(card, tokenizer, name)
    info = VerifierInfo(
        name=name,
        fingerprint=stable_hash("pooling", model, options.revision, tokens.format()),
        shape=shape,
        incremental=False,
    )
    limit = options.max_context_tokens or served.get(model) or (shape.max_context_tokens if shape else None)
    return PoolingVerifier(pool, tokens, info, max_context_tokens=limit, remedy=remedy)
