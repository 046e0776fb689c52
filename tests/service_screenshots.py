"""Pictures of a service's status page: light and dark at a desk, and as a phone shows it.

    python tests/service_screenshots.py http://127.0.0.1:8090 build/pictures

Needs Chromium and its driver; see `browser`.
"""

from __future__ import annotations

import argparse
import base64
from dataclasses import dataclass
from pathlib import Path

from service_browser import Browser, browser


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture: how wide, and by which light."""

    name: str
    width: int
    height: int
    scheme: str
    is_phone: bool = False


SHOTS = (
    Shot("desktop-light", 1200, 800, "light"),
    Shot("desktop-dark", 1200, 800, "dark"),
    Shot("phone-light", 390, 844, "light", is_phone=True),
    Shot("phone-dark", 390, 844, "dark", is_phone=True),
)


def take(chrome: Browser, url: str, folder: Path, *, prefix: str = "") -> list[Path]:
    """Take all pictures of a page, each of its whole length, and say where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    for shot in SHOTS:
        chrome.look(width=shot.width, height=shot.height, scheme=shot.scheme, is_phone=shot.is_phone)
        chrome.open(url)
        length = chrome.run("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": shot.width, "height": max(length, shot.height), "scale": 1}
        picture = chrome.tell("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        path = folder / f"{prefix}{shot.name}.png"
        path.write_bytes(base64.b64decode(picture))
        taken.append(path)
    return taken


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prefix", default="", help="of the files' names")
    asked = parser.parse_args()
    with browser() as found:
        for written in take(found, asked.url, asked.folder, prefix=asked.prefix):
            print(written)  # noqa: T201 - for whoever asked
