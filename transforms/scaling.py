"""Decode a large JPEG at a half or a quarter of its size, where the model does not notice.

libjpeg can leave the high frequencies of each block of 8 x 8 out of its transform: fewer pixels to compute, and fewer
to resize afterwards. Halves and quarters only: seven, six and five eighths take as long as all of it or longer, and
three eighths as long as a half. One eighth is the mean of each block, which blurs, and saves little over a quarter.

Two things decide what the model notices; tests/benchmarks/limits/jpeg_scaling.py tells how much.

- The scaled picture has to be LEAST_SHARE times as large as what the resizing makes of it, or larger. The pixels of
  the model's input then differ by 0.13 to 0.2 of 255 in the mean, at twice by 0.2 to 0.5, at one and a half by 0.7;
  four times is no better than three, for what is left is the rounding to whole steps.
- The crop has to lie where it lies in the original, which is between pixels of the scaled picture. At whole pixels it
  would move by up to half of one: 1.5 to 2.2 of 255. So here the resizing is given fractions.

Only the smooth antialiased filters are served: box has hard edges, which fall elsewhere among larger pixels (2 of 255
and more), OpenCV's area knows no fractions besides, and the others look at single pixels, which are different ones in
the scaled picture.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from transforms.resizing import PILLOW_FILTERS, compiled
from transforms.settings import PreprocessSettings

Pixels = npt.NDArray[np.uint8]

LEAST_SHARE = 3
"""How many times the size that is wanted the scaled part has, in rows and in columns."""
_FACTORS = (4, 2)
SMALLEST_SHARE = LEAST_SHARE * min(_FACTORS)
"""How many times the model's input an image has, at least one way, that may be scaled."""
_INTERPOLATIONS = frozenset({"bicubic", "bilinear", "lanczos"})
_LONGEST = 4
"""Images that are longer than this times the shape of the model's input are decoded in full: fit() drops the ends of
extremely long ones, and there are few."""
_NARROWEST = 50
"""The same for all shapes: Pillow resizes what is a hundred times as tall as wide down the columns first."""
_SMALLEST = 8
"""Rows or columns from which every eighth has a size of its own: simplejpeg is told the size, not the eighth."""


class Placement(NamedTuple):
    """Which part of an image is resized to which size; what comes of it is cropped or padded to the model's input."""

    top: int
    """First row of the part."""
    left: int
    """First column."""
    rows: int
    """Rows of the part."""
    columns: int
    """Columns of it."""
    tall: int
    """Rows that it is resized to."""
    wide: int
    """Columns."""


class Scaled(NamedTuple):
    """A picture that was decoded at a fraction of its size."""

    pixels: Pixels
    """uint8[H, W, 3], as displayed."""
    factor: int
    """Pixels of the original, each way, to one of these."""
    rows: int
    """Rows of the original, as displayed."""
    columns: int
    """Columns of the original, as displayed."""
    from_bottom: bool
    """The picture has been mirrored up and down: the pixel that only a rest of the rows fills is the first."""
    from_right: bool
    """The same for its columns."""


