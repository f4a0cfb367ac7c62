"""Read the tag directories of TIFF, which EXIF blocks are too, without trusting them and without copying.

A directory's entries point to their values, and nothing keeps two thousand of them from pointing to the same half
megabyte. Pillow copies each value: one gigabyte out of a file of 500 KB. So orientation is read here, for every format,
and what a directory would cost is reckoned before Pillow sees it.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from transforms.errors import FailureCode, ImageError

_ORIENTATION = 0x0112
_SUBDIRECTORIES = (0x8769, 0x8825, 0xA005)
"""EXIF, GPS and interoperability: Pillow follows these."""
_MAX_ENTRIES = 65535
"""What a classic TIFF can have; a BigTIFF claims more only to waste time."""

_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of one value, by the entry's type."""
_WHOLE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
"""The types of whole numbers, as struct names them."""
_RAW_TYPES = (1, 2, 7)
_PYTHON_NUMBER_BYTES = 64
"""What one number takes as a Python object in a tuple, rounded up."""


class Directory(NamedTuple):
    """What the first directory of a TIFF or EXIF block says."""

    first: dict[int, int]
    """The first value of each tag that has whole numbers."""
    counts: dict[int, int]
    """How many values each of them has."""
    cost: int
    """Bytes of memory that reading all values takes, the subdirectories' included."""


class _Layout(NamedTuple):
    """Where the numbers of a directory lie; classic TIFF has 32-bit offsets, BigTIFF has 64-bit ones."""

    order: str
    offset: str
    entries: str

    @property
    def entry(self) -> str:
        return f"{self.order}HH{self.offset}"


def read_directory(data: bytes | memoryview) -> Directory:
    """Read the first directory.

    Args:
        data: A TIFF file, or an EXIF block from its byte order mark on.

    Returns:
        Its numbers and its cost; entries that point outside are left out.

    Raises:
        struct.error: Where the directory itself lies outside.
        ImageError: corrupt_image where it claims more entries than any file has.
    """
    layout, at = _find_first(data)
    first: dict[int, int] = {}
    counts: dict[int, int] = {}
    for tag, kind, count, value_at in _entries(data, layout, at):
        if kind in _WHOLE and count and value_at + count * _BYTES[kind] <= len(data):
            first[tag] = struct.unpack_from(layout.order + _WHOLE[kind], data, value_at)[0]
            counts[tag] = count
    return Directory(first, counts, _cost(data, layout, at, depth=0))


def read_orientation(exif: bytes) -> int | None:
    r"""Read how a picture has to be turned.

    Args:
        exif: An EXIF block, with or without its signature.

    Returns:
        1 to 8 upright or turned, or another number that means nothing; None where the block does not say or is
        damaged, which is no reason to lose an image.

    >>> read_orientation(b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x0112, 3, 1, 6))
    6
    """
    while exif.startswith(b"Exif\x00\x00"):
        exif = exif[6:]
    try:
        layout, at = _find_first(exif)
        for tag, kind, count, value_at in _entries(exif, layout, at):
            if tag == _ORIENTATION and kind in (3, 4) and count == 1:
                (value,) = struct.unpack_from(layout.order + _WHOLE[kind], exif, value_at)
                return int(value)
    except (struct.error, ImageError):
        return None
    return None


def _find_first(data: bytes | memoryview) -> tuple[_Layout, int]:
    """Return how numbers are laid out, and where the first directory begins."""
    mark = bytes(data[:4])
    if mark in (b"II*\x00", b"MM\x00*"):
        layout, start = _Layout("<" if mark[0] == ord("I") else ">", "I", "H"), 4
    elif mark in (b"II+\x00", b"MM\x00+"):
        layout, start = _Layout("<" if mark[0] == ord("I") else ">", "Q", "Q"), 8
    else:
        raise struct.error(f"no TIFF begins with {mark!r}")
    (at,) = struct.unpack_from(layout.order + layout.offset, data, start)
    return layout, at


def _entries(data: bytes | memoryview, layout: _Layout, at: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (tag, type, count, where the values lie) of each entry of the directory at an offset."""
    if at >= len(data):
        raise struct.error(f"the directory lies at {at}, the end is at {len(data)}")
    (entries,) = struct.unpack_from(layout.order + layout.entries, data, at)
    if entries > _MAX_ENTRIES:
        raise ImageError(
            FailureCode.CORRUPT_IMAGE, f"the TIFF's directory claims {entries} entries, at most {_MAX_ENTRIES} are read"
        )
    at += struct.calcsize(layout.order + layout.entries)
    head, field = struct.calcsize(layout.entry), struct.calcsize(layout.order + layout.offset)
    for entry_at in range(at, at + entries * (head + field), head + field):
        tag, kind, count = struct.unpack_from(layout.entry, data, entry_at)
        value_at = entry_at + head
        if count * _BYTES.get(kind, 0) > field:
            (value_at,) = struct.unpack_from(layout.order + layout.offset, data, value_at)
        yield tag, kind, count, value_at


def _cost(data: bytes | memoryview, layout: _Layout, at: int, depth: int) -> int:
    cost = 0
    for tag, kind, count, value_at in _entries(data, layout, at):
        # A value that reaches over the end is not read at all.
        if kind in _BYTES and value_at + count * _BYTES[kind] <= len(data):
            # Held by the tags of the file and by those of EXIF.
            cost += 2 * count if kind in _RAW_TYPES else count * _PYTHON_NUMBER_BYTES
            if tag in _SUBDIRECTORIES and kind in _WHOLE and depth < 2:
                (below,) = struct.unpack_from(layout.order + _WHOLE[kind], data, value_at)
                try:
                    cost += _cost(data, layout, below, depth + 1)
                except struct.error:
                    continue  # it lies outside or is cut short: Pillow does not read it either
    return cost
