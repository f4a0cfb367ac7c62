"""Turn the bytes of an image file into uint8[H, W, 3] RGB as displayed, or into an ImageError that says why not.

    probe -> limits -> decoder -> limits again -> transparency -> orientation

The bytes are not trusted. What the header claims is held against limits before anything is allocated; a format is told
by content and only its own decoder is asked; a file that is cut short is a failure, never a picture with a grey rest.
JPEG goes to simplejpeg, strict; what that refuses, often for a warning that is not fatal, and every other format goes
to Pillow, and the record names the decoder. HEIF needs the extra `heic`. Colour profiles are not applied: no training
pipeline does. All functions may run in many threads at once.

Bits that flipped inside compressed data decode to plausible pixels in every decoder; only a checksum would tell.
"""

import functools
import io
import re
import warnings
from types import ModuleType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from transforms.bmp_rle import decode_bmp_rle
from transforms.composing import compose, mend_transparent_colour
from transforms.errors import FailureCode, ImageError
from transforms.headers import ImageHeader, jpeg_segments, probe
from transforms.orientation import FROM_BOTTOM, FROM_RIGHT, SWAPPED, jpeg_orientation, pillow_orientation, turn
from transforms.records import ImageInfo
from transforms.resizing import fit
from transforms.scaling import SMALLEST_SHARE, Scaled, find_factor, fit_scaled
from transforms.settings import DecodeSettings, PreprocessSettings

Pixels = npt.NDArray[np.uint8]

# Pillow's switches belong to the process; they are set once, here, and never per image: threads share them.
# Its own limit on pixels is lower than ours or only warns; _check_limits takes its place.
Image.MAX_IMAGE_PIXELS = None
# The caller decides how many images are decoded beside each other.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# It warns of metadata that it skips, which would be a line of log an image; catch_warnings is not safe among threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# The decoders themselves, not Image.open: that asks others too, and hides why the right one has refused.
_PILLOW: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "avif": AvifImagePlugin.AvifImageFile,
}

_JPEG_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
"""APP1 to APP15 without Adobe's APP14, which tells the colour space, and comments."""


class Decoded(NamedTuple):
    """An image's pixels and what is known of it."""

    pixels: Pixels
    """uint8[H, W, 3], RGB as displayed, C-contiguous; may be read-only."""
    info: ImageInfo
    """Size, format, decoder."""


class Fitting(NamedTuple):
    """What an image is fitted to."""

    preprocess: PreprocessSettings
    """Crop and resize."""
    height: int
    """Rows of the model's input."""
    width: int
    """Columns of the model's input."""


class DecodedTwice(NamedTuple):
    """An image for two models, and what is known of it."""

    pixels: Pixels
    """As Decoded, for the first."""
    info: ImageInfo
    """Of the image before it was resized."""
    second: Pixels
    """As pixels, for the second."""


def load_image(data: bytes, decode: DecodeSettings, preprocess: PreprocessSettings, height: int, width: int) -> Decoded:
    """Decode an image and fit it to the model's input.

    Args:
        data: The encoded file, whole.
        decode: Limits, background, and whether a large JPEG may be scaled down while it is decoded.
        preprocess: Crop and resize.
        height: Rows of the model's input.
        width: Columns of the model's input.

    Returns:
        uint8[height, width, 3], C-contiguous, with the info of the image before it was resized.

    Raises:
        ImageError: With the code that belongs into the failures table.
    """
    header = admit(data, decode)
    try:
        return _load(data, header, decode, Fitting(preprocess, height, width))
    except MemoryError as error:
        raise _out_of_memory(header.width, header.height) from error


def load_image_twice(data: bytes, decode: DecodeSettings, first: Fitting, second: Fitting) -> DecodedTwice:
    """Decode an image once and fit it to the inputs of two models.

    Each has the pixels that it would have alone, to the last bit. So a JPEG that is scaled down while it is decoded,
    by another factor for each, is decoded for each: a half and a quarter of it, or a half and the whole.

    Args:
        data: The encoded file, whole.
        decode: As load_image.
        first: Of the first model.
        second: Of the second model.

    Raises:
        ImageError: As load_image.
    """
    header = admit(data, decode)
    try:
        factors = {_factor(data, header, decode, fitting) for fitting in (first, second)}
        if len(factors) > 1:
            decoded = _load(data, header, decode, first)
            return DecodedTwice(*decoded, _load(data, header, decode, second).pixels)
        scaled = _decode_scaled(data, header, factors.pop())
        if scaled is not None:
            info = ImageInfo(scaled.columns, scaled.rows, "jpeg", len(data), "simplejpeg")
            return DecodedTwice(fit_scaled(scaled, *first), info, fit_scaled(scaled, *second))
        decoded = _decode_admitted(data, header, decode)
        return DecodedTwice(fit(decoded.pixels, *first), decoded.info, fit(decoded.pixels, *second))
    except MemoryError as error:
        raise _out_of_memory(header.width, header.height) from error


