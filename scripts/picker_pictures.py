"""Pictures of the picker for the documents: `python scripts/picker_pictures.py RUN [FOLDER]`.

Writes picker.png (a desk) and picker-phone.png (360 px wide) into FOLDER, docs/images by default.
Needs Chromium, as tests/app/serve/test_serve_browser.py does.
"""

import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import uvicorn
from playwright.sync_api import Page, sync_playwright

from widthwise.app.serve.app import create_app

SIZES = {  # name -> width, height, colours
    "picker": (1280, 900, "light"),
    "picker-dark": (1280, 900, "dark"),
    "picker-phone": (360, 780, "light"),
}


def main() -> None:
    run = Path(sys.argv[1])
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("docs/images")
    names = list(SIZES) if len(sys.argv) > 2 else ["picker", "picker-phone"]
    program = os.environ.get("WIDTHWISE_CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as cache:
        server = uvicorn.Server(uvicorn.Config(create_app([run], Path(cache)), port=8766))
        threading.Thread(target=server.run, daemon=True).start()
        while not server.started:
            time.sleep(0.05)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program)
            for name in names:
                width, height, scheme = SIZES[name]
                page = browser.new_page(
                    viewport={"width": width, "height": height}, color_scheme=scheme
                )
                page.goto("http://127.0.0.1:8766/")
                _fill(page)
                page.screenshot(path=folder / f"{name}.png", full_page=len(sys.argv) > 3)
            browser.close()
        server.should_exit = True


def _fill(page: Page) -> None:
    """Wait for the answers, and draw a digit."""
    page.wait_for_selector("#examples .answer")
    box = page.locator("#pad").bounding_box()
    assert box is not None
    # A seven as most in the data set are, crossed.
    strokes = [[(0.3, 0.2), (0.72, 0.2), (0.45, 0.82)], [(0.4, 0.52), (0.75, 0.52)]]
    if box["y"] + box["height"] < page.viewport_size["height"]:  # type: ignore[index]
        for stroke in strokes:
            at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
            page.mouse.move(*at[0])
            page.mouse.down()
            for x, y in at[1:]:
                page.mouse.move(x, y, steps=8)
            page.mouse.up()
        page.wait_for_selector("#pad-result .answer")
        page.wait_for_timeout(500)
    page.wait_for_timeout(300)


if __name__ == "__main__":
    main()
