"""What a model that decodes images in its own graph is given: never bytes that its decoder must not see.

TensorFlow's decoders are not for untrusted bytes: some corrupt memory, some read other pixels than every viewer
shows. So a file goes to the graph as it is only when its header says that it is an upright 8-bit JPEG or PNG without
transparency, inside the limits. Every other image is decoded here and handed over as PNG.
"""

import io
from typing import NamedTuple

from PIL import Image

from transforms.headers import ImageHeader
from transforms.images import Pixels, admit, decode_image
from transforms.orientation import jpeg_orientation
from transforms.records import ImageInfo
from transforms.settings import DecodeSettings

MODEL_DECODER = "model"
# Chunks that change how a PNG is shown, and that TensorFlow does not heed: transparency and EXIF.
_PNG_CHUNKS = (b"tRNS", b"eXIf")


class Encoded(NamedTuple):
    """An image for a model that takes bytes."""

    data: bytes
    """JPEG or PNG, 8 bits, upright, without transparency."""
    info: ImageInfo
    """Of the original file; the decoder is `model` where the file goes to the graph as it is."""


def encode_image(data: bytes, settings: DecodeSettings) -> Encoded:
    """Return the bytes that a model's own decoder may have.

    Args:
        data: The encoded file, whole.
        settings: Limits and background.

    Raises:
        ImageError: As decode_image. What is wrong inside the compressed data of a file that goes to the graph as it
            is, only the model can find: it fails on that image.
    """
    header = admit(data, settings)
    if may_pass(data, header):
        return Encoded(data, ImageInfo(header.width, header.height, header.format, len(data), MODEL_DECODER))
    pixels, info = decode_image(data, settings)
    return Encoded(encode_png(pixels), info)


def may_pass(data: bytes, header: ImageHeader) -> bool:
    """Tell whether a model's own decoder may have a file as it is."""
    if header.bits != 8 or header.components not in (1, 3):
        return False
    if header.format == "jpeg":
        return header.encoding in ("baseline", "extended", "progressive") and jpeg_orientation(data) == 1
    return header.format == "png" and not any(chunk in data for chunk in _PNG_CHUNKS)


def encode_png(pixels: Pixels) -> bytes:
    """Encode uint8[H, W, 3] as PNG: without loss, and fast rather than small, for it only goes to the model."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
