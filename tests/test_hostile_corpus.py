"""Every file of the hostile corpus ends as its manifest says, with the right pixels and in bounded memory."""

import collections
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from tests.hostile_corpus import CODES, ending, manifest, mutations, verdict
from transforms.errors import ImageError
from transforms.images import decode_image, load_image
from transforms.settings import DecodeSettings, PreprocessSettings

Pixels = npt.NDArray[np.uint8]

# What Pillow warns of is ignored for the process when images.py is imported; pytest starts each test afresh.
pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\.")

NOT_BY_PILLOW = {
    # Pillow 12 is wrong about these; each has a test of its own in test_images.py, the first one below as well.
    "bmp/pal4rle.bmp": "an RLE4 literal of odd length shifts all that follows",
    "png-gray-rgb/tbbn0g04.png": "the transparent grey is not scaled from 4 bits",
    "png-palette/i_trns.png": "16-bit grey with a transparent grey",
    "tiff/16bit.s.tif": "signed samples are clipped",
}


def by_pillow(data: bytes) -> Pixels:
    """Decode the slow and obvious way: open anything, turn, compose in floating point."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I;16"):
        return np.repeat((np.asarray(image) // 256).astype(np.uint8)[:, :, None], 3, axis=2)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    samples = np.asarray(image.convert("RGBA")).astype(float)
    alpha = samples[..., 3:] / 255
    return np.rint(samples[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def test_every_file_ends_as_its_manifest_says(image_data_dir: Path) -> None:
    """What should decode has its size, what should not has a code that tells why, and nothing else is raised."""
    wrong = {row["path"]: fault for row, data in manifest(image_data_dir) if (fault := verdict(row, ending(data)))}
    assert wrong == {}


def test_pixels_are_those_of_a_slow_and_obvious_decoder(image_data_dir: Path) -> None:
    """Every file that should decode is within one of 255 of Pillow's plain road, turned and composed."""
    wrong = {}
    for row, data in manifest(image_data_dir):
        if row["expected"] != "yes" or row["format"] == "HEIF" or row["path"] in NOT_BY_PILLOW:
            continue
        pixels, expected = decode_image(data, DecodeSettings()).pixels, by_pillow(data)
        if pixels.shape != expected.shape or np.abs(pixels.astype(int) - expected).max() > 1:
            wrong[row["path"]] = (pixels.shape, expected.shape)
    assert wrong == {}


def test_run_length_bitmaps_equal_their_plain_twins(image_data_dir: Path) -> None:
    """Bmpsuite has the same picture plain and run-length encoded."""
    bmp = image_data_dir / "hostile" / "bmp"

    def pixels(name: str) -> Pixels:
        return decode_image((bmp / name).read_bytes(), DecodeSettings()).pixels

    np.testing.assert_array_equal(pixels("pal4rle.bmp"), pixels("pal4.bmp"))
    same = (pixels("pal8rletrns.bmp") == pixels("pal8.bmp")).all(axis=2)
    assert 0.9 < same.mean() < 1.0  # the rest is jumped over


def test_opencv_sees_the_same_pictures(image_data_dir: Path) -> None:
    """A second, unrelated decoder agrees on every opaque PNG, BMP, WebP and GIF that it can read upright."""
    import cv2

    compared = 0
    for row, data in manifest(image_data_dir):
        if row["expected"] != "yes" or row["format"] not in {"PNG", "BMP", "WEBP", "GIF"} or row["exif_orientation"]:
            continue
        other = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        # OpenCV swaps red and blue in animated PNG and misreads the palette of OS/2 bitmaps.
        if other is None or other.ndim != 3 or other.shape[2] != 3 or "os2" in row["path"] or row["category"] == "apng":
            continue
        other = (other >> 8 if other.dtype == np.uint16 else other)[:, :, ::-1]
        if b"tRNS" in data[:2000]:
            continue
        difference = np.abs(decode_image(data, DecodeSettings()).pixels.astype(int) - other)
        assert difference.max() <= 3, row["path"]
        compared += 1
    assert compared >= 50


RUN_CORPUS = """
import json, resource, sys, time
from pathlib import Path
from transforms.errors import ImageError
from transforms.images import load_image
from transforms.settings import DecodeSettings, PreprocessSettings

limit = 2 * 1024**3
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
preprocess = PreprocessSettings(value_range="0_255", crop_pct=0.875)
outcomes = {"decoded": 0, "refused": 0}
slowest = (0.0, "")
for path in sorted(Path(sys.argv[1]).rglob("*")):
    if path.is_file() and path.name != "manifest.csv":
        data = path.read_bytes()
        started = time.perf_counter()
        try:
            load_image(data, DecodeSettings(), preprocess, 224, 224)
            outcomes["decoded"] += 1
        except ImageError:
            outcomes["refused"] += 1
        slowest = max(slowest, (time.perf_counter() - started, path.name))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({**outcomes, "slowest_s": slowest, "before_kb": before, "peak_kb": peak}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process are Linux's")
def test_whole_corpus_passes_through_one_process_with_limits(image_data_dir: Path) -> None:
    """No file crashes it, hangs it, or takes more memory than the guard allows."""
    command = [sys.executable, "-c", RUN_CORPUS, str(image_data_dir / "hostile")]
    done = subprocess.run(command, capture_output=True, check=True, timeout=200)
    report = json.loads(done.stdout)
    assert report["decoded"] + report["refused"] == 497
    assert report["peak_kb"] - report["before_kb"] < 512 * 1024
    assert report["slowest_s"][0] < 5


def test_damaged_files_give_pixels_or_an_image_error(image_data_dir: Path) -> None:
    """Two thousand files, damaged at random but the same each time: pixels or a code for a bad image, nothing else."""
    preprocess = PreprocessSettings(value_range="0_255", crop_pct=0.875)
    ends: collections.Counter[str] = collections.Counter()
    for name, data in mutations(image_data_dir, 2000):
        started = time.perf_counter()
        try:
            end = str(load_image(data, DecodeSettings(), preprocess, 64, 48).pixels.shape)
        except ImageError as error:
            end = error.code
        ends[end] += 1
        assert time.perf_counter() - started < 5, name
    assert set(ends) <= {"(64, 48, 3)", "too_many_pixels", "empty_file", *CODES["bad_header"]}
    assert ends["(64, 48, 3)"] > 200
    assert ends["corrupt_image"] > 200
