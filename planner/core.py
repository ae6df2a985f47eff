"""The vocabulary: problems, samples, answers, usage and cost. No logic beyond arithmetic on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias

__all__ = [
    "Answer",
    "Candidate",
    "Completion",
    "Cost",
    "Finish",
    "GenerationRequest",
    "JSON",
    "Outcome",
    "Problem",
    "REVISION_TEMPLATE",
    "Sampling",
    "ScoreRequest",
    "StepScores",
    "Usage",
    "join_steps",
    "split_steps",
    "stable_hash",
]

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

Finish: TypeAlias = Literal["end", "stop", "length", "budget"]
"""Why a completion ended: end token, stop string, token limit, or the ledger (refused, or cut short by it)."""


REVISION_TEMPLATE = "{prompt}\n\nEarlier attempts, which may be wrong:\n\n{attempts}\n\nAnswer again, better."


def stable_hash(*parts: object) -> str:
    """Hex digest (32 characters) of JSON-able parts; the same on every machine and in every process."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A prompt to be answered.

    `gold` is known while profiling and None in production. `group` names the template or source that
    splits must not cross. `step_separator`, `max_tokens` and `revision_template` belong to how the task is answered,
    not to a strategy. The template makes a prompt from `{prompt}` and `{attempts}`, the earlier answers.
    """

    problem_id: str
    prompt: str
    gold: str | None = None
    group: str | None = None
    step_separator: str = "\n\n"
    max_tokens: int = 2048
    revision_template: str = REVISION_TEMPLATE
    extra: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy. `stop` strings are kept at the end of the text."""

    temperature: float = 0.8
    top_p: float = 1.0
    max_tokens: int = 2048
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One continuation of `prefix` (the partial answer so far, "" at first) for `prompt`.

    `index` tells apart several draws from the same prompt and prefix. An engine derives the request's random
    stream from (its fingerprint, prompt, prefix, sampling, index) and nothing else, so a result depends neither on
    the batch around it nor on order.
    """

    prompt: str
    prefix: str = ""
    sampling: Sampling = Sampling()
    index: int = 0

    def key(self, fingerprint: str) -> str:
        """The sample's key for the engine with this fingerprint (METHODS section 5)."""
        s = self.sampling
        return stable_hash(
            fingerprint, self.prompt, self.prefix, [s.temperature, s.top_p, s.max_tokens, list(s.stop)], self.index
        )

    def seed(self, fingerprint: str) -> int:
        """Seed in [0, 2**63) derived from the key. `max_tokens` and `stop` do not enter, so that a draw cut shorter
        is a prefix of the longer one."""
        s = self.sampling
        digest = stable_hash(fingerprint, self.prompt, self.prefix, [s.temperature, s.top_p], self.index)
        return int(digest[:16], 16) >> 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What an engine returns for one request.

    `prompt_tokens` counts prompt and prefix; `cached_tokens` is the part of them whose keys and values the engine
    really reused; `generated_tokens` includes the end token. `mean_logprob` is the mean natural log-probability of the
    generated tokens at temperature 1, None where the engine cannot tell.
    """

    text: str
    finish: Finish
    prompt_tokens: int
    cached_tokens: int = 0
    generated_tokens: int
    mean_logprob: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """A (partial) answer to be scored, as its steps (without separators, never blank)."""

    prompt: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepScores:
    """Scores in [0, 1], one for each step (a single one for verifiers of the whole answer, see VerifierInfo); none
    where the verifier could not tell, which is no low score.

    `tokens` is the full input length; `new_tokens` is what the request adds beyond the longest prefix of it that this
    verifier scored before (equal to `tokens` where prefixes cannot be kept); `computed_tokens` is what was really
    computed.
    """

    scores: tuple[float, ...]
    tokens: int
    new_tokens: int
    computed_tokens: int


class Outcome(StrEnum):
    """How a solution ended. Only `FINISHED` can be correct."""

    FINISHED = "finished"
    TRUNCATED = "truncated"
    OUT_OF_BUDGET = "out_of_budget"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One complete or partial answer. `key` is the canonical form of `answer` that votes are counted over.

    `generated_tokens` is known for answers that were drawn whole.
    """

    text: str
    answer: str | None
    key: str | None
    finished: bool
    scores: tuple[float, ...] | None = None
    mean_logprob: float | None = None
    generated_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a strategy returns."""

    answer: str | None
    text: str
    outcome: Outcome
    candidates: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Counts, filled by drivers only; adds.

    Logical tokens: `prompt_tokens` counts a prompt's prefill once for all samples of it and a search step's prefix
    as free where the engine keeps prefixes; `scored_tokens` likewise. `computed_*` are what was really computed.
    `rounds` are effects answered one after the other, of which `scoring_rounds` were scores; `decode_steps` sums the
    longest completion of each: what the flow would wait for if it ran alone.
    """

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0
    computed_prompt_tokens: int = 0
    computed_scored_tokens: int = 0
    rounds: int = 0
    scoring_rounds: int = 0
    decode_steps: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in Usage.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """FLOPs of one solution by part (METHODS section 4, account `architecture`, logical tokens); adds."""

    prefill_flops: float = 0.0
    decode_flops: float = 0.0
    verifier_flops: float = 0.0
    probe_flops: float = 0.0

    @property
    def total_flops(self) -> float:
        return self.prefill_flops + self.decode_flops + self.verifier_flops + self.probe_flops

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in Cost.__slots__})


def split_steps(text: str, separator: str) -> tuple[str, ...]:
    """The non-blank steps of a text; a trailing separator makes no empty step."""
    return tuple([part for part in text.split(separator) if part.strip()])


def join_steps(steps: tuple[str, ...], separator: str) -> str:
    """Inverse of `split_steps` up to blank steps and the trailing separator."""
    return separator.join(steps)
