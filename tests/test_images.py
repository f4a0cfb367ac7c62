"""From bytes to pixels: every format as it is displayed, every refusal by its code, within limits."""

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from tests.image_files import encode, exif, frame, jpeg, png_chunk, scan, tiff
from transforms import composing, images
from transforms.errors import ImageError
from transforms.headers import probe
from transforms.images import Decoded, decode_cost, decode_image, load_image
from transforms.resizing import fit
from transforms.settings import DecodeSettings, PreprocessSettings

Pixels = npt.NDArray[np.uint8]

# What Pillow warns of is ignored for the process when images.py is imported; pytest starts each test afresh.
pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\.")

DEFAULTS = DecodeSettings()
GREEN = DecodeSettings(background=(0, 255, 0))


def photo(height: int = 48, width: int = 64) -> Image.Image:
    """Return a smooth picture in which up, down, left and right differ."""
    corners = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC)


def decode(data: bytes, settings: DecodeSettings = DEFAULTS) -> Decoded:
    """Decode and check what holds for every image."""
    decoded = decode_image(data, settings)
    height, width, channels = decoded.pixels.shape
    assert (decoded.info.width, decoded.info.height, decoded.info.size_bytes, channels) == (width, height, len(data), 3)
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.c_contiguous
    return decoded


def refusal(data: bytes, settings: DecodeSettings = DEFAULTS) -> ImageError:
    """Return the error that decoding raises."""
    with pytest.raises(ImageError) as caught:
        decode_image(data, settings)
    assert "\n" not in caught.value.message
    return caught.value


def with_exif(data: bytes, block: bytes) -> bytes:
    """Put an APP1 segment behind a JPEG's start marker."""
    return data[:2] + struct.pack(">HH", 0xFFE1, len(block) + 2) + block + data[2:]


