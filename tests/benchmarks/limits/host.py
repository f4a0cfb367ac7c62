"""The host limit: read, decode and resize in a plain pool of threads, a thread a core, nothing kept.

`bare` calls the libraries directly: simplejpeg in full, then Pillow or OpenCV on the crop. `ours` calls our decoder
with all its guards: the difference is what the guards cost, or what our resize gains.
"""

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from tests.benchmarks.limits.common import say
from tests.benchmarks.peers.common import CROP, SIZE

_PILLOW = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def bare(path: str, interpolation: str) -> Any:
    """Return uint8[224, 224, 3] by nothing but the libraries."""
    data = Path(path).read_bytes()
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:  # CMYK, and what is not quite as it should be
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    side = int(min(pixels.shape[:2]) * CROP)
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    part = pixels[top : top + side, left : left + side]
    if interpolation in _PILLOW:
        return np.asarray(Image.fromarray(part).resize((SIZE, SIZE), _PILLOW[interpolation]))
    import cv2

    cv2.setNumThreads(1)
    method = {"area": cv2.INTER_AREA, "bilinear_no_antialias": cv2.INTER_LINEAR}[interpolation]
    return cv2.resize(np.ascontiguousarray(part), (SIZE, SIZE), interpolation=method)


def ours(path: str, interpolation: str) -> Any:
    """Return the same by our own decoder."""
    from transforms.images import load_image
    from transforms.settings import DecodeSettings, PreprocessSettings

    preprocess = PreprocessSettings(crop_pct=CROP, interpolation=interpolation, value_range="0_255")
    return load_image(Path(path).read_bytes(), DecodeSettings(), preprocess, SIZE, SIZE).pixels


def main() -> None:
    """Decode a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--interpolation", required=True)
    parser.add_argument("--decoder", required=True, choices=["bare", "ours"])
    parser.add_argument("--report", required=True)
    arguments = parser.parse_args()
    paths = sorted(str(path) for path in arguments.photos.iterdir())
    decode = {"bare": bare, "ours": ours}[arguments.decoder]
    decode(paths[0], arguments.interpolation)  # imports
    threads = os.cpu_count() or 1
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        images = sum(1 for _ in pool.map(lambda path: decode(path, arguments.interpolation), paths))
    say(arguments.report, images=images, seconds=time.perf_counter() - started, threads=threads)


if __name__ == "__main__":
    main()
