"""Read what an image claims to be from its first bytes, so that limits hold before anything is allocated.

A probe costs microseconds and no memory, never decodes, and goes by content: an extension says nothing. What a header
claims can be false; the claim is enough to refuse a file, and what is decoded is checked again.
"""

import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

from transforms.errors import FailureCode, ImageError
from transforms.records import FORMATS
from transforms.tiff_directories import read_directory

"""What the probe can tell by content."""


_MAX_METADATA = 10_000
"""Segments or blocks of metadata before the picture; a photo has dozens. More only serve to waste time: a comment of
64 MB in a GIF keeps Pillow busy for an hour."""
_MAX_PNG_CHUNKS = 100_000
"""A PNG of 64 MB in the usual pieces of 8 KB has 8,000."""


class ImageHeader(NamedTuple):
    """What an image claims to be."""

    format: str
    """One of FORMATS."""
    width: int
    """Pixels as stored, before any orientation; for GIF the larger of the screen and the first frame."""
    height: int
    """Pixels as stored."""
    bits: int = 8
    """Bits a sample."""
    components: int = 3
    """Samples a pixel as stored: 1 for grey or a palette, 3 for RGB or YCbCr, 4 with alpha or for CMYK."""
    scans: int = 1
    """Passes over the whole picture that decoding takes: more than 1 for progressive JPEG."""
    encoding: str = ""
    """What decides which decoder can read it: baseline, progressive, lossless for JPEG; rle4, rle8 for BMP."""
    min_bytes: int = 0
    """The least bytes that a whole file of this claim has, where that can be told; shorter files are truncated."""
    extra_bytes: int = 0
    """Memory that a decoder takes beside the picture: a TIFF's tile or strip, its list of them, and its tags."""


def probe(data: bytes) -> ImageHeader:
    """Tell an image's format, size and kind from its header.

    Args:
        data: The encoded file, whole.

    Returns:
        What the file claims.

    Raises:
        ImageError: empty_file, unsupported_format, or a header that is corrupt_image or truncated_image.

    >>> probe(b"GIF89a" + struct.pack("<HHBBB", 3, 2, 0, 0, 0) + b"," + struct.pack("<HHHHB", 0, 0, 3, 2, 0))[:3]
    ('gif', 3, 2)
    """
    if not data:
        raise ImageError(FailureCode.EMPTY_FILE, "the file is empty, 0 bytes")
    read = _reader(data)
    try:
        header = read(data)
    except (struct.error, IndexError, OverflowError) as error:  # reads past the end, offsets beyond 64 bits
        raise ImageError(
            FailureCode.TRUNCATED_IMAGE, f"the file ends after {len(data)} bytes, inside its header"
        ) from error
    if header.width < 1 or header.height < 1:
        _corrupt(f"the {header.format} header claims {header.width}x{header.height} pixels, at least 1x1 is needed")
    return header


def _reader(data: bytes) -> Callable[[bytes], ImageHeader]:
    for signature, read in _SIGNATURES:
        if data.startswith(signature):
            return read
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _read_webp
    if data[4:8] == b"ftyp":
        return _read_heif
    raise ImageError(
        FailureCode.UNSUPPORTED_FORMAT,
        f"the file begins with {data[:12]!r}, which is none of {', '.join(FORMATS)}",
    )


def _corrupt(message: str) -> NoReturn:
    raise ImageError(FailureCode.CORRUPT_IMAGE, message)


def _unsupported(message: str) -> NoReturn:
    raise ImageError(FailureCode.UNSUPPORTED_FORMAT, message)


def _truncated(message: str) -> NoReturn:
    raise ImageError(FailureCode.TRUNCATED_IMAGE, message)


# JPEG: ITU T.81, annex B.

