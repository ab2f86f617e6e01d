"""The time to write and to open the page of a large study, and the size of the page.

    python benchmarks/report.py --trials 5000

The study is made up, with learning curves and densities by layer, in a fresh MLflow store. Its page is opened from a
file in headless Chromium; the time runs from navigation to the last figure drawn, and is the median of three.
"""

import argparse
import os
import shutil
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from stored import MADE_UP_STUDY, make_store

from forcetune import report


def main() -> None:
    """Make the study, write its page, open it, and print the times and the size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--keep", type=Path, help="where to leave the page")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        make_store(Path(folder), arguments.trials)
        started = time.perf_counter()
        page = report.write(MADE_UP_STUDY).resolve()
        write_s = time.perf_counter() - started
        draw_times_s = open_page(page)
        print(f"{arguments.trials} trials: written in {write_s:.1f} s, {page.stat().st_size / 1e6:.1f} MB")
        print(
            f"all figures drawn {statistics.median(draw_times_s):.2f} s after navigation, median of {len(draw_times_s)}"
        )
        if arguments.keep:
            shutil.copy(page, arguments.keep)
        os.chdir("/")


def open_page(page: Path, repeats: int = 3) -> list[float]:
    """Return the seconds from navigation to the last figure drawn, by the browser's own clock."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(path for name in names if (path := shutil.which(name)))
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    seconds = []
    with sync_playwright() as playwright:
        for _ in range(repeats):
            browser = playwright.chromium.launch(executable_path=executable, args=options)
            tab = browser.new_page(viewport={"width": 1400, "height": 900})
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-drawn]")
            seconds.append(tab.evaluate("performance.getEntriesByName('drawn')[0].startTime") / 1000)
            browser.close()
    return seconds


if __name__ == "__main__":
    main()
