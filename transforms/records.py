"""What flows between the steps of a run: small immutable records, and batches of pixels."""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy.typing as npt

from transforms.errors import FailureCode, Stage

FORMATS = ("jpeg", "png", "gif", "webp", "bmp", "tiff", "avif", "heif")
DECODERS = ("simplejpeg", "pillow", "pillow-heif", "score-images", "model")


class ImageRef(NamedTuple):
    """One image to score, as the listing found it."""

    path: str
    """The full path or URL, without credentials or query string."""
    size_bytes: int | None
    """The size that the listing reported; None where the listing did not ask (a manifest's line)."""
    version: str | None
    """Changes when the content changes: etag, generation, or modification time and size; None as above."""


class ImageInfo(NamedTuple):
    """What is known of an image once it is decoded."""

    width: int
    """Pixels, as displayed (after EXIF orientation)."""
    height: int
    """Pixels, as displayed."""
    format: str
    """Told by content: one of FORMATS."""
    size_bytes: int
    """Bytes of the encoded file."""
    decoder: str
    """What produced the pixels: one of DECODERS; score-images is our own routine, model the model's graph."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageBatch:
    """Images ready for the model."""

    refs: tuple[ImageRef, ...]
    """N images; size and version are filled from the read."""
    pixels: npt.NDArray[Any]
    """uint8[N, H, W, 3], RGB; or object[N] of encoded JPEG and PNG for a model that decodes images itself."""
    infos: tuple[ImageInfo, ...]
    """N descriptions, in the order of refs."""

    def __post_init__(self) -> None:
        if not len(self.refs) == len(self.pixels) == len(self.infos):
            raise ValueError(
                f"a batch needs one ref, one info and one row of pixels an image, "
                f"got {len(self.refs)} refs, {len(self.infos)} infos and {len(self.pixels)} rows"
            )

    def __len__(self) -> int:
        return len(self.refs)


class Failure(NamedTuple):
    """One image that could not be scored, and why; one row of the failures table."""

    ref: ImageRef
    """The image; size and version are None where the read did not get so far."""
    stage: Stage
    """Where it was lost."""
    code: FailureCode
    """Stable reason."""
    message: str
    """One sentence for a person."""
    failed_at_us: int
    """Microseconds since the epoch, UTC."""


class WrittenFile(NamedTuple):
    """One closed Parquet file of a run, staged or published."""

    table: str
    """scores or failures."""
    path: str
    """Where it lies now."""
    rows: int
    """Rows in the closed file, read back from its footer."""
    size_bytes: int
    """Bytes of the closed file."""
    sha256: str
    """Hex digest of the closed file."""


def now_us() -> int:
    """Return the time in microseconds since the epoch, UTC."""
    return time.time_ns() // 1000
