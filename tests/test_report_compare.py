"""Two policies side by side: numbers from their files, honest about what cannot be compared, inert, small."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from simulated_policy import HOSTILE, simulated_policy
from test_report import Page

from planner.errors import InputError, PolicyError
from planner.report import build_comparison, to_json, to_markdown, write_comparison
from planner.report.document import Table
from planner.report.palette import STYLES


def change(folder: Path, name: str, **fields: Any) -> None:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def table(document: Any, table_id: str) -> Table:
    return next(t for s in document.sections for t in s.tables if t.table_id == table_id)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    before = simulated_policy(tmp_path / "before", name="before", advantage=-0.1)
    return before, simulated_policy(tmp_path / "after", name="after", advantage=0.1)


def test_the_better_one_is_better_at_equal_cost(pair: tuple[Path, Path]) -> None:
    document = build_comparison(*pair)
    rows = table(document, "equal-cost").rows
    assert len(rows) == 6
    for price, one, two, gap, word in rows:
        assert price.value is not None
        assert gap.value == pytest.approx((two.value or 0.0) - (one.value or 0.0))
        assert (gap.value or 0.0) > 0.1
        assert word.text == "better"
    assert "after is better at 6 of 6 costs and worse at 0" in table(document, "equal-cost").says
    turned = table(build_comparison(pair[1], pair[0]), "equal-cost").rows
    assert [row[4].text for row in turned] == ["worse"] * 6


def test_interpolation_is_the_files_numbers_at_a_measured_cost(pair: tuple[Path, Path]) -> None:
    evaluation = json.loads((pair[0] / "evaluation.json").read_text())
    marks = sorted((b["methods"]["policy"]["cost"], b["methods"]["policy"]["accuracy"]) for b in evaluation["budgets"])
    first = table(build_comparison(pair[0], pair[0]), "equal-cost").rows[0]
    assert (first[0].value, first[1].value) == pytest.approx(marks[0])


def test_a_policy_beside_itself_differs_in_nothing(pair: tuple[Path, Path]) -> None:
    document = build_comparison(pair[0], pair[0])
    assert {row[4].text for row in table(document, "equal-cost").rows} == {"no difference shown"}
    assert {row[3].value for row in table(document, "equal-cost").rows} == {0.0}
    assert {row[3].text for row in table(document, "reach-table").rows} == {"1.00×"}
    assert {row[3].text for row in table(document, "facts-table").rows} == {"same"}
    assert "Nothing listed here differs." in table(document, "facts-table").says
    assert len(set(document.names)) == 2


def test_what_an_accuracy_costs_says_where_it_is_never_reached(pair: tuple[Path, Path]) -> None:
    rows = table(build_comparison(*pair), "reach-table").rows
    assert rows[-1][1].text == "not reached"
    assert rows[-1][2].value is not None
    assert rows[-1][3].text == ""


def test_each_is_shown_at_the_same_multiple(pair: tuple[Path, Path]) -> None:
    plans = table(build_comparison(*pair), "both-plans")
    assert [row[0].text for row in plans.rows[:2]] == ["before", "after"]
    for one, two in zip(plans.rows[::2], plans.rows[1::2], strict=True):
        assert one[0].note.split(",")[0] == two[0].note.split(",")[0]


def test_the_page_is_whole_inert_and_small(tmp_path: Path) -> None:
    a = simulated_policy(tmp_path / "a", hostile=True)
    b = simulated_policy(tmp_path / "b", name=HOSTILE, hostile=True)
    path = write_comparison(a, b, tmp_path / "both")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.stack == []
    assert page.loads == ["data:,"]
    assert page.handlers == []
    assert page.tags["script"] == 2
    assert "img" not in page.tags
    assert "\u202e" not in text
    assert "alert(1)" in "".join(page.text)
    assert len(page.ids) == len(set(page.ids))
    assert path.stat().st_size < 1_000_000
    document = build_comparison(a, b)
    assert (
        json.loads(page.data)
        == json.loads(to_json(document))
        == json.loads((tmp_path / "both/report.json").read_text())
    )
    markdown = (tmp_path / "both" / "report.md").read_text()
    assert markdown == to_markdown(document)
    assert "<script" not in markdown
    assert "<img" not in markdown
    assert "://" not in markdown
    assert not re.search(r"(?<!\\)!\[", markdown)


def test_figures_have_a_sentence_and_known_colours(pair: tuple[Path, Path]) -> None:
    figures = [f for s in build_comparison(*pair).sections for f in s.figures]
    assert {f.figure_id for f in figures} == {"both-curves", "both-buckets"}
    assert all(len(f.says) > 20 for f in figures)
    keys = {s.key for f in figures for p in f.panels for s in p.series}
    assert {"policy", "second_policy"} <= keys <= STYLES.keys()


def test_differences_are_paired_on_common_problems(pair: tuple[Path, Path]) -> None:
    document = build_comparison(*pair)
    paired = table(document, "equal-cost")
    assert "paired on the 300 problems that both were measured on." in paired.says
    assert "paired on 300 problems" in document.headline[0]
    for folder in pair:  # the same curves without outcomes of problems: no pairing, and wider intervals
        change(folder, "evaluation", by_problem=None)
    unpaired = table(build_comparison(*pair), "equal-cost")
    assert "treat the two as independent" in unpaired.says
    for a, b in zip(paired.rows, unpaired.rows, strict=True):
        assert [a[i].value for i in (0, 1, 2)] == pytest.approx([b[i].value for i in (0, 1, 2)], abs=1e-3)
        assert _width(a[3].note) < _width(b[3].note)


def _width(note: str) -> float:
    low, high = (float(part.replace("−", "-").replace("±", "")) for part in note.split(" to "))
    return high - low


def test_only_common_problems_are_compared(pair: tuple[Path, Path]) -> None:
    kept = json.loads((pair[1] / "evaluation.json").read_text())["by_problem"]
    others = [f"{int(key, 16) + 200:010x}" for key in kept["problems"].split()]
    change(pair[1], "evaluation", by_problem=kept | {"problems": " ".join(others)})
    document = build_comparison(*pair)
    assert "100 problems" in table(document, "equal-cost").says
    assert "Only 100 problems were measured for both" in document.warnings[0]
    apart = kept | {"problems": " ".join(f"other{i}" for i in range(300))}
    change(pair[1], "evaluation", by_problem=apart)
    assert "treat the two as independent" in table(build_comparison(*pair), "equal-cost").says


@pytest.mark.parametrize("damage", [{"thousandths": ["1 2"]}, {"thousandths": None}, {"problems": "a b"}])
def test_damaged_outcomes_of_problems_are_not_paired(pair: tuple[Path, Path], damage: dict[str, Any]) -> None:
    kept = json.loads((pair[0] / "evaluation.json").read_text())["by_problem"]
    change(pair[0], "evaluation", by_problem=kept | damage)
    assert "treat the two as independent" in table(build_comparison(*pair), "equal-cost").says


def test_limits_say_whether_the_problems_are_the_same(pair: tuple[Path, Path]) -> None:
    change(pair[0], "policy", fingerprints={"task": "t"}, reference_model="small")
    change(pair[1], "policy", fingerprints={"task": "t"}, reference_model="large")
    limits = " ".join(build_comparison(*pair).warnings)
    assert "measured on the same problems, and differences at equal cost are paired" in limits
    assert "another reference model" in limits
    change(pair[1], "evaluation", by_problem=None)
    assert "keeps no outcomes of single problems" in " ".join(build_comparison(*pair).warnings)
    change(pair[1], "policy", fingerprints={"task": "another"})
    assert "different problems" in " ".join(build_comparison(*pair).warnings)


def test_without_an_evaluation_nothing_is_claimed_at_equal_cost(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (pair[0] / "evaluation.json").unlink()
    document = build_comparison(*pair)
    assert "nothing can be said at equal cost" in document.headline[0]
    assert not any(t.table_id in ("equal-cost", "reach-table") for s in document.sections for t in s.tables)
    assert "before has no held-out evaluation." in document.warnings
    assert Page(write_comparison(*pair, tmp_path / "x.html").read_text()).stack == []


def test_two_units_and_a_missing_folder_are_errors(pair: tuple[Path, Path], tmp_path: Path) -> None:
    tokens = simulated_policy(tmp_path / "tokens", unit="tokens")
    with pytest.raises(InputError, match="two units"):
        build_comparison(pair[0], tokens)
    with pytest.raises(PolicyError, match=re.escape("policy.json")):
        build_comparison(pair[0], tmp_path / "nowhere")


@pytest.mark.parametrize(("words", "expected"), [((), "one policy folder"), (("--compare",), "two policy folders")])
def test_the_command_says_how_many_folders_it_wants(
    pair: tuple[Path, Path], tmp_path: Path, words: tuple[str, ...], expected: str
) -> None:
    from typer.testing import CliRunner

    from planner.cli.app import app

    given = [str(p) for p in pair] if not words else [str(pair[0])]
    result = CliRunner().invoke(app, ["report", *words, *given, "-o", str(tmp_path / "x.html")])
    assert isinstance(result.exception, InputError)
    assert expected in str(result.exception)
    both = CliRunner().invoke(app, ["report", "--compare", *map(str, pair), "-o", str(tmp_path / "both.html")])
    assert both.exit_code == 0, both.output
    assert (tmp_path / "both.html").exists()