_JPEG_FRAMES = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive", 0xC3: "lossless"}
_JPEG_ARITHMETIC = {0xC9: "arithmetic", 0xCA: "progressive arithmetic"}
_JPEG_MARKER = re.compile(rb"\xff+[^\xff]", re.DOTALL)
_JPEG_OTHER_FRAMES = frozenset({0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF})


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Walk the marker segments of a JPEG up to its first scan.

    Yields:
        (marker, start, end) of each payload, the scan's header (0xDA) last.

    Raises:
        ImageError: truncated_image or corrupt_image where the walk cannot go on.
    """
    at = 2
    for _ in range(_MAX_METADATA):
        # Like libjpeg, step over junk between segments and over fill bytes.
        match = _JPEG_MARKER.search(data, at)
        if match is None:
            _truncated(f"the JPEG ends after {len(data)} bytes, before its first scan")
        marker = match[0][-1]
        at = match.end()
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            continue
        if marker == 0xD9:
            _corrupt("the JPEG has an end marker before its first scan")
        (length,) = struct.unpack_from(">H", data, at)
        if length < 2:
            _corrupt(f"the JPEG has a segment 0xFF{marker:02X} of length {length}, at least 2 is needed")
        yield marker, at + 2, at + length
        if marker == 0xDA:
            return
        at += length
    _corrupt(f"the JPEG has more than {_MAX_METADATA} segments before its first scan")


def _read_jpeg(data: bytes) -> ImageHeader:
    frame: ImageHeader | None = None
    for marker, start, _ in jpeg_segments(data):
        if marker in _JPEG_OTHER_FRAMES:
            _unsupported(f"JPEG with frame type 0xFF{marker:02X} (differential or arithmetic lossless) is not read")
        if marker in _JPEG_FRAMES or marker in _JPEG_ARITHMETIC:
            if frame is not None:
                _corrupt("the JPEG has two frame headers")
            bits, height, width, components = struct.unpack_from(">BHHB", data, start)
            encoding = _JPEG_FRAMES.get(marker) or _JPEG_ARITHMETIC[marker]
            if bits != 8:
                _unsupported(f"the JPEG has {bits} bits a sample, only 8 are read")
            if components not in (1, 3, 4):
                _unsupported(f"the JPEG has {components} components, only 1, 3 and 4 are read")
            # Each 8x8 block of the component with the highest resolution takes at least one bit.
            min_bytes = 0 if "arithmetic" in encoding else width * height // 512
            frame = ImageHeader("jpeg", width, height, bits, components, 1, encoding, min_bytes)
        if marker == 0xDA:
            if frame is None:
                _corrupt("the JPEG has a scan before its frame header")
            if frame.encoding.startswith("progressive") or data[start] < frame.components:
                # Scans can only begin with this marker: inside compressed data 0xFF is always followed by 0x00.
                return frame._replace(scans=1 + data.count(b"\xff\xda", start))
            return frame
    _corrupt("the JPEG has no frame header")


# PNG: the W3C's third edition, section 11.2.1.

_PNG_COMPONENTS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def _read_png(data: bytes) -> ImageHeader:
    if len(data) < 33:
        _truncated(f"the PNG ends after {len(data)} bytes, inside its header of 33")
    length, name, width, height, bits, colour = struct.unpack_from(">I4sIIBB", data, 8)
    if name != b"IHDR" or length != 13:
        _corrupt(f"the PNG begins with a chunk {name!r} of {length} bytes, IHDR of 13 is needed")
    if colour not in _PNG_COMPONENTS or bits not in (1, 2, 4, 8, 16):
        _corrupt(f"the PNG claims colour type {colour} with {bits} bits a sample")
    if max(width, height) > 0x7FFFFFFF:
        _corrupt(f"the PNG claims {width}x{height} pixels, the format allows 2147483647 each way")
    components = _PNG_COMPONENTS[colour]
    chunks, at = 0, 33
    while at + 8 <= len(data):
        at += 12 + struct.unpack_from(">I", data, at)[0]
        chunks += 1
        if chunks > _MAX_PNG_CHUNKS:
            _corrupt(f"the PNG has more than {_MAX_PNG_CHUNKS} chunks")
    # Deflate shrinks by 1032 to 1 at most.
    min_bytes = height * ((width * bits * components + 7) // 8) // 1032
    return ImageHeader("png", width, height, bits, components, min_bytes=min_bytes)


# GIF: the specification of GIF89a.


def _read_gif(data: bytes) -> ImageHeader:
    screen_width, screen_height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13
    if flags & 0x80:
        at += 3 << ((flags & 7) + 1)
    blocks = 0
    while data[at] == 0x21:
        at += 2
        while data[at]:
            at += 1 + data[at]
            blocks += 1
            if blocks > _MAX_METADATA:
                _corrupt(f"the GIF has more than {_MAX_METADATA} blocks of metadata before its first frame")
        at += 1
    if data[at] != 0x2C:
        _corrupt(f"the GIF has a block 0x{data[at]:02X} where its first frame is due")
    left, top, width, height = struct.unpack_from("<HHHH", data, at + 1)
    if width < 1 or height < 1:
        _corrupt(f"the GIF's first frame has {width}x{height} pixels, at least 1x1 is needed")
    return ImageHeader("gif", max(screen_width, left + width), max(screen_height, top + height), 8, 1)


# WebP: RFC 9649.


def _read_webp(data: bytes) -> ImageHeader:
    (riff_bytes,) = struct.unpack_from("<I", data, 4)
    kind = data[12:16]
    if kind == b"VP8X":
        flags, width, height = data[20], _uint24(data, 24) + 1, _uint24(data, 27) + 1
        return ImageHeader("webp", width, height, 8, 4 if flags & 0x10 else 3, 1, "extended", riff_bytes + 8)
    if kind == b"VP8L":
        signature, packed = struct.unpack_from("<BI", data, 20)
        if signature != 0x2F:
            _corrupt(f"the lossless WebP has signature 0x{signature:02X}, 0x2F is due")
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
        return ImageHeader("webp", width, height, 8, 4, 1, "lossless", riff_bytes + 8)
    if kind == b"VP8 ":
        signature, width, height = struct.unpack_from("<3sHH", data, 23)
        if signature != b"\x9d\x01\x2a":
            _corrupt(f"the lossy WebP has start code {signature!r}, b'\\x9d\\x01*' is due")
        return ImageHeader("webp", width & 0x3FFF, height & 0x3FFF, 8, 3, 1, "lossy", riff_bytes + 8)
    if len(data) < 30:
        _truncated(f"the WebP ends after {len(data)} bytes, inside its header")
    _corrupt(f"the WebP begins with a chunk {kind!r}, VP8, VP8L or VP8X is due")


def _uint24(data: bytes, at: int) -> int:
    low, high = struct.unpack_from("<HB", data, at)
    return int(low | high << 16)


# BMP: BITMAPFILEHEADER and the headers of Windows (12, 40 to 124 bytes) and OS/2 (16, 64).

_BMP_ENCODINGS = {0: "", 1: "rle8", 2: "rle4", 3: "bitfields", 6: "bitfields"}


def _read_bmp(data: bytes) -> ImageHeader:
    pixels_at, header_bytes = struct.unpack_from("<II", data, 10)
    compression = 0
    if header_bytes == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    elif header_bytes in (40, 52, 56, 64, 108, 124):
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    else:
        _unsupported(f"the BMP has an information header of {header_bytes} bytes, which is of no known kind")
    height = abs(height)
    if compression not in _BMP_ENCODINGS or bits not in (1, 2, 4, 8, 16, 24, 32):
        _unsupported(f"the BMP has compression {compression} with {bits} bits a pixel, which is not read")
    if header_bytes == 64 and compression == 3:
        _unsupported("the BMP is compressed by OS/2's Huffman coding, which is not read")
    encoding = _BMP_ENCODINGS[compression]
    min_bytes = 0
    if encoding in ("", "bitfields"):
        # Rows are padded to 4 bytes; the last row's padding may be missing.
        min_bytes = pixels_at + (width * bits + 31) // 32 * 4 * (height - 1) + (width * bits + 7) // 8
    return ImageHeader("bmp", width, height, bits, 1 if bits <= 8 else 3, 1, encoding, min_bytes)


# TIFF 6.0 and BigTIFF.

_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_SAMPLES = 256, 257, 258, 277
_TIFF_STRIPS, _TIFF_ROWS_A_STRIP, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT, _TIFF_TILES = 273, 278, 322, 323, 324
_TIFF_BLOCK_BYTES = 1024
"""What Pillow's Python objects for one tile or strip take, rounded up."""


