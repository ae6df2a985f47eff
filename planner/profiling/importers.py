"""Banks from samples that somebody already has.

Format `samples`: JSONL (or .jsonl.gz), one problem a line,

    {"problem_id", "prompt"?, "gold"?, "group"?, "policy"?, "temperature"?, "top_p"?, "prompt_tokens"?,
     "samples": [{"text"?, "answer"?, "key"?, "correct"?, "tokens"?, "scores"?, "finish"?}, ...], ...}

A field that is left out is unknown, never 0; fields of other names are kept as `extra`. Numbers of samples may differ.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from planner.core import Finish, stable_hash
from planner.errors import InputError
from planner.models.cost import ModelShape
from planner.profiling.bank import Bank, packages
from planner.profiling.parts import extra_text
from planner.tasks.answers import canonical, check, extract_answer, gold_answer
from planner.tasks.files import GROUPS, IDS, PROMPTS, first_of, parse_line, read_lines, read_records

__all__ = ["CHARACTERS_PER_TOKEN", "ImportReport", "import_samples"]

CHARACTERS_PER_TOKEN = 4
_PROBLEM = {"problem_id", "prompt", "gold", "policy", "samples", "temperature", "top_p", "prompt_tokens", "verifier"}
_SAMPLE = {"text", "answer", "key", "correct", "tokens", "scores", "finish", "temperature", "top_p", "prompt_tokens"}
_FINISHES = set(get_args(Finish))
_DISAGREEING = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What was imported and what had to be assumed; `flags` also stand in the bank's manifest."""

    bank: Bank
    problems: int
    samples: int
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "bank": str(self.bank.path), "problems": self.problems, "samples": self.samples,
            "warnings": list(self.warnings),
        }  # fmt: skip


def import_samples(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    policy: str | None = None,
    config: str | Path | None = None,
    prompts: str | Path | None = None,
) -> ImportReport:
    """Make a new bank in the folder `out`; nothing is written before everything was read.

    `policy` names the policy model where the file does not (else the file's name is taken). `config` is the model's
    config.json: costs are FLOPs with it and tokens without. `prompts` is a file of problems joined by their id.
    Raises InputError naming file, line and field; BankError where `out` is not an empty folder.
    """
    if not files:
        raise InputError("no file was given", field="files")
    found = _Reader(policy, _prompts(prompts) if prompts else {})
    digests: dict[str, Path] = {}
    for path in map(Path, files):
        found.read(path)
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        if digest in digests:
            raise InputError(f"the same file as {digests[digest]}: its samples would count twice", where=str(path))
        digests[digest] = path
    models = sorted({row["policy_model"] for row in found.samples})
    shape = _shape(config, models)
    flags = found.flags()
    manifest = {
        "source": "import",
        "policy_models": {
            model: {
                "fingerprint": f"recorded:{stable_hash(model, sorted(digests))}",
                "config": shape.to_dict() if shape else None,
                "parameters": shape.parameters if shape else None,
                "caches_prefixes": False,
            }
            for model in models
        },
        "verifier": found.verifier(sorted(digests)),
        "task": {"name": ", ".join(path.name for path in digests.values()), "problems": len(found.problems)},
        "packages": packages(),
        "notes": found.notes,
        "flags": flags,
    }
    bank = Bank.create(out, manifest)
    bank.append_problems(list(found.problems.values()))
    bank.append_samples(found.samples)
    return ImportReport(
        bank=bank, problems=len(found.problems), samples=len(found.samples), warnings=(*found.notes, *flags)
    )