def png(bits: int, colour: int, rows: bytes, *chunks: bytes, size: tuple[int, int] = (2, 1)) -> bytes:
    """Return a PNG of raw rows, each with its filter byte."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0))
    body = b"".join(chunks) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


RGB = photo()
JPEG = encode(RGB, "JPEG")


class TestFormats:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("PNG", {}),
            ("BMP", {}),
            ("TIFF", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("TIFF", {"big_tiff": True}),
            ("WEBP", {"lossless": True}),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
    def test_lossless_formats_keep_every_pixel(self, name: str, options: dict[str, object], mode: str) -> None:
        """Colour, grey, black and white, and palettes come back as RGB."""
        image = RGB.quantize(16) if mode == "P" else RGB.convert(mode)
        decoded = decode(encode(image.convert("RGB") if name == "WEBP" else image, name, **options))
        np.testing.assert_array_equal(decoded.pixels, image.convert("RGB"))
        assert (decoded.info.format, decoded.info.decoder) == (name.lower(), "pillow")

    @pytest.mark.parametrize("mode", ["RGB", "L"])
    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
    def test_jpeg_equals_pillow_to_the_last_bit(self, mode: str, options: dict[str, object]) -> None:
        """Simplejpeg and Pillow carry the same libjpeg-turbo, with the accurate transform in both."""
        data = encode(RGB.convert(mode), "JPEG", **options)
        decoded = decode(data)
        np.testing.assert_array_equal(decoded.pixels, Image.open(io.BytesIO(data)).convert("RGB"))
        assert (decoded.info.format, decoded.info.decoder) == ("jpeg", "simplejpeg")

    @pytest.mark.parametrize(("name", "tolerance"), [("WEBP", 30), ("AVIF", 12)])
    def test_lossy_formats_are_near(self, name: str, tolerance: int) -> None:
        """Colours are where they were."""
        decoded = decode(encode(RGB, name, quality=90))
        assert np.abs(decoded.pixels.astype(int) - np.asarray(RGB)).max() < tolerance
        assert decoded.info.format == name.lower()

    def test_cmyk_jpeg_has_its_inverted_inks_turned_back(self) -> None:
        """Adobe stores CMYK upside down; the picture is the one that went in."""
        decoded = decode(encode(RGB.convert("CMYK"), "JPEG", quality=100))
        assert np.abs(decoded.pixels.astype(int) - np.asarray(RGB)).max() < 12
        assert decoded.info.decoder == "pillow"

    def test_jpeg_with_a_harmless_fault_is_read_by_pillow_and_says_so(self) -> None:
        """Stray bytes between segments make simplejpeg refuse; the picture is whole, and the row names the decoder."""
        decoded = decode(JPEG.replace(b"\xff\xdb", b"\0\0\xff\xdb", 1))
        np.testing.assert_array_equal(decoded.pixels, decode(JPEG).pixels)
        assert decoded.info.decoder == "pillow"

    @pytest.mark.parametrize(("name", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})], ids=str)
    def test_first_frame_of_an_animation_is_taken(self, name: str, options: dict[str, object]) -> None:
        """The other frames are not even decoded."""
        red, blue = (Image.new("RGB", (8, 6), colour) for colour in ("red", "blue"))
        data = encode(red, name, save_all=True, append_images=[blue] * 5, **options)
        assert (decode(data).pixels == (255, 0, 0)).all()

    def test_extension_of_the_name_is_never_asked(self) -> None:
        """Only bytes go in: a PNG is a PNG."""
        assert decode(encode(RGB, "PNG")).info.format == "png"


class TestSamples:
    def test_16_bit_grey_is_divided_not_clipped(self) -> None:
        """The high byte is the grey level, in PNG and TIFF, big and little endian."""
        samples = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
        for name in ("PNG", "TIFF"):
            pixels = decode(encode(Image.fromarray(samples), name)).pixels
            assert pixels[0].tolist() == [[level] * 3 for level in (0, 0, 1, 128, 255)]

    def test_signed_16_bit_grey_has_zero_in_the_middle(self) -> None:
        """The whole range is mapped to the whole range."""
        tags = [(256, 3), (257, 1), (258, 16), (259, 1), (262, 1), (273, 200), (277, 1), (278, 1), (279, 6), (339, 2)]
        directory = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
        head = b"II*\x00" + struct.pack("<IH", 8, len(tags)) + directory
        data = head.ljust(200, b"\0") + struct.pack("<3h", -32768, 0, 32767)
        assert decode(data).pixels[0, :, 0].tolist() == [0, 128, 255]

    @pytest.mark.parametrize("dtype", [np.float32, np.int32])
    def test_samples_without_a_known_range_are_refused(self, dtype: type) -> None:
        """Nobody can say what is white in a file of floating-point or 32-bit numbers."""
        error = refusal(encode(Image.fromarray(np.ones((4, 4), dtype)), "TIFF"))
        assert error.code == "unsupported_format"
        assert "no range" in error.message

    def test_16_bit_colour_keeps_the_high_byte(self) -> None:
        """The same rule as for grey."""
        data = png(16, 2, b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0xFFFF, 0, 0x00FF))
        assert decode(data).pixels.tolist() == [[[0x12, 0x56, 0x9A], [255, 0, 0]]]


class TestTransparency:
    @pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF"])
    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_transparent_pixels_are_composed_on_the_background(self, name: str, mode: str) -> None:
        """Colour times alpha plus background times the rest, within rounding."""
        rgba = RGB.convert("RGBA")
        rgba.putalpha(Image.linear_gradient("L").resize(RGB.size))
        image = rgba.convert(mode)
        options = {"lossless": True, "exact": True} if name == "WEBP" else {}
        pixels = decode(encode(image.convert("RGBA") if name == "WEBP" else image, name, **options), GREEN).pixels
        samples = np.asarray(image.convert("RGBA")).astype(float)
        alpha = samples[..., 3:] / 255
        assert np.abs(pixels - (samples[..., :3] * alpha + np.array((0, 255, 0)) * (1 - alpha))).max() <= 1

    def test_background_is_white_unless_told(self) -> None:
        """Logos drawn in black on nothing stay visible."""
        assert (decode(encode(Image.new("RGBA", (3, 3), (0, 0, 0, 0)), "PNG")).pixels == 255).all()

    @pytest.mark.parametrize(
        ("bits", "key", "row"),
        [
            (1, 1, b"\x80"),
            (2, 3, b"\xc0"),
            (4, 15, b"\xf0"),
            (8, 255, b"\xff\x00"),
            (16, 0x1234, b"\x12\x34\x00\x00"),
        ],
    )
    def test_transparent_grey_of_a_png_is_transparent_at_every_depth(self, bits: int, key: int, row: bytes) -> None:
        """Pillow scales the samples of 2 and 4 bits but not the key, which goes unseen there."""
        data = png(bits, 0, b"\0" + row, png_chunk(b"tRNS", struct.pack(">H", key)))
        assert decode(data, GREEN).pixels.tolist() == [[[0, 255, 0], [0, 0, 0]]]

    def test_transparent_colour_of_a_16_bit_png_is_transparent(self) -> None:
        """Pillow keeps the samples' high bytes and compares the key's low ones."""
        key = struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)
        data = png(16, 2, b"\0" + key + struct.pack(">3H", 0x3412, 0x7856, 0xBC9A), png_chunk(b"tRNS", key))
        assert decode(data, GREEN).pixels.tolist() == [[[0, 255, 0], [0x34, 0x78, 0xBC]]]

    def test_palette_with_transparent_entries(self) -> None:
        """One entry (GIF) or an alpha each (PNG)."""
        palette = png_chunk(b"PLTE", bytes((255, 0, 0, 0, 0, 255)))
        data = png(8, 3, b"\0\x00\x01", palette, png_chunk(b"tRNS", b"\xff\x80"))
        assert decode(data, GREEN).pixels.tolist() == [[[255, 0, 0], [0, 127, 128]]]
        image = Image.new("P", (2, 1), 1)
        image.putpalette((255, 0, 0, 0, 0, 255))
        image.putpixel((0, 0), 0)
        assert decode(encode(image, "GIF", transparency=1), GREEN).pixels.tolist() == [[[255, 0, 0], [0, 255, 0]]]

    def test_bands_of_a_large_picture_fit_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Conversion in bands gives what conversion at once gives, alpha and all."""
        rgba = photo(101, 37).convert("RGBA")
        rgba.putalpha(Image.linear_gradient("L").resize(rgba.size))
        data = encode(rgba, "PNG")
        at_once = decode(data).pixels
        monkeypatch.setattr(composing, "_BAND_PIXELS", 200)
        np.testing.assert_array_equal(decode(data).pixels, at_once)


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(10))
    @pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
    def test_picture_is_turned_as_viewers_turn_it(self, name: str, orientation: int) -> None:
        """All eight orientations, and two that do not exist, in every format that has EXIF."""
        options = {"lossless": True} if name == "WEBP" else {}
        block = Image.Exif()
        block[0x0112] = orientation
        data = encode(RGB, name, exif=block.tobytes(), **options)
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(decode(data).pixels, expected)
        assert decode(data).pixels.shape[:2] == ((64, 48) if 5 <= orientation <= 8 else (48, 64))

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_avif_is_turned_once(self, orientation: int) -> None:
        """AVIF carries the turn in its container; EXIF beside it is not applied on top."""
        block = Image.Exif()
        block[0x0112] = orientation
        upright = Image.open(io.BytesIO(encode(RGB, "JPEG", exif=block.tobytes())))
        data = encode(RGB, "AVIF", exif=block.tobytes(), quality=100, subsampling="4:4:4")
        difference = decode(data).pixels.astype(int) - np.asarray(ImageOps.exif_transpose(upright))
        assert np.abs(difference).mean() < 5

    def test_jpeg_that_pillow_reads_is_turned_too(self) -> None:
        """The orientation does not depend on the decoder."""
        data = with_exif(JPEG, b"Exif\0\0" + exif(6)).replace(b"\xff\xdb", b"\0\0\xff\xdb", 1)
        decoded = decode(data)
        assert (decoded.info.decoder, decoded.info.width, decoded.info.height) == ("pillow", 48, 64)

    def test_xmp_turns_where_exif_does_not_say(self) -> None:
        """XMP's tiff:Orientation counts, unless EXIF has one of its own."""
        packet = b'http://ns.adobe.com/xap/1.0/\0<rdf:Description tiff:Orientation="6"/>'
        assert decode(with_exif(JPEG, packet)).pixels.shape == (64, 48, 3)
        both = with_exif(with_exif(JPEG, packet), b"Exif\0\0" + exif(3))
        np.testing.assert_array_equal(decode(both).pixels, decode(JPEG).pixels[::-1, ::-1])

    @pytest.mark.parametrize(
        "block",
        [
            b"Exif\0\0garbage of no known order",
            b"Exif\0\0" + exif(6)[:15],  # cut short
            b"Exif\0\0" + exif(6, kind=2),  # ASCII "6"
            b"Exif\0\0" + exif(77),
            b"Exif\0\0",
            b"Exif\0",
        ],
        ids=range(6),
    )
    def test_metadata_that_makes_no_sense_turns_nothing(self, block: bytes) -> None:
        """Damaged EXIF is no reason to lose an image."""
        np.testing.assert_array_equal(decode(with_exif(JPEG, block)).pixels, decode(JPEG).pixels)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "broken JPEG"])
