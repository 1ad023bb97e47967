"""Take docs/assets/demo.png and report.png: two pages of nf_zoo in Chromium.

python docs/make_page_pictures.py

The first is the page of ``nf_zoo.demo`` with a photograph. The second is the report of the
quickstart, whose figures go to docs/results/quickstart.json.
"""

import shutil
import tempfile
from pathlib import Path

from matplotlib.cbook import get_sample_data
from playwright.sync_api import Browser, sync_playwright

import nf_zoo
from nf_zoo.quickstart import RECORD, quickstart

DOCS = Path(__file__).parent
MODELS = ("nf_resnet26.tiny_imagenet", "resnetv2_26.tiny_imagenet")


def take_demo(browser: Browser) -> None:
    served = nf_zoo.demo(MODELS, block=False)
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    page.goto(served.local_url)
    photograph = get_sample_data("grace_hopper.jpg", asfileobj=False)
    page.set_input_files("input[type=file]", photograph)
    page.wait_for_function(
        "document.images.length == 4 && [...document.images].every(one => one.naturalWidth)"
    )
    page.wait_for_timeout(1000)  # the bars grow
    page.screenshot(path=DOCS / "assets" / "demo.png", full_page=True)
    served.close()


def take_report(browser: Browser) -> None:
    with tempfile.TemporaryDirectory() as folder:
        quickstart(folder)
        page = browser.new_page(viewport={"width": 1000, "height": 1250})
        page.goto((Path(folder) / "fine_tuned" / "report.html").as_uri())
        page.screenshot(path=DOCS / "assets" / "report.png")
        shutil.copy(Path(folder) / RECORD, DOCS / "results" / "quickstart.json")


def main() -> None:
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        take_demo(browser)
        take_report(browser)


if __name__ == "__main__":
    main()
