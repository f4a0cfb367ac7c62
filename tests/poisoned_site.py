"""Images that crash, hang or swell the decoder of a quarantine's worker, in whichever process starts that worker."""

from pathlib import Path

from PIL import Image

# Python imports it at the start of every process: of the quarantine's workers it makes some that heed markers.
_SITE = """
import sys

if "transforms.quarantined" in sys.orig_argv:
    import ctypes, os
    import simplejpeg

    decode = simplejpeg.decode_jpeg

    def poisoned(data, *arguments, **options):
        if b"MARK:segfault" in data:
            ctypes.string_at(0)
        if b"MARK:hang" in data:
            ctypes.PyDLL(None).sleep(600)
        if b"MARK:swell" in data:
            held = []
            while True:
                held.append(bytearray(2**26))
        return decode(data, *arguments, **options)

    simplejpeg.decode_jpeg = poisoned
"""


def write_site(folder: Path) -> Path:
    """Make a folder poison workers where it is on their path."""
    (folder / "sitecustomize.py").write_text(_SITE)
    return folder


def poison(path: Path, marker: str) -> Path:
    """Write a JPEG that a poisoned worker heeds, and every other decoder reads."""
    Image.new("RGB", (12, 9), (9, 99, 199)).save(path, comment=f"MARK:{marker}".encode())
    return path
