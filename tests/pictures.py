"""What the pictures of docs/ are made of: parts of the demo's photos, and the demo's model."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.demo.model import model_directory
from pipeline.demo.photos import gather_photos


@contextlib.contextmanager
def demo_night(parts: int = 120) -> Iterator[Path]:
    """Give a folder with photos/ for some time, and have the demo's configuration find its model.

    Args:
        parts: Of each photo.
    """
    os.environ["DEMO_MODEL"] = str(model_directory())
    with tempfile.TemporaryDirectory(prefix="night-") as name:
        folder = Path(name)
        whole = [path for path in gather_photos(folder / "whole") if path.name != "damaged.jpg"]
        cut_photos(whole, folder / "photos", parts)
        yield folder


def cut_photos(photos: list[Path], folder: Path, parts: int) -> None:
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
