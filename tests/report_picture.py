"""Make docs/report.png anew: `python -m tests.report_picture`, from a real run over parts of the demo's photos."""

import io
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.config import load_config
from pipeline.demo.model import model_directory
from pipeline.demo.photos import gather_photos
from pipeline.demo.show import demo_config
from pipeline.run import run
from pipeline.run_records import RunRequest
from tests.browser import DESKTOP, opened

PICTURE = Path(__file__).parent.parent / "docs" / "report.png"
_PARTS = 120
"""Of each photo."""
_HEIGHT = 1672
"""Pixels of the page that the picture shows."""
_COLOURS = 64


def cut_photos(photos: list[Path], folder: Path, parts: int = _PARTS) -> None:
    """Cut the photos into many random parts, and a few of those short."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for photo in photos:
        image = Image.open(photo).convert("RGB")
        for number in range(parts):
            side = int(min(image.size) * random.uniform(0.3, 1))
            left, top = (int(random.integers(0, length - side + 1)) for length in image.size)
            part = folder / f"{photo.stem}-{number:03}.jpg"
            image.crop((left, top, left + side, top + side)).save(part, quality=88)
            if random.random() < 0.01:
                part.write_bytes(part.read_bytes()[:-900])


def main() -> None:
    """Score, open the report, and keep what it looks like."""
    os.environ["DEMO_MODEL"] = str(model_directory())
    with tempfile.TemporaryDirectory(prefix="night-") as name:
        folder = Path(name)
        whole = [path for path in gather_photos(folder / "whole") if path.name != "damaged.jpg"]
        cut_photos(whole, folder / "photos")
        request = RunRequest(load_config(demo_config()), [str(folder / "photos")], str(folder / "scores"), "2026-11-22")
        report = run(request).report
        if report is None:
            raise RuntimeError("the run has left no report; the log says why")
        with opened(Path(report), DESKTOP) as seen:
            clip = {"x": 0, "y": 0, "width": DESKTOP, "height": _HEIGHT}
            shot = Image.open(io.BytesIO(seen.page.screenshot(full_page=True, clip=clip)))  # type: ignore[arg-type]
            shot.convert("RGB").quantize(_COLOURS).save(PICTURE, optimize=True)
            if kept := os.environ.get("SCREENSHOTS"):
                seen.screenshot(Path(kept) / "picture.png")


if __name__ == "__main__":
    main()
