"""The report on a simulated policy (tests/simulated_policy.py): complete, inert, honest about losses and gaps."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from simulated_policy import HOSTILE, simulated_policy

from planner.errors import PolicyError
from planner.report import build_report, to_json, to_markdown, write_html, write_report
from planner.report import numbers as n
from planner.report.document import ReportDocument, Section
from planner.report.palette import STYLES, label_name, plan_name
from planner.report.terminal import show

VOID = {"meta", "link", "input", "br", "img", "hr"}


class Page(HTMLParser):
    """Checks nesting and gathers what could act or load."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.tags: dict[str, int] = {}
        self.ids: list[str] = []
        self.data = ""
        self.text: list[str] = []
        self._embedded = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            if name in {"src", "href", "action", "data", "srcset", "xlink:href"}:
                self.loads.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "id":
                self.ids.append(value or "")
        self._embedded = ("id", "report-data") in attrs
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag
        self._embedded = False

    def handle_data(self, data: str) -> None:
        if self._embedded:
            self.data += data
        elif not self.stack or self.stack[-1] not in {"script", "style"}:
            self.text.append(data)


def section_of(document: ReportDocument, section_id: str) -> Section:
    return next(s for s in document.sections if s.section_id == section_id)


def page_of(folder: Path, tmp_path: Path) -> tuple[Page, str, Path]:
    path = write_html(build_report(folder), tmp_path / "page" / "report.html")
    text = path.read_text(encoding="utf-8")
    return Page(text), text, path


def test_page_is_whole_small_and_loads_nothing(tmp_path: Path) -> None:
    folder = simulated_policy(tmp_path / "policy")
    page, text, path = page_of(folder, tmp_path)
    assert page.stack == []
    assert page.loads == ["data:,"]
    assert page.handlers == []
    assert "@import" not in text
    assert "url(" not in text
    assert path.stat().st_size < 6_000_000
    assert len(page.ids) == len(set(page.ids))
    for section in (
        "answer",
        "compute",
        "difficulty-curves",
        "map",
        "predictor",
        "costs",
        "efficiency",
        "sizes",
        "verifier",
        "measured",
        "limits",
    ):
        assert section in page.ids, section


def test_embedded_json_equals_the_json_report(tmp_path: Path) -> None:
    folder = simulated_policy(tmp_path / "policy")
    page, _, _ = page_of(folder, tmp_path)
    document = build_report(folder)
    assert json.loads(page.data) == json.loads(to_json(document))
    out = write_report(folder, tmp_path / "out")
    assert out.name == "report.html"
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(page.data)
    assert (tmp_path / "out" / "report.md").read_text().startswith("# simulated: strategy report")
    assert write_report(folder, tmp_path / "one.md").read_text() == to_markdown(document)


def test_every_figure_has_a_sentence_and_every_strategy_one_colour(tmp_path: Path) -> None:
    document = build_report(simulated_policy(tmp_path / "policy"))
    figures = [f for s in document.sections for f in s.figures]
    assert {f.kind for f in figures} == {"lines", "whiskers", "calibration", "bars"}
    assert all(len(f.says) > 20 for f in figures)
    assert all(t.says for s in document.sections for t in s.tables)
    keys = {s.key for f in figures for p in f.panels for s in p.series}
    assert keys <= STYLES.keys()


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("key", STYLES)
def test_lines_stand_out_on_both_backgrounds(key: str) -> None:
    for colour, background in ((STYLES[key].light, "#fbfbf9"), (STYLES[key].dark, "#13161b")):
        a, b = sorted((_luminance(colour), _luminance(background)))
        assert (b + 0.05) / (a + 0.05) >= 3.0, (key, colour)