def _load(data: bytes, header: ImageHeader, decode: DecodeSettings, fitting: Fitting) -> Decoded:
    scaled = _decode_scaled(data, header, _factor(data, header, decode, fitting))
    if scaled is not None:
        info = ImageInfo(scaled.columns, scaled.rows, "jpeg", len(data), "simplejpeg")
        return Decoded(fit_scaled(scaled, *fitting), info)
    decoded = _decode_admitted(data, header, decode)
    return Decoded(fit(decoded.pixels, *fitting), decoded.info)


def decode_image(data: bytes, settings: DecodeSettings) -> Decoded:
    """Decode an image file, turned and composed as a viewer shows it; of an animation the first frame.

    Args:
        data: The encoded file, whole.
        settings: Limits and background.

    Returns:
        Its pixels in full size, and its info.

    Raises:
        ImageError: empty_file, unsupported_format, corrupt_image, truncated_image or too_many_pixels.
    """
    header = admit(data, settings)
    try:
        return _decode_admitted(data, header, settings)
    except MemoryError as error:
        raise _out_of_memory(header.width, header.height) from error


def admit(data: bytes, settings: DecodeSettings) -> ImageHeader:
    """Check an image file by its header alone, before anything is decoded.

    Raises:
        ImageError: empty_file, unsupported_format, corrupt_image, truncated_image or too_many_pixels.
    """
    header = probe(data)
    if len(data) < header.min_bytes:
        raise ImageError(
            FailureCode.TRUNCATED_IMAGE,
            f"the file has {len(data)} bytes, a whole {header.width}x{header.height} {header.format} of its kind has "
            f"at least {header.min_bytes}",
        )
    _check_limits(header, len(data), settings)
    return header


def decode_cost(header: ImageHeader, size_bytes: int) -> int:
    """Reckon the memory that an image takes at its peak, from its encoded bytes to the model's pixels.

    Most formats need 7 bytes a pixel: Pillow's picture has 4, ours 3; so it is while decoding by Pillow, and again
    while resizing without the compiled kernel. A JPEG may go to Pillow, too. The others were measured at their
    decoders' worst. That a JPEG may be scaled down while it is decoded does not count: when simplejpeg refuses it,
    Pillow decodes it in full, and which images a run accepts must not hang on how it crops.

    Args:
        header: What the probe found.
        size_bytes: Bytes of the encoded file.

    Returns:
        Bytes; right within a few MB, tests hold it against measured peaks.
    """
    if header.format == "webp":
        a_pixel = 18  # libwebp's animation decoder holds two canvases beside its output, and lossless its ARGB
    elif header.format in ("avif", "heif"):
        a_pixel = 12 if header.bits <= 8 else 20  # the planes, twice as wide above 8 bits, and their RGBA
    elif header.scans > 1:
        a_pixel = 7 + 2 * header.components  # all coefficients are held until the last scan
    else:
        a_pixel = 7
    return size_bytes + header.width * header.height * a_pixel + header.extra_bytes


def _check_limits(header: ImageHeader, size_bytes: int, settings: DecodeSettings) -> None:
    """Refuse what would cost too much memory or time, by what is claimed or by what a decoder has found."""
    pixels = header.width * header.height
    cost = decode_cost(header, size_bytes)
    if cost > settings.max_decode_bytes:
        raise ImageError(
            FailureCode.TOO_MANY_PIXELS,
            f"{header.width}x{header.height} {header.format} would take {cost} bytes to decode, "
            f"max_decode_bytes allows {settings.max_decode_bytes}",
        )
    if header.scans > 1 and header.scans * pixels > settings.max_scan_pixels:
        raise ImageError(
            FailureCode.TOO_MANY_PIXELS,
            f"{header.scans} progressive scans of {header.width}x{header.height} are {header.scans * pixels} pixels "
            f"to decode, max_scan_pixels allows {settings.max_scan_pixels}",
        )


def _out_of_memory(width: int, height: int) -> ImageError:
    return ImageError(FailureCode.TOO_MANY_PIXELS, f"{width}x{height} pixels need more memory than there is")


def _factor(data: bytes, header: ImageHeader, decode: DecodeSettings, fitting: Fitting) -> int:
    """Return by how much an image is scaled down while it is decoded: 4, 2, or 1 for not at all."""
    if header.format != "jpeg" or decode.jpeg_scaling == "off":
        return 1
    if max(header.width, header.height) < SMALLEST_SHARE * min(fitting.height, fitting.width):
        return 1  # most photos: they need not be searched for their orientation twice
    swapped = jpeg_orientation(data) in SWAPPED
    rows, columns = (header.width, header.height) if swapped else (header.height, header.width)
    return find_factor(rows, columns, *fitting)


def _decode_scaled(data: bytes, header: ImageHeader, factor: int) -> Scaled | None:
    """Decode a JPEG at a fraction of its size, or return None where that may not be or simplejpeg refuses it."""
    if factor == 1:
        return None
    pixels = _decode_simplejpeg(data, header, factor)
    if pixels is None:
        return None
    orientation = jpeg_orientation(data)
    rows, columns = (header.width, header.height) if orientation in SWAPPED else (header.height, header.width)
    turned = turn(pixels, orientation)
    return Scaled(turned, factor, rows, columns, orientation in FROM_BOTTOM, orientation in FROM_RIGHT)


