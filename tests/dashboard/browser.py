"""Debian's Chromium, headless, for tests and for the pictures in docs/.

    python -m tests.dashboard.browser URL FILE.png --width 1440 --dark

saves the whole page as it is after a few seconds.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip


def why_not() -> str:
    """Why there is no browser here; empty when there is one."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed"
    missing = [str(path) for path in (CHROMIUM, DRIVER) if not path.exists()]
    return (
        f"{' and '.join(missing)} missing: apt-get install chromium chromium-driver"
        if missing
        else ""
    )


@contextlib.contextmanager
def browser(width: int, height: int = 900, dark: bool = False) -> Iterator[Any]:
    """A selenium driver with a profile of its own, gone afterwards."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory(prefix="swt-chromium-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for argument in (*QUIET, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
        try:
            resize(driver, width, height)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
            yield driver
        finally:
            driver.quit()


def resize(driver: Any, width: int, height: int) -> None:
    """The page's own size; narrow ones are phones."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def save_picture(driver: Any, path: Path, width: int) -> None:
    """The whole page."""
    resize(driver, width, driver.execute_script("return document.documentElement.scrollHeight"))
    time.sleep(0.5)
    driver.save_screenshot(str(path))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("file", type=Path)
    parser.add_argument("--width", type=int, default=1440)
    parser.add_argument("--dark", action="store_true")
    chosen = parser.parse_args()
    with browser(chosen.width, dark=chosen.dark) as page:
        page.get(chosen.url)
        time.sleep(5)
        save_picture(page, chosen.file, chosen.width)