@pytest.mark.parametrize("render", ["html", "markdown", "terminal"])
def test_hostile_text_is_inert(tmp_path: Path, render: str) -> None:
    folder = simulated_policy(tmp_path / "policy", hostile=True)
    if render == "html":
        page, text, _ = page_of(folder, tmp_path)
        assert page.tags["script"] == 2
        assert "img" not in page.tags
        assert page.handlers == []
        assert page.loads == ["data:,"]
        assert "\u202e" not in text
        assert "alert(1)" in "".join(page.text)
    elif render == "markdown":
        text = to_markdown(build_report(folder))
        assert "<script" not in text
        assert "<img" not in text
        assert "://" not in text
        assert "\u202e" not in text
        assert not re.search(r"(?<!\\)!\[", text)
        widths = {line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("| hard")}
        assert widths == {7}
    else:
        out = io.StringIO()
        show(folder, Console(file=out, width=80, force_terminal=False))
        assert "\u202e" not in out.getvalue()
        assert HOSTILE[:9] in out.getvalue()


def test_markup_of_the_console_in_names_is_text(tmp_path: Path) -> None:
    out = io.StringIO()
    show(simulated_policy(tmp_path / "p", name="[red]x[/]"), Console(file=out, width=60))
    assert "[red]x[/]" in out.getvalue()


def test_what_is_missing_is_left_out_with_its_reason(tmp_path: Path) -> None:
    folder = simulated_policy(tmp_path / "policy", verifier=False, unit="tokens")
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation["missing"]["predictor"] = "the bank has no prompts: every prompt gets the base rate"
    evaluation["costs"] = []
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    page, _, _ = page_of(folder, tmp_path)
    words = "".join(page.text)
    assert "predictor" not in page.ids
    assert "no prompts: every prompt gets the base rate" in words
    assert "The samples carry no verifier scores" in words
    assert "no model config" in words
    assert "FLOPs" not in words.replace("FLOPsThe bank has no model config", "")
    assert "tokens" in words
    assert "Best-of-N" not in words
    assert "verifier" not in page.ids
    assert "No sampled answer has a verifier's score." in words


def test_the_verifiers_audit_is_drawn_from_its_numbers(tmp_path: Path) -> None:
    folder = simulated_policy(tmp_path / "policy")
    audit = json.loads((folder / "evaluation.json").read_text())["verifier_audit"]
    section = section_of(build_report(folder), "verifier")
    roc, calibrated, length, by_n = section.figures
    assert "of small-model 0.70 (0.65 to 0.75), pooled 0.90" in roc.says
    within = roc.panels[0].series[0].points
    assert [p.y for p in within] == audit["curves"][0]["roc"]["within"]
    assert "scored around 50.0%, 25.0% are right (calibration error 8.0 points)" in calibrated.says
    assert [p.y for p in calibrated.panels[0].series[0].points] == pytest.approx([0.04, 0.25, 0.64])
    assert "short wrong answers (−0.30)" in length.says
    assert "small-model" in length.says
    assert "peaks at N = 8 (45.0%) and has 35.0% at N = 16" in by_n.says
    assert "In 3 of 3 panels its accuracy falls significantly" in by_n.says
    assert [p.title for p in by_n.panels] == ["Hard, small-model", "Medium, small-model", "Easy, small-model"]
    assert {s.name for s in by_n.panels[0].series} == {
        "highest score wins",
        "vote weighted by scores",
        "majority vote, no verifier",
    }
    read, masked = section.tables
    assert [c.text for c in read.rows[0]][1:6] == ["0.70", "0.60", "0.70", "0.80", "0.90"]
    assert masked.rows[0][1].value == 1


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("roc", "Verifier's ROC"),
        ("calibration", "Verifier's calibration"),
        ("length", "Score against length"),
    ],
)
def test_a_part_of_the_audit_without_data_is_left_out_with_its_reason(tmp_path: Path, part: str, name: str) -> None:
    folder = simulated_policy(tmp_path / "policy")
    evaluation = json.loads((folder / "evaluation.json").read_text())
    evaluation["verifier_audit"]["curves"][0][part] = None
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    document = build_report(folder)
    assert name in document.missing
    assert len(section_of(document, "verifier").figures) == 3


