"""Take docs/assets/demo.png: the page of ``nf_zoo.demo`` in Chromium, with a photograph.

python docs/make_demo_picture.py
"""

import shutil
from pathlib import Path

from matplotlib.cbook import get_sample_data
from playwright.sync_api import sync_playwright

import nf_zoo

PICTURE = Path(__file__).parent / "assets" / "demo.png"
MODELS = ("nf_resnet26.tiny_imagenet", "resnetv2_26.tiny_imagenet")


def main() -> None:
    served = nf_zoo.demo(MODELS, block=False)
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 700})
        page.goto(served.local_url)
        photograph = get_sample_data("grace_hopper.jpg", asfileobj=False)
        page.set_input_files("input[type=file]", photograph)
        page.wait_for_function(
            "document.images.length == 4 && [...document.images].every(one => one.naturalWidth)"
        )
        page.wait_for_timeout(1000)  # the bars grow
        page.screenshot(path=PICTURE, full_page=True)
    served.close()


if __name__ == "__main__":
    main()
