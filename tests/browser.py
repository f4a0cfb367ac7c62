"""A page in a real browser, as it is opened from a bucket: what it shows, and everything that it must not do."""

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from playwright.sync_api import ConsoleMessage, FloatRect, Page, Request, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
DESKTOP, PHONE = 1280, 390


@dataclass
class Opened:
    """An open page, and what it has done."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """What stands in the console, whatever its level, and what was raised."""
    requests: list[str] = field(default_factory=list)
    """What was asked for besides the page itself."""

    @property
    def text(self) -> str:
        """What a reader sees."""
        return self.page.inner_text("body")

    @property
    def overflow(self) -> list[str]:
        """What stands out at the right of the window, by tag and class."""
        found = self.page.evaluate(
            """() => [...document.querySelectorAll("body *")]
                 .filter(e => e.getBoundingClientRect().right > window.innerWidth + 1 && !e.closest(".scroll, svg"))
                 .map(e => e.tagName + "." + e.className)"""
        )
        if self.page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
            found.append("the page itself")
        return list(found)

    def check(self, words: Iterable[str], pictures: int) -> None:
        """Hold the page to what every page promises.

        Args:
            words: Have to be read in it, as they are.
            pictures: It has so many, each whole.
        """
        assert self.complaints == []
        assert self.requests == []
        assert self.overflow == []
        for word in words:
            assert word in self.text, word
        assert self.page.locator("script").count() == 0
        assert self.page.locator("img").count() == pictures
        assert self.page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")

    def keep(self, name: str) -> None:
        """Leave a screenshot where SCREENSHOTS says so, for a person."""
        if folder := os.environ.get("SCREENSHOTS"):
            self.screenshot(Path(folder) / name)

    def cut(self, path: Path, height: int, colours: int = 64) -> None:
        """Keep the first pixels of the page as a small picture."""
        clip: FloatRect = {"x": 0, "y": 0, "width": DESKTOP, "height": height}
        shot = Image.open(io.BytesIO(self.page.screenshot(full_page=True, clip=clip)))
        shot.convert("RGB").quantize(colours).save(path, optimize=True)

    def screenshot(self, path: Path) -> None:
        """Keep what is seen, to the page's end."""
        self.page.screenshot(path=path, full_page=True)


@contextmanager
def opened(file: Path, width: int, scheme: str = "light") -> Iterator[Opened]:
    """Open a file in Chromium.

    Args:
        file: A page.
        width: Of the window, in CSS pixels.
        scheme: light or dark.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        seen = Opened(page)

        def on_console(message: ConsoleMessage) -> None:
            seen.complaints.append(message.text)

        def on_request(request: Request) -> None:
            if not request.url.startswith("data:") and request.url != file.as_uri():
                seen.requests.append(request.url)

        page.on("console", on_console)
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.on("request", on_request)
        page.goto(file.as_uri(), wait_until="networkidle")
        yield seen
        browser.close()