def test_exif_is_read_without_copying_what_its_tags_point_to(name: str) -> None:
    """Tags that all point to the same bytes cost a thousandfold in Pillow; the orientation among them is still read."""
    tags = [(0x0112, 3, 1, 6)] + [(1000 + i, 7, 60_000, 8) for i in range(3000)]
    block = b"Exif\0\0" + tiff(*tags).ljust(60_008, b"\0")
    if "JPEG" in name:
        data = with_exif(JPEG, block)
    else:
        # Pillow is not asked to write it: it would read it first.
        data = encode(RGB, name, lossless=True, exif=b"Exif\0\0" + exif(6).ljust(len(block) - 6, b"\0"))
        data = data.replace(exif(6).ljust(len(block) - 6, b"\0"), block[6:])
    if name == "broken JPEG":
        data = data.replace(b"\xff\xdb", b"\0\0\xff\xdb", 1)
    if name == "PNG":
        at = data.index(b"eXIf")
        data = data[: at - 4] + png_chunk(b"eXIf", block[6:]) + data[at + 8 + len(block) - 6 :]
    tracemalloc.start()
    try:
        pixels = decode(data).pixels
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert pixels.shape == (64, 48, 3)
    assert peak < 2_000_000


def rle(encoding: int, bits: int, stream: bytes, width: int = 5, height: int = 2) -> bytes:
    """Return a run-length encoded BMP with the colours (n, 2n, 3n) in its palette."""
    palette = b"".join(bytes((3 * n % 256, 2 * n % 256, n, 0)) for n in range(1 << bits))
    header = struct.pack("<IiiHHIIIIII", 40, width, height, 1, bits, encoding, len(stream), 0, 0, 1 << bits, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + len(palette)) + header + palette + stream


