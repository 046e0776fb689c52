"""A real, headless Chromium for tests of the page and for pictures of it.

`VECTOR_SYNC_TEST_CHROMIUM` names one, else `chromium`, `chromium-browser` and `google-chrome` are looked for; the
driver is looked for beside it, and on the path. On Debian: `apt-get install -y chromium chromium-driver`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.support.wait import WebDriverWait

T = TypeVar("T")

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_SECONDS = 10.0
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # tests run as root in containers
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-search-engine-choice-screen",
)


def find() -> tuple[str, str] | None:
    """Find a Chromium and its driver; None if there is not both."""
    named = os.environ.get("VECTOR_SYNC_TEST_CHROMIUM")
    chromium = named or next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        return None
    driver = shutil.which("chromedriver", path=str(Path(chromium).parent)) or shutil.which("chromedriver")
    return driver and (chromium, driver)


@dataclass(slots=True)
class Browser:
    """One tab of a Chromium."""

    driver: Chrome

    def tell(self, command: str, /, **parameters: Any) -> dict[str, Any]:
        """Give a command of the DevTools protocol."""
        answer: dict[str, Any] = self.driver.execute_cdp_cmd(command, parameters)
        return answer

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def look(self, *, width: int = 1200, height: int = 900, scheme: str = "light", is_phone: bool = False) -> None:
        """Be a screen of another kind from now on."""
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if is_phone else 1,
            mobile=is_phone,
        )
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.tell("Emulation.setEmulatedMedia", features=features)

    def open(self, url: str) -> None:
        """Open the page anew, and wait until it shows something."""
        self.driver.get(url)
        self.until(lambda: self.run("return Boolean(document.querySelector('#verdict, .hero, .notice'))"))

    def until(self, find: Callable[[], T], what: str = "") -> T:
        """Wait until something is so."""
        return WebDriverWait(self.driver, PATIENCE_SECONDS, poll_frequency=0.03).until(
            lambda _: find(), what or "it did not come to be in time"
        )

    def requested(self) -> list[str]:
        """The addresses that the tab has asked for since this was asked last."""
        entries = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [it["params"]["request"]["url"] for it in entries if it["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        """What the console has had to say since this was asked last: errors, and breaches of the policy."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a Chromium. RuntimeError if there is none."""
    found = find()
    if found is None:
        raise RuntimeError("no chromium with its driver was found; set VECTOR_SYNC_TEST_CHROMIUM, or install both")
    options = ChromeOptions()
    options.binary_location, driver = found
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = Chrome(options=options, service=ChromeService(driver))
    try:
        yield Browser(chrome)
    finally:
        chrome.quit()
