"""Screenshots of the page for the documentation: python tests/demo/screenshots.py PAGE FOLDER."""

import shutil
import sys
import threading
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from fftnet.demo import DemoConfig
from fftnet.demo.server import PageServer

DESKTOP = {"viewport": {"width": 1240, "height": 1160}}
PHONE = {"viewport": {"width": 360, "height": 800}, "device_scale_factor": 2, "is_mobile": True}
LOOKS: dict[str, dict[str, Any]] = {
    "light": DESKTOP | {"color_scheme": "light"},
    "dark": DESKTOP | {"color_scheme": "dark"},
    "phone": PHONE | {"color_scheme": "light"},
}
TOKENS = 700
SEEDED = "let seed = 7; Math.random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;"


def main(made: str, folder: str) -> None:
    """Write ``demo_light.png``, ``demo_dark.png`` and ``demo_phone.png``, of 256 colours each."""
    with PageServer(DemoConfig(output=made, port=0)) as server, sync_playwright() as driver:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, look in LOOKS.items():
            page = browser.new_context(**look).new_page()
            page.add_init_script(SEEDED)
            page.goto(server.url)
            page.wait_for_selector("#write:not([disabled])")
            page.evaluate(f"demo.writer.begin({TOKENS})")
            page.click("#fork")
            page.evaluate("demo.writer.back(120)")
            page.evaluate("demo.writer.go(240)")
            page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
            path = Path(folder) / f"demo_{name}.png"
            page.screenshot(path=path)
            Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)
            print(f"{path}: {path.stat().st_size:,} bytes")
        browser.close()
        server.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
