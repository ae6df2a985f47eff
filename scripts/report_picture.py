"""Takes the docs' pictures of the shipped policy's report anew: its beginning, and the first section with the three
answers of docs/reading-the-report.md numbered.

Needs the extra `report`, playwright and a chromium: `.venv/bin/python scripts/report_picture.py`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import FloatRect, sync_playwright

from planner.report import write_report

ROOT = Path(__file__).resolve().parents[1]
_MARK = """([place, number]) => {
  const mark = document.createElement("span");
  mark.textContent = number;
  mark.style.cssText = "display:inline-flex;align-items:center;justify-content:center;flex:none;" +
    "width:26px;height:26px;border-radius:50%;background:#b23a00;color:#fff;" +
    "font:700 15px/1 system-ui,sans-serif;margin-right:9px;letter-spacing:0";
  place.prepend(mark);
}"""
_PLACES = (
    (".at:not([hidden]) .cards .card .plan", "1"),
    (".at:not([hidden]) .cards .card .figure", "2"),
    (".at:not([hidden]) h3:text-is('How sure')", "2"),
    (".at:not([hidden]) h3:text-is('What more would buy')", "3"),
)


def _beginning(height: float = 1500) -> FloatRect:
    return {"x": 0, "y": 0, "width": 1060, "height": height}


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no chromium on PATH (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        report = write_report(ROOT / "models/lab/policy", Path(folder) / "report.html")
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1060, "height": 900})
        page.goto(report.as_uri())
        page.screenshot(path=ROOT / "docs/report.png", clip=_beginning(), full_page=True)
        for selector, number in _PLACES:
            page.evaluate(_MARK, [page.locator(selector).first.element_handle(), number])
        table = page.locator("#answer .at:not([hidden]) h3", has_text="Every strategy").bounding_box()
        bottom = table["y"] - 14 if table else 900
        page.screenshot(
            path=ROOT / "docs/reading-the-report.png",
            clip=_beginning(bottom),
            full_page=True,
        )
        browser.close()


if __name__ == "__main__":
    main()