def _read_tiff(data: bytes) -> ImageHeader:
    tags, counts, cost = read_directory(data)
    if _TIFF_WIDTH not in tags or _TIFF_HEIGHT not in tags:
        _corrupt("the TIFF's first directory has no width or no height")
    width, height = tags[_TIFF_WIDTH], tags[_TIFF_HEIGHT]
    bits, samples = tags.get(_TIFF_BITS, 1), tags.get(_TIFF_SAMPLES, 1)
    if _TIFF_TILE_WIDTH in tags:
        block_pixels = tags[_TIFF_TILE_WIDTH] * tags.get(_TIFF_TILE_HEIGHT, 0)
    else:
        block_pixels = width * min(height, tags.get(_TIFF_ROWS_A_STRIP, height))
    blocks = max(counts.get(_TIFF_STRIPS, 0), counts.get(_TIFF_TILES, 0))
    extra_bytes = block_pixels * samples * bits // 8 + blocks * _TIFF_BLOCK_BYTES + cost
    return ImageHeader("tiff", width, height, bits, samples, extra_bytes=extra_bytes)


# AVIF and HEIF: ISO 14496-12 boxes, ISO 23008-12 image properties.

_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_HEIF_PATH = ((b"meta", 12), (b"iprp", 8), (b"ipco", 8))
"""The boxes that lead to the pictures' properties, from the outermost, and the bytes before their first child."""
_TIFF_START = re.compile(rb"II\*\x00|MM\x00\*")
_MAX_TIFF_STARTS = 16