RLE_STREAMS = [
    # (compression, bits, stream, rows of palette indices from the top)
    (1, 8, b"\x05\x07\0\0\x02\x09\x03\x01\0\1", [[9, 9, 1, 1, 1], [7] * 5]),  # runs and ends of line
    (1, 8, b"\0\x03\x01\x02\x03\0\x02\x04\0\0\x05\x06\0\1", [[6] * 5, [1, 2, 3, 4, 4]]),  # a padded literal
    (1, 8, b"\x01\x08\0\2\x02\x01\x02\x05\0\1", [[0, 0, 0, 5, 5], [8, 0, 0, 0, 0]]),  # a jump leaves colour 0
    (1, 8, b"\xff\x03\0\0\0\1", [[0] * 5, [3] * 5]),  # a run is cut at the row's end
    (1, 8, b"\0\1", [[0] * 5, [0] * 5]),  # ends at once
    (1, 8, b"\x05\x01\0\0\x05\x02\0\0", [[2] * 5, [1] * 5]),  # all rows, no end of picture
    (2, 4, b"\x05\x12\0\0\x04\x34\0\1", [[3, 4, 3, 4, 0], [1, 2, 1, 2, 1]]),  # alternating nibbles
    (2, 4, b"\0\x03\x12\x30\x02\x44\0\0\x05\x55\0\1", [[5] * 5, [1, 2, 3, 4, 4]]),  # odd literal: 2 bytes
    (2, 4, b"\0\x05\x12\x34\x50\0\0\0\x05\x66\0\1", [[6] * 5, [1, 2, 3, 4, 5]]),  # odd literal: 3 bytes and padding
]


