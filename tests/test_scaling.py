"""Scaled decoding: only where the model does not notice, and with the crop where it was."""

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.image_files import encode, exif
from transforms import resizing, scaling
from transforms.images import load_image
from transforms.resizing import PILLOW_FILTERS, fit
from transforms.scaling import Scaled, find_factor, fit_scaled, place
from transforms.settings import DecodeSettings, PreprocessSettings

Pixels = npt.NDArray[np.uint8]

AUTO, OFF = DecodeSettings(jpeg_scaling="auto"), DecodeSettings(jpeg_scaling="off")
SMOOTH = ("bicubic", "bilinear", "lanczos")
MODES: tuple[dict[str, Any], ...] = (
    {"crop_pct": 0.875},
    {"crop_pct": 0.9, "crop_order": "after_resize"},
    {"resize": "exact"},
    {"resize": "exact", "crop_pct": 0.8},
    {"resize": "letterbox"},
)
# Sizes that no factor divides, so that the last row and column of the scaled picture are partly filled.
SIZES = ((401, 603), (603, 401), (1021, 1023))


def settings(**given: Any) -> PreprocessSettings:
    """Return preprocessing of a kind."""
    return PreprocessSettings(value_range="0_255", **given)


def scene(rows: int, columns: int) -> Image.Image:
    """Return a picture of coarse and fine things, nowhere symmetric."""
    down, along = np.mgrid[0:rows, 0:columns] / max(rows, columns)
    waves = [
        np.sin(2 * np.pi * (a * down + b * along + c * down * along)) for a, b, c in ((3, 5, 9), (7, 2, 4), (1, 8, 6))
    ]
    random = np.random.default_rng(rows)
    pixels = np.stack(waves, axis=2) * 90 + 127 + random.normal(0, 10, (rows, columns, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def turned(data: bytes, orientation: int) -> bytes:
    """Return a JPEG that says how it is to be turned."""
    block = b"Exif\x00\x00" + exif(orientation)
    return data[:2] + struct.pack(">HH", 0xFFE1, len(block) + 2) + block + data[2:]


def may_be_scaled(rows: int, columns: int, height: int, width: int) -> bool:
    """Tell whether a shape is not too extreme."""
    if max(rows, columns) < 8 or max(rows, columns) > 50 * min(rows, columns):
        return False
    return rows * width <= 4 * columns * height <= 16 * rows * width


def difference(data: bytes, preprocess: PreprocessSettings, height: int, width: int) -> float:
    """Return the mean absolute difference of the two ways at the model's input, in steps of 255."""
    ways = [load_image(data, decode, preprocess, height, width) for decode in (AUTO, OFF)]
    assert ways[0].info == ways[1].info
    assert ways[0].pixels.flags.c_contiguous
    return float(np.abs(ways[0].pixels.astype(int) - ways[1].pixels).mean())


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("interpolation", SMOOTH)
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}], ids=str)
def test_scaled_decoding_differs_by_less_than_half_a_step(
    mode: dict[str, Any], interpolation: str, options: dict[str, Any]
) -> None:
    """Every mode and size: not equal, so it was scaled, and a crop that moved by half a pixel would differ by 1.5."""
    for rows, columns in SIZES:
        data = encode(scene(rows, columns), "JPEG", quality=92, **options)
        assert 0 < difference(data, settings(interpolation=interpolation, **mode), 40, 48) < 0.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_turned_photos_are_scaled_about_the_right_corner(orientation: int, mode: dict[str, Any]) -> None:
    """A mirrored picture begins with its partly filled pixel; the info has the size as displayed."""
    data = turned(encode(scene(403, 605), "JPEG", quality=92), orientation)
    assert 0 < difference(data, settings(**mode), 32, 40) < 0.5
    info = load_image(data, AUTO, settings(**mode), 32, 40).info
    assert (info.width, info.height) == ((605, 403) if orientation < 5 else (403, 605))


@pytest.mark.parametrize(
    ("given", "name", "options", "size"),
    [
        ({"interpolation": "nearest"}, "JPEG", {}, (603, 401)),
        ({"interpolation": "bilinear_no_antialias"}, "JPEG", {}, (603, 401)),
        ({"interpolation": "bilinear_legacy"}, "JPEG", {}, (603, 401)),
        ({"interpolation": "box"}, "JPEG", {}, (603, 401)),
        ({"interpolation": "area"}, "JPEG", {}, (603, 401)),
        ({}, "JPEG", {}, (190, 200)),  # less than six times the model's input
        ({}, "JPEG", {}, (2000, 300)),  # longer than four times the model's shape
        ({}, "PNG", {}, (603, 401)),
    ],
    ids=str,
)
def test_nothing_is_scaled_where_the_model_could_notice(
    given: dict[str, Any], name: str, options: dict[str, Any], size: tuple[int, int]
) -> None:
    """Other interpolations, small photos, extreme shapes and other formats give the very same pixels."""
    assert difference(encode(scene(size[1], size[0]), name, **options), settings(**given), 32, 32) == 0


