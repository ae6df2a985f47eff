"""Format `compute-optimal-tts` (RyanLiu112/compute-optimal-tts): the output tree, as a folder or a tar archive,

    TASK_METHOD/POLICY/VERIFIER/DEPTH_WIDTH_SEQUENCES/{config.json, question_N/record_R.jsonl}

A record is one run: `question`, `groundtruth`, `result` (`total_completion_tokens`) and `output`, its paths with
`reward_history`. `cot` and `best_of_n` are independent samples, over all records of a question; what searched is a run
of its strategy. Its n is width times sequences, and width its expansions.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from planner.errors import InputError
from planner.profiling.importers.records import Located, first_record

__all__ = ["read", "recognises"]

_RECORD = re.compile(r"(?:^|/)question_(\d+)/record_(\d+)\.jsonl$")
_PARALLEL = ("cot", "best_of_n")
_OUTPUT = ("path_idx", "text", "value", "extracted_answer", "reward_history", "completion_tokens")


def recognises(path: Path) -> bool:
    if path.is_dir():
        return next(path.rglob("question_*/record_*.jsonl"), None) is not None
    if path.name.endswith((".tar", ".tar.gz", ".tgz")):
        return True
    return path.name.endswith(".jsonl") and {"question", "groundtruth", "output"} <= set(first_record(path))


def read(path: Path, notes: list[str]) -> Iterator[Located]:
    configs: dict[str, Mapping[str, Any]] = {}
    runs: dict[str, dict[int, dict[int, Mapping[str, Any]]]] = {}
    for name, text in _texts(path):
        folder = str(PurePosixPath(name).parent)
        if name.endswith("/config.json"):
            configs[folder] = _object(text, name)
        elif found := _RECORD.search(name):
            records = runs.setdefault(str(PurePosixPath(folder).parent), {}).setdefault(int(found[1]), {})
            try:
                records[int(found[2])] = _object(text, name)
            except InputError as error:
                if text.endswith("\n"):
                    raise
                notes.append(f"a record is cut off and was left out: {error}")
    if not runs:
        raise InputError("no question_N/record_R.jsonl in it", where=str(path))
    for folder, questions in runs.items():
        yield from _questions(folder, configs.get(folder), questions)


def _questions(
    folder: str, config: Mapping[str, Any] | None, questions: Mapping[int, Mapping[int, Mapping[str, Any]]]
) -> Iterator[Located]:
    parts = PurePosixPath(folder).parts
    config = config or {}
    method = config.get("method") or next((m for m in ("best_of_n", "cot", "dvts", "beam_search") if m in folder), None)
    if method is None:
        raise InputError("which method wrote it cannot be told", where=folder, expected="config.json with `method`")
    drawn = config.get("gen_config") or {}
    shared = {
        "policy": _name(config.get("LM"), parts, -3), "verifier": _name(config.get("RM"), parts, -2),
        **{name: drawn[name] for name in ("temperature", "top_p") if drawn.get(name) is not None},
    }  # fmt: skip
    for number, records in sorted(questions.items()):
        for at, (record, given) in enumerate(sorted(records.items())):
            where = f"{folder}/question_{number}/record_{record}.jsonl"
            paths = given.get("output")
            if not isinstance(paths, list):
                raise InputError("not a list", where=where, field="output", expected="the run's paths")
            samples = [_sample(p) for p in paths]
            result = given.get("result") or {}
            label = result.get("majority_vote")
            if len(samples) == 1 and label in (0, 1):
                samples[0]["correct"] = bool(label)
            found: dict[str, Any] = {
                "position_id": f"question_{number}", "prompt": given.get("question"), "gold": given.get("groundtruth"),
                **shared, "strategy": None, "samples": samples,
            }  # fmt: skip
            if method not in _PARALLEL:
                found |= {"strategy": method, "hyperparameters": _hyperparameters(config, parts[-1], drawn),
                          "tokens": result.get("total_completion_tokens"), "repeat": at}  # fmt: skip
            yield where, found


def _sample(path: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in path.items() if name not in _OUTPUT}
    return {
        **rest, "text": path.get("text"), "answer": path.get("extracted_answer") or None,
        "tokens": path.get("completion_tokens"), "scores": path.get("reward_history") or path.get("value"),
    }  # fmt: skip


def _hyperparameters(config: Mapping[str, Any], sizes: str, drawn: Mapping[str, Any]) -> dict[str, Any]:
    found = re.fullmatch(r"(\d+)_(\d+)_(\d+)", sizes)
    tree = config.get("method_config") or {}
    depth, width, sequences = (int(x) for x in found.groups()) if found else (
        int(tree.get("tree_max_depth", 1)), int(tree.get("tree_max_width", 1)), int(drawn.get("n", 1)))  # fmt: skip
    known = {"n": width * sequences, "expansions": width, "max_steps": depth}
    names = {"max_new_tokens": "max_step_tokens", "temperature": "temperature", "top_p": "top_p"}
    return known | {names[name]: drawn[name] for name in names if drawn.get(name) is not None}


def _name(place: Any, parts: tuple[str, ...], position: int) -> str | None:
    """A model's name: paths of somebody's machine end at their last part."""
    if isinstance(place, list) and place:
        place = place[0]
    if isinstance(place, str) and place:
        return PurePosixPath(place).name
    return parts[position] if len(parts) >= -position else None


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """(name in the tree, text) of every configuration and record."""
    if path.is_dir():
        for file in sorted(path.rglob("*.json*")):
            if _wanted(name := file.relative_to(path.parent).as_posix()):
                yield name, file.read_text(encoding="utf-8")
        return
    if path.suffix == ".jsonl":
        yield path.absolute().as_posix(), path.read_text(encoding="utf-8")
        return
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and _wanted(member.name) and (content := archive.extractfile(member)) is not None:
                    yield member.name, content.read().decode("utf-8")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"cannot be read as a tar archive: {error}", where=str(path), hint="Copy it again") from error


def _wanted(name: str) -> bool:
    return name.endswith("/config.json") or _RECORD.search(name) is not None


def _object(text: str, where: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error.msg}", where=where, expected="one object") from error
    if not isinstance(found, dict):
        raise InputError("not a JSON object", where=where)
    return found
