"""The page in a real Chromium: the slider, the network, the console, the widths. Skipped where there is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulated_policy import simulated_policy

from planner.report import build_report, to_json, write_comparison, write_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no chromium on PATH (Debian: apt-get install chromium)", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

CUT = """() => [...document.querySelectorAll('svg text')].filter(t => t.getBoundingClientRect().width > 0).filter(t => {
    const a = t.getBoundingClientRect(), b = t.closest('svg').getBoundingClientRect();
    return a.left < b.left - 1 || a.right > b.right + 3 || a.top < b.top - 2 || a.bottom > b.bottom + 2;
}).map(t => t.textContent)"""
"""Texts of figures that stick out of them."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def written(folder: Path, *, hostile: bool) -> tuple[Path, dict[str, Any]]:
    document = build_report(simulated_policy(folder / "p", hostile=hostile))
    return write_html(document, folder / "report.html"), json.loads(to_json(document))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return written(tmp_path_factory.mktemp("policy"), hostile=False)


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return written(tmp_path_factory.mktemp("hostile"), hostile=True)


def test_slider_table_and_cursor_follow_the_json(browser: Any, report: tuple[Path, dict[str, Any]]) -> None:
    path, data = report
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    noise: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    assert path.stat().st_size < 6_000_000
    assert page.locator("#budget-label").inner_text() == data["budgets"][data["default_budget"]]["label"]
    seen = set()
    page.locator("#budget").focus()
    page.keyboard.press("Home")
    for index, view in enumerate(data["budgets"]):
        if index:
            page.keyboard.press("ArrowRight")
        shown = page.locator("#answer .at:visible")
        assert shown.count() == 1
        assert shown.locator(".headline").inner_text() == view["headline"]
        plans = [a["plan"] for a in view["actions"]]
        assert shown.locator(".card .plan").all_inner_texts() == plans
        cells = shown.locator("table tbody tr").evaluate_all(
            "rows => rows.map(r => [...r.cells].map(c => c.querySelector('b').textContent))"
        )
        assert cells == [[c["text"] for c in row] for row in view["strategies"]["rows"]]
        assert page.locator("table.map tr.now").get_attribute("data-at") == str(index)
        seen.add(page.locator("#against-compute .wide .cursor").evaluate("l => l.style.display + l.getAttribute('x1')"))
    assert len(seen) > len(data["budgets"]) // 2
    rows = page.locator("#answer .at:visible table")
    rows.locator("thead button").nth(1).click()
    values = rows.locator("tbody tr").evaluate_all("rows => rows.map(r => Number(r.cells[1].dataset.value))")
    assert values == sorted(values, reverse=True)
    assert noise == []
    assert [u for u in requests if not u.startswith(("file:", "data:"))] == []
    page.close()


@pytest.mark.parametrize(
    ("width", "names"),
    [(w, "report") for w in (1280, 794, 760, 390, 320)] + [(w, "hostile_report") for w in (1280, 390)],
)
def test_nothing_is_wider_than_the_page_and_no_label_is_cut(
    browser: Any, request: pytest.FixtureRequest, width: int, names: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(request.getfixturevalue(names)[0].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT) == []
    overlap = page.evaluate(
        """() => [...document.querySelectorAll('svg')].flatMap(svg => {
            const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]).filter(b => b[1].width > 0);
            return boxes.flatMap(([s, a], i) => boxes.slice(i + 1).filter(([, b]) =>
                Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3
            ).map(([t]) => s + ' / ' + t));
        })"""
    )
    assert overlap == []
    page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_two_policies_side_by_side_fit_the_page(browser: Any, tmp_path: Path, width: int) -> None:
    a, b = (
        simulated_policy(tmp_path / n, name=f"a policy with a long name, {n}", advantage=d)
        for n, d in (("a", 0.0), ("b", 0.05))
    )
    page = browser.new_page(viewport={"width": width, "height": 900})
    noise: list[str] = []
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.goto(write_comparison(a, b, tmp_path / "both.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT) == []
    page.locator("#both-curves .legend button").first.click()
    assert page.locator("#both-curves.focused").count() == 1
    if width > 760:  # a narrow page shows a table's rows as blocks, without their head
        page.locator("#equal-cost thead button").first.click()
    else:
        page.locator("#equal-cost thead button").first.evaluate("button => button.click()")
    costs = page.locator("#equal-cost tbody tr").evaluate_all("rows => rows.map(r => Number(r.cells[0].dataset.value))")
    assert costs == sorted(costs, reverse=True)
    assert noise == []
    page.close()
