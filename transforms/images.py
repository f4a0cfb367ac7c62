"""Turn the bytes of an image file into uint8[H, W, 3] RGB as displayed, or into an ImageError that says why not.

    probe -> guards -> decoder -> size again -> orientation

The bytes are not trusted. What the header claims is held against limits before anything is allocated; a format is told
by content and only its own decoder is asked; a file that is cut short is a failure, never a picture with a grey rest.
8-bit JPEG goes to simplejpeg, strict; what it refuses for a warning that is not fatal, and every other format, goes to
Pillow, and the record names the decoder. All functions may run in many threads at once.

Bits that flipped inside compressed data decode to plausible pixels in every decoder; only a checksum would tell.
"""

import io
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from transforms.errors import FailureCode, ImageError
from transforms.headers import ImageHeader, probe
from transforms.records import ImageInfo
from transforms.resizing import fit
from transforms.settings import DecodeSettings, PreprocessSettings

Pixels = npt.NDArray[np.uint8]

# Pillow's own limit is a process-wide number that warns first; _check_limits is stricter, and safe among threads.
Image.MAX_IMAGE_PIXELS = None


class Decoded(NamedTuple):
    """An image's pixels and what is known of it."""

    pixels: Pixels
    """uint8[H, W, 3], RGB as displayed; a view with any strides."""
    info: ImageInfo
    """Size, format, decoder."""


def load_image(data: bytes, decode: DecodeSettings, preprocess: PreprocessSettings, height: int, width: int) -> Decoded:
    """Decode an image and fit it to the model's input.

    Args:
        data: The encoded file, whole.
        decode: Limits, background.
        preprocess: Crop and resize.
        height: Rows of the model's input.
        width: Columns of the model's input.

    Returns:
        uint8[height, width, 3], C-contiguous, and the info of the image as it was before.

    Raises:
        ImageError: With the code that belongs into the failures table.
    """
    decoded = decode_image(data, decode)
    return Decoded(fit(decoded.pixels, preprocess, height, width), decoded.info)


def decode_image(data: bytes, settings: DecodeSettings) -> Decoded:
    """Decode an image file, turned and composed as a viewer would show it; of an animation the first frame.

    Args:
        data: The encoded file, whole.
        settings: Limits, background.

    Returns:
        Its pixels in full size, and its info.

    Raises:
        ImageError: empty_file, unsupported_format, corrupt_image, truncated_image or too_many_pixels.
    """
    header = probe(data)
    _check_limits(header, len(data), settings)
    if header.format == "jpeg" and header.components != 4:
        pixels, decoder = simplejpeg.decode_jpeg(data, "RGB"), "simplejpeg"
    else:
        pixels, decoder = _decode_pillow(data, header), "pillow"
    height, width = pixels.shape[:2]
    return Decoded(pixels, ImageInfo(width, height, header.format, len(data), decoder))


def decode_cost(header: ImageHeader, size_bytes: int) -> int:
    """Reckon the memory that decoding takes at its peak, the encoded file included.

    Args:
        header: What the probe found.
        size_bytes: Bytes of the encoded file.

    Returns:
        Bytes.
    """
    return size_bytes + header.width * header.height * 12


def _check_limits(header: ImageHeader, size_bytes: int, settings: DecodeSettings) -> None:
    if decode_cost(header, size_bytes) > settings.max_decode_bytes:
        raise ImageError(FailureCode.TOO_MANY_PIXELS, f"{header.width}x{header.height} pixels are too many")


def _decode_pillow(data: bytes, header: ImageHeader) -> Pixels:
    with Image.open(io.BytesIO(data), formats=[header.format.upper()]) as image:
        return np.asarray(image.convert("RGB"))
