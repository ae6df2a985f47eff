"""Format `lm-eval` (EleutherAI's lm-evaluation-harness): `samples_TASK_DATE.jsonl` as `--log_samples` writes it, a
document a line and filter.

Repeats are samples. Of several filters the one that finds most answers is taken. A document's metric labels its one
sample; with repeats it speaks of them together and each answer is checked against the target instead. The model's name
is that of the folder, as the harness names it, or of `results_DATE.json` beside the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from planner.errors import InputError
from planner.profiling.importers.records import Located, document, first_record, json_lines, stem
from planner.tasks.files import PROMPTS, first_of

__all__ = ["read", "recognises"]

_INVALID = ("", "[invalid]", "N/A")
_USED = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter"}


def recognises(path: Path) -> bool:
    return path.name.endswith((".jsonl", ".jsonl.gz")) and {"doc_id", "resps"} <= set(first_record(path))


def read(path: Path, notes: list[str]) -> Iterator[Located]:
    filters: dict[str, dict[str, Located]] = {}
    for where, record in json_lines(path, notes):
        if record.get("doc_id") is None or not isinstance(record.get("resps"), list) or not record["resps"]:
            raise InputError("missing", where=where, field="doc_id" if record.get("resps") else "resps")
        if len(record["resps"]) > 1 or not all(isinstance(text, str) for text in _texts(record)):
            raise InputError(
                "log-likelihoods of given choices, no answers that were generated", where=where, field="resps",
                hint="Import a task of type generate_until",
            )  # fmt: skip
        filters.setdefault(str(record.get("filter", "none")), {})[str(record["doc_id"])] = (where, record)
    chosen = max(filters, key=lambda name: sum(_found(record) for _, record in filters[name].values()))
    if len(filters) > 1:
        notes.append(f"{path.name}: answers and labels are those of the filter {chosen}, one of {', '.join(filters)}")
    policy, task = _model(path), stem(path).removeprefix("samples_").partition("_20")[0]
    for name, (where, record) in filters[chosen].items():
        doc, target = record.get("doc"), record.get("target")
        asked = first_of(doc, PROMPTS) if isinstance(doc, dict) else None
        context, settings = _arguments(record.get("arguments"))
        prompt = str(asked[1]) if asked else context
        yield where, {
            "problem_id": f"{task}/{name}", "prompt": prompt, "gold": None if target is None else str(target),
            "policy": policy, "strategy": None, **settings, "doc": doc, "samples": _samples(record),
        }  # fmt: skip


def _texts(record: Mapping[str, Any]) -> Sequence[Any]:
    first = record["resps"][0]
    return first if isinstance(first, list) else [first]


def _answers(record: Mapping[str, Any]) -> list[str | None]:
    """One for each text, or one for all of them together (then it is nobody's)."""
    given = record.get("filtered_resps") or []
    flat = given[0] if len(given) == 1 and isinstance(given[0], list) else given
    return [None if str(answer).strip() in _INVALID else str(answer) for answer in flat]


def _found(record: Mapping[str, Any]) -> int:
    return sum(answer is not None for answer in _answers(record))


def _samples(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    texts, answers = _texts(record), _answers(record)
    samples: list[dict[str, Any]] = [{"text": text} for text in texts]
    if len(answers) == len(texts):
        for sample, answer in zip(samples, answers, strict=True):
            sample["answer"] = answer
    label = _label(record)
    if len(samples) == 1:
        samples[0] |= {n: v for n, v in record.items() if n not in _USED}
        if label is not None:
            samples[0]["correct"] = label
    return samples


def _label(record: Mapping[str, Any]) -> bool | None:
    names = record.get("metrics") or [n for n in ("exact_match", "acc", "math_verify", "pass@1") if n in record]
    values = [record.get(name) for name in names]
    known = [bool(v) for v in values if isinstance(v, int | float) and v in (0, 1)]
    return known[0] if known else None


def _arguments(given: Any) -> tuple[str | None, dict[str, Any]]:
    """The text sent to the model and how tokens were drawn, from either shape the harness has written."""
    first: Any = None
    if isinstance(given, dict) and isinstance(given.get("gen_args_0"), dict):
        first = [given["gen_args_0"].get("arg_0"), given["gen_args_0"].get("arg_1")]
    elif isinstance(given, list) and given and isinstance(given[0], list):
        first = given[0]
    if not first:
        return None, {}
    context = first[0][0] if isinstance(first[0], list) and first[0] else first[0]
    options = first[1] if len(first) > 1 and isinstance(first[1], dict) else {}
    settings = {name: options[name] for name in ("temperature", "top_p") if isinstance(options.get(name), int | float)}
    if options.get("do_sample") is False:
        settings["temperature"] = 0.0
    return context if isinstance(context, str) else None, settings


def _model(path: Path) -> str | None:
    date = stem(path).rpartition("_")[2]
    beside = path.with_name(f"results_{date}.json")
    if beside.exists():
        found = document(beside)
        name = found.get("model_name") if isinstance(found, dict) else None
        if name:
            return str(name)
    return path.parent.name.replace("__", "/") if "__" in path.parent.name else None
