"""The probe: what every format's header says, and that no bytes whatever bring it down."""

import struct
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.image_files import bmp_header, box, encode, frame, gif, heif, item_size, jpeg, png_header, scan, tiff
from transforms.errors import FailureCode, ImageError
from transforms.headers import ImageHeader, probe
from transforms.records import FORMATS

RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
RGBA = RGB.convert("RGBA")


def refusal(data: bytes) -> ImageError:
    """Return the error that the probe raises."""
    with pytest.raises(ImageError) as caught:
        probe(data)
    return caught.value


WHOLE = {
    "jpeg": encode(RGB, "JPEG"),
    "jpeg grey": encode(RGB.convert("L"), "JPEG"),
    "jpeg cmyk": encode(RGB.convert("CMYK"), "JPEG"),
    "jpeg progressive": encode(RGB, "JPEG", progressive=True),
    "png": encode(RGB, "PNG"),
    "png alpha": encode(RGBA, "PNG"),
    "png palette": encode(RGB.quantize(4), "PNG"),
    "png 16 bit": encode(Image.fromarray(np.zeros((5, 7), np.uint16)), "PNG"),
    "gif": encode(RGB, "GIF"),
    "webp lossy": encode(RGB, "WEBP"),
    "webp lossless": encode(RGB, "WEBP", lossless=True),
    "webp extended": encode(RGBA, "WEBP", exif=b"Exif\0\0" + bytes(8)),
    "bmp": encode(RGB, "BMP"),
    "bmp palette": encode(RGB.quantize(4), "BMP"),
    "tiff": encode(RGB, "TIFF"),
    "tiff deflate": encode(RGB, "TIFF", compression="tiff_adobe_deflate"),
    "bigtiff": encode(RGB, "TIFF", big_tiff=True),
    "avif": encode(RGB, "AVIF"),
}

HEADERS = [
    ("jpeg", ImageHeader("jpeg", 7, 5, 8, 3, 1, "baseline")),
    ("jpeg grey", ImageHeader("jpeg", 7, 5, 8, 1, 1, "baseline")),
    ("jpeg cmyk", ImageHeader("jpeg", 7, 5, 8, 4, 1, "baseline")),
    # libjpeg's script for three components has ten scans.
    ("jpeg progressive", ImageHeader("jpeg", 7, 5, 8, 3, 10, "progressive")),
    ("png", ImageHeader("png", 7, 5, 8, 3)),
    ("png alpha", ImageHeader("png", 7, 5, 8, 4)),
    ("png palette", ImageHeader("png", 7, 5, 2, 1)),
    ("png 16 bit", ImageHeader("png", 7, 5, 16, 1)),
    ("gif", ImageHeader("gif", 7, 5, 8, 1)),
    ("webp lossy", ImageHeader("webp", 7, 5, 8, 3, 1, "lossy")),
    ("webp lossless", ImageHeader("webp", 7, 5, 8, 4, 1, "lossless")),
    ("webp extended", ImageHeader("webp", 7, 5, 8, 3, 1, "extended")),
    ("bmp", ImageHeader("bmp", 7, 5, 24, 3)),
    ("bmp palette", ImageHeader("bmp", 7, 5, 8, 1)),
    # One strip of 7 * 5 * 3 bytes, the object that stands for it, and 12 numbers in 10 tags.
    ("tiff", ImageHeader("tiff", 7, 5, 8, 3, extra_bytes=7 * 5 * 3 + 1024 + 12 * 64)),
    ("bigtiff", ImageHeader("tiff", 7, 5, 8, 3, extra_bytes=7 * 5 * 3 + 1024 + 12 * 64)),
    ("avif", ImageHeader("avif", 7, 5, 8, 3)),
]


@pytest.mark.parametrize(("name", "expected"), HEADERS, ids=[name for name, _ in HEADERS])
def test_header_of_each_format_is_read(name: str, expected: ImageHeader) -> None:
    """Format, size, depth and kind are what the encoder has written."""
    header = probe(WHOLE[name])
    assert header._replace(min_bytes=0) == expected


@pytest.mark.parametrize("name", WHOLE)
def test_whole_file_is_not_shorter_than_its_least(name: str) -> None:
    """The least length that a header stands for never refuses a file that is whole."""
    assert probe(WHOLE[name]).min_bytes <= len(WHOLE[name])