def _decode_admitted(data: bytes, header: ImageHeader, settings: DecodeSettings) -> Decoded:
    pixels, decoder = _decode(data, header, settings)
    height, width = pixels.shape[:2]
    return Decoded(pixels, ImageInfo(width, height, header.format, len(data), decoder))


def _decode(data: bytes, header: ImageHeader, settings: DecodeSettings) -> tuple[Pixels, str]:
    """Ask the decoders in turn; return RGB as displayed, C-contiguous, and who has decoded it."""
    if header.format == "jpeg":
        pixels = _decode_simplejpeg(data, header)
        if pixels is not None:
            return turn(pixels, jpeg_orientation(data)), "simplejpeg"
    if header.encoding in ("rle4", "rle8"):
        return decode_bmp_rle(data, header), "score-images"
    if header.format == "heif":
        return _decode_heif(data, header, settings), "pillow-heif"
    return _decode_pillow(data, header, settings), "pillow"


def _decode_simplejpeg(data: bytes, header: ImageHeader, factor: int = 1) -> Pixels | None:
    """Decode a JPEG whose every byte is as it should be, or return None: another decoder may read it or say why not.

    CMYK is left to Pillow, which knows Adobe's inverted inks. The factor is 1, 2 or 4.
    """
    if header.components == 4:
        return None
    try:
        if factor == 1:
            full: Pixels = simplejpeg.decode_jpeg(data, "RGB")
            return full
        height, width = -(-header.height // factor), -(-header.width // factor)
        # It takes the smallest of libjpeg's scales, all of them eighths, that has this size or more.
        scaled: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
    except ValueError:
        return None
    return scaled if scaled.shape[:2] == (height, width) else None


def _decode_pillow(data: bytes, header: ImageHeader, settings: DecodeSettings) -> Pixels:
    try:
        image = _PILLOW[header.format](io.BytesIO(_without_metadata(data) if header.format == "jpeg" else data))
        _check_limits(_found(header, image), len(data), settings)
        image.load()
        _check_limits(_found(header, image), len(data), settings)
        if header.format == "png":
            mend_transparent_colour(image, header.bits)
        pixels = compose(image, header.bits, settings.background)
        orientation = jpeg_orientation(data) if header.format == "jpeg" else pillow_orientation(image)
    except ImageError:
        raise
    except Exception as error:  # on hostile bytes Pillow raises nearly every built-in exception
        raise _refusal(error, header, len(data)) from error
    return turn(pixels, orientation)


def _without_metadata(data: bytes) -> bytes:
    """Drop from a JPEG what is not needed for its pixels: Pillow would read all of EXIF, at any price, for the dpi."""
    parts, kept = [], 0
    for marker, start, end in jpeg_segments(data):
        if marker in _JPEG_METADATA:
            parts.append(data[kept : start - 4])
            kept = end
    return b"".join((*parts, data[kept:]))


def _decode_heif(data: bytes, header: ImageHeader, settings: DecodeSettings) -> Pixels:
    try:
        heif = _pillow_heif()
    except ImportError as error:
        raise ImageError(
            FailureCode.UNSUPPORTED_FORMAT,
            "heif is read only with the extra heic: pip install 'score-images[heic]'",
        ) from error
    try:
        opened = heif.open_heif(io.BytesIO(data))
        _check_limits(_found(header, opened), len(data), settings)
        image = opened.to_pillow()
        # libheif has turned the picture by the container's own tags already, which go before EXIF.
        return compose(image, 8, settings.background)
    except ImageError:
        raise
    except Exception as error:  # as for Pillow: a foreign decoder on hostile bytes
        raise _refusal(error, header, len(data)) from error


@functools.cache
def _pillow_heif() -> ModuleType:
    import pillow_heif

    pillow_heif.options.DECODE_THREADS = 1
    module: ModuleType = pillow_heif
    return module


def _found(header: ImageHeader, image: Image.Image) -> ImageHeader:
    """Return the header with the larger of the claimed and the found size: GIF frames and HEIF grids differ."""
    return header._replace(width=max(header.width, image.size[0]), height=max(header.height, image.size[1]))


def _refusal(error: Exception, header: ImageHeader, size_bytes: int) -> ImageError:
    """Say in one sentence and by a code why a decoder has refused an image."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        return _out_of_memory(header.width, header.height)
    if isinstance(error, EOFError) or re.search("truncated|not enough|unexpected end|too short", text, re.I):
        code = FailureCode.TRUNCATED_IMAGE
    elif re.search("unsupported|not supported|unknown pixel mode|cannot handle|not configured", text, re.I):
        code = FailureCode.UNSUPPORTED_FORMAT
    else:
        code = FailureCode.CORRUPT_IMAGE
    return ImageError(code, f"the {header.format} of {size_bytes} bytes cannot be decoded: {text[:300]}")