def test_cmyk_and_refused_jpegs_are_decoded_in_full_by_pillow() -> None:
    """Only simplejpeg scales; what it does not read keeps every pixel."""
    cmyk = encode(scene(401, 603).convert("CMYK"), "JPEG")
    stray = encode(scene(401, 603), "JPEG").replace(b"\xff\xdb", b"\0\0\xff\xdb", 1)
    for data in (cmyk, stray):
        assert difference(data, settings(), 32, 32) == 0
        assert load_image(data, AUTO, settings(), 32, 32).info.decoder == "pillow"


@pytest.mark.parametrize("mode", MODES, ids=str)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 70), st.integers(1, 70))
def test_placement_is_that_of_fit(mode: dict[str, Any], rows: int, columns: int, height: int, width: int) -> None:
    """Unscaled, the part and the size are what fit() makes, to the last bit, for every shape that may be scaled."""
    if not may_be_scaled(rows, columns, height, width):
        return
    preprocess = settings(**mode)
    pixels = np.random.default_rng(rows * 301 + columns).integers(0, 256, (rows, columns, 3), np.uint8)
    whole = Scaled(pixels, 1, rows, columns, from_bottom=True, from_right=True)
    np.testing.assert_array_equal(fit_scaled(whole, preprocess, height, width), fit(pixels, preprocess, height, width))


@pytest.mark.parametrize("mode", MODES, ids=str)
@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 512), st.integers(1, 512))
def test_factor_is_the_largest_that_leaves_three_times_the_input(
    mode: dict[str, Any], rows: int, columns: int, height: int, width: int
) -> None:
    """Both ways; twice the factor would leave less, or the factor is 4 or the shape extreme."""
    factor = find_factor(rows, columns, settings(**mode), height, width)
    part = place(rows, columns, settings(**mode), height, width)
    left = min(part.rows / part.tall, part.columns / part.wide)
    assert factor == 1 or left / factor >= 3
    if may_be_scaled(rows, columns, height, width):
        assert factor == 4 or left / (2 * factor) < 3


@pytest.mark.parametrize("interpolation", SMOOTH)
def test_parts_in_fractions_are_resized_as_pillow_does(interpolation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled kernel's box is Pillow's, to the last bit, and without the kernel Pillow's own is taken."""
    pixels = np.asarray(scene(90, 120))
    part = (3.25, 7.5, 101.875, 80.125)
    expected = Image.fromarray(pixels[7:81, 3:102]).resize(
        (40, 30), PILLOW_FILTERS[interpolation], box=(0.25, 0.5, 98.875, 73.125)
    )
    compiled = resizing.compiled()
    for kernel in (compiled, None):
        monkeypatch.setattr(scaling, "compiled", lambda kernel=kernel: kernel)
        np.testing.assert_array_equal(scaling._resize_part(pixels, part, interpolation, 30, 40), expected)


@pytest.mark.skipif(resizing.compiled() is None, reason="transforms._resample was not built")
@pytest.mark.parametrize(
    "part", [(-0.1, 0, 4, 4), (0, 0, 4.1, 4), (2, 0, 2, 4), (0, 3, 4, 2), (0, 0, float("nan"), 4)], ids=str
)
def test_parts_outside_the_image_are_refused(part: tuple[float, float, float, float]) -> None:
    """The kernel reads no memory but the image's."""
    kernel: Any = resizing.compiled()
    pixels = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="the part must have a size and lie inside source"):
        kernel(pixels, np.empty((2, 2, 3), np.uint8), "bicubic", part)


def test_scaled_picture_is_the_one_that_pillow_drafts() -> None:
    """Simplejpeg is told a size and takes the scale that Pillow's draft mode takes for a factor of two."""
    data = encode(scene(401, 603), "JPEG", subsampling=0)
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (300, 200))
    half = Scaled(np.asarray(image.convert("RGB")), 2, 401, 603, from_bottom=False, from_right=False)
    loaded = load_image(data, AUTO, settings(), 60, 60)
    np.testing.assert_array_equal(loaded.pixels, fit_scaled(half, settings(), 60, 60))