def test_sizes_say_where_the_small_model_is_better(tmp_path: Path) -> None:
    document = build_report(simulated_policy(tmp_path / "policy"))
    section = section_of(document, "sizes")
    says = section.figures[0].says
    assert "large-model has 14.0 times the parameters of small-model" in says
    assert "it is better on easy problems at R = 0.16, 0.79, 22, and it is worse on hard problems" in says
    rows = section.tables[0].rows
    assert [row[1].value for row in rows] == [0.16, 0.79, 22.0]
    assert [cell.tone for cell in rows[0][3:]] == ["muted", "bad", "muted", "good"]
    assert "better in 3 of 12 comparisons and worse in 3" in section.tables[0].says


@pytest.mark.parametrize(
    ("policy", "evaluation", "why"),
    [
        ({"policy_models": {"m": {}}}, {"sizes": []}, "One policy model was measured"),
        ({"policy_models": {"a": {}, "b": {"parameters": 3}}}, {"sizes": []}, "parameters are unknown"),
        ({}, {"sizes": None}, "No two policy models"),
    ],
)
def test_why_sizes_are_not_compared(
    tmp_path: Path, policy: dict[str, Any], evaluation: dict[str, Any], why: str
) -> None:
    folder = simulated_policy(tmp_path / "policy")
    for name, change in (("policy", policy), ("evaluation", evaluation)):
        path = folder / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    document = build_report(folder)
    assert why in document.missing["Small model against large"]
    assert "sizes" not in {s.section_id for s in document.sections}


def test_a_policy_of_an_older_version_says_what_a_new_fit_would_add(tmp_path: Path) -> None:
    folder = simulated_policy(tmp_path / "policy")
    path = folder / "evaluation.json"
    evaluation = json.loads(path.read_text())
    for name in ("sizes", "verifier_audit", "by_problem", "answerless"):
        del evaluation[name]
    del evaluation["difficulty"]["features"]
    path.write_text(json.dumps(evaluation))
    document = build_report(folder)
    assert "fit the policy again" in document.missing["Verifier audit"]
    assert "fit the policy again" in document.missing["Small model against large"]
    page_of(folder, tmp_path)


def test_what_has_no_answer_and_what_prediction_rests_on_are_told(tmp_path: Path) -> None:
    document = build_report(simulated_policy(tmp_path / "policy"))
    assert any(w.startswith("7.0% of what small-model generated ended without an answer") for w in document.warnings)
    features = next(t for t in section_of(document, "predictor").tables if t.table_id == "features-table")
    assert [(row[0].text, row[1].value) for row in features.rows] == [
        ("how many numbers", 0.6),
        ("characters of the kind: digit", 0.3),
    ]
    assert "90.0%" in features.says


def test_markdown_has_every_figure_and_table_of_the_page(tmp_path: Path) -> None:
    document = build_report(simulated_policy(tmp_path / "policy"))
    text = to_markdown(document).replace("\\", "")
    for section in document.sections:
        for part in (*section.figures, *section.tables):
            assert f"### {part.title}" in text, part.title
    for view in document.budgets:
        assert " ".join(view.headline.split()) in text
        assert f"### Spent of {view.label}" in text
        assert view.comparison is not None
        assert f"### {view.comparison.title}" in text
    assert "| small-model: within problems | 5.0% |" in text
    assert "| Easy: small-model minus large-model | 0.16 | +10.0 (+5.0 to +15.0) |" in text


def test_without_an_evaluation_nothing_is_claimed(tmp_path: Path) -> None:
    folder = simulated_policy(tmp_path / "policy")
    (folder / "evaluation.json").unlink()
    document = build_report(folder)
    assert "Held-out evaluation" in document.missing
    assert [s.section_id for s in document.sections] == ["map"]
    assert all(v.held_out_accuracy is None and not v.versus for v in document.budgets)
    assert "unknown" in document.budgets[0].sure
    page, _, _ = page_of(folder, tmp_path)
    assert "nan" not in "".join(page.text).lower().split()


