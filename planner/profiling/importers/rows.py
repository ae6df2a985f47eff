"""From records to a bank's rows: one path for all formats, with counts of what was missing or had to be assumed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from planner.core import Finish, stable_hash
from planner.errors import InputError
from planner.profiling.importers.runs import run_row
from planner.profiling.parts import extra_text
from planner.tasks.answers import canonical, check, extract_answer, gold_answer
from planner.tasks.files import GROUPS, IDS, PROMPTS, first_of

__all__ = ["CHARACTERS_PER_TOKEN", "Assumed", "Rows"]

CHARACTERS_PER_TOKEN = 3
"""Measured 3.04 on mathematical answers of Llama-3.1-8B; prose has nearer 4, so its cost is rather over- than
underestimated."""
_PROBLEM = {
    "problem_id", "position_id", "prompt", "gold", "policy", "samples", "temperature", "top_p", "prompt_tokens",
    "verifier", "strategy", "hyperparameters", "tokens", "repeat",
}  # fmt: skip
_SAMPLE = {
    "text", "answer", "key", "correct", "tokens", "scores", "finish", "temperature", "top_p", "prompt_tokens",
    "verifier_tokens",
}  # fmt: skip
_SHARED = ("temperature", "top_p", "prompt_tokens")
_SCORES = ("scores", "prm_last", "reward")
_FINISHES = set(get_args(Finish))
_DISAGREEING = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What the user says of files that do not say it themselves; None: nothing. `strategy` "samples" means independent
    samples."""

    policy: str | None = None
    temperature: float | None = None
    strategy: str | None = None
    hyperparameters: Mapping[str, Any] | None = None


