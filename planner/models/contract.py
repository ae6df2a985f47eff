"""The obligations of engines and verifiers as checks that anybody's implementation can run.

    for check in ENGINE_CHECKS:
        check(my_engine, "What is 2 + 3?", "\\n")
    for check in VERIFIER_CHECKS:
        check(my_verifier, "What is 2 + 3?", ("2 + 3 = 5", "#### 5"))

Each raises AssertionError saying what was broken. An engine's are given a prompt that it answers in at least two steps,
and the separator of those steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from planner.core import GenerationRequest, Sampling, ScoreRequest
from planner.models.protocols import Engine, Verifier

__all__ = ["ENGINE_CHECKS", "VERIFIER_CHECKS"]

_TOKENS = 64
_SINGLE = 1e-5
_INCREMENTAL = 1e-4


def results_do_not_depend_on_the_batch(engine: Engine, prompt: str, separator: str) -> None:
    """A request alone, among others and in another order gives the same text and counts."""
    requests = _samples(prompt, 6)
    together = engine.generate(requests)
    engine.reset()
    backwards = engine.generate(requests[::-1])[::-1]
    engine.reset()
    alone = [engine.generate([request])[0] for request in requests]
    for a, b, c in zip(together, backwards, alone, strict=True):
        assert (a.text, a.finish, a.generated_tokens) == (b.text, b.finish, b.generated_tokens), "order mattered"
        assert (a.text, a.finish, a.generated_tokens) == (c.text, c.finish, c.generated_tokens), "the batch mattered"


def indices_are_different_draws(engine: Engine, prompt: str, separator: str) -> None:
    """The same request gives the same text; sixteen indices at a high temperature do not all agree."""
    hot = [replace(r, sampling=replace(r.sampling, temperature=1.5)) for r in _samples(prompt, 16)]
    first, second = engine.generate(hot), engine.generate(hot)
    assert [c.text for c in first] == [c.text for c in second], "the same request gave another text"
    assert len({c.text for c in first}) > 1, "all indices gave the same text"


def greedy_ignores_the_index(engine: Engine, prompt: str, separator: str) -> None:
    """At temperature 0 every index gives the same text."""
    cold = [replace(r, sampling=replace(r.sampling, temperature=0.0)) for r in _samples(prompt, 3)]
    assert len({c.text for c in engine.generate(cold)}) == 1, "temperature 0 is not greedy"


def limits_are_held(engine: Engine, prompt: str, separator: str) -> None:
    """`max_tokens` is never exceeded, and a draw cut shorter is a prefix of the longer one."""
    (whole,) = engine.generate(_samples(prompt, 1))
    for limit in (1, 3):
        request = GenerationRequest(prompt=prompt, sampling=Sampling(max_tokens=limit))
        (cut,) = engine.generate([request])
        assert 1 <= cut.generated_tokens <= limit, f"{cut.generated_tokens} tokens where {limit} were allowed"
        assert cut.finish == "length" or cut.generated_tokens == whole.generated_tokens, "not said to be cut"
        assert whole.text.startswith(cut.text), "a shorter limit changed the draw"


def steps_end_with_their_separator(engine: Engine, prompt: str, separator: str) -> None:
    """A stop string ends the text, is kept there once, and stands nowhere before."""
    requests = [replace(r, sampling=replace(r.sampling, stop=(separator,))) for r in _samples(prompt, 4)]
    for completion in engine.generate(requests):
        if completion.finish == "stop":
            assert completion.text.endswith(separator), "the stop string was dropped"
            assert completion.text.find(separator) == len(completion.text) - len(separator), "stopped too late"
        else:
            assert separator not in completion.text, "did not stop"


def steps_add_up_to_the_whole(engine: Engine, prompt: str, separator: str) -> None:
    """Greedy steps, each continuing what came before, spell the greedy whole; after a reset too."""
    cold = Sampling(temperature=0.0, max_tokens=_TOKENS)
    (whole,) = engine.generate([GenerationRequest(prompt=prompt, sampling=cold)])
    for forget in (False, True):
        text, tokens = "", 0
        while tokens < _TOKENS:
            sampling = replace(cold, stop=(separator,), max_tokens=_TOKENS - tokens)
            (step,) = engine.generate([GenerationRequest(prompt=prompt, prefix=text, sampling=sampling)])
            text, tokens = text + step.text, tokens + step.generated_tokens
            if step.finish != "stop":
                break
            if forget:
                engine.reset()
        assert text == whole.text, f"steps gave {text!r}, the whole is {whole.text!r}"


def usage_is_true(engine: Engine, prompt: str, separator: str) -> None:
    """Counts are positive, the input is as long as `count_tokens` says, and no more is cached than there is."""
    assert engine.generate([]) == []
    for completion in engine.generate(_samples(prompt, 3)):
        assert completion.prompt_tokens == engine.count_tokens(prompt), "prompt_tokens is not the input's length"
        assert 0 <= completion.cached_tokens <= completion.prompt_tokens
        assert completion.generated_tokens >= 1
        assert completion.mean_logprob is None or completion.mean_logprob <= 0
    assert engine.count_tokens(prompt, "one more") > engine.count_tokens(prompt)


def scores_are_one_a_step(verifier: Verifier, prompt: str, steps: tuple[str, ...]) -> None:
    """One score in [0, 1] for each step (for a whole answer at most one), and honest counts."""
    assert verifier.score([]) == []
    verifier.reset()
    for k in range(1, len(steps) + 1):
        (result,) = verifier.score([ScoreRequest(prompt=prompt, steps=steps[:k])])
        if verifier.info.outcome:
            assert len(result.scores) <= 1, f"{len(result.scores)} scores for a whole answer"
        else:
            assert len(result.scores) == k, f"{len(result.scores)} scores for {k} steps"
        assert all(0 <= score <= 1 for score in result.scores)
        assert result.tokens == verifier.count_tokens(prompt, steps[:k]), "tokens is not the input's length"
        assert 0 <= result.computed_tokens <= result.tokens
        assert 0 <= result.new_tokens <= result.tokens


def scores_do_not_depend_on_the_batch(verifier: Verifier, prompt: str, steps: tuple[str, ...]) -> None:
    """Batches of mixed lengths, padded inside, give the scores of single calls."""
    others = [
        ScoreRequest(prompt=f"{prompt} {word}", steps=steps[:k]) for k in (1, len(steps)) for word in ("a", "b c d")
    ]
    requests = [ScoreRequest(prompt=prompt, steps=steps), *others]
    verifier.reset()
    together = verifier.score(requests)
    for request, result in zip(requests, together, strict=True):
        verifier.reset()
        (alone,) = verifier.score([request])
        gap = max((abs(a - b) for a, b in zip(alone.scores, result.scores, strict=True)), default=0.0)
        assert gap <= _SINGLE, f"a batch moved a score by {gap:.1e}"


def incremental_scores_equal_full_ones(verifier: Verifier, prompt: str, steps: tuple[str, ...]) -> None:
    """Scoring step after step gives what scoring the whole gives, and computes less where the verifier says so."""
    verifier.reset()
    (whole,) = verifier.score([ScoreRequest(prompt=prompt, steps=steps)])
    verifier.reset()
    computed = 0
    for k in range(1, len(steps) + 1):
        (grown,) = verifier.score([ScoreRequest(prompt=prompt, steps=steps[:k])])
        computed += grown.computed_tokens
        if verifier.info.outcome and k < len(steps):
            continue  # another answer's score
        expected = whole.scores if verifier.info.outcome else whole.scores[:k]
        gap = max((abs(a - b) for a, b in zip(grown.scores, expected, strict=True)), default=0.0)
        assert gap <= _INCREMENTAL, f"step {k} scored {gap:.1e} apart from the whole"
    if verifier.info.incremental:
        assert computed == whole.tokens, f"{computed} tokens were computed for an input of {whole.tokens}"


EngineCheck = Callable[[Engine, str, str], None]
VerifierCheck = Callable[[Verifier, str, tuple[str, ...]], None]

ENGINE_CHECKS: tuple[EngineCheck, ...] = (
    results_do_not_depend_on_the_batch,
    indices_are_different_draws,
    greedy_ignores_the_index,
    limits_are_held,
    steps_end_with_their_separator,
    steps_add_up_to_the_whole,
    usage_is_true,
)
VERIFIER_CHECKS: tuple[VerifierCheck, ...] = (
    scores_are_one_a_step,
    scores_do_not_depend_on_the_batch,
    incremental_scores_equal_full_ones,
)


def _samples(prompt: str, count: int) -> list[GenerationRequest]:
    sampling = Sampling(temperature=0.8, max_tokens=_TOKENS)
    return [GenerationRequest(prompt=prompt, sampling=sampling, index=i) for i in range(count)]
