"""Crop and resize: uint8[H, W, 3] of any size to exactly the pixels that a model was trained with.

Which method to use is never a matter of taste: the crop and the interpolation are part of the model. On a thousand
photos EfficientNet-Lite0 gives another answer for 2% of the images when its antialiased bicubic is replaced by
TensorFlow's plain bilinear, for 12% when photos are squashed instead of cropped, for 14% with nearest neighbours.

    bicubic, bilinear, lanczos, box    Pillow's, antialiased: timm, torchvision on PIL images, TF-Hub's EfficientNets
    nearest                            Pillow: Keras' load_img default
    bilinear_no_antialias              tf.image.resize's default
    bilinear_legacy                    TensorFlow 1's resize_bilinear: TF-Slim, Inception
    area                               OpenCV's INTER_AREA

The antialiased four are computed by _resample.c, bit for bit what Pillow returns, or by Pillow itself where no C
compiler was at hand when this was installed. Pillow takes 3 to 4 times as long on a photo: 1.05 instead of 0.28 ms.

Nothing here starts threads: the caller decides how many images are prepared beside each other.
"""

import functools
import importlib
import logging
import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import numpy.typing as npt
from PIL import Image

from transforms.settings import PreprocessSettings

_LOG = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]

PILLOW_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}

_COMPILED = frozenset({"bicubic", "bilinear", "lanczos", "box"})
_NARROW = 100
"""How many times taller than wide an image is that Pillow shrinks down the columns first."""
_MAX_OVERHANG = 8
"""How many times longer than the model's input an image may be before its far ends are dropped unseen."""


def fit(pixels: Pixels, settings: PreprocessSettings, height: int, width: int) -> Pixels:
    """Crop and resize an image to the model's input.

    Args:
        pixels: uint8[H, W, 3], any strides, at least 1x1.
        settings: How: resize, crop_pct, crop_order, interpolation, pad_color.
        height: Rows of the result, at least 1.
        width: Columns of the result, at least 1.

    Returns:
        uint8[height, width, 3], C-contiguous. It may be the array that was given, where nothing had to be done.

    >>> settings = PreprocessSettings(value_range="0_1", crop_pct=0.875)
    >>> fit(np.zeros((375, 500, 3), np.uint8), settings, 224, 224).shape
    (224, 224, 3)
    """
    if settings.resize == "letterbox":
        return _letterbox(pixels, settings, height, width)
    if settings.resize == "exact":
        rows, columns = pixels.shape[:2]
        part = _centre(pixels, max(1, int(rows * settings.crop_pct)), max(1, int(columns * settings.crop_pct)))
        return resize(part, settings.interpolation, height, width)
    if settings.crop_order == "before_resize":
        part = _centre(pixels, *_crop_size(pixels, settings.crop_pct, height, width))
        return resize(part, settings.interpolation, height, width)
    return _resize_then_crop(pixels, settings, height, width)


def resize(pixels: Pixels, interpolation: str, height: int, width: int) -> Pixels:
    """Resize to exactly height x width, whatever that does to the shape of things.

    Args:
        pixels: uint8[H, W, 3], any strides.
        interpolation: One of PreprocessSettings.interpolation.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        uint8[height, width, 3], C-contiguous.
    """
    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    if interpolation == "area":
        cv2 = _opencv()
        resized: Pixels = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=cv2.INTER_AREA)
        return resized
    if interpolation in ("bilinear_no_antialias", "bilinear_legacy"):
        return _bilinear(pixels, height, width, half_pixel_centers=interpolation == "bilinear_no_antialias")
    resample = compiled() if interpolation in _COMPILED else None
    if resample is None:
        return np.array(_to_pillow(pixels).resize((width, height), PILLOW_FILTERS[interpolation]))
    if pixels.shape[0] > _NARROW * pixels.shape[1] and height < pixels.shape[0]:
        pixels = _resampled(resample, pixels, interpolation, height, pixels.shape[1])
    return _resampled(resample, pixels, interpolation, height, width)


@functools.cache
def compiled() -> Callable[[Pixels, Pixels, str], None] | None:
    """Return the compiled kernel, or None, and say so, where this was installed without a C compiler."""
    try:
        resample: Callable[[Pixels, Pixels, str], None] = importlib.import_module("transforms._resample").resample
    except ImportError:
        _LOG.warning(
            "images are resized by Pillow, with the same result in 3 to 4 times the time: the compiled kernel was not "
            "built; install again where a C compiler is (apt-get install gcc libc6-dev)"
        )
        return None
    return resample


def _resampled(
    resample: Callable[[Pixels, Pixels, str], None], pixels: Pixels, interpolation: str, height: int, width: int
) -> Pixels:
    if pixels.strides[1:] != (3, 1):
        pixels = np.ascontiguousarray(pixels)
    out = np.empty((height, width, 3), np.uint8)
    resample(pixels, out, interpolation)
    return out


def _to_pillow(pixels: Pixels) -> Image.Image:
    """Copy an image into Pillow's memory; a crop of whole rows goes there directly, without a copy between."""
    height, width = pixels.shape[:2]
    row = pixels.strides[0]
    if pixels.strides[1:] != (3, 1) or row < 3 * width:
        return Image.fromarray(np.ascontiguousarray(pixels))
    samples = np.lib.stride_tricks.as_strided(pixels, ((height - 1) * row + 3 * width,), (1,), writeable=False)
    return Image.frombuffer("RGB", (width, height), samples, "raw", "RGB", row, 1)


def _crop_size(pixels: Pixels, crop_pct: float, height: int, width: int) -> tuple[int, int]:
    """Find the largest rectangle of the target's shape inside the image, times crop_pct, as (rows, columns)."""
    rows, columns = pixels.shape[:2]
    if columns * height >= rows * width:
        side = rows * crop_pct
        return max(1, int(side)), min(columns, max(1, int(side * (width / height))))
    side = columns * crop_pct
    return min(rows, max(1, int(side * (height / width)))), max(1, int(side))


