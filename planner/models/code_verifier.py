"""The verifier that runs an answer's code against tests. Opt-in: it runs what a model wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from planner.core import GenerationRequest, Sampling, ScoreRequest, StepScores, join_steps, stable_hash
from planner.errors import InputError, VerifierError
from planner.models.cost import ModelShape
from planner.models.protocols import Engine, VerifierInfo
from planner.models.rule_verifier import FREE
from planner.tasks.files import PROMPTS, first_of, read_records
from planner.tasks.sandbox import Limits, run_program

__all__ = ["CodeVerifier", "GeneratedTests", "KnownTests", "last_code"]

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_SEPARATOR = "\n\n"
_COLUMNS = ("tests", "test_list", "test")

_ASK = """Here is a programming task:

{prompt}

Write {count} tests of a solution, each one line that begins with `assert` and calls the function that the task names.
Write them into one block of Python and do not write the solution."""


class CodeVerifier:
    """The share of a prompt's tests that the answer's last block of code passes; each test is run in a process of its
    own within `limits` (planner.tasks.sandbox says what they hold).

    An answer without a block of code, and one whose prompt has no tests, gets no score. `run_code=True` says that the
    caller means to run what a model wrote; raises InputError without.
    """

    def __init__(
        self,
        tests: KnownTests | GeneratedTests,
        *,
        run_code: bool = False,
        name: str = "code tests",
        limits: Limits | None = None,
        workers: int = 2,
    ) -> None:
        if not run_code:
            raise InputError(
                "this verifier runs code that a model wrote", where="verifier", field="run_code", value=run_code,
                expected="run_code=yes", hint="Say so, in a container or under a user of its own",
            )  # fmt: skip
        self._tests, self._limits, self._workers = tests, limits or Limits(), workers
        self._written = written = tests if isinstance(tests, GeneratedTests) else None
        limited = [self._limits.seconds, self._limits.memory_bytes, self._limits.file_bytes]
        self._info = VerifierInfo(
            name=name,
            fingerprint=stable_hash("tests", tests.fingerprint, limited),
            shape=written.shape if written else FREE,
            # Tests are written once a prompt: whoever asks again is charged nothing.
            incremental=written is not None,
            outcome=True,
        )

    @property
    def info(self) -> VerifierInfo:
        return self._info

    def count_tokens(self, prompt: str, steps: Sequence[str]) -> int:
        return self._written.count_tokens(prompt) if self._written else 0

    def reset(self) -> None:
        if self._written is not None:
            self._written.reset()

    def score(self, requests: Sequence[ScoreRequest]) -> list[StepScores]:
        """One score for each request or none, in order."""
        prompts = list(dict.fromkeys(request.prompt for request in requests))
        fresh = {prompt for prompt in prompts if self._written is not None and not self._written.knows(prompt)}
        tests = dict(zip(prompts, self._tests.of(prompts), strict=True))
        codes = [last_code(join_steps(request.steps, _SEPARATOR)) for request in requests]
        pairs = {
            (code, test)
            for request, code in zip(requests, codes, strict=True)
            if code is not None
            for test in tests[request.prompt]
        }
        with ThreadPoolExecutor(self._workers) as pool:
            passed = dict(zip(pairs, pool.map(self._passes, pairs), strict=True))
        results = []
        for request, code in zip(requests, codes, strict=True):
            wanted = tests[request.prompt]
            scores = (sum(passed[code, test] for test in wanted) / len(wanted),) if code is not None and wanted else ()
            tokens = self.count_tokens(request.prompt, request.steps)
            new = tokens if request.prompt in fresh else 0
            fresh.discard(request.prompt)
            results.append(StepScores(scores=scores, tokens=tokens, new_tokens=new, computed_tokens=new))
        return results

    def _passes(self, pair: tuple[str, str]) -> bool:
        return run_program("\n".join(pair), self._limits) == "passed"


class KnownTests:
    """Tests by prompt, each a piece of Python that fails by raising."""

    def __init__(self, tests: Mapping[str, Sequence[str]], *, where: str = "the given tests") -> None:
        self._tests, self._where = {prompt: tuple(each) for prompt, each in tests.items()}, where
        self.fingerprint = stable_hash(sorted((prompt, list(each)) for prompt, each in self._tests.items()))

    @classmethod
    def from_file(cls, path: str | Path) -> KnownTests:
        """A file of problems with a column `tests`, `test_list` or `test` (a text or a list of them). Raises InputError
        naming the row that has none."""
        known: dict[str, Sequence[str]] = {}
        for where, record in read_records(path):
            prompt, found = first_of(record, (*PROMPTS, "text")), first_of(record, _COLUMNS)
            tests = [found[1]] if found and isinstance(found[1], str) else found[1] if found else None
            if not isinstance(tests, list) or not tests or not all(isinstance(each, str) for each in tests):
                raise InputError(
                    "no tests", where=where, field="tests", value=tests,
                    expected=f"a text or a list of texts in {' or '.join(_COLUMNS)}",
                )  # fmt: skip
            if prompt is None:
                raise InputError("missing", where=where, field="prompt", expected=" or ".join((*PROMPTS, "text")))
            known[str(prompt[1])] = tests
        return cls(known, where=str(path))

    def of(self, prompts: Sequence[str]) -> Sequence[Sequence[str]]:
        """Each prompt's tests. Raises VerifierError for an unknown prompt."""
        if unknown := [prompt for prompt in prompts if prompt not in self._tests]:
            raise VerifierError(f"{self._where}: no tests for the prompt {unknown[0][:60]!r}")
        return [self._tests[prompt] for prompt in prompts]


class GeneratedTests:
    """Tests that a language model writes, greedily and once a prompt; they may be wrong themselves.

    Charged to the verifier: the request's tokens and `max_tokens`, once a prompt.
    """

    def __init__(self, engine: Engine, *, count: int = 8, max_tokens: int = 1024) -> None:
        self._engine, self._count, self._max_tokens = engine, count, max_tokens
        self._kept: dict[str, tuple[str, ...]] = {}
        self.fingerprint = stable_hash(engine.info.fingerprint, _ASK, count, max_tokens)

    @property
    def shape(self) -> ModelShape | None:
        return self._engine.info.shape

    def count_tokens(self, prompt: str) -> int:
        return self._engine.count_tokens(self._asked(prompt)) + self._max_tokens

    def knows(self, prompt: str) -> bool:
        return prompt in self._kept

    def reset(self) -> None:
        self._kept.clear()

    def of(self, prompts: Sequence[str]) -> Sequence[Sequence[str]]:
        """Each prompt's tests, none where the model wrote none. The engine's errors pass."""
        missing = [prompt for prompt in prompts if prompt not in self._kept]
        sampling = Sampling(temperature=0.0, max_tokens=self._max_tokens)
        asked = [GenerationRequest(prompt=self._asked(prompt), sampling=sampling) for prompt in missing]
        for prompt, reply in zip(missing, self._engine.generate(asked) if asked else [], strict=True):
            lines = (last_code(reply.text) or reply.text).splitlines()
            self._kept[prompt] = tuple(dict.fromkeys(line.strip() for line in lines if line.startswith("assert")))
        return [self._kept[prompt] for prompt in prompts]

    def _asked(self, prompt: str) -> str:
        return _ASK.replace("{count}", str(self._count)).replace("{prompt}", prompt)


def last_code(text: str) -> str | None:
    """The text's last block of Python, None where there is none."""
    blocks = _BLOCK.findall(text)
    return blocks[-1] if blocks else None