def place(rows: int, columns: int, settings: PreprocessSettings, height: int, width: int) -> Placement:
    """Tell what fit() does with an image of a size.

    Args:
        rows: Rows of the image, as displayed.
        columns: Columns of it.
        settings: How it is fitted.
        height: Rows of the model's input.
        width: Columns of it.

    >>> place(3000, 4000, PreprocessSettings(value_range="0_1", crop_pct=0.875), 224, 224)
    Placement(top=187, left=687, rows=2625, columns=2625, tall=224, wide=224)
    """
    if settings.resize == "letterbox":
        scale = min(height / rows, width / columns)
        tall, wide = max(1, round(rows * scale)), max(1, round(columns * scale))
        return Placement(0, 0, rows, columns, min(height, tall), min(width, wide))
    if settings.resize == "shortest_edge" and settings.crop_order == "after_resize":
        tall, wide = math.floor(height / settings.crop_pct), math.floor(width / settings.crop_pct)
        if columns * tall >= rows * wide:
            wide = int(tall * columns / rows)
        else:
            tall = int(wide * rows / columns)
        return Placement(0, 0, rows, columns, max(tall, height), max(wide, width))
    if settings.resize == "exact":
        inner_rows, inner_columns = int(rows * settings.crop_pct), int(columns * settings.crop_pct)
    elif columns * height >= rows * width:
        side = rows * settings.crop_pct
        inner_rows, inner_columns = int(side), min(columns, int(side * (width / height)))
    else:
        side = columns * settings.crop_pct
        inner_rows, inner_columns = min(rows, int(side * (height / width))), int(side)
    inner_rows, inner_columns = max(1, inner_rows), max(1, inner_columns)
    return Placement((rows - inner_rows) // 2, (columns - inner_columns) // 2, inner_rows, inner_columns, height, width)


def find_factor(rows: int, columns: int, settings: PreprocessSettings, height: int, width: int) -> int:
    """Find by how much a JPEG may be scaled down while it is decoded.

    Args:
        rows: Rows of the image, as displayed.
        columns: Columns of it.
        settings: How it is fitted.
        height: Rows of the model's input.
        width: Columns of it.

    Returns:
        4, 2, or 1 for not at all.

    >>> settings = PreprocessSettings(value_range="0_1", crop_pct=0.875)
    >>> [find_factor(side * 3 // 4, side, settings, 224, 224) for side in (1600, 3000, 5000, 9000)]
    [1, 2, 4, 4]
    """
    if settings.interpolation not in _INTERPOLATIONS or max(rows, columns) < _SMALLEST:
        return 1
    if max(rows, columns) > _NARROWEST * min(rows, columns):
        return 1
    if not rows * width <= _LONGEST * columns * height <= _LONGEST**2 * rows * width:
        return 1
    part = place(rows, columns, settings, height, width)
    for factor in _FACTORS:
        least = factor * LEAST_SHARE
        if part.rows >= least * part.tall and part.columns >= least * part.wide:
            return factor
    return 1


def fit_scaled(scaled: Scaled, settings: PreprocessSettings, height: int, width: int) -> Pixels:
    """Do what fit() would have done with the picture in full.

    Args:
        scaled: The picture, by a factor of find_factor's for the same settings and size.
        settings: How it is fitted.
        height: Rows of the model's input.
        width: Columns of it.

    Returns:
        uint8[height, width, 3], C-contiguous.
    """
    part = place(scaled.rows, scaled.columns, settings, height, width)
    # The last pixel of a row or column stands for fewer of the original where the size is no multiple of the factor.
    top = scaled.pixels.shape[0] - scaled.rows / scaled.factor if scaled.from_bottom else 0.0
    left = scaled.pixels.shape[1] - scaled.columns / scaled.factor if scaled.from_right else 0.0
    top, left = top + part.top / scaled.factor, left + part.left / scaled.factor
    bottom, right = top + part.rows / scaled.factor, left + part.columns / scaled.factor
    resized = _resize_part(scaled.pixels, (left, top, right, bottom), settings.interpolation, part.tall, part.wide)
    if (part.tall, part.wide) == (height, width):
        return resized
    if settings.resize != "letterbox":
        down, along = round((part.tall - height) / 2), round((part.wide - width) / 2)
        return np.ascontiguousarray(resized[down : down + height, along : along + width])
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = settings.pad_color
    down, along = (height - part.tall) // 2, (width - part.wide) // 2
    canvas[down : down + part.tall, along : along + part.wide] = resized
    return canvas


def _resize_part(
    pixels: Pixels, part: tuple[float, float, float, float], interpolation: str, height: int, width: int
) -> Pixels:
    """Resize the part (left, top, right, bottom), in fractions of pixels.

    Pixels outside are not looked at, as those outside a crop are not; but for those that the part cuts through.
    """
    left, top, right, bottom = part
    first_column, first_row = math.floor(left), math.floor(top)
    around = pixels[first_row : math.ceil(bottom), first_column : math.ceil(right)]
    inside = (
        left - first_column,
        top - first_row,
        min(right - first_column, around.shape[1]),
        min(bottom - first_row, around.shape[0]),
    )
    resample = cast("Callable[..., None] | None", compiled())
    if resample is None:
        image = Image.fromarray(np.ascontiguousarray(around))
        return np.array(image.resize((width, height), PILLOW_FILTERS[interpolation], box=inside))
    out = np.empty((height, width, 3), np.uint8)
    resample(around, out, interpolation, inside)
    return out
