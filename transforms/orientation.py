"""Turn a picture as its camera said it is to be shown: EXIF's orientation, or else XMP's, 1 to 8."""

import re

import numpy as np
import numpy.typing as npt
from PIL import ImageFile

from transforms.headers import jpeg_segments
from transforms.tiff_directories import read_orientation

Pixels = npt.NDArray[np.uint8]

# Rows become columns; then up and down are mirrored, then left and right.
SWAPPED, FROM_BOTTOM, FROM_RIGHT = frozenset({5, 6, 7, 8}), frozenset({3, 4, 7, 8}), frozenset({2, 3, 6, 7})
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


def jpeg_orientation(data: bytes) -> int:
    """Read the orientation of a JPEG whose header has been probed."""
    exif = xmp = b""
    for marker, start, end in jpeg_segments(data):
        if marker == 0xE1 and not exif and data.startswith(b"Exif\x00\x00", start):
            exif = data[start:end]
        elif marker == 0xE1 and data.startswith(b"http://ns.adobe.com/xap/1.0/\x00", start):
            xmp = data[start:end]
    return _orientation(exif, xmp)


def pillow_orientation(image: ImageFile.ImageFile) -> int:
    """Read the orientation of a loaded image from what Pillow has kept of its metadata."""
    if image.format == "TIFF":
        return 1  # Pillow has turned it while loading
    exif = image.info.get("exif", b"")
    if "Raw profile type exif" in image.info:  # ImageMagick's way to keep EXIF in a PNG
        exif = _from_hex(image.info["Raw profile type exif"])
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
    return _orientation(exif, xmp.encode() if isinstance(xmp, str) else xmp)


def _from_hex(profile: str) -> bytes:
    """Read ImageMagick's text: an empty line, a name, a length, then hexadecimal digits; b"" where it is none."""
    try:
        return bytes.fromhex("".join(profile.split("\n")[3:]))
    except ValueError:
        return b""


def _orientation(exif: bytes, xmp: bytes) -> int:
    """Return EXIF's orientation, 1 to 8, or else XMP's; 1 where neither says one that makes sense."""
    orientation = read_orientation(exif)
    match = _XMP_ORIENTATION.search(xmp) if orientation is None else None
    return int(match[1]) if match else orientation or 1


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """Turn and mirror as EXIF orientation 1 to 8 says; other values turn nothing."""
    if orientation in SWAPPED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in FROM_BOTTOM:
        pixels = pixels[::-1]
    if orientation in FROM_RIGHT:
        pixels = pixels[:, ::-1]
    # A copy, not the view: whoever needed a copy later would hold both.
    return np.ascontiguousarray(pixels)