class TestRunLengthBmp:
    @pytest.mark.parametrize(("compression", "bits", "stream", "rows"), RLE_STREAMS, ids=range(len(RLE_STREAMS)))
    def test_each_element_of_the_format_is_read(
        self, compression: int, bits: int, stream: bytes, rows: list[list[int]]
    ) -> None:
        """Runs, literals with their padding, jumps and ends, from the lowest row up."""
        decoded = decode(rle(compression, bits, stream))
        assert decoded.pixels.tolist() == [[[n, 2 * n, 3 * n] for n in row] for row in rows]
        assert decoded.info.decoder == "score-images"

    def test_every_cut_is_a_truncated_image(self) -> None:
        """A stream that stops before the picture is full is refused wherever it stops."""
        data = rle(1, 8, b"\x05\x07\0\0\0\x03\x01\x02\x03\0\x02\x01\0\1")
        for end in range(len(data) - 14, len(data) - 1):
            assert refusal(data[:end]).code == "truncated_image"

    def test_depth_that_does_not_go_with_the_encoding_is_corrupt(self) -> None:
        """RLE4 has 4 bits a pixel."""
        error = refusal(rle(2, 8, b"\0\1"))
        assert str(error) == "corrupt_image: the BMP is encoded as rle4 but claims 8 bits a pixel"

    def test_negative_height_is_top_down(self) -> None:
        """The format forbids it for run lengths; files have it."""
        assert decode(rle(1, 8, b"\x05\x01\0\0\x05\x02\0\1", height=-2)).pixels[:, 0, 0].tolist() == [1, 2]


