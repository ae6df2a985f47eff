"""Banks: appends survive a kill, keys stay single, damage is told and nothing is changed by it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from planner.errors import BankError
from planner.profiling.bank import Bank


def sample(key: str, **changes: Any) -> dict[str, Any]:
    row = {"key": key, "problem_id": "p", "policy_model": "m", "index": 0, "finished": True, "role": "score"}
    return row | changes


@pytest.fixture
def bank(tmp_path: Path) -> Bank:
    return Bank.create(tmp_path / "bank", {"task": {"name": "t"}, "seeds": {"run": 3}})


def test_round_trip(bank: Bank) -> None:
    bank.append_problems([{"problem_id": "p", "prompt": "1 + 1?", "gold": "2", "split": "all"}])
    rows = [
        sample("a", scores=[0.25, 1.0], generated_tokens=7, correct=False, temperature=0.5),
        sample("b", answer_key="2"),
    ]
    assert bank.append_samples(rows) == 2
    tables = Bank.open(bank.path).to_pandas()
    assert list(tables) == ["problems", "samples", "runs"]
    assert len(tables["runs"]) == 0
    first, second = tables["samples"].to_dict("records")
    assert list(first["scores"]) == [0.25, 1.0]
    assert (first["generated_tokens"], first["correct"], first["temperature"]) == (7, False, 0.5)
    assert second["scores"] is None
    assert tables["samples"]["generated_tokens"].isna().tolist() == [False, True]
    assert tables["samples"]["correct"].isna().tolist() == [False, True]
    assert pd.isna(second["text"])
    assert pd.isna(second["temperature"])
    assert tables["samples"]["finished"].dtype == bool
    assert Bank.open(bank.path).manifest["seeds"] == {"run": 3}


def test_a_key_is_stored_once(bank: Bank) -> None:
    assert bank.append_samples([sample("a", text="first"), sample("a", text="second")]) == 1
    assert bank.append_samples([sample("a", text="third"), sample("b")], part="x-0001") == 1
    again = Bank.open(bank.path)
    assert again.append_samples([sample("b")]) == 0
    assert sorted(again.samples["key"]) == ["a", "b"]
    assert "first" in set(again.samples["text"])
    assert again.keys("samples") == {"a", "b"}
    assert again.parts("samples") == {"000000", "x-0001"}
    with pytest.raises(BankError, match="there already"):
        again.append_samples([sample("c")], part="x-0001")


def test_bad_rows_change_nothing(bank: Bank) -> None:
    with pytest.raises(BankError, match="no such column"):
        bank.append_samples([sample("a", tokens=3)])
    with pytest.raises(BankError, match="missing"):
        bank.append_samples([sample("a", role=None)])
    with pytest.raises(BankError, match="another type"):
        bank.append_samples([sample("a", index="one")])
    assert len(Bank.open(bank.path).samples) == 0
    assert bank.append_samples([sample("a")]) == 1


def test_left_temporary_files_are_ignored_and_cleared(bank: Bank) -> None:
    bank.append_samples([sample("a")])
    left = bank.path / "samples" / ".tmp-1-part-000001.parquet"
    left.write_bytes(b"half a fi")
    assert len(Bank.open(bank.path).samples) == 1
    with bank.lock():
        assert not left.exists()


def test_damage_is_told_and_the_bank_left_as_it_was(bank: Bank) -> None:
    bank.append_samples([sample(str(i), text="some text " * 20) for i in range(50)])
    (part,) = (bank.path / "samples").glob("part-*")
    whole = part.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", whole[:40] + bytes([whole[40] ^ 255]) + whole[41:]):
        part.write_bytes(broken)
        before = {p: p.read_bytes() for p in bank.path.rglob("*") if p.is_file()}
        with pytest.raises(BankError, match=r"part-000000\.parquet") as error:
            _ = Bank.open(bank.path).samples
        assert error.value.exit_code == 2
        assert error.value.hint
        assert before == {p: p.read_bytes() for p in bank.path.rglob("*") if p.is_file()}
    pd.DataFrame({"x": [1]}).to_parquet(part)
    with pytest.raises(BankError, match="columns"):
        _ = Bank.open(bank.path).samples


def test_other_schemas_and_places(bank: Bank, tmp_path: Path) -> None:
    with pytest.raises(BankError, match="holds a bank"):
        Bank.create(bank.path, {})
    with pytest.raises(BankError, match="no bank"):
        Bank.open(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BankError, match="not an empty folder"):
        Bank.create(tmp_path / "file", {})
    manifest = bank.path / "manifest.json"
    manifest.write_text(json.dumps(bank.manifest | {"schema_version": 99}))
    with pytest.raises(BankError, match=r"schema_version.*99"):
        Bank.open(bank.path)
    manifest.write_text("{")
    with pytest.raises(BankError, match="damaged"):
        Bank.open(bank.path)


HOLDER = """
import sys, time
from planner.profiling.bank import Bank
bank = Bank.open(sys.argv[1])
with bank.lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_writers_and_a_dead_ones_lock(bank: Bank) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(bank.path)], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BankError, match=f"process {holder.pid}"), bank.lock():
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with bank.lock():
        pass


WRITER = """
import sys
from planner.profiling.bank import Bank
bank = Bank.open(sys.argv[1])
row = {"problem_id": "p", "policy_model": "m", "index": 0, "finished": True, "role": "score", "text": "x" * 10000}
with bank.lock():
    for part in range(10_000):
        bank.append_samples([row | {"key": f"{part}-{i}"} for i in range(20)])
        print(part, flush=True)
"""


def test_a_kill_leaves_whole_parts_only(bank: Bank) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(bank.path)], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    ) as writer:  # fmt: skip
        assert writer.stdout is not None
        for _ in range(5):
            writer.stdout.readline()
        time.sleep(0.01)
        writer.kill()
        rest = writer.stdout.read().split()
    found = Bank.open(bank.path).samples
    assert len(found) % 20 == 0
    assert len(found) >= 20 * (5 + len(rest))
    assert found["key"].is_unique
