"""Turn a decoded picture of any mode into RGB: transparency on a background, 16 bits to 8."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from transforms.errors import FailureCode, ImageError

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

_BAND_PIXELS = 1 << 16
"""Pixels that are converted at once: more need more memory beside the picture, fewer more calls."""


def compose(image: Image.Image, bits: int, background: Colour) -> Pixels:
    """Turn a loaded image of any mode into RGB on the background, in bands: no second copy of the whole is made."""
    width, height = image.size
    rows = max(1, _BAND_PIXELS // width)
    if rows >= height:
        return _compose_band(image, bits, background)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels[top:bottom] = _compose_band(image.crop((0, top, width, bottom)), bits, background)
    return pixels


def _compose_band(image: Image.Image, bits: int, background: Colour) -> Pixels:
    if image.mode.startswith("F"):
        raise ImageError(FailureCode.UNSUPPORTED_FORMAT, "floating-point samples have no range that could be known")
    if image.mode == "I" and bits != 16:
        raise ImageError(FailureCode.UNSUPPORTED_FORMAT, "32-bit integer samples have no range that could be known")
    if image.mode.startswith("I"):
        return _grey16(image, bits, background)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, background)
        canvas.paste(layer, mask=layer)
        return np.asarray(canvas)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def mend_transparent_colour(image: Image.Image, bits: int) -> None:
    """Bring a PNG's transparent colour to 8 bits: Pillow scales the samples of 2, 4 and 16 bits, but not this key."""
    key = image.info.get("transparency")
    if image.mode == "L" and isinstance(key, int) and bits < 8:
        image.info["transparency"] = key * 255 // ((1 << bits) - 1)
    elif image.mode == "RGB" and isinstance(key, tuple) and bits == 16:
        image.info["transparency"] = tuple(sample >> 8 for sample in key)


def _grey16(image: Image.Image, bits: int, background: Colour) -> Pixels:
    """Scale 9 to 16 bits to 8 by division; Pillow's own conversion clips at 255."""
    samples = np.asarray(image)
    if image.mode == "I":  # signed
        samples = samples + (1 << bits - 1)
    grey = (samples >> max(bits - 8, 0)).astype(np.uint8)
    pixels = np.repeat(grey[:, :, None], 3, axis=2)
    if "transparency" in image.info:
        pixels[samples == image.info["transparency"]] = background
    return pixels