class TestRefusals:
    @pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
    @pytest.mark.parametrize("share", [0.5, 0.9])
    def test_file_that_is_cut_short_is_never_a_picture(self, name: str, share: float) -> None:
        """Half of a file is a failure with a code that says so, not a picture with a grey rest."""
        rng = np.random.default_rng(0)
        data = encode(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), name)
        assert refusal(data[: int(len(data) * share)]).code in {"truncated_image", "corrupt_image"}

    @pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
    def test_truncation_is_named(self, name: str) -> None:
        """Where the decoder or the header can tell, the code is truncated_image."""
        data = encode(RGB, name)
        assert refusal(data[: len(data) * 3 // 4]).code == "truncated_image"

    def test_progressive_jpeg_cut_between_scans_is_refused(self) -> None:
        """It would decode to a blurred whole."""
        data = encode(photo(200, 200), "JPEG", progressive=True)
        last = data.rindex(b"\xff\xda")
        assert refusal(data[:last]).code == "truncated_image"

    def test_file_shorter_than_its_claim_is_refused_before_decoding(self) -> None:
        """The message has both numbers."""
        data = jpeg((0xC0, frame(20000, 20000)), (0xDA, scan()))
        assert str(refusal(data, DecodeSettings(max_decode_bytes=10**10))) == (
            f"truncated_image: the file has {len(data)} bytes, a whole 20000x20000 jpeg of its kind has at least 781250"
        )

    def test_too_many_pixels_are_refused_with_the_limit(self) -> None:
        """The message names the setting."""
        error = refusal(JPEG, DecodeSettings(max_decode_bytes=20_000))
        assert str(error) == (
            f"too_many_pixels: 64x48 jpeg would take {64 * 48 * 7 + len(JPEG)} bytes to decode, "
            "max_decode_bytes allows 20000"
        )

    def test_too_many_scans_are_refused_with_the_limit(self) -> None:
        """A small file of thousands of scans would take seconds."""
        data = encode(RGB, "JPEG", progressive=True)
        bomb = data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 990 + data[-2:]
        assert decode(data).info.decoder == "simplejpeg"
        assert str(refusal(bomb, DecodeSettings(max_scan_pixels=2_000_000))) == (
            "too_many_pixels: 1000 progressive scans of 64x48 are 3072000 pixels to decode, "
            "max_scan_pixels allows 2000000"
        )

    def test_frame_that_turns_out_larger_than_the_header_is_held_to_the_limit(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The size is checked again after opening, before anything is decoded."""

        class Larger(PngImagePlugin.PngImageFile):
            def _open(self) -> None:
                super()._open()
                self._size = (60000, 60000)

        monkeypatch.setitem(images._PILLOW, "png", Larger)
        assert refusal(encode(RGB, "PNG")).code == "too_many_pixels"

    @pytest.mark.parametrize(
        ("raised", "code"),
        [
            (OSError("image file is truncated (7 bytes not processed)"), "truncated_image"),
            (EOFError("failed to decode next frame"), "truncated_image"),
            (OSError("Unsupported BMP compression (4)"), "unsupported_format"),
            (OSError("broken data stream when reading image file"), "corrupt_image"),
            (MemoryError(), "too_many_pixels"),
            (SyntaxError("not a PNG file"), "corrupt_image"),
            (ValueError("Decompressed data too large"), "corrupt_image"),
            (struct.error("unpack requires 4 bytes"), "corrupt_image"),
            (IndexError("index out of range"), "corrupt_image"),
            (zlib.error("Error -3"), "corrupt_image"),
            (AssertionError(), "corrupt_image"),
            (OverflowError("too large"), "corrupt_image"),
        ],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__,
    )
    def test_whatever_a_decoder_raises_becomes_a_code(
        self, raised: Exception, code: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No exception of a foreign decoder leaves; the first one stays chained."""

        class Failing(PngImagePlugin.PngImageFile):
            def load(self) -> None:
                raise raised

        monkeypatch.setitem(images._PILLOW, "png", Failing)
        error = refusal(encode(RGB, "PNG"))
        assert error.code == code
        assert error.__cause__ is raised

    def test_memory_that_runs_out_anywhere_is_one_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the JPEG decoder as in the resizing, the image is lost and the run goes on."""

        def no_memory(*_: object, **__: object) -> None:
            raise MemoryError

        preprocess = PreprocessSettings(value_range="0_255")
        with monkeypatch.context() as patch:
            patch.setattr(images.simplejpeg, "decode_jpeg", no_memory)
            assert str(refusal(JPEG)) == "too_many_pixels: 64x48 pixels need more memory than there is"
        monkeypatch.setattr(images, "fit", no_memory)
        with pytest.raises(ImageError, match="64x48 pixels need more memory than there is"):
            load_image(JPEG, DEFAULTS, preprocess, 32, 32)

    def test_heif_without_its_extra_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The message says what to install."""
        images._pillow_heif.cache_clear()
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        data = encode(RGB, "AVIF").replace(b"avif", b"heic").replace(b"avis", b"heic")
        assert str(refusal(data)) == (
            "unsupported_format: heif is read only with the extra heic: pip install 'score-images[heic]'"
        )

    def test_heif_is_read_and_turned_once_with_its_extra(self) -> None:
        """The container's own turn is applied by the decoder; EXIF beside it does not turn again."""
        heif = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
        heif.register_heif_opener()
        block = Image.Exif()
        block[0x0112] = 6
        decoded = decode(encode(RGB, "HEIF", exif=block.tobytes(), quality=95))
        assert (decoded.info.format, decoded.info.decoder) == ("heif", "pillow-heif")
        assert np.abs(decoded.pixels.astype(int) - np.rot90(np.asarray(RGB), -1)).mean() < 5


class TestLoadImage:
    def test_image_comes_as_the_model_wants_it_with_its_own_size_in_the_info(self) -> None:
        """Decode, then fit; the info is of the original."""
        preprocess = PreprocessSettings(value_range="0_255", crop_pct=0.875)
        loaded = load_image(JPEG, DEFAULTS, preprocess, 20, 30)
        decoded = decode(JPEG)
        np.testing.assert_array_equal(loaded.pixels, fit(decoded.pixels, preprocess, 20, 30))
        assert loaded.info == decoded.info

    def test_threads_do_not_disturb_each_other(self) -> None:
        """The same files in eight threads give the same pixels and the same refusals as one by one."""
        rgba = RGB.convert("RGBA")
        files = [JPEG, encode(rgba, "PNG"), encode(rgba, "WEBP"), encode(RGB, "GIF"), encode(rgba, "AVIF")]
        files += [encode(RGB, "TIFF", compression="tiff_lzw"), encode(RGB.convert("CMYK"), "JPEG"), JPEG[:600], b"no"]
        preprocess = PreprocessSettings(value_range="0_255")

        def outcome(data: bytes) -> bytes | str:
            try:
                return load_image(data, DEFAULTS, preprocess, 32, 32).pixels.tobytes()
            except ImageError as error:
                return str(error)

        expected = [outcome(data) for data in files]
        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(outcome, files * 20)) == expected * 20

    def test_pillow_warnings_do_not_reach_the_log(self) -> None:
        """An invalid animation chunk makes Pillow warn; a worker's log stays empty."""
        code = (
            "import sys; from transforms.images import *; "
            "print(decode_image(sys.stdin.buffer.read(), DecodeSettings()).info.width)"
        )
        data = png(8, 0, b"\0\x01\x02", png_chunk(b"acTL", struct.pack(">II", 0, 0)))
        done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
        assert (done.stdout, done.stderr) == (b"2\n", b"")


MEASURE_PEAK = """
import sys
import numpy as np
from transforms.headers import probe
from transforms.images import decode_cost, load_image
from transforms.resizing import fit
from transforms.settings import DecodeSettings, PreprocessSettings

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

data = sys.stdin.buffer.read()
preprocess = PreprocessSettings(value_range="0_255")
fit(np.zeros((300, 300, 3), np.uint8), preprocess, 224, 224)
open("/proc/self/clear_refs", "w").write("5")
before = peak()
load_image(data, DecodeSettings(max_decode_bytes=2**40, jpeg_scaling="off"), preprocess, 224, 160)
print(peak() - before + len(data), decode_cost(probe(data), len(data)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("JPEG", "CMYK", {"progressive": True}),
        ("PNG", "RGBA", {"compress_level": 1}),
        ("WEBP", "RGBA", {"lossless": True, "method": 0, "quality": 0}),
        ("WEBP", "RGB", {"method": 0}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("AVIF", "RGBA", {"speed": 10}),
        ("GIF", "P", {}),
    ],
    ids=str,
)
def test_reckoned_memory_is_not_less_than_the_measured_peak(name: str, mode: str, options: dict[str, object]) -> None:
    """The guard and the budget of the threads rest on this: reckoned is at most 6 MB too little, or twice too much.

    A baseline JPEG is reckoned for Pillow, which decodes what simplejpeg refuses and takes 7 bytes a pixel, not 3.
    """
    image = photo(2000, 3000)
    image = image.quantize(64) if mode == "P" else image.convert(mode)
    data = encode(image, name, **options)
    done = subprocess.run([sys.executable, "-c", MEASURE_PEAK], input=data, capture_output=True, check=True)
    measured, reckoned = map(int, done.stdout.split())
    assert measured - 6_000_000 <= reckoned <= (7 / 3 if (name, options) == ("JPEG", {}) else 2) * measured
    assert reckoned == decode_cost(probe(data), len(data))