@pytest.mark.parametrize(
    ("name", "options"), [("JPEG", {"quality": 1}), ("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})]
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_best_compressed_picture_is_not_shorter_than_its_least(name: str, options: dict[str, int], mode: str) -> None:
    """One colour all over is the shortest file an encoder makes of a size; it still counts as whole."""
    data = encode(Image.new(mode, (2000, 1500)), name, **options)
    assert 0 < probe(data).min_bytes <= len(data)


@pytest.mark.parametrize("name", WHOLE)
def test_every_beginning_of_a_file_is_a_header_or_a_refusal(name: str) -> None:
    """Cut anywhere, a file has its header still, or is refused as cut short or unknown, never as anything else."""
    data = WHOLE[name]
    for end in range(len(data)):
        try:
            found: object = probe(data[:end])[:3]
        except ImageError as error:
            found = error.code
        whole = (name.split()[0].removeprefix("big"), 7, 5)
        unknown = FailureCode.UNSUPPORTED_FORMAT if end else FailureCode.EMPTY_FILE
        assert found in ((whole, FailureCode.TRUNCATED_IMAGE) if end >= 12 else (unknown, FailureCode.TRUNCATED_IMAGE))


@given(st.sampled_from(sorted(WHOLE)), st.integers(0, 64), st.binary(min_size=1, max_size=40))
def test_no_bytes_bring_the_probe_down(name: str, at: int, noise: bytes) -> None:
    """Noise anywhere near the start gives a header with a size, or an ImageError, in no time."""
    data = WHOLE[name][:at] + noise + WHOLE[name][at + len(noise) :]
    try:
        header = probe(data)
    except ImageError:
        return
    assert header.format in FORMATS
    assert header.width >= 1
    assert header.height >= 1


NOT_READ = [
    # Not images, whatever their names say.
    (b"<!DOCTYPE html><html>404", "unsupported_format"),
    (b"PK\x03\x04" + bytes(40), "unsupported_format"),
    (b"%!PS-Adobe-3.0 EPSF-3.0", "unsupported_format"),
    (b"\xef\xbb\xbf" + WHOLE["jpeg"], "unsupported_format"),
    # ISO media, but a video.
    (box(b"ftyp", b"isom" + bytes(4) + b"mp42"), "unsupported_format"),
    # JPEG XL and a name without a payload.
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "unsupported_format"),
    (b"BM", "truncated_image"),
    (b"BMW is not a bitmap but a make of cars", "unsupported_format"),
    # JPEG: depth, components and frames that no photo has.
    (jpeg((0xC1, frame(bits=12)), (0xDA, scan())), "unsupported_format"),
    (jpeg((0xC0, frame(components=2)), (0xDA, scan(2))), "unsupported_format"),
    (jpeg((0xCB, frame()), (0xDA, scan())), "unsupported_format"),
    # JPEG: order of segments.
    (jpeg((0xDA, scan())), "corrupt_image"),
    (jpeg((0xC0, frame()), (0xC0, frame()), (0xDA, scan())), "corrupt_image"),
    (b"\xff\xd8\xff\xd9", "corrupt_image"),
    (b"\xff\xd8\xff\xe0\x00\x01", "corrupt_image"),
    (b"\xff\xd8" + bytes(500), "truncated_image"),
    (jpeg((0xC0, frame())), "truncated_image"),
    # No pixels.
    (jpeg((0xC0, frame(width=0)), (0xDA, scan())), "corrupt_image"),
    (png_header(0, 5), "corrupt_image"),
    (bmp_header(-7, 5), "corrupt_image"),
    (gif((10, 10), (0, 0, 0, 5)), "corrupt_image"),
    (tiff((256, 4, 1, 0), (257, 4, 1, 5)), "corrupt_image"),
    # PNG: more than the format allows, a colour type that does not exist, another chunk first.
    (png_header(2**31, 5), "corrupt_image"),
    (png_header(7, 5, colour=5), "corrupt_image"),
    (png_header(7, 5, name=b"gAMA"), "corrupt_image"),
    # GIF without a frame.
    (gif((10, 10), (0, 0, 10, 10)).replace(b",", b";"), "corrupt_image"),
    # WebP: chunks and start codes.
    (b"RIFF\x40\x00\x00\x00WEBPJUNK" + bytes(40), "corrupt_image"),
    (b"RIFF\x40\x00\x00\x00WEBPVP8L" + bytes(40), "corrupt_image"),
    (b"RIFF\x40\x00\x00\x00WEBPVP8 " + bytes(40), "corrupt_image"),
    # BMP: JPEG inside, the header of another age, OS/2's Huffman.
    (bmp_header(7, 5, compression=4), "unsupported_format"),
    (bmp_header(7, 5, header_bytes=16), "unsupported_format"),
    (bmp_header(7, 5, bits=1, compression=3, header_bytes=64), "unsupported_format"),
    # TIFF without a size, and one whose directory lies outside.
    (tiff((258, 3, 1, 8)), "corrupt_image"),
    (b"II*\x00\xff\xff\xff\x7f", "truncated_image"),
    (b"II+\x00\x08\x00\x00\x00" + b"\xff" * 8, "truncated_image"),
    (heif(b"avif"), "truncated_image"),
]


@pytest.mark.parametrize(("data", "code"), NOT_READ, ids=range(len(NOT_READ)))
def test_what_is_no_readable_image_is_refused_by_its_code(data: bytes, code: str) -> None:
    """Each refusal has the code that an operator would look for, and says it in one sentence."""
    error = refusal(data)
    assert error.code == code
    assert len(error.message) > 20
    assert "\n" not in error.message


def test_empty_file_is_said_to_be_empty() -> None:
    """Zero bytes are a failure of their own: an upload that never finished."""
    assert str(refusal(b"")) == "empty_file: the file is empty, 0 bytes"


def test_unknown_bytes_are_shown_with_what_would_be_read() -> None:
    """The message shows the first bytes, so that an HTML error page named .jpg is seen at a glance."""
    assert refusal(b"<!DOCTYPE html>").message == (
        "the file begins with b'<!DOCTYPE ht', which is none of jpeg, png, gif, webp, bmp, tiff, avif, heif"
    )


def test_thumbnail_inside_metadata_is_not_taken_for_the_picture() -> None:
    """An EXIF thumbnail is a whole JPEG inside a segment; its frame is stepped over."""
    thumbnail = jpeg((0xC0, frame(2, 2)), (0xDA, scan()))
    data = jpeg((0xE1, b"Exif\0\0" + thumbnail), (0xC0, frame(7, 5)), (0xDA, scan()))
    assert probe(data)[:3] == ("jpeg", 7, 5)


def test_junk_and_fill_bytes_between_segments_are_stepped_over() -> None:
    """Such files are read by libjpeg, so the probe reads them."""
    data = jpeg((0xE0, b"JFIF\0"), (0xC0, frame()), (0xDA, scan())).replace(b"\xff\xc0", b"\0\0\xff\xff\xff\xc0")
    assert probe(data)[:3] == ("jpeg", 7, 5)


def test_scans_are_counted_where_each_costs_a_pass() -> None:
    """Progressive scans, and sequential ones of single components, are counted; one with all components is one."""
    assert probe(jpeg((0xC2, frame()), *[(0xDA, scan())] * 6)).scans == 6
    assert probe(jpeg((0xC0, frame()), *[(0xDA, scan(1))] * 3)).scans == 3
    assert probe(jpeg((0xC0, frame()), (0xDA, scan()))).scans == 1


def test_first_gif_frame_outside_the_screen_enlarges_it() -> None:
    """Pillow's canvas grows to hold the frame, so the guard has to see the larger size."""
    assert probe(gif((32, 32), (10, 65000, 30, 600)))[:3] == ("gif", 40, 65600)


def test_gif_frame_is_found_behind_extensions() -> None:
    """Comments and application blocks of any number and length come before the frame."""
    extensions = b"!\xfe\x03abc\x02de\x00" + b"!\xf9\x04\x00\x00\x00\x00\x00"
    assert probe(gif((9, 8), (0, 0, 9, 8), extensions))[:3] == ("gif", 9, 8)


def test_top_down_bmp_has_a_positive_height() -> None:
    """A negative height means the order of rows."""
    assert probe(bmp_header(7, -5))[:3] == ("bmp", 7, 5)


@pytest.mark.parametrize(
    ("header_bytes", "compression", "bits", "encoding"),
    [(40, 1, 8, "rle8"), (40, 2, 4, "rle4"), (124, 3, 16, "bitfields"), (64, 0, 1, "")],
)
def test_encoding_of_a_bmp_is_told(header_bytes: int, compression: int, bits: int, encoding: str) -> None:
    """It decides who decodes."""
    assert probe(bmp_header(7, 5, bits, compression, header_bytes)).encoding == encoding


def test_old_bmp_header_of_12_bytes_is_read() -> None:
    """OS/2 1.x has 16-bit sizes."""
    data = b"BM" + struct.pack("<IIIIHHHH", 0, 0, 26, 12, 7, 5, 1, 8) + bytes(100)
    assert probe(data)[:5] == ("bmp", 7, 5, 8, 1)


def test_tile_and_table_of_a_tiff_count_as_memory() -> None:
    """A small TIFF can claim a huge tile, or a million strips; both cost memory that the size does not tell."""
    size_tags = ((256, 4, 1, 10), (257, 4, 1, 10), (258, 3, 1, 8), (277, 3, 1, 1))
    assert probe(tiff(*size_tags, (322, 4, 1, 60000), (323, 4, 1, 50000))).extra_bytes > 60000 * 50000
    strips = tiff(*size_tags, (273, 4, 10**6, 8), (278, 4, 1, 10)) + bytes(4 * 10**6)
    assert probe(strips).extra_bytes > 10**6 * 1024


def test_big_endian_tiff_is_read() -> None:
    """SHORT values lie in the first two bytes of their field, whatever the order."""
    data = tiff((256, 3, 1, 7 << 16), (257, 3, 1, 5 << 16), order=">")
    assert probe(data)[:3] == ("tiff", 7, 5)


def test_size_of_a_heif_is_its_largest_item() -> None:
    """Tiles and thumbnails are items with sizes too."""
    assert probe(heif(b"heic", item_size(512, 512), item_size(4032, 3024), item_size(240, 320)))[:3] == (
        "heif",
        4032,
        3024,
    )


@pytest.mark.parametrize(
    ("codec", "bits"),
    [
        (box(b"av1C", b"\x81\x00\x00\x00"), 8),
        (box(b"av1C", b"\x81\x00\x40\x00"), 10),
        (box(b"hvcC", bytes(17) + b"\xfa" + bytes(5)), 10),
        (box(b"hvcC", bytes(17) + b"\xf8" + bytes(5)), 8),
    ],
    ids=["av1 8", "av1 10", "hevc 10", "hevc 8"],
)
def test_depth_of_a_heif_is_its_codecs(codec: bytes, bits: int) -> None:
    """More than 8 bits doubles the memory of the planes."""
    assert probe(heif(b"avif", item_size(7, 5), codec)).bits == bits


def directory(entries: int, size_bytes: int) -> bytes:
    """Return an EXIF block with many tags that all point to the same bytes."""
    tags = [(1000 + i, 7, size_bytes, 8) for i in range(entries)]
    return tiff(*tags).ljust(size_bytes + 8, b"\0")


def test_tags_that_share_their_bytes_count_each_for_itself() -> None:
    """Pillow copies every value: 500 KB of tags on top of each other would become 1 GB."""
    size_tags = ((256, 4, 1, 10), (257, 4, 1, 10))
    shared = tiff(*size_tags, *[(1000 + i, 7, 500_000, 8) for i in range(2000)]) + bytes(500_000)
    assert probe(shared).extra_bytes > 10**9
    below = tiff(*size_tags, (0x8769, 4, 1, 54)).ljust(54, b"\0") + directory(500, 100_000)[8:]
    assert probe(below).extra_bytes > 5 * 10**7


def test_exif_of_an_avif_counts_wherever_it_lies() -> None:
    """Pillow reads the EXIF block of an AVIF while it opens the file, before anything can be checked."""
    data = heif(b"avif", item_size(7, 5))
    assert probe(data + directory(2000, 500_000)).extra_bytes > 10**9
    assert probe(data + b"II*\0 by chance").extra_bytes == 0
    assert refusal(data + b"MM\0*" * 17).code == FailureCode.CORRUPT_IMAGE


METADATA_WITHOUT_END = [
    # JPEG segments, GIF comment blocks, PNG chunks, BigTIFF entries: each costs Pillow Python time
    jpeg(*[(0xE5, b"")] * 10_001, (0xC0, frame()), (0xDA, scan())),
    gif((7, 5), (0, 0, 7, 5), b"!\xfe" + b"\x01a" * 10_001 + b"\0"),
    png_header(7, 5) + bytes(12) * 100_001,
    b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 65536) + bytes(20 * 65536),
]


@pytest.mark.parametrize("data", METADATA_WITHOUT_END, ids=["jpeg", "gif", "png", "bigtiff"])
def test_metadata_without_end_is_refused(data: bytes) -> None:
    """Millions of tiny blocks before the picture serve only to waste time."""
    error = refusal(data)
    assert error.code == FailureCode.CORRUPT_IMAGE
    assert "more than" in error.message or "claims 65536 entries" in error.message


def test_boxes_inside_boxes_without_end_are_not_followed() -> None:
    """Nested boxes of the wrong kinds neither recurse nor loop."""
    nested = b""
    for _ in range(5000):
        nested = box(b"meta", bytes(4) + nested)
    assert refusal(box(b"ftyp", b"avif" + bytes(4)) + nested).code == FailureCode.TRUNCATED_IMAGE


def test_probe_is_fast_on_a_large_file() -> None:
    """Ten megabytes behind the header cost nothing."""
    data = WHOLE["jpeg"] + bytes(10_000_000)
    started = time.perf_counter()
    for _ in range(100):
        probe(data)
    assert time.perf_counter() - started < 0.5
