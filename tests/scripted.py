"""FAKES FOR TESTS ONLY: an engine and a verifier that follow a script. One token is one character, the end token one more."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from planner.core import Completion, GenerationRequest, ScoreRequest, StepScores
from planner.models.cost import ModelShape
from planner.models.protocols import EngineInfo, VerifierInfo

END = "<end>"
SHAPE = ModelShape.from_config(
    {
        "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
        "head_dim": 4, "intermediate_size": 16, "vocab_size": 32, "tie_word_embeddings": True, "max_position_embeddings": 4096,
    }
)  # fmt: skip


class ScriptedEngine:
    """`script` maps a prefix to its continuations by request index, or is a function of the request. A continuation is
    cut after the first stop string; END at its end stands for the end token. `logprob` gives a text's mean
    log-probability. Counts what it computed."""

    def __init__(
        self,
        script: Mapping[str, Sequence[str]] | Callable[[GenerationRequest], str],
        *,
        name: str = "scripted",
        shape: ModelShape | None = SHAPE,
        caches_prefixes: bool = True,
        logprob: Callable[[str], float] | None = None,
    ) -> None:
        self._script, self._logprob = script, logprob
        self._info = EngineInfo(
            name=name, fingerprint=name, shape=shape, caches_prefixes=caches_prefixes, max_context_tokens=4096
        )
        self.batches: list[list[GenerationRequest]] = []
        self.computed_tokens = self.generated_tokens = 0
        self._kept: set[str] = set()

    @property
    def info(self) -> EngineInfo:
        return self._info

    def count_tokens(self, prompt: str, prefix: str = "") -> int:
        return len(prompt) + len(prefix)

    def reset(self) -> None:
        self._kept.clear()

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        self.batches.append(list(requests))
        return [self._one(request) for request in requests]

    def _one(self, request: GenerationRequest) -> Completion:
        limit = request.sampling.max_tokens
        full = self._script(request) if callable(self._script) else self._script[request.prefix][request.index]
        text, ended = full.removesuffix(END), full.endswith(END)
        tokens, finish = len(text) + ended, "end" if ended else "length"
        for stop in request.sampling.stop:
            at = text.find(stop)
            if at >= 0:
                text, finish = text[: at + len(stop)], "stop"
                tokens = len(text)
        if tokens > limit:
            text, tokens, finish = text[:limit], limit, "length"
        whole = request.prompt + request.prefix
        cached = len(whole) if whole in self._kept else 0
        if self._info.caches_prefixes:
            self._kept |= {whole, whole + text}
        self.computed_tokens += len(whole) - cached
        self.generated_tokens += tokens
        return Completion(
            text=text,
            finish=finish,
            prompt_tokens=len(whole),
            cached_tokens=cached,
            generated_tokens=tokens,
            mean_logprob=self._logprob(text) if self._logprob else None,
        )


class ScriptedVerifier:
    """`script` maps a path ("step|step|...") to its last step's score, or is a function of the steps so far."""

    def __init__(
        self,
        script: Mapping[str, float] | Callable[[tuple[str, ...]], float],
        *,
        incremental: bool = True,
        shape: ModelShape | None = SHAPE,
    ) -> None:
        self._script = script
        self._info = VerifierInfo(name="scripted-prm", fingerprint="v", shape=shape, incremental=incremental)
        self.batches: list[list[ScoreRequest]] = []
        self.computed_tokens = 0

    @property
    def info(self) -> VerifierInfo:
        return self._info

    def count_tokens(self, prompt: str, steps: Sequence[str]) -> int:
        return len(prompt) + sum(len(step) + 1 for step in steps)

    def reset(self) -> None:
        pass

    def score(self, requests: Sequence[ScoreRequest]) -> list[StepScores]:
        self.batches.append(list(requests))
        out = []
        for r in requests:
            assert r.steps
            assert all(step.strip() for step in r.steps)
            paths = [r.steps[: k + 1] for k in range(len(r.steps))]
            scores = tuple(self._script(p) if callable(self._script) else self._script["|".join(p)] for p in paths)
            tokens = self.count_tokens(r.prompt, r.steps)
            self.computed_tokens += tokens
            out.append(StepScores(scores=scores, tokens=tokens, new_tokens=tokens, computed_tokens=tokens))
        return out


def drawn(request: GenerationRequest) -> str:
    """A random answer of a few steps, the continuation of whatever the prefix is, from the request's own seed."""
    rng = random.Random(request.seed("scripted"))
    if request.sampling.temperature == 0:
        rng = random.Random(request.prompt)
    steps = ["step" * rng.randint(0, 3) + "\n" for _ in range(rng.randint(0, 3))]
    last = rng.choice([f"#### {rng.randint(1, 3)}{END}", END, "and on and on" * 20, f"\n\n#### {rng.randint(1, 3)}\n"])
    return "".join(steps) + last


def confident(text: str) -> float:
    return -random.Random(text).random()


def judged(steps: tuple[str, ...]) -> float:
    return random.Random("|".join(steps)).choice([0.1, 0.5, 0.5, 0.9])
