"""Recorded samples become a bank; what is missing stays unknown, what is estimated is flagged."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from planner.cli.app import application
from planner.errors import BankError, InputError
from planner.profiling.bank import Bank
from planner.profiling.importers import import_bank

DATA = Path(__file__).parents[2] / "shared" / "data"
FULL: dict[str, Any] = {
    "problem_id": "p1", "prompt": "1 + 1?", "gold": r"\boxed{2}", "level": 3, "subject": "sums", "policy": "m", "temperature": 0.7,
    "samples": [
        {"text": r"so \boxed{2.0}", "tokens": 5, "scores": [0.5, 0.9], "finish": "end", "mine": 1},
        {"answer": "3", "key": "three", "correct": False, "tokens": 9},
        {"answer": None, "tokens": 9},
    ],
}  # fmt: skip


def write(path: Path, *rows: dict[str, Any], end: str = "\n") -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + end)
    return path


def test_fields(tmp_path: Path) -> None:
    report = import_bank([write(tmp_path / "s.jsonl", FULL)], tmp_path / "bank")
    bank = Bank.open(tmp_path / "bank")
    assert (report.problems, report.samples) == (1, 3)
    assert report.warnings == ("1 scores do not tell what the verifier read: taken as prompt and answer, once",)
    (problem,) = bank.problems.to_dict("records")
    assert (problem["prompt"], problem["gold"], problem["group"], problem["split"]) == ("1 + 1?", "2", "sums", "all")
    assert json.loads(problem["extra"]) == {"level": 3, "subject": "sums"}
    first, second, third = bank.samples.to_dict("records")
    assert (first["answer_key"], first["correct"], first["temperature"]) == ("2", True, 0.7)
    assert (list(first["scores"]), first["verifier"], json.loads(first["extra"])) == (
        [0.5, 0.9],
        "recorded",
        {"mine": 1},
    )
    assert (second["answer_key"], second["correct"], second["scores"]) == ("three", False, None)
    assert (third["correct"], third["finished"]) == (False, False)
    assert bank.samples["answer_key"].isna().tolist() == [False, False, True]
    assert bank.samples["text"].isna().tolist() == [False, True, True]
    assert bank.samples["prompt_tokens"].isna().all()
    assert bank.samples["policy_model"].unique().tolist() == ["m"]
    assert bank.manifest["source"] == "import"
    assert bank.manifest["verifier"]["name"] == "recorded"
    assert report.to_dict()["samples"] == 3


def test_missing_is_unknown_and_estimates_are_flagged(tmp_path: Path) -> None:
    rows = {"problem_id": 1, "samples": [{"text": "x" * 9, "tokens": 0}, {"text": "y" * 8}, {"key": "a", "tokens": 0}]}
    report = import_bank([write(tmp_path / "s.jsonl", rows)], tmp_path / "bank")
    samples = report.bank.samples
    assert samples["generated_tokens"].tolist()[:2] == [3, 3]
    assert samples["generated_tokens"].isna().tolist() == [False, False, True]
    assert samples["correct"].isna().all()
    assert samples["policy_model"].tolist() == ["s"] * 3
    flags = " ".join(report.bank.manifest["flags"])
    for told in ("2 of 3 samples had no token count: estimated as characters / 3", "cost is unknown", "no label"):
        assert told in flags
    assert report.bank.manifest["verifier"] is None


def test_several_files_ragged_and_joined_prompts(tmp_path: Path) -> None:
    one = write(tmp_path / "a.jsonl", {"problem_id": "x", "samples": [{"answer": "4"}] * 3})
    two = write(
        tmp_path / "b.jsonl", {"problem_id": "x", "samples": [{"answer": "5"}]}, {"problem_id": "y", "samples": []}
    )
    prompts = write(tmp_path / "p.jsonl", {"unique_id": "x", "problem": "2 + 2?", "answer": "4"})
    report = import_bank([one, two], tmp_path / "bank", policy="m", prompts=prompts)
    assert report.bank.samples["correct"].tolist() == [True] * 3 + [False]
    assert report.bank.samples["index"].tolist() == [0, 1, 2, 3]
    assert report.bank.problems["prompt"].tolist()[0] == "2 + 2?"
    assert any("1 problems have no samples" in w for w in report.warnings)
    with pytest.raises(InputError, match="same file"):
        import_bank([one, one], tmp_path / "other")
    with pytest.raises(BankError, match="holds a bank already"):
        import_bank([one], tmp_path / "bank")
    assert not (tmp_path / "other").exists()


def test_config_prices_in_flops(tmp_path: Path) -> None:
    from scripted import SHAPE

    config = tmp_path / "config.json"
    config.write_text(json.dumps(SHAPE.to_dict()))
    file = write(tmp_path / "s.jsonl", FULL)
    report = import_bank([file], tmp_path / "bank", config=config)
    assert report.bank.manifest["policy_models"]["m"]["parameters"] == SHAPE.parameters
    config.write_text("{}")
    with pytest.raises(InputError, match="model_type"):
        import_bank([file], tmp_path / "other", config=config)
    with pytest.raises(InputError, match="cannot be read"):
        import_bank([file], tmp_path / "other", config=tmp_path / "absent.json")


def test_several_policy_models_have_a_config_each(tmp_path: Path) -> None:
    from scripted import SHAPE

    config = tmp_path / "config.json"
    config.write_text(json.dumps(SHAPE.to_dict()))
    wide = tmp_path / "wide.json"
    wide.write_text(json.dumps(SHAPE.to_dict() | {"num_hidden_layers": 5}))
    files = [write(tmp_path / f"{name}.jsonl", FULL | {"policy": name}) for name in ("a", "b")]
    bank = import_bank(files, tmp_path / "bank", config={"a": config, "b": wide}).bank
    small, large = (bank.manifest["policy_models"][name]["parameters"] for name in ("a", "b"))
    assert small == SHAPE.parameters < large
    with pytest.raises(InputError, match="expected a=CONFIG, b=CONFIG"):
        import_bank(files, tmp_path / "other", config=config)
    with pytest.raises(InputError, match="not one config for each"):
        import_bank(files, tmp_path / "other", config={"a": config})
    done = CliRunner().invoke(
        application(),
        ["import", *map(str, files), "-o", str(tmp_path / "cli"), "--config", f"a={config}", "--config", f"b={wide}"],
    )
    assert done.exit_code == 0, done.output
    assert Bank.open(tmp_path / "cli").manifest["policy_models"] == bank.manifest["policy_models"]


def test_what_the_verifier_read_is_counted_and_priced(tmp_path: Path) -> None:
    from scripted import SHAPE

    config = tmp_path / "config.json"
    config.write_text(json.dumps(SHAPE.to_dict()))
    scored = {**FULL, "samples": [*FULL["samples"], {"answer": "2", "tokens": 7, "scores": 0.3, "verifier_tokens": 40}]}
    file = write(tmp_path / "s.jsonl", scored)
    bank = import_bank([file], tmp_path / "bank", config=config, verifier_config=config).bank
    assert bank.manifest["verifier"]["parameters"] == SHAPE.parameters
    # Prompt ("1 + 1?", two tokens by its length) and answer; as recorded; nothing where there is no score.
    assert bank.samples["verifier_tokens"].fillna(-1).tolist() == [2 + 5, -1, -1, 40]
    unscored = write(tmp_path / "u.jsonl", {**FULL, "samples": FULL["samples"][1:]})
    with pytest.raises(InputError, match="verifier_config"):
        import_bank([unscored], tmp_path / "none", config=config, verifier_config=config)


def test_a_cut_last_line_loses_itself_only(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", FULL, FULL | {"problem_id": "p2"})
    path.write_text(path.read_text()[:-30])
    report = import_bank([path], tmp_path / "bank")
    assert report.problems == 1
    assert "line 2" in report.warnings[0]
    many = "\n".join(json.dumps(FULL | {"problem_id": f"p{i}", "salt": str(i) * 50}) for i in range(2000))
    packed = tmp_path / "s.jsonl.gz"
    packed.write_bytes(gzip.compress(many.encode())[:-3000])
    report = import_bank([packed], tmp_path / "packed")
    assert 1 < report.problems < 2000
    assert any("breaks off" in w for w in report.warnings)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty"),
        ("{broken\n" + json.dumps(FULL), "line 1: not JSON"),
        (json.dumps({"samples": []}), "line 1: `problem_id`"),
        (json.dumps(FULL) + "\n" + json.dumps({"problem_id": 1}), "line 2: `samples`"),
        (json.dumps({"problem_id": 1, "samples": [{}, {"correct": "yes"}]}), "sample 2: `correct` = 'yes'"),
        (json.dumps({"problem_id": 1, "samples": [{"tokens": -1}]}), "`tokens` = -1"),
        (json.dumps({"problem_id": 1, "samples": [{"scores": ["a"]}]}), "`scores`"),
        (json.dumps(FULL) + "\n" + json.dumps(FULL | {"prompt": "other"}), "line 2: `prompt` = 'other'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        import_bank([path], tmp_path / "bank")
    assert told in str(error.value)
    assert "s.jsonl" in str(error.value)
    assert not (tmp_path / "bank").exists()


def test_labels_that_contradict_gold_are_flagged(tmp_path: Path) -> None:
    row = {"problem_id": 1, "gold": "4", "samples": [{"answer": "4", "correct": False, "tokens": 3}] * 5}
    report = import_bank([write(tmp_path / "s.jsonl", row)], tmp_path / "bank")
    assert any("damaged" in w for w in report.warnings)


def test_math100(tmp_path: Path) -> None:
    path = DATA / "math100_llama3.1_8b" / "math100_llama3.1-8b_bon44.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    report = import_bank([path], tmp_path / "bank", policy="llama-3.1-8b")
    samples = report.bank.samples
    assert (report.problems, report.samples, report.warnings) == (100, 4400, ())
    assert samples["correct"].mean() == pytest.approx(0.432, abs=5e-4)
    assert samples["generated_tokens"].mean() == pytest.approx(506, abs=0.5)
    assert samples["answer_key"].isna().sum() == 345
    assert report.bank.problems["prompt"].notna().all()
