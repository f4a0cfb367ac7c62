"""Decode run-length encoded BMP files.

Pillow before version 13 reads half of a 4-bit literal run of odd length too little and shifts every pixel after it;
version 13 cannot be had beside Apache Beam 2.77, which requires Pillow below 13. The format is small: pairs of bytes
that are a run, or after a zero an escape: end of line, end of picture, a jump, or a literal run padded to two bytes.
"""

import struct

import numpy as np
import numpy.typing as npt

from transforms.errors import FailureCode, ImageError
from transforms.headers import ImageHeader

_END_OF_LINE, _END_OF_PICTURE, _JUMP = 0, 1, 2


def decode_bmp_rle(data: bytes, header: ImageHeader) -> npt.NDArray[np.uint8]:
    """Decode a BMP whose pixels are run-length encoded, 4 or 8 bits each.

    Pixels that the file jumps over have the palette's first colour, as in Windows; runs are cut at the row's end.
    The caller has checked the size: this allocates four bytes a pixel.

    Args:
        data: The encoded file, whole.
        header: What the probe found: encoding rle4 or rle8.

    Returns:
        uint8[H, W, 3], RGB.

    Raises:
        ImageError: truncated_image where the file ends before the picture does; corrupt_image where the bits a pixel
            do not go with the encoding.
    """
    if header.bits != {"rle4": 4, "rle8": 8}[header.encoding]:
        raise ImageError(
            FailureCode.CORRUPT_IMAGE, f"the BMP is encoded as {header.encoding} but claims {header.bits} bits a pixel"
        )
    pixels_at, header_bytes, _, signed_height = struct.unpack_from("<IIii", data, 10)
    (colours,) = struct.unpack_from("<I", data, 46)
    palette = np.zeros((256, 4), np.uint8)
    stored = data[14 + header_bytes :][: 4 * min(colours or 1 << header.bits, 256)]
    palette.reshape(-1)[: len(stored)] = np.frombuffer(stored, np.uint8)
    try:
        canvas = _indices(data, pixels_at, header)
    except IndexError as error:
        raise ImageError(
            FailureCode.TRUNCATED_IMAGE, f"the BMP ends after {len(data)} bytes, before its picture does"
        ) from error
    indices = np.frombuffer(canvas, np.uint8).reshape(header.height, header.width)
    return palette[:, 2::-1][indices if signed_height < 0 else indices[::-1]]


def _indices(data: bytes, at: int, header: ImageHeader) -> bytearray:
    """Return the palette index of each pixel, in the order of the file: usually the lowest row first."""
    width, height = header.width, header.height
    nibbles = header.encoding == "rle4"
    canvas = bytearray(width * height)
    x = y = 0
    while y < height:
        count, value = data[at], data[at + 1]
        at += 2
        if count:
            run = bytes((value >> 4, value & 15)) * ((count + 1) // 2) if nibbles else bytes((value,)) * count
        elif value == _END_OF_LINE:
            x, y = 0, y + 1
            continue
        elif value == _END_OF_PICTURE:
            break
        elif value == _JUMP:
            x, y = min(x + data[at], width), y + data[at + 1]
            at += 2
            continue
        else:
            count = value
            stored = (count + 1) // 2 if nibbles else count
            literal = data[at : at + stored]
            if len(literal) < stored:
                raise IndexError(at)
            run = bytes(half for byte in literal for half in (byte >> 4, byte & 15)) if nibbles else literal
            at += stored + stored % 2
        count = min(count, width - x)
        start = y * width + x
        canvas[start : start + count] = run[:count]
        x += count
    return canvas
