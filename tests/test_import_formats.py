"""Each format becomes the same records; damage is found, and the recorded outputs in ../shared/data import as their
README says."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from planner.errors import InputError
from planner.profiling.bank import Bank
from planner.profiling.importers import detect, import_bank
from planner.profiling.outcomes import outcomes_from_bank

DATA = Path(__file__).parents[2] / "shared" / "data"


def shared(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return path


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def mean(bank: Bank, *, runs: bool = False) -> float:
    table = bank.runs if runs else bank.samples[bank.samples["role"] == "score"]
    return float(table["correct"].astype(float).mean())


SEARCHED = {
    "problem": "1 + 1?", "solution": "it is 2", "answer": "2", "unique_id": "a/1", "subject": "sums",
    "completions": [r"a \boxed{2}", r"b \boxed{3}", "no answer", r"c \boxed{3}"], "completion_tokens": [0, 0, 0, 0],
    "scores": [[0.2, 0.9], [0.9, 0.8], [0.9, 0.99], [0.1, 0.1]], "pred_naive@4": r"\boxed{2}",
}  # fmt: skip


class TestSearchAndLearn:
    def test_best_of_n_are_samples_with_unknown_tokens_estimated(self, tmp_path: Path) -> None:
        path = lines(tmp_path / "bon_model_n4.jsonl.gz", SEARCHED)
        report = import_bank([path], tmp_path / "bank", policy="m")
        samples = report.bank.samples
        assert report.formats == ("search-and-learn",)
        assert samples["answer_key"].fillna("-").tolist() == ["2", "3", "-", "3"]
        assert samples["correct"].tolist() == [True, False, False, False]
        assert [list(s) for s in samples["scores"]] == SEARCHED["scores"]
        assert samples["generated_tokens"].tolist() == [4, 4, 3, 4]
        assert any("estimated as characters" in w for w in report.warnings)
        assert json.loads(report.bank.problems["extra"][0]) == {
            "solution": "it is 2",
            "subject": "sums",
            "pred_naive@4": r"\boxed{2}",
        }

    def test_a_beam_file_enters_as_runs(self, tmp_path: Path) -> None:
        paths = [lines(tmp_path / f"beam_m_{i}.jsonl", SEARCHED | {"run": i}) for i in range(2)]
        report = import_bank(paths, tmp_path / "bank", policy="m")
        assert (report.samples, report.runs) == (0, 2)
        runs = report.bank.runs
        # The unfinished path scores best and is still not chosen.
        assert runs["answer"].tolist() == ["2", "2"]
        assert runs["strategy"].tolist() == ["beam_search"] * 2
        assert runs["repeat"].tolist() == [0, 1]
        assert json.loads(runs["hyperparameters"][0])["expansions"] == 4
        assert runs["generated_tokens"].tolist() == [15, 15]
        assert report.bank.samples["role"].unique().tolist() == ["path"]
        assert report.bank.samples["generated_tokens"].isna().all()
        other = import_bank(paths[:1], tmp_path / "other", hyperparameters={"expansions": 2, "aggregation": "min"})
        assert json.loads(other.bank.runs["hyperparameters"][0])["expansions"] == 2
        assert other.bank.runs["answer"].tolist() == ["3"]
        plain = import_bank(paths[:1], tmp_path / "plain", strategy="samples")
        assert (plain.samples, plain.runs) == (4, 0)

    def test_which_strategy_must_be_told(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"which strategy.*--strategy"):
            import_bank([lines(tmp_path / "out.jsonl", SEARCHED)], tmp_path / "bank")
        with pytest.raises(InputError, match="`scores`: not one for each completion"):
            import_bank([lines(tmp_path / "bon.jsonl", SEARCHED | {"scores": [[1.0]]})], tmp_path / "bank")


def test_compute_optimal_tts_tree_and_archive(tmp_path: Path) -> None:
    def record(answer: str, right: int, tokens: int) -> str:
        output = [{"text": "t", "extracted_answer": answer, "reward_history": [0.5, 0.7], "completion_tokens": 9}]
        return json.dumps({
            "question": "1 + 1?", "groundtruth": r"so \boxed{2}", "output": output,
            "result": {"majority_vote": right, "total_completion_tokens": tokens},
        }) + "\n"  # fmt: skip

    drawn = {"temperature": 0.7, "top_p": 1, "max_new_tokens": 64}
    tree = {
        "T_best_of_n/m/v/1_1_1": {"config.json": {"method": "best_of_n", "gen_config": drawn, "LM": ["/home/x/m"]}},
        "T_beam_search/m/v/40_4_2": {"config.json": {"method": "beam_search", "gen_config": drawn}},
    }  # fmt: skip
    root = tmp_path / "output"
    for folder, files in tree.items():
        (root / folder / "question_0").mkdir(parents=True)
        for name, content in files.items():
            (root / folder / name).write_text(json.dumps(content))
    (root / "T_best_of_n/m/v/1_1_1/question_0/record_0.jsonl").write_text(record("2", 1, 9))
    (root / "T_best_of_n/m/v/1_1_1/question_0/record_1.jsonl").write_text(record("3", 0, 9))
    (root / "T_beam_search/m/v/40_4_2/question_0/record_0.jsonl").write_text(record("2", 1, 30))
    (root / "T_beam_search/m/v/40_4_2/question_0/record_1.jsonl").write_text(record("2", 1, 30)[:-40])
    with tarfile.open(tmp_path / "output.tar.gz", "w:gz") as archive:
        archive.add(root, arcname="output")
    for source in (root, tmp_path / "output.tar.gz"):
        report = import_bank([source], tmp_path / f"bank-{source.name}")
        assert report.formats == ("compute-optimal-tts",)
        assert (report.samples, report.runs, report.policy_models) == (2, 1, ("m",))
        assert "record_1.jsonl" in report.warnings[0]
        scored = report.bank.samples[report.bank.samples["role"] == "score"]
        assert scored["correct"].tolist() == [True, False]
        assert scored["temperature"].tolist() == [0.7, 0.7]
        (run,) = report.bank.runs.to_dict("records")
        assert (run["generated_tokens"], run["correct"]) == (30, True)
        fields = json.loads(run["hyperparameters"])
        assert (fields["n"], fields["expansions"], fields["max_steps"], fields["max_step_tokens"]) == (8, 4, 40, 64)
        assert report.bank.manifest["verifier"]["name"] == "v"


def summary(name: str, epoch: int, value: str, answer: str | None, **more: Any) -> dict[str, Any]:
    return {
        "id": name, "epoch": epoch, "input": "1 + 1?", "target": "002",
        "scores": {"match": {"value": value, "answer": answer}, "graded": {"value": value, "answer": "w" * 400}},
        "model_usage": {"lab/m": {"input_tokens": 7, "output_tokens": 50}, "judge": {"output_tokens": 2}}, **more,
    }  # fmt: skip


def test_inspect_summaries_logs_and_archives(tmp_path: Path) -> None:
    header = {
        "version": 2,
        "eval": {"model": "lab/m"},
        "plan": {"config": {"reasoning_effort": "low", "temperature": 1}},
    }
    rows = [
        summary("a", 2, "I", None), summary("a", 1, "C", "2"), summary("a", 3, "C", "2", completed=False),
        summary("b", 1, "I", "3", working_time=2.5),
    ]  # fmt: skip
    (tmp_path / "x.summaries.json").write_text(json.dumps(rows))
    (tmp_path / "x.header.json").write_text(json.dumps(header))
    (tmp_path / "log.json").write_text(json.dumps(header | {"samples": rows}))
    with zipfile.ZipFile(tmp_path / "log.eval", "w") as archive:
        archive.writestr("header.json", json.dumps(header))
        archive.writestr("_journal/summaries/1.json", json.dumps(rows[:2]))
        archive.writestr("_journal/summaries/2.json", json.dumps(rows[2:]))
    for i, files in enumerate((["x.header.json", "x.summaries.json"], ["log.json"], ["log.eval"])):
        report = import_bank([tmp_path / f for f in files], tmp_path / f"bank{i}")
        samples = report.bank.samples
        assert report.policy_models == ("lab/m@low",)
        assert samples["problem_id"].tolist() == ["a", "a", "b"]
        assert samples["correct"].tolist() == [True, False, False]
        assert samples["generated_tokens"].tolist() == [50] * 3
        assert samples["temperature"].tolist() == [1.0] * 3
        assert report.bank.problems["gold"].tolist() == ["002", "002"]
        assert json.loads(samples["extra"][2])["working_time"] == 2.5
        assert any("1 samples were not completed" in w for w in report.warnings)
    (tmp_path / "x.header.json").unlink()
    alone = import_bank([tmp_path / "x.summaries.json"], tmp_path / "alone")
    assert alone.policy_models == ("lab/m@x",)
    assert "effort is unknown" in alone.warnings[0]


def test_lm_eval_filters_repeats_and_choices(tmp_path: Path) -> None:
    def doc(filter_: str, answer: str, label: float) -> dict[str, Any]:
        return {
            "doc_id": 0, "doc": {"question": "1 + 1?"}, "target": "so #### 2", "resps": [["it is 2"]],
            "arguments": {"gen_args_0": {"arg_0": "Q: 1 + 1?", "arg_1": {"do_sample": False, "temperature": 0.6}}},
            "filtered_resps": [answer], "filter": filter_, "metrics": ["exact_match"], "exact_match": label,
        }  # fmt: skip

    folder = tmp_path / "org__model"
    folder.mkdir()
    path = lines(
        folder / "samples_gsm8k_2025-01-01T00-00-00.jsonl", doc("strict", "[invalid]", 0.0), doc("flexible", "2", 1.0)
    )
    report = import_bank([path], tmp_path / "bank")
    (sample,) = report.bank.samples.to_dict("records")
    assert (sample["policy_model"], sample["problem_id"]) == ("org/model", "gsm8k/0")
    assert (sample["answer_key"], sample["correct"], sample["temperature"]) == ("2", True, 0.0)
    assert report.bank.problems["prompt"].tolist() == ["1 + 1?"]
    assert any("filter flexible" in w for w in report.warnings)

    repeats = doc("none", "", 0.0) | {"resps": [["x 2", "y 3"]], "filtered_resps": [["2", "3"]]}
    report = import_bank([lines(tmp_path / "samples_t_2025.jsonl", repeats)], tmp_path / "repeats")
    assert report.bank.samples["correct"].tolist() == [True, False]
    choices = doc("none", "", 0.0) | {"resps": [[["-1.0", "False"]], [["-2.0", "True"]]]}
    with pytest.raises(InputError, match="log-likelihoods"):
        import_bank([lines(tmp_path / "samples_c_2025.jsonl", choices)], tmp_path / "choices")


def test_cells_are_policies_priced_by_hand(tmp_path: Path) -> None:
    rows = [
        {"question": f"{i} + 1?", "ground_truth": f"...\nA: {i + 1}", "small": {"is_correct": bool(i % 2), "solution": "A: 1"},
         "large": {"is_correct": True, "solution": f"...\nA: {i + 1}"}} for i in range(30)
    ]  # fmt: skip
    path = lines(tmp_path / "cells.jsonl", *rows)
    report = import_bank([path], tmp_path / "bank", costs={"small": 1, "large": 29})
    assert report.policy_models == ("large", "small")
    assert report.bank.samples["answer_key"].tolist()[-1] == "30"
    outcomes = outcomes_from_bank(report.bank)
    cost = {c.policy_model: float(outcomes.cost[:, i].mean()) for i, c in enumerate(outcomes.configurations)}
    assert cost == {"small": 1.0, "large": 29.0}
    # A problem's only sample scores it, so that it cannot tell the problem's bucket.
    assert all(bool((d != d).all()) for d in outcomes.difficulty.values())
    with pytest.raises(InputError, match="does not price each policy model"):
        import_bank([path], tmp_path / "other", costs={"small": 1})


def told(i: int, owner: int | None = None) -> dict[str, Any]:
    rng = random.Random(owner if owner is not None else i)
    numbers = [rng.randrange(100, 999) for _ in range(4)]
    mine = random.Random(i)
    prompt = [mine.randrange(100, 999) for _ in range(4)]
    text = f"Adding {numbers[0]} and {numbers[1]}, then {numbers[2]} and {numbers[3]}: \\boxed{{{sum(numbers)}}}"
    return {
        "problem_id": str(i), "prompt": "Find the sum of " + ", ".join(map(str, prompt)) + ".", "gold": str(sum(prompt)),
        "samples": [{"text": text, "tokens": 9}] * 2,
    }  # fmt: skip


def test_completions_under_other_problems_are_refused(tmp_path: Path) -> None:
    good = lines(tmp_path / "good.jsonl", *(told(i) for i in range(40)))
    assert import_bank([good], tmp_path / "good").warnings == ()
    owners = list(range(40))
    random.Random(0).shuffle(owners)
    bad = lines(tmp_path / "bad.jsonl", *(told(i, owners[i]) for i in range(40)))
    with pytest.raises(InputError, match=r"bad\.jsonl: completions stand under other problems.*--allow-damaged"):
        import_bank([bad], tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
    report = import_bank([bad], tmp_path / "bad", allow_damaged=True)
    assert report.warnings[0].startswith("damaged: ")
    assert report.bank.manifest["flags"][0] == report.warnings[0]


def test_labels_that_contradict_one_another_are_flagged(tmp_path: Path) -> None:
    def run(name: str, right: Any) -> Path:
        rows = [{"problem_id": i, "samples": [{"key": "k", "correct": bool(right(i)), "tokens": 1}]} for i in range(60)]
        return lines(tmp_path / name, *rows)

    one, other = run("one.jsonl", lambda i: i % 2), run("other.jsonl", lambda i: i // 2 % 2)
    report = import_bank([one, other], tmp_path / "bank", policy="m")
    assert any("labelled right in one place and wrong in another" in w for w in report.warnings)
    assert any("does not go together" in w for w in report.warnings)


def test_unknown_kinds_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(InputError, match=r"not recognised.*--format"):
        detect(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="unknown format"):
        import_bank([tmp_path / "a.jsonl"], tmp_path / "bank", format="csv")
    broken = tmp_path / "t.tar.gz"
    broken.write_bytes(io.BytesIO(b"no archive").getvalue())
    with pytest.raises(InputError, match="tar archive"):
        import_bank([broken], tmp_path / "bank")


class TestShared:
    """The recorded outputs of real models, against the figures of their README."""

    MATH = "math100_llama3.1_8b/"

    def test_the_damaged_file_is_refused_with_its_reason(self, tmp_path: Path) -> None:
        path = shared(self.MATH + "bon_llama3.1-8b_n16_q100_data.jsonl.gz")
        with pytest.raises(InputError, match="completions stand under other problems"):
            import_bank([path], tmp_path / "bank")
        assert not (tmp_path / "bank").exists()

    def test_beams_are_runs(self, tmp_path: Path) -> None:
        paths = [shared(f"{self.MATH}math100_llama3.1-8b_beam4_{x}.jsonl.gz") for x in "abc"]
        prompts = shared("math500/math500_test500.jsonl.gz")
        report = import_bank(paths, tmp_path / "bank", policy="llama", prompts=prompts)
        assert (report.problems, report.samples, report.runs) == (100, 0, 300)
        assert report.bank.problems["prompt"].notna().all()
        assert 0.56 <= mean(report.bank, runs=True) <= 0.59
        assert (report.bank.runs["generated_tokens"] > 0).all()

    def test_compute_optimal_tts(self, tmp_path: Path) -> None:
        archive = shared("qwen2.5_1.5b_math500/src_output_MATH.tar.gz")
        report = import_bank([archive], tmp_path / "bank", prompts=shared("math500/math500_test500.jsonl.gz"))
        assert (report.problems, report.samples, report.runs) == (500, 1000, 600)
        samples, runs = report.bank.samples, report.bank.runs
        scored = samples[samples["role"] == "score"]
        by_run = scored.groupby("index")["correct"].mean()
        assert by_run.tolist() == pytest.approx([0.510, 0.480])
        assert float(scored["generated_tokens"].mean()) == pytest.approx(687, abs=0.5)
        first = runs[runs["repeat"] == 0]
        assert float(first["correct"].mean()) == pytest.approx(0.584)
        assert float(first["generated_tokens"].mean()) == pytest.approx(2715.15)
        assert scored["problem_id"].str.startswith("test/").all()

    def test_gpt_efforts(self, tmp_path: Path) -> None:
        files = [shared(f"otis_aime_gpt5.1/gpt51_{e}.summaries.json.gz") for e in ("low", "medium", "high")]
        bank = import_bank(files, tmp_path / "bank").bank
        by = bank.samples.groupby("policy_model")
        assert by["correct"].mean().round(3).to_dict() == {
            "openai/gpt-5.1@high": 0.886, "openai/gpt-5.1@low": 0.639, "openai/gpt-5.1@medium": 0.856,
        }  # fmt: skip
        assert (by["generated_tokens"].mean() / 1000).round().tolist() == [22, 4, 11]
        outcomes = outcomes_from_bank(bank)
        eight = {
            c.policy_model[15:]: float(outcomes.by_problem(outcomes.accuracy)[:, i].mean())
            for i, c in enumerate(outcomes.configurations) if c.strategy == "majority" and c.samples == 8
        }  # fmt: skip
        assert eight == pytest.approx({"low": 0.758, "medium": 0.889, "high": 0.920}, abs=0.02)

    def test_gsm8k_cells(self, tmp_path: Path) -> None:
        costs = {"6b_finetuning": 1, "6b_verification": 100, "175b_finetuning": 29, "175b_verification": 2900}
        bank = import_bank([shared("gsm8k/example_model_solutions.jsonl.gz")], tmp_path / "bank", costs=costs).bank
        labels = bank.samples.pivot(index="problem_id", columns="policy_model", values="correct").astype(bool)
        assert len(labels) == 1319
        assert labels.mean().round(3).to_dict() == {
            "175b_finetuning": 0.347, "175b_verification": 0.563, "6b_finetuning": 0.217, "6b_verification": 0.390,
        }  # fmt: skip
        assert labels.any(axis=1).mean() == pytest.approx(0.672, abs=5e-4)

    def test_qwen_reward_model(self, tmp_path: Path) -> None:
        report = import_bank([shared("qwen2.5_math_rm/math_cot_100.jsonl.gz")], tmp_path / "bank")
        assert mean(report.bank) == pytest.approx(0.910)
        assert report.bank.samples.groupby("problem_id")["correct"].any().mean() == pytest.approx(0.960)
        assert any("outside [0, 1]" in w for w in report.warnings)
