"""What decoding a JPEG at a fraction of its size changes in a model's answers, and what it saves.

Real photos are made large by Lanczos, written as JPEG, and loaded twice: in full, and scaled. Enlarged photos have
little detail of the finest kind, so `--side` also takes photos as they are, with all their detail, into a model input
that is small enough for them to be scaled; of those the pixels alone are compared. `noise` says what it means: the
same model on the same full pixels, 30% of whose samples are one of 255 brighter or darker.
"""

import argparse
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.benchmarks.limits.common import say
from tests.benchmarks.peers.common import CROP, SIZE
from transforms.images import load_image
from transforms.models import load_model
from transforms.settings import DecodeSettings, ModelSettings, PreprocessSettings

Pixels = npt.NDArray[np.uint8]

_OFF, _AUTO = DecodeSettings(jpeg_scaling="off"), DecodeSettings(jpeg_scaling="auto")
_PREPROCESS = PreprocessSettings(crop_pct=CROP, value_range="0_255", mean=(127, 127, 127), std=(128, 128, 128))
_CALL = 50


class Loaded(NamedTuple):
    """One set of photos, loaded both ways."""

    full: list[Pixels]
    """The model's input from the picture in full."""
    scaled: list[Pixels]
    """And from the scaled one."""
    full_ms: float
    """CPU milliseconds a photo, decode and resize."""
    scaled_ms: float
    """The same for the scaled one."""


def enlarged(paths: list[Path], megapixels: float, quality: int, subsampling: int) -> Iterator[bytes]:
    """Make photos large and encode them."""
    for path in paths:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        scale = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
        size = round(image.width * scale), round(image.height * scale)
        buffer = io.BytesIO()
        image.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
        yield buffer.getvalue()


def load_both(files: Iterator[bytes], side: int) -> Loaded:
    """Load each photo in full and scaled, one after the other, so that both meet the same machine."""
    pixels: tuple[list[Pixels], list[Pixels]] = ([], [])
    spent = [0.0, 0.0]
    for data in files:
        for way, settings in enumerate((_OFF, _AUTO)):
            started = time.thread_time()
            pixels[way].append(load_image(data, settings, _PREPROCESS, side, side).pixels)
            spent[way] += time.thread_time() - started
    count = max(1, len(pixels[0]))
    return Loaded(*pixels, spent[0] / count * 1e3, spent[1] / count * 1e3)


def compare(loaded: Loaded, predict: Callable[[Pixels], npt.NDArray[np.float32]]) -> dict[str, Any]:
    """Compare the answers, and those to the full pixels with noise."""
    full = np.stack(loaded.full)
    random = np.random.default_rng(0)
    noise = random.choice(np.array([-1, 0, 1]), full.shape, p=[0.15, 0.7, 0.15])
    noisy = np.clip(full + noise, 0, 255).astype(np.uint8)
    before, after, beside = (_probabilities(x, predict) for x in (full, np.stack(loaded.scaled), noisy))
    row: dict[str, Any] = {"mean_pixel_difference": _pixel_difference(loaded)}
    first, images = before.argmax(axis=1), np.arange(len(before))
    for name, other in (("scaled", after), ("noise", beside)):
        change = np.abs(other - before)[images, first]
        row[f"{name}_same_top_1"] = float((other.argmax(axis=1) == first).mean())
        row[f"{name}_mean_change"] = float(change.mean())
        row[f"{name}_largest_change"] = float(np.abs(other - before).max())
    return row


def _pixel_difference(loaded: Loaded) -> float:
    return float(np.abs(np.stack(loaded.full).astype(np.int16) - np.stack(loaded.scaled)).mean())


def _probabilities(pixels: Pixels, predict: Callable[[Pixels], npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    logits = np.concatenate([predict(pixels[at : at + _CALL]) for at in range(0, len(pixels), _CALL)])
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def main() -> None:
    """Compare on a folder of photos."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--report", required=True)
    parser.add_argument("--images", type=int, default=200, help="how many of the largest photos")
    parser.add_argument("--megapixels", type=float, nargs="*", default=[2, 6, 12])
    parser.add_argument("--side", type=int, default=48, help="model input for photos as they are")
    arguments = parser.parse_args()
    sizes: dict[Path, int] = {}
    for path in arguments.photos.iterdir():
        with Image.open(path) as image:
            sizes[path] = image.width * image.height
    paths = sorted(sizes, key=lambda path: (-sizes[path], path.name))[: arguments.images]
    loaded = load_both((path.read_bytes() for path in paths), arguments.side)
    scaled = [at for at, pixels in enumerate(loaded.full) if not np.array_equal(pixels, loaded.scaled[at])]
    loaded = loaded._replace(full=[loaded.full[at] for at in scaled], scaled=[loaded.scaled[at] for at in scaled])
    as_they_are = {"side": arguments.side, "images": len(scaled), "mean_pixel_difference": _pixel_difference(loaded)}
    model = load_model(ModelSettings(path=arguments.model, output="logits"), _PREPROCESS)
    rows = []
    for megapixels in arguments.megapixels:
        for quality, subsampling in ((95, 0), (80, 2)):
            # Larger files take longer to make: fewer of them, for the same time.
            some = paths[: max(1, round(len(paths) * 2 / max(2, megapixels)))]
            loaded = load_both(enlarged(some, megapixels, quality, subsampling), SIZE)
            row = {
                "megapixels": megapixels,
                "quality": quality,
                "subsampling": ("4:4:4", "4:2:2", "4:2:0")[subsampling],
            }
            row |= {"images": len(some), "full_ms": loaded.full_ms, "scaled_ms": loaded.scaled_ms}
            rows.append(row | compare(loaded, model.predict))
    say(arguments.report, as_they_are=as_they_are, enlarged=rows)


if __name__ == "__main__":
    main()
