"""Format `inspect-ai` (UK AISI's Inspect): sample summaries (`summaries.json`, with `header.json` beside it), whole
logs as JSON, and `.eval` archives, from which header and summaries are read.

The model under test is the header's, or the first key of `model_usage` (the others grade). An effort that the header
tells is part of the policy's name, `openai/gpt-5.1@low`, so that several efforts are several policies. Epochs are
samples; one that was not completed is none. `output_tokens` include reasoning.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from planner.errors import InputError
from planner.profiling.importers.records import Located, document, stem

__all__ = ["is_header", "read", "recognises"]

_LONGEST_ANSWER = 300
_VALUES: Mapping[Any, bool | None] = {"C": True, "I": False, "N": False, "P": None}
_FINISH = {"stop": "end", "max_tokens": "length", "model_length": "length"}
_USED = ("id", "epoch", "input", "target", "scores", "model_usage", "output", "messages", "choices", "metadata")


def recognises(path: Path) -> bool:
    if path.suffix == ".eval":
        return True
    if not path.name.endswith((".json", ".json.gz")):
        return False
    found = document(path)
    if isinstance(found, list):
        return bool(found) and isinstance(found[0], dict) and {"id", "epoch", "scores"} <= set(found[0])
    return isinstance(found, dict) and isinstance(found.get("eval"), dict)


def is_header(path: Path) -> bool:
    """Whether a file is a log's header alone, which is read together with its summaries."""
    return path.name.endswith((".json", ".json.gz")) and recognises(path) and _is_header(document(path))


def read(path: Path, notes: list[str]) -> Iterator[Located]:
    header, summaries = _archive(path) if path.suffix == ".eval" else _files(path)
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for summary in summaries:
        if not isinstance(summary, dict) or summary.get("id") is None:
            raise InputError("a sample without an id", where=str(path), field="id", expected="an Inspect summary")
        groups.setdefault(str(summary["id"]), []).append(summary)
    policy = _policy(header, summaries, path, notes)
    model = policy.partition("@")[0] if header else None
    lost, against = 0, 0
    for name, epochs in groups.items():
        done = [e for e in epochs if e.get("completed", True) and not e.get("error")]
        lost += len(epochs) - len(done)
        samples = []
        for epoch in sorted(done, key=lambda e: int(e.get("epoch", 1))):
            sample, disagrees = _sample(epoch, model)
            samples.append(sample)
            against += disagrees
        first, target = epochs[0], epochs[0].get("target")
        yield f"{path}, sample {name}", {
            "problem_id": name, "prompt": _prompt(first.get("input")), "policy": policy, "strategy": None,
            "gold": target[0] if isinstance(target, list) and target else target or None,
            "metadata": first.get("metadata") or None, **_sampling(header), "samples": samples,
        }  # fmt: skip
    if lost:
        notes.append(f"{path.name}: {lost} samples were not completed and count as not drawn")
    if against:
        notes.append(f"{path.name}: the scorers disagree on {against} samples; the first one's labels are taken")


def _is_header(found: Any) -> bool:
    return isinstance(found, dict) and isinstance(found.get("eval"), dict) and "samples" not in found


def _files(path: Path) -> tuple[Mapping[str, Any], Sequence[Any]]:
    found = document(path)
    if isinstance(found, dict):
        if not found.get("samples"):
            raise InputError("a log without samples", where=str(path), hint="Give its summaries beside its header")
        return found, found["samples"]
    if not isinstance(found, list):
        raise InputError("not an Inspect log", where=str(path), expected="a list of sample summaries")
    for suffix in ("", ".gz"):
        beside = path.with_name(path.name.removesuffix(".gz").replace("summaries.json", "header.json") + suffix)
        if beside != path and beside.exists() and _is_header(header := document(beside)):
            return header, found
    return {}, found


def _archive(path: Path) -> tuple[Mapping[str, Any], Sequence[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            head = next((n for n in ("header.json", "_journal/start.json") if n in names), None)
            parts = ["summaries.json"] if "summaries.json" in names else sorted(
                (n for n in names if n.startswith("_journal/summaries/")), key=lambda n: (len(n), n)
            )  # fmt: skip
            header = json.loads(archive.read(head)) if head else {}
            return header, [summary for part in parts for summary in json.loads(archive.read(part))]
    except (zipfile.BadZipFile, NotImplementedError, json.JSONDecodeError) as error:
        hint = "Convert it: inspect log convert --to json"
        raise InputError(f"cannot be read as an .eval archive: {error}", where=str(path), hint=hint) from error


def _policy(header: Mapping[str, Any], summaries: Sequence[Any], path: Path, notes: list[str]) -> str:
    if not header:
        usage: Mapping[str, Any] = next((s["model_usage"] for s in summaries if s.get("model_usage")), {})
        notes.append(f"{path.name} has no header beside it: its effort is unknown, and its file's name stands for it")
        return f"{next(iter(usage), 'model')}@{stem(path)}"
    name = str(header["eval"].get("model", "model"))
    effort = _config(header).get("reasoning_effort")
    return f"{name}@{effort}" if effort else name


def _config(header: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        **(header.get("eval", {}).get("model_generate_config") or {}),
        **(header.get("plan", {}).get("config") or {}),
    }


def _sampling(header: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in _config(header).items() if name in ("temperature", "top_p")}


def _sample(summary: Mapping[str, Any], model: str | None) -> tuple[dict[str, Any], bool]:
    usage: Mapping[str, Mapping[str, Any]] = summary.get("model_usage") or {}
    mine: Mapping[str, Any] = usage.get(model or "") or next(iter(usage.values()), {})
    scores = [s for s in (summary.get("scores") or {}).values() if isinstance(s, dict)]
    labels = [_label(s.get("value")) for s in scores]
    # A grader's "answer" may be the whole text: the first scorer whose answer is an answer tells it.
    short = next((s for s in scores if len(str(s.get("answer") or "")) <= _LONGEST_ANSWER), None)
    rest = {name: value for name, value in summary.items() if name not in _USED}
    sample: dict[str, Any] = {
        **rest, "epoch": summary.get("epoch"), "tokens": mine.get("output_tokens"),
        "prompt_tokens": mine.get("input_tokens"), "reasoning_tokens": mine.get("reasoning_tokens"),
        "correct": next((label for label in labels if label is not None), None),
    }  # fmt: skip
    if short is not None and "answer" in short:
        sample["answer"] = short["answer"]
    choices = (summary.get("output") or {}).get("choices") or []
    if choices:
        sample |= {"text": _content(choices[0].get("message", {}).get("content")),
                   "finish": _FINISH.get(choices[0].get("stop_reason"))}  # fmt: skip
    return sample, len(Counter(label for label in labels if label is not None)) > 1


def _label(value: Any) -> bool | None:
    if isinstance(value, str):
        return _VALUES.get(value)
    return bool(value) if value in (0, 1) else None


def _prompt(given: Any) -> str | None:
    """The prompt itself, or the last thing a user said."""
    if isinstance(given, list):
        said = [m for m in given if isinstance(m, dict) and m.get("role") == "user"]
        return _content(said[-1].get("content")) if said else None
    return None if given is None else str(given)


def _content(content: Any) -> str | None:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict)) or None
    return None if content is None else str(content)
