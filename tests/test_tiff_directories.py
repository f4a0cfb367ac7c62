"""Tag directories of TIFF and EXIF: orientation as Pillow reads it, and no bytes that bring the reader down."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.image_files import exif, tiff
from transforms.errors import ImageError
from transforms.tiff_directories import read_directory, read_orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_what_pillow_has_written(orientation: int) -> None:
    """With and without EXIF's signature, however often it is repeated."""
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010E] = "a description that does not fit into its entry"
    written = block.tobytes()
    assert read_orientation(written) == orientation
    assert read_orientation(b"Exif\0\0" + written) == orientation
    assert read_orientation(written.removeprefix(b"Exif\0\0")) == orientation


ODD_BLOCKS = [
    (b"", None),
    (b"Exif\0\0", None),
    (b"no order mark at all", None),
    (exif(6)[:-8], None),  # cut inside the entry
    (exif(6)[:-4], 6),  # the pointer to the next directory is missing
    (exif(6, kind=4), 6),  # LONG instead of SHORT
    (exif(6, kind=2), None),  # ASCII "6"
    (tiff((0x0112, 3, 2, 6)), None),  # two values
    (tiff((0x0112, 3, 1, 6 << 16), order=">"), 6),  # big endian
    (tiff((0x0111, 3, 1, 6)), None),  # another tag
    (tiff((0x010F, 2, 10**6, 10**6), (0x0112, 3, 1, 8)), 8),  # behind a tag that points outside
    (b"II*\0" + struct.pack("<I", 2**32 - 1), None),  # a directory outside
]


@pytest.mark.parametrize(("block", "orientation"), ODD_BLOCKS, ids=range(len(ODD_BLOCKS)))
def test_odd_blocks_say_what_can_be_read_of_them(block: bytes, orientation: int | None) -> None:
    """Damage costs the orientation only where it hits it."""
    assert read_orientation(block) == orientation


@given(st.binary(max_size=200))
def test_no_bytes_bring_the_reader_down(noise: bytes) -> None:
    """Noise behind an order mark is read, or refused as lying outside."""
    for mark in (b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0\x10" + bytes(7)):
        read_orientation(mark + noise)
        try:
            directory = read_directory(mark + noise)
        except (struct.error, ImageError):
            continue
        assert directory.cost >= 0


def test_numbers_and_their_counts_are_read() -> None:
    """The first value of an array, and how many there are; entries that point outside are left out."""
    block = tiff((256, 3, 1, 640), (273, 4, 3, 50), (279, 4, 3, 5000)).ljust(50, b"\0") + struct.pack("<3I", 7, 8, 9)
    directory = read_directory(block)
    assert directory.first == {256: 640, 273: 7}
    assert directory.counts == {256: 1, 273: 3}
    assert directory.cost == 4 * 64


def test_directories_that_point_to_themselves_are_followed_twice_at_most() -> None:
    """An EXIF pointer back to the first directory does not recurse."""
    assert read_directory(tiff((0x8769, 4, 1, 8))).cost == 3 * 64
