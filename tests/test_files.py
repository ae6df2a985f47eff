"""Problems are read from files; whatever is wrong with one is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from planner.errors import InputError
from planner.tasks.checkers import load_checker
from planner.tasks.task import load_task

DATA = Path(__file__).parents[2] / "shared" / "data"
ROWS: list[dict[str, Any]] = [
    {"problem": "1 + 1?", "solution": r"It is \boxed{2}.", "unique_id": "a", "subject": "sum", "level": 3},
    {"question": "2 + 2?", "answer": "2 + 2 = 4\n#### 4"},
    {"prompt": "An AIME problem", "gold": 25, "id": 7},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    text = "\n".join(json.dumps(row) for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        import pandas as pd

        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.json"])
def test_columns_by_any_of_their_names(tmp_path: Path, name: str) -> None:
    task = load_task(write(tmp_path / name, ROWS))
    first, second, third = task.problems
    assert (first.problem_id, first.prompt, first.gold, first.group) == ("a", "1 + 1?", "2", "sum")
    assert first.extra == {"level": 3}
    assert (second.problem_id, second.gold, second.group) == ("t/1", "4", None)
    assert (third.problem_id, third.gold) == ("7", "25")
    assert task.check("2.0", "2")


def test_parquet_and_count(tmp_path: Path) -> None:
    rows = [{"prompt": str(i), "answer": i, "problem_id": f"p{i}"} for i in range(5)]
    task = load_task(write(tmp_path / "t.parquet", rows), count=2, max_tokens=64)
    assert [(p.prompt, p.gold, p.max_tokens) for p in task.problems] == [("0", "0", 64), ("1", "1", 64)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ["t.jsonl", "empty"]),
        ('{"prompt": "a", "answer": "1"}\n{"prompt": "b"}', ["line 2", "`answer`", "missing", "columns are prompt"]),
        ('{"prompt": "a", "answer": null}', ["line 1", "`answer`", "no value"]),
        ('{"prompt": " ", "answer": "1"}', ["line 1", "`prompt`", "not empty"]),
        ('{"text": "a", "label": "1"}', ["line 1", "`prompt`", "text, label", "prompt or problem or question"]),
        ('{"prompt": "a", "answer": "1"}\n\n{"prompt"', ["line 3", "not JSON"]),
        ("[1]", ["line 1", "not a JSON object"]),
        ('{"prompt": ["a"], "answer": "1"}', ["line 1", "`prompt`", "another type"]),
        (
            '{"prompt": "a", "answer": "1", "id": 1}\n{"prompt": "b", "answer": "1", "id": 1}',
            ["line 2", "line 1 already"],
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, told: list[str]) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_task(path)
    assert error.value.exit_code == 2
    for part in told:
        assert part in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROWS[0]).encode() * 500)[:-60])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9"}')
    for name in ("cut.jsonl.gz", "bad.parquet", "bad.json", "latin.jsonl", "absent.jsonl"):
        with pytest.raises(InputError, match=name):
            load_task(tmp_path / name)
    for spec in ("gsm9k", "problems.csv"):
        with pytest.raises(InputError, match="no such task"):
            load_task(spec)


def test_own_checker(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def same(answer, gold):\n    return answer[::-1] == gold\n")
    task = load_task(write(tmp_path / "t.jsonl", ROWS), checker=f"{tmp_path / 'mine.py'}:same")
    assert task.check("21", "12")
    assert load_checker("planner.tasks.answers:check")("1", "1")
    for spec in ("same", "no_module_of_this_name:same", f"{tmp_path}/absent.py:same", "json:absent", "a.b.c:d"):
        with pytest.raises(InputError, match="checker"):
            load_checker(spec)


def test_the_laboratory() -> None:
    pytest.importorskip("reasoning_gym")
    task = load_task("lab", count=12)
    assert len({p.problem_id for p in task.problems}) == 12
    assert {p.step_separator for p in task.problems} == {"\n"}
    assert all(p.gold and p.group and p.max_tokens == 256 for p in task.problems)
    assert load_task("lab", count=6).problems == task.problems[:6]


def test_math500() -> None:
    path = DATA / "math500" / "math500_test500.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    task = load_task(path)
    assert len(task.problems) == 500
    assert {"level", "solution"} <= set(task.problems[0].extra)
    assert all(p.gold and p.group for p in task.problems)


def test_gsm8k() -> None:
    path = DATA / "gsm8k" / "example_model_solutions.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    task = load_task(path)
    assert len(task.problems) == 1319
    assert task.problems[0].gold == "18"
