"""Make docs/preflight.png anew: `python -m tests.preflight_picture`, from parts of the demo's photos."""

import io
import os
import tempfile
from pathlib import Path

from PIL import Image

from pipeline.before.preflight import PreflightRequest, preflight
from pipeline.before.preflight_page import preflight_page
from pipeline.config import load_config
from pipeline.demo.model import model_directory
from pipeline.demo.photos import gather_photos
from pipeline.demo.show import demo_config
from pipeline.rehearsal import rehearse
from tests.browser import DESKTOP, opened
from tests.report_picture import cut_photos

PICTURE = Path(__file__).parent.parent / "docs" / "preflight.png"
_HEIGHT = 1500
"""Pixels of the page that the picture shows."""
_COLOURS = 64


def main() -> None:
    """Try a night, open the page, and keep what it looks like."""
    os.environ["DEMO_MODEL"] = str(model_directory())
    with tempfile.TemporaryDirectory(prefix="night-") as name:
        folder = Path(name)
        whole = [path for path in gather_photos(folder / "whole") if path.name != "damaged.jpg"]
        cut_photos(whole, folder / "photos")
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
            clip = {"x": 0, "y": 0, "width": DESKTOP, "height": _HEIGHT}
            shot = Image.open(io.BytesIO(seen.page.screenshot(full_page=True, clip=clip)))  # type: ignore[arg-type]
            shot.convert("RGB").quantize(_COLOURS).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