def _read_heif(data: bytes) -> ImageHeader:
    (ftyp_bytes,) = struct.unpack_from(">I", data)
    brands = {data[at : at + 4] for at in (8, *range(16, min(ftyp_bytes, 4096), 4))}
    if brands & {b"avif", b"avis"}:
        name = "avif"
    elif brands & _HEIF_BRANDS:
        name = "heif"
    else:
        _unsupported(f"the file is an ISO media file of brand {data[8:12]!r} (a video?), only avif and heif are read")
    # Tiles and thumbnails have sizes too: the largest is the picture's.
    width, height, bits = 0, 0, 8
    for kind, at in _heif_properties(data, 0, len(data), 0):
        if kind == b"ispe":
            width, height = max(
                (width, height), struct.unpack_from(">II", data, at + 4), key=lambda size: size[0] * size[1]
            )
        elif kind == b"av1C":
            bits = max(bits, 10 if data[at + 2] & 0x40 else 8)
        elif kind == b"hvcC":
            bits = max(bits, 8 + (data[at + 17] & 7))
    if not width:
        _truncated(f"the {name} file tells no image size in its {len(data)} bytes")
    return ImageHeader(name, width, height, bits, extra_bytes=_exif_cost(data))


def _exif_cost(data: bytes) -> int:
    """Reckon what Pillow's reading of EXIF costs, wherever in the file it may lie."""
    cost = 0
    for found, match in enumerate(_TIFF_START.finditer(data)):
        if found == _MAX_TIFF_STARTS:
            _corrupt(f"the file has more than {_MAX_TIFF_STARTS} EXIF blocks")
        try:
            cost += read_directory(memoryview(data)[match.start() :]).cost
        except struct.error:
            continue  # no directory after all: compressed data can hold these four bytes by chance
    return cost


def _heif_properties(data: bytes, at: int, end: int, depth: int) -> Iterator[tuple[bytes, int]]:
    """Walk the boxes; yield the kind of each property and where its payload starts."""
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
        elif size == 0:
            size = end - at
        if size < 8:
            return
        if depth == len(_HEIF_PATH):
            yield kind, at + 8
        elif kind == _HEIF_PATH[depth][0]:
            yield from _heif_properties(data, at + _HEIF_PATH[depth][1], min(at + size, end), depth + 1)
        at += size


_SIGNATURES: tuple[tuple[bytes, Callable[[bytes], ImageHeader]], ...] = (
    (b"\xff\xd8", _read_jpeg),
    (b"\x89PNG\r\n\x1a\n", _read_png),
    (b"GIF87a", _read_gif),
    (b"GIF89a", _read_gif),
    (b"BM", _read_bmp),
    (b"II*\x00", _read_tiff),
    (b"MM\x00*", _read_tiff),
    (b"II+\x00", _read_tiff),
    (b"MM\x00+", _read_tiff),
)
