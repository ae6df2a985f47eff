"""The report's page in a real Chromium: time to first paint, size, requests and console messages.

    python benchmarks/report.py [--policy FOLDER] [--loads 5] [--json]

`first_paint_ms` is the median first contentful paint over loads in fresh pages of one browser; `firsts_ms` are all of
them. On a busy machine they are the neighbours': nothing in the tests asserts them. Needs the extra `report`,
playwright and a chromium on PATH.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from planner.models.shipped import shipped
from planner.report import write_report

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
_PAINTED = "performance.getEntriesByName('first-contentful-paint').map(entry => entry.startTime)"
_WAITS = 100


def first_paint(browser: Any, path: Path, width: int, noise: list[str], requests: list[str]) -> float:
    """Milliseconds to the first contentful paint in a fresh page. Raises RuntimeError where nothing is painted."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    for _ in range(_WAITS):  # wait_for_function would have the page evaluate a string, which its policy forbids
        if painted := page.evaluate(_PAINTED):
            page.close()
            return float(painted[0])
        page.wait_for_timeout(100)
    raise RuntimeError(f"{path} was not painted in {_WAITS / 10:.0f} s")


def measure(policy: Path, loads: int) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no chromium on PATH (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        started = time.perf_counter()
        path = write_report(policy, Path(folder) / "report.html")
        written = time.perf_counter() - started
        browser = p.chromium.launch(executable_path=chromium, args=FLAGS)
        noise: list[str] = []
        requests: list[str] = []
        firsts = {
            width: [first_paint(browser, path, width, noise, requests) for _ in range(loads)] for width in (1280, 390)
        }
        version, size = browser.version, path.stat().st_size
        browser.close()
    return {
        "chromium": version,
        "loads": loads,
        "first_paint_ms": statistics.median(firsts[1280]),
        "first_paint_390_ms": statistics.median(firsts[390]),
        "firsts_ms": firsts[1280],
        "html_bytes": size,
        "write_seconds": written,
        "requests": sum(not url.startswith(("file:", "data:")) for url in requests),
        "console": noise,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, help="Policy folder. Default: the laboratory's.")
    parser.add_argument("--loads", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = measure(args.policy or shipped("models", "lab/policy"), args.loads)
    if args.json:
        print(json.dumps(result))
        return
    print(f"Chromium {result['chromium']}, median of {result['loads']} loads")
    print(f"first paint  {result['first_paint_ms']:.0f} ms at 1280 px, {result['first_paint_390_ms']:.0f} ms at 390 px")
    print(f"page         {result['html_bytes'] / 1e6:.2f} MB, written in {result['write_seconds']:.2f} s")
    print(f"network      {result['requests']} requests; console {len(result['console'])} messages")


if __name__ == "__main__":
    main()