def test_a_loss_is_called_a_loss(tmp_path: Path) -> None:
    document = build_report(simulated_policy(tmp_path / "policy", advantage=-0.2))
    view = document.budgets[document.default_budget]
    fixed = next(v for v in view.versus if v["method"] == "best_fixed")
    assert fixed["difference"] < 0
    assert fixed["verdict"] == "worse"
    assert "−" in fixed["text"]
    assert re.search(
        r"below zero in [1-9]", next(f.says for s in document.sections for f in s.figures if f.kind == "whiskers")
    )


def test_numbers_come_from_the_files(tmp_path: Path) -> None:
    folder = simulated_policy(tmp_path / "policy")
    policy, evaluation = (json.loads((folder / f"{name}.json").read_text()) for name in ("policy", "evaluation"))
    document = build_report(folder)
    view = document.budgets[document.default_budget]
    assert view.multiple == 8
    row = next(r for r in policy["table"] if r["multiple"] == 8)
    entry = next(e for e in evaluation["budgets"] if e["multiple"] == 8)
    for action in view.actions:
        cell = row["cells"][action["bucket"]]
        assert action["accuracy"] == cell["accuracy"]
        assert action["plan"] == plan_name(policy["plans"][cell["plan"]])
    assert view.held_out_accuracy == entry["methods"]["policy"]["accuracy"]
    shares = policy["bucket_counts"]
    expected = sum(shares[b] * row["cells"][b]["accuracy"] for b in shares) / sum(shares.values())
    assert view.expected_accuracy == pytest.approx(expected)
    # the chosen plan is framed, and no plan in the table costs more than the budget for 95 % of problems
    framed = [c for r in view.strategies.rows for c in r if c.tone == "chosen"]
    assert len(framed) == len(shares)


def test_a_cell_that_nothing_fits_and_an_unpriced_verifier_are_said(tmp_path: Path) -> None:
    folder = simulated_policy(tmp_path / "policy")
    policy, evaluation = (json.loads((folder / f"{name}.json").read_text()) for name in ("policy", "evaluation"))
    del policy["table"][3]["cells"]["hard"]
    for entry in evaluation["budgets"]:
        for method in entry["methods"].values():
            if method:
                method["cost_parts"]["verifier"] = None
    (folder / "policy.json").write_text(json.dumps(policy))
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    view = build_report(folder).budgets[3]
    assert "Nothing fits for hard" in view.headline
    assert view.expected_accuracy is None
    assert "its price is unknown" in view.cost_says
    page_of(folder, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"schema_version": 99}, "schema"), ({"table": []}, "table"), ({"plans": None}, "plans")],
)
def test_a_bad_folder_gets_an_error_that_says_what_and_where(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    folder = simulated_policy(tmp_path / "policy")
    policy = json.loads((folder / "policy.json").read_text()) | change
    (folder / "policy.json").write_text(json.dumps(policy))
    with pytest.raises(PolicyError, match=words):
        build_report(folder)
    with pytest.raises(PolicyError, match=re.escape("policy.json")):
        build_report(tmp_path / "nowhere")


@pytest.mark.parametrize("width", [50, 80, 140])
def test_terminal_fits_its_width(tmp_path: Path, width: int) -> None:
    out = io.StringIO()
    show(simulated_policy(tmp_path / "policy"), Console(file=out, width=width))
    assert max(map(len, out.getvalue().splitlines())) <= width
    assert "Fitted policy" in out.getvalue()


def test_numbers_as_text() -> None:
    assert n.percent(None) == n.percent(float("nan")) == "—"
    assert n.points(-0.0123) == "−1.2"
    assert n.points(0.0001) == "±0.0"
    assert n.cost(2.134e9, "flops") == "2.13 GFLOPs"
    assert n.cost(999.9e6, "flops") == "1 GFLOPs"
    assert n.cost(1450.2, "tokens") == "1,450 tokens"
    assert n.multiple(8.0) == "8×"
    assert label_name("best_of_n(n=16, temperature=0.8, aggregation=last) m") == "Best-of-16, last score, T 0.8, m"