@dataclass(slots=True)
class _Reader:
    """Rows of all files, and counts of what was missing."""

    policy: str | None
    prompts: Mapping[str, Mapping[str, Any]]
    problems: dict[str, dict[str, Any]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    drawn: Counter[tuple[str, str]] = field(default_factory=Counter)

    def read(self, path: Path) -> None:
        if not path.name.endswith((".jsonl", ".jsonl.gz")):
            raise InputError("unknown kind of file", where=str(path), expected=".jsonl or .jsonl.gz")
        before, breaks = len(self.problems), list[str]()
        lines = list(read_lines(path, damaged=breaks.append))
        for number, (where, text) in enumerate(lines, 1):
            try:
                record = parse_line(text, where)
            except InputError as error:
                # A writer that was stopped leaves a last line without its end; anywhere else it is damage.
                if number < len(lines) or text.endswith("\n") or number == 1:
                    raise
                self.notes.append(f"the last line is cut off and was left out: {error}")
                continue
            self.record(record, where, path)
        self.notes += breaks
        if len(self.problems) == before and not lines:
            raise InputError("the file is empty", where=str(path), expected="one problem a line")

    def record(self, record: dict[str, Any], where: str, path: Path) -> None:
        name = first_of(record, IDS)
        if name is None:
            raise InputError("missing", where=where, field="problem_id", expected="an id for each problem")
        problem_id = str(name[1])
        samples = record.get("samples")
        if not isinstance(samples, list) or not all(isinstance(s, dict) for s in samples):
            raise InputError("not a list of objects", where=where, field="samples", expected='[{"answer": ...}, ...]')
        gold = self.problem(problem_id, record, where, name[0])
        shared: dict[str, Any] = {n: record[n] for n in ("temperature", "top_p", "prompt_tokens") if n in record}
        model = str(record.get("policy") or self.policy or path.name.partition(".jsonl")[0])
        for position, given in enumerate(samples, 1):
            index = self.drawn[model, problem_id]
            self.drawn[model, problem_id] += 1
            row = self.sample({**shared, **given}, gold, f"{where}, sample {position}")
            row |= {"problem_id": problem_id, "policy_model": model, "index": index, "role": "score"}
            self.samples.append({"key": stable_hash("samples", model, problem_id, index), **row})

    def problem(self, problem_id: str, record: Mapping[str, Any], where: str, id_field: str) -> str | None:
        """Keep the problem; returns its gold answer."""
        joined = self.prompts.get(problem_id, {})
        prompt, group = first_of(record, PROMPTS) or first_of(joined, PROMPTS), first_of(record, GROUPS)
        golds = first_of(record, ("gold",)) or first_of(joined, ("answer", "gold", "solution"))
        gold = gold_answer(str(golds[1])) if golds else None
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

    def sample(self, given: Mapping[str, Any], gold: str | None, where: str) -> dict[str, Any]:
        text, answer = _text(given, "text", where), _text(given, "answer", where)
        if answer is None and text is not None:
            answer = extract_answer(text)
        key = _text(given, "key", where) or (canonical(answer) if answer else None)
        finish = given.get("finish")
        correct = given.get("correct")
        if correct is not None and (correct not in (True, False) or isinstance(correct, float)):
            raise InputError("not a truth value", where=where, field="correct", value=correct, expected="true or false")
        if correct is None and gold is not None and (answer is not None or "answer" in given or text is not None):
            # An answer that was looked for and not found is wrong, not unknown.
            correct = answer is not None and check(answer, gold)
            self.counts["checked"] += 1
        elif correct is not None and gold is not None and answer is not None:
            self.counts["labelled"] += 1
            self.counts["disagreeing"] += canonical(answer) == canonical(gold) and not correct
        self.counts["unlabelled"] += correct is None
        scores = self.scores(given.get("scores"), where)
        return {
            "text": text, "answer": answer, "answer_key": key, "correct": None if correct is None else bool(correct),
            "finish": finish if finish in _FINISHES else None, "finished": key is not None or finish == "end",
            "generated_tokens": self.tokens(given, text, where), "prompt_tokens": _count(given, "prompt_tokens", where),
            "temperature": _number(given, "temperature", where), "top_p": _number(given, "top_p", where),
            "scores": scores, "verifier": None if scores is None else "recorded", "extra": _extra(given, _SAMPLE),
        }  # fmt: skip

    def tokens(self, given: Mapping[str, Any], text: str | None, where: str) -> int | None:
        """As recorded; 0 is taken for unknown, and the unknown is estimated from the text where there is one."""
        tokens = _count(given, "tokens", where)
        if tokens:
            return tokens
        if text:
            self.counts["estimated"] += 1
            return math.ceil(len(text) / CHARACTERS_PER_TOKEN)
        self.counts["no tokens"] += 1
        return None

    def scores(self, value: Any, where: str) -> list[float] | None:
        if value is None or value == []:
            return None
        scores = value if isinstance(value, list) else [value]
        if not all(isinstance(s, int | float) and not isinstance(s, bool) and math.isfinite(s) for s in scores):
            raise InputError("not numbers", where=where, field="scores", value=value, expected="one number a step")
        self.counts["scored"] += 1
        self.counts["outside"] += not all(0 <= s <= 1 for s in scores)
        return [float(s) for s in scores]

    def verifier(self, digests: list[str]) -> dict[str, Any] | None:
        if not self.counts["scored"]:
            return None
        fingerprint = f"recorded:{stable_hash('verifier', digests)}"
        return {"name": "recorded", "fingerprint": fingerprint, "config": None, "incremental": False}

    def flags(self) -> list[str]:
        """What a reader of results must know."""
        c, total = self.counts, len(self.samples)
        empty = len(self.problems) - len({row["problem_id"] for row in self.samples})
        flags = {
            f"{c['estimated']} of {total} samples had no token count: estimated as characters / {CHARACTERS_PER_TOKEN},"
            " rounded up": c["estimated"],
            f"{c['no tokens']} of {total} samples have neither a token count nor a text: their cost is unknown":
                c["no tokens"],
            f"{c['unlabelled']} of {total} samples have no label, and none could be made": c["unlabelled"],
            f"{c['outside']} scores lie outside [0, 1]: products and sums of them may mean little": c["outside"],
            f"{c['disagreeing']} of {c['labelled']} answers equal the gold answer but are labelled wrong: the file may"
            " be damaged": c["disagreeing"] > _DISAGREEING * c["labelled"],
            f"{empty} problems have no samples": empty,
        }  # fmt: skip
        return [text for text, holds in flags.items() if holds]


def _prompts(path: str | Path) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for where, record in read_records(path):
        name = first_of(record, IDS)
        if name is None:
            raise InputError("missing", where=where, field="problem_id", expected=" or ".join(IDS))
        found[str(name[1])] = record
    return found


def _shape(config: str | Path | None, models: list[str]) -> ModelShape | None:
    if config is None:
        return None
    if len(models) != 1:
        raise InputError(
            f"one config for {len(models)} policy models", field="config", hint="Import one model at a time"
        )
    try:
        document = json.loads(Path(config).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"cannot be read: {error}", where=str(config), expected="the model's config.json") from error
    return ModelShape.from_config(document, where=str(config))


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
