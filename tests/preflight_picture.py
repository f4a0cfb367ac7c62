"""Make docs/preflight.png anew: `python -m tests.preflight_picture`, from parts of the demo's photos."""

from pathlib import Path

from pipeline.before.preflight import PreflightRequest, preflight
from pipeline.before.preflight_page import preflight_page
from pipeline.config import load_config
from pipeline.demo.show import demo_config
from pipeline.rehearsal import rehearse
from tests.browser import DESKTOP, opened
from tests.pictures import demo_night

PICTURE = Path(__file__).parent.parent / "docs" / "preflight.png"
_HEIGHT = 1500
"""Pixels of the page that the picture shows."""


def main() -> None:
    """Try a night, open the page, and keep what it looks like."""
    with demo_night() as folder:
        found = preflight(
            PreflightRequest(
                config=lambda: load_config(demo_config(), ["prices.machine_hour=0.4"]),
                inputs=[str(folder / "photos")],
                output=str(folder / "scores"),
                run_id="2026-11-22",
                rehearse=rehearse,
            )
        )
        page = folder / "preflight.html"
        page.write_text(preflight_page(found), encoding="utf-8")
        with opened(page, DESKTOP) as seen:
            seen.cut(PICTURE, _HEIGHT)


if __name__ == "__main__":
    main()
