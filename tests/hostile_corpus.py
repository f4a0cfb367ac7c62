"""The hostile corpus: its files, how each is expected to end, and files damaged from it."""

import csv
import importlib.util
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from transforms.errors import FailureCode, ImageError
from transforms.images import decode_image
from transforms.settings import DecodeSettings

CODES = {
    # expected_reason of the manifest: the codes that tell it rightly
    "empty": {"empty_file"},
    "truncated": {"truncated_image", "corrupt_image"},
    "corrupt": {"corrupt_image", "truncated_image", "unsupported_format"},
    "bad_header": {"corrupt_image", "truncated_image", "unsupported_format"},
    "too_large": {"too_many_pixels", "truncated_image"},
    "unsupported_format": {"unsupported_format", "corrupt_image"},
    "not_an_image": {"unsupported_format", "corrupt_image"},
}

HEIC = importlib.util.find_spec("pillow_heif") is not None


def manifest(folder: Path) -> Iterator[tuple[dict[str, str], bytes]]:
    """Yield each row of the manifest with the file's bytes."""
    with (folder / "hostile" / "manifest.csv").open(encoding="utf-8", newline="") as rows:
        for row in csv.DictReader(rows):
            yield row, (folder / "hostile" / row["path"]).read_bytes()


class Ending(NamedTuple):
    """How a file has ended: decoded, or with a code."""

    code: str | None
    """Of its failure; None where it was decoded."""
    size: tuple[int, int] | None = None
    """Width and height as displayed."""
    message: str = ""
    """Of its failure."""


def ending(data: bytes) -> Ending:
    """Decode a file."""
    try:
        info = decode_image(data, DecodeSettings()).info
    except ImageError as error:
        return Ending(error.code, message=error.message)
    return Ending(None, (info.width, info.height))


def verdict(row: dict[str, str], end: Ending) -> str:
    """Say what is wrong with how a file of the manifest has ended, or nothing."""
    if end.code is not None:
        said = f"{end.code}: {end.message}"
        if row["format"] == "HEIF" and not HEIC:
            return "" if end.code == FailureCode.UNSUPPORTED_FORMAT else said
        if row["expected"] == "yes":
            return f"refused: {said}"
        if row["expected"] == "no" and end.code not in CODES[row["expected_reason"]]:
            return f"expected {row['expected_reason']}: {said}"
        return ""
    if row["expected"] == "no":
        return f"decoded, expected {row['expected_reason']}"
    width, height = end.size or (0, 0)
    if row["expected"] == "yes" and (row["width"], row["height"]) != (str(width), str(height)):
        return f"{width}x{height}, expected {row['width']}x{row['height']}"
    return ""


def mutations(folder: Path, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield damaged files: flipped bits, cuts, and one file's head on another's body; the same ones every time."""
    chance = random.Random(20240)  # noqa: S311 - damage, not secrets
    files = [
        (row["path"], data)
        for row, data in manifest(folder)
        if row["expected"] == "yes" and len(data) < 40_000 and (HEIC or row["format"] != "HEIF")
    ]
    for _ in range(count):
        (name, data), (_, other) = chance.choice(files), chance.choice(files)
        damaged = bytearray(data)
        kind = chance.choice(("bits", "header bits", "cut", "splice", "hole", "twice"))
        at = chance.randrange(len(data))
        if kind == "bits":
            for _ in range(chance.choice((1, 4, 64))):
                damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif kind == "header bits":
            for _ in range(chance.choice((1, 4, 16))):
                damaged[chance.randrange(min(len(data), 200))] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            damaged = damaged[:at]
        elif kind == "splice":
            damaged[: min(at, 300)] = other[: min(at, 300)]
        elif kind == "hole":
            damaged[at : at + chance.randrange(1, 400)] = b""
        else:
            damaged[at:at] = data[: chance.randrange(1, 400)]
        yield f"{kind} of {name}", bytes(damaged)
