"""Image files made by hand or by Pillow, for the tests of what reads them."""

import io
import struct
import zlib

from PIL import Image


def encode(image: Image.Image, name: str, **options: object) -> bytes:
    """Return the file that Pillow makes of an image."""
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def jpeg(*segments: tuple[int, bytes]) -> bytes:
    """Join (marker, payload) segments behind a start marker."""
    return b"\xff\xd8" + b"".join(struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body for kind, body in segments)


def frame(width: int = 7, height: int = 5, bits: int = 8, components: int = 3) -> bytes:
    """Return the payload of a JPEG frame header."""
    return struct.pack(">BHHB", bits, height, width, components) + bytes(3 * components)


def scan(components: int = 3) -> bytes:
    """Return the payload of a JPEG scan header."""
    return bytes([components]) + bytes(2 * components + 3)


def png_header(width: int, height: int, bits: int = 8, colour: int = 2, name: bytes = b"IHDR") -> bytes:
    """Return a PNG that ends after its header."""
    body = name + struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def bmp_header(width: int, height: int, bits: int = 24, compression: int = 0, header_bytes: int = 40) -> bytes:
    """Return a BMP that ends after its header."""
    return b"BM" + struct.pack("<IIIIiiHHI", 0, 0, 54, header_bytes, width, height, 1, bits, compression) + bytes(20)


def gif(screen: tuple[int, int], box: tuple[int, int, int, int], before: bytes = b"") -> bytes:
    """Return a GIF that ends after the header of its first frame."""
    return b"GIF89a" + struct.pack("<HHBBB", *screen, 0, 0, 0) + before + b"," + struct.pack("<HHHHB", *box, 0)


def tiff(*tags: tuple[int, int, int, int], order: str = "<") -> bytes:
    """Return a TIFF whose directory has these (tag, type, count, value) entries and no pixels."""
    start = (b"II*\x00" if order == "<" else b"MM\x00*") + struct.pack(order + "IH", 8, len(tags))
    return start + b"".join(struct.pack(order + "HHII", *tag) for tag in tags) + bytes(4)


def box(kind: bytes, body: bytes) -> bytes:
    """Return an ISO media box."""
    return struct.pack(">I4s", 8 + len(body), kind) + body


def heif(brand: bytes, *properties: bytes) -> bytes:
    """Return an AVIF or HEIF with these properties and no pixels."""
    inner = box(b"iprp", box(b"ipco", b"".join(properties)))
    return box(b"ftyp", brand + bytes(4) + b"mif1") + box(b"meta", bytes(4) + inner)


def item_size(width: int, height: int) -> bytes:
    """Return the property that tells the size of an item."""
    return box(b"ispe", struct.pack(">III", 0, width, height))


def exif(orientation: int, kind: int = 3) -> bytes:
    """Return an EXIF block, without its signature, that holds an orientation of a TIFF type and nothing else."""
    value = struct.pack("<I", orientation) if kind != 2 else str(orientation).encode() + bytes(3)
    return b"II*\x00" + struct.pack("<IHHHI", 8, 1, 0x0112, kind, 1 if kind != 2 else 2) + value + bytes(4)


def png_chunk(name: bytes, body: bytes) -> bytes:
    """Return a PNG chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