@dataclass(slots=True)
class Rows:
    """Rows of all files; `prompts` are problems to be joined, by id."""

    assumed: Assumed
    prompts: Mapping[str, Mapping[str, Any]]
    problems: dict[str, dict[str, Any]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    verifiers: dict[str, None] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    drawn: Counter[tuple[str, ...]] = field(default_factory=Counter)
    by_prompt: dict[str, list[str]] = field(default_factory=dict)
    _unchecked: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    _unfinished: list[tuple[dict[str, Any], list[dict[str, Any]], str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, record in self.prompts.items():
            if (prompt := first_of(record, PROMPTS)) is not None:
                self.by_prompt.setdefault(str(prompt[1]).strip(), []).append(name)

    def add(self, record: dict[str, Any], where: str, *, source: str, strategy: str | None) -> None:
        """One record of a file named `source`, which `strategy` wrote (None: independent samples)."""
        samples = record.get("samples")
        if not isinstance(samples, list) or not all(isinstance(s, dict) for s in samples):
            raise InputError("not a list of objects", where=where, field="samples", expected='[{"answer": ...}, ...]')
        problem_id, id_field = self.identify(record, where)
        gold = self.problem(problem_id, record, where, id_field)
        shared: dict[str, Any] = {n: record[n] for n in _SHARED if record.get(n) is not None}
        if self.assumed.temperature is not None:
            shared.setdefault("temperature", self.assumed.temperature)
        model = str(record.get("policy") or self.assumed.policy or source)
        verifier = str(record.get("verifier") or "recorded")
        made = [
            self.sample({**shared, **given}, gold, verifier, f"{where}, sample {position}", strategy is not None)
            for position, given in enumerate(samples, 1)
        ]
        role = "score" if strategy is None else "path"
        for row in made:
            index = self.next_index(role, model, problem_id)
            row |= {"problem_id": problem_id, "policy_model": model, "index": index, "role": role}
            row["key"] = stable_hash("samples", role, model, problem_id, index)
            self.samples.append(row)
        if strategy is not None and made:
            fields = {**(record.get("hyperparameters") or {}), **(self.assumed.hyperparameters or {})}
            run = {"strategy": strategy, "hyperparameters": fields, "problem_id": problem_id, "policy_model": model}
            paths = self.samples[-len(made) :]
            self._unfinished.append((run | {"tokens": _count(record, "tokens", where) or None}, paths, where))

    def finish(self) -> None:
        """Check the answers that no label tells, which takes long, and let each run's strategy choose among its paths.

        The paths are kept as samples of role "path", which nothing is replayed from; their tokens are the run's.
        """
        for row, gold in self._unchecked:
            # An answer that was looked for and not found is wrong, not unknown.
            row["correct"] = row["answer"] is not None and check(row["answer"], gold)
        for run, paths, where in self._unfinished:
            if run["tokens"] is None and all(row["generated_tokens"] is not None for row in paths):
                run["tokens"] = sum(row["generated_tokens"] for row in paths)
                self.counts["summed runs"] += 1
            self.counts["runs without tokens"] += run["tokens"] is None
            row = run_row(run, paths, where)
            place = (row["policy_model"], row["strategy"], row["hyperparameters"], row["problem_id"])
            repeat = self.next_index("run", *place)
            self.runs.append({"key": stable_hash("run", *place, repeat), "repeat": repeat} | row)
            for path in paths:
                path["generated_tokens"] = None
        for row in self.samples:
            self._read_by_verifier(row)
        self.counts["unlabelled"] = sum(row["correct"] is None for row in self.samples)
        self._unchecked.clear()
        self._unfinished.clear()

    def _read_by_verifier(self, row: dict[str, Any]) -> None:
        """Where nobody counted what a verifier read: the prompt and the answer, once."""
        if row["scores"] is None or row["verifier_tokens"] is not None or row["generated_tokens"] is None:
            return
        asked = row["prompt_tokens"]
        if asked is None:
            asked = math.ceil(len(self.problems[row["problem_id"]]["prompt"] or "") / CHARACTERS_PER_TOKEN)
        row["verifier_tokens"] = asked + row["generated_tokens"]
        self.counts["readings"] += 1

    def next_index(self, *place: str) -> int:
        self.drawn[place] += 1
        return self.drawn[place] - 1

    def identify(self, record: Mapping[str, Any], where: str) -> tuple[str, str]:
        """The problem's id and the field that it stands in; without one, by its prompt or its place."""
        name = first_of(record, IDS)
        if name is not None:
            return str(name[1]), name[0]
        prompt = first_of(record, PROMPTS)
        joined = self.by_prompt.get(str(prompt[1]).strip(), []) if prompt else []
        if len(joined) == 1:
            return joined[0], "problem_id"
        if record.get("position_id") is None:
            raise InputError("missing", where=where, field="problem_id", expected="an id for each problem")
        return str(record["position_id"]), "position_id"

    def problem(self, problem_id: str, record: Mapping[str, Any], where: str, id_field: str) -> str | None:
        """Keep the problem; returns its gold answer."""
        joined = self.prompts.get(problem_id, {})
        prompt, group = first_of(record, PROMPTS) or first_of(joined, PROMPTS), first_of(record, GROUPS)
        golds = first_of(record, ("gold",)) or first_of(joined, ("answer", "gold", "solution"))
        gold = gold_answer(str(golds[1])) if golds else None
        group = group or first_of(joined, GROUPS)
        used = {*_PROBLEM, *PROMPTS, id_field}
        row = {
            "problem_id": problem_id, "prompt": str(prompt[1]) if prompt else None, "gold": gold,
            "group": str(group[1]) if group else None, "split": "all", "extra": _extra(record, used),
        }  # fmt: skip
        known = self.problems.setdefault(problem_id, row)
        for name in ("prompt", "gold"):
            if row[name] is not None and known[name] not in (None, row[name]):
                raise InputError(
                    "differs from what stood under this problem_id before", where=where, field=name, value=row[name]
                )
            known[name] = known[name] if row[name] is None else row[name]
        return gold if known["gold"] is None else str(known["gold"])

    def sample(
        self, given: Mapping[str, Any], gold: str | None, verifier: str, where: str, path: bool
    ) -> dict[str, Any]:
        text, answer = _text(given, "text", where), _text(given, "answer", where)
        if answer is None and text is not None and "answer" not in given:
            answer = extract_answer(text)
        key = _text(given, "key", where) or (canonical(answer) if answer else None)
        finish = given.get("finish")
        correct = given.get("correct")
        if correct is not None and (correct not in (True, False) or isinstance(correct, float)):
            raise InputError("not a truth value", where=where, field="correct", value=correct, expected="true or false")
        if correct is not None and gold is not None and answer is not None:
            self.counts["labelled"] += 1
            self.counts["disagreeing"] += canonical(answer) == canonical(gold) and not correct
        found = first_of(given, _SCORES)
        scores = self.scores(found[1] if found else None, where)
        if scores is not None:
            self.verifiers.setdefault(verifier)
        row = {
            "text": text, "answer": answer, "answer_key": key, "correct": None if correct is None else bool(correct),
            "finish": finish if finish in _FINISHES else None, "finished": key is not None or finish == "end",
            "generated_tokens": self.tokens(given, text, where, path),
            "prompt_tokens": _count(given, "prompt_tokens", where),
            "temperature": _number(given, "temperature", where), "top_p": _number(given, "top_p", where),
            "scores": scores, "verifier": None if scores is None else verifier,
            "verifier_tokens": None if scores is None else _count(given, "verifier_tokens", where),
            "extra": _extra(given, _SAMPLE),
        }  # fmt: skip
        if correct is None and gold is not None and (answer is not None or "answer" in given or text is not None):
            self._unchecked.append((row, gold))
        return row

    def tokens(self, given: Mapping[str, Any], text: str | None, where: str, path: bool) -> int | None:
        """As recorded; 0 is taken for unknown, and the unknown is estimated from the text where there is one."""
        kind = "paths" if path else "samples"
        self.counts[kind] += 1
        tokens = _count(given, "tokens", where)
        if tokens:
            return tokens
        length = len(text) if text else _count(given, "chars", where)
        if length:
            self.counts[f"estimated {kind}"] += 1
            return math.ceil(length / CHARACTERS_PER_TOKEN)
        self.counts[f"{kind} without tokens"] += 1
        return None

    def scores(self, value: Any, where: str) -> list[float] | None:
        if value is None or value == []:
            return None
        scores = value if isinstance(value, list) else [value]
        if not all(isinstance(s, int | float) and not isinstance(s, bool) and math.isfinite(s) for s in scores):
            raise InputError("not numbers", where=where, field="scores", value=value, expected="one number a step")
        self.counts["outside"] += not all(0 <= s <= 1 for s in scores)
        return [float(s) for s in scores]

    def flags(self) -> list[str]:
        """What a reader of results must know."""
        c = self.counts
        empty = len(self.problems) - len({row["problem_id"] for row in (*self.samples, *self.runs)})
        rule = f"had no token count: estimated as characters / {CHARACTERS_PER_TOKEN}, rounded up"
        flags = {
            f"{c['estimated samples']} of {c['samples']} samples {rule}": c["estimated samples"],
            f"{c['estimated paths']} of {c['paths']} paths of runs {rule}": c["estimated paths"],
            f"{c['summed runs']} runs do not tell their tokens: they are charged those of the paths they ended with,"
            " without what was dropped on the way": c["summed runs"],
            f"{c['runs without tokens']} runs have neither token counts nor texts: their cost is unknown":
                c["runs without tokens"],
            f"{c['samples without tokens']} of {c['samples']} samples have neither a token count nor a text: their cost"
            " is unknown": c["samples without tokens"],
            f"{c['unlabelled']} of {c['samples'] + c['paths']} samples have no label, and none could be made":
                c["unlabelled"],
            f"{c['readings']} scores do not tell what the verifier read: taken as prompt and answer, once":
                c["readings"],
            f"{c['outside']} scores lie outside [0, 1]: products and sums of them may mean little": c["outside"],
            f"{c['disagreeing']} of {c['labelled']} answers equal the gold answer but are labelled wrong: the file may"
            " be damaged": c["disagreeing"] > _DISAGREEING * c["labelled"],
            f"{empty} problems have no samples": empty,
        }  # fmt: skip
        return [text for text, holds in flags.items() if holds]


def _extra(record: Mapping[str, Any], used: set[str]) -> str | None:
    return extra_text({name: value for name, value in record.items() if name not in used})


def _text(given: Mapping[str, Any], name: str, where: str) -> str | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError("not a text", where=where, field=name, value=value, expected="a text")
    return str(value) or (None if name == "key" else "")


def _count(given: Mapping[str, Any], name: str, where: str) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
        raise InputError("not a count", where=where, field=name, value=value, expected="a whole number >= 0")
    return int(value)


def _number(given: Mapping[str, Any], name: str, where: str) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise InputError("not a number", where=where, field=name, value=value, expected="a number >= 0")
    return float(value)
