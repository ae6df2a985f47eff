"""The verifier that asks a language model: LLM-as-judge over any engine, by a card."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from planner.core import Completion, GenerationRequest, Sampling, ScoreRequest, StepScores, join_steps, stable_hash
from planner.errors import VerifierError
from planner.models.cards import JudgeCard, fill_in
from planner.models.protocols import Engine, VerifierInfo

__all__ = ["JudgeVerifier"]


class JudgeVerifier:
    """One score for the (partial) answer as a whole, as the card reads it from what the engine says.

    A judgement that cannot be read is no score (`scores` is empty), never a low one; `unread` counts them. An answer is
    charged the input's tokens and `max_tokens`, whether the judge needs them all or not.

    Raises VerifierError where the card reads log-probabilities and the engine tells none; the engine's errors pass.
    """

    def __init__(self, engine: Engine, card: JudgeCard, *, name: str | None = None) -> None:
        self._engine, self._card = engine, card
        self.unread = 0
        changes = {k: v for k, v in card.to_dict().items() if k not in ("name", "models", "source")}
        self._info = VerifierInfo(
            name=name or f"{card.name or 'judge'} ({engine.info.name})",
            fingerprint=stable_hash("judge", engine.info.fingerprint, changes),
            shape=engine.info.shape,
            incremental=False,
            outcome=True,
        )

    @property
    def info(self) -> VerifierInfo:
        return self._info

    def count_tokens(self, prompt: str, steps: Sequence[str]) -> int:
        return self._engine.count_tokens(self._shown(prompt, tuple(steps))) + self._card.max_tokens

    def reset(self) -> None:
        self._engine.reset()

    def score(self, requests: Sequence[ScoreRequest]) -> list[StepScores]:
        """One score for each request or none, in order."""
        greedy = Sampling(temperature=0.0, max_tokens=self._card.max_tokens)
        shown = [self._shown(request.prompt, request.steps) for request in requests]
        replies = self._engine.generate([GenerationRequest(prompt=text, sampling=greedy) for text in shown])
        results = []
        for request, reply in zip(requests, replies, strict=True):
            score = self._probability(reply) if self._card.read == "probability" else self._number(reply.text)
            self.unread += score is None
            tokens = self.count_tokens(request.prompt, request.steps)
            computed = reply.prompt_tokens - reply.cached_tokens + reply.generated_tokens
            results.append(
                StepScores(
                    scores=() if score is None else (score,),
                    tokens=tokens,
                    new_tokens=tokens,
                    computed_tokens=min(tokens, computed),
                )
            )
        return results

    def _shown(self, prompt: str, steps: tuple[str, ...]) -> str:
        answer = join_steps(steps, self._card.separator)
        return fill_in(self._card.prompt, {"question": prompt, "answer": answer})

    def _probability(self, reply: Completion) -> float | None:
        said = reply.text.strip().lower()
        agrees, differs = (_begins(word or "", said) for word in (self._card.positive, self._card.negative))
        if agrees == differs:
            return None
        if reply.mean_logprob is None:
            raise VerifierError(
                f"{self._info.name}: the engine tells no log-probabilities, which this card reads. "
                "What to do: use a card that reads a number (judge-rubric), or an engine that tells them"
            )
        # The first token's probability; of several tokens, where a card allows them, the geometric mean.
        chance = math.exp(min(0.0, reply.mean_logprob))
        return chance if agrees else 1.0 - chance

    def _number(self, text: str) -> float | None:
        found = re.findall(self._card.pattern or "", text)
        if not found:
            return None
        try:
            value = float(found[-1])
        except ValueError:
            return None
        if not self._card.low <= value <= self._card.high:
            return None
        return (value - self._card.low) / (self._card.high - self._card.low)


def _begins(word: str, said: str) -> bool:
    """Whether what was said is the word, or as much of it as the tokens allowed."""
    word = word.strip().lower()
    return bool(said) and (said.startswith(word) or word.startswith(said))