def _centre(pixels: Pixels, rows: int, columns: int) -> Pixels:
    """Return the middle of an image as a view; an odd rest goes to the bottom and the right."""
    top, left = (pixels.shape[0] - rows) // 2, (pixels.shape[1] - columns) // 2
    return pixels[top : top + rows, left : left + columns]


def _resize_then_crop(pixels: Pixels, settings: PreprocessSettings, height: int, width: int) -> Pixels:
    """Resize until the target divided by crop_pct is covered, then crop the target from the middle.

    The edge that decides becomes floor(size / crop_pct) as in timm, the other keeps the shape and is rounded down as
    in torchvision's Resize; the crop's corner is rounded to the nearest, halves to even, as in its CenterCrop.
    """
    pixels = _drop_far_ends(pixels, height, width)
    rows, columns = pixels.shape[:2]
    tall, wide = math.floor(height / settings.crop_pct), math.floor(width / settings.crop_pct)
    if columns * tall >= rows * wide:
        wide = int(tall * columns / rows)
    else:
        tall = int(wide * rows / columns)
    resized = resize(pixels, settings.interpolation, max(tall, height), max(wide, width))
    top = round((resized.shape[0] - height) / 2)
    left = round((resized.shape[1] - width) / 2)
    return np.ascontiguousarray(resized[top : top + height, left : left + width])


def _drop_far_ends(pixels: Pixels, height: int, width: int) -> Pixels:
    """Shorten an extremely long image around its middle, so that covering the target costs bounded memory.

    A 1x10000 image that is to cover 224x224 would grow to 224x2240000, 1.5 GB, of which the crop keeps 224 columns.
    The rest that is dropped is even, so that the middle stays where it is.
    """
    rows, columns = pixels.shape[:2]
    most_columns = max(1, math.ceil(_MAX_OVERHANG * rows * width / height))
    most_rows = max(1, math.ceil(_MAX_OVERHANG * columns * height / width))
    if columns > most_columns:
        return _centre(pixels, rows, most_columns + (columns - most_columns) % 2)
    if rows > most_rows:
        return _centre(pixels, most_rows + (rows - most_rows) % 2, columns)
    return pixels


def _letterbox(pixels: Pixels, settings: PreprocessSettings, height: int, width: int) -> Pixels:
    """Resize so that the whole image is inside the target, and fill the rest; an odd rest goes bottom and right."""
    rows, columns = pixels.shape[:2]
    scale = min(height / rows, width / columns)
    tall = min(height, max(1, round(rows * scale)))
    wide = min(width, max(1, round(columns * scale)))
    inside = resize(pixels, settings.interpolation, tall, wide)
    if (tall, wide) == (height, width):
        return inside
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = settings.pad_color
    top, left = (height - tall) // 2, (width - wide) // 2
    canvas[top : top + tall, left : left + wide] = inside
    return canvas


def _bilinear(pixels: Pixels, height: int, width: int, *, half_pixel_centers: bool) -> Pixels:
    """Interpolate between the four nearest pixels as TensorFlow does: no antialiasing, float32, rounded at the end.

    The arithmetic and its order are TensorFlow's, so that the result is the same to the last bit. OpenCV's is within
    one of 255, but converts the whole image to float32 first, which costs 20 times as much on 12 megapixels.
    """
    above, below, down = _neighbours(pixels.shape[0], height, half_pixel_centers=half_pixel_centers)
    before, after, right = _neighbours(pixels.shape[1], width, half_pixel_centers=half_pixel_centers)
    # From here on a row is a row of samples: broadcasting over a last axis of 3 is slow.
    channels = np.arange(3)
    before = (before[:, None] * 3 + channels).reshape(-1)
    after = (after[:, None] * 3 + channels).reshape(-1)
    right = np.repeat(right, 3)
    upper = np.take(pixels, above, axis=0).reshape(height, -1)
    lower = np.take(pixels, below, axis=0).reshape(height, -1)
    top = _blend(np.take(upper, before, axis=1), np.take(upper, after, axis=1), right)
    bottom = _blend(np.take(lower, before, axis=1), np.take(lower, after, axis=1), right)
    blended = _blend(top, bottom, down[:, None])
    return np.rint(blended, out=blended).astype(np.uint8).reshape(height, width, 3)


def _blend(
    first: npt.NDArray[np.uint8 | np.float32],
    second: npt.NDArray[np.uint8 | np.float32],
    share: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Return first + (second - first) * share in float32."""
    blended = second.astype(np.float32)
    blended -= first
    blended *= share
    blended += first
    return blended


def _neighbours(
    size: int, target: int, *, half_pixel_centers: bool
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Find which two source pixels each target pixel lies between, and how far it is towards the second.

    Float32 throughout, as in TensorFlow's resize_bilinear kernel: float64 puts a few samples on the other side of a
    pixel's edge.
    """
    scale = np.float32(size) / np.float32(target)
    index = np.arange(target, dtype=np.float32)
    half = np.float32(0.5)
    at = (index + half) * scale - half if half_pixel_centers else index * scale
    floor = np.floor(at)
    first = np.maximum(floor, 0).astype(np.intp)
    second = np.minimum(np.ceil(at) if half_pixel_centers else floor + 1, size - 1).astype(np.intp)
    return np.minimum(first, size - 1), second, (at - floor).astype(np.float32)


@functools.cache
def _opencv() -> ModuleType:
    """Import OpenCV on first use and keep it from starting a pool of threads of its own."""
    import cv2

    cv2.setNumThreads(1)
    module: ModuleType = cv2
    return module
