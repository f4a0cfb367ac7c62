"""What flows between the steps of a run: small immutable records, and batches of pixels."""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
    second: npt.NDArray[np.uint8] | None = None
    """uint8[N, H2, W2, 3], what a challenger is given; None where there is none, or where it is given pixels."""

    def __post_init__(self) -> None:
        if not len(self.refs) == len(self.pixels) == len(self.infos):
            raise ValueError(
                f"a batch needs one ref, one info and one row of pixels an image, "
                f"got {len(self.refs)} refs, {len(self.infos)} infos and {len(self.pixels)} rows"
            )
        if self.second is not None and len(self.second) != len(self.refs):
            raise ValueError(f"a batch of {len(self.refs)} images has {len(self.second)} rows of second pixels")

    def __len__(self) -> int:
        return len(self.refs)


@dataclass(frozen=True, slots=True, eq=False)
class RivalRows:
    """Rows of one batch that two models have scored: they are written together, or none of them."""

    scores: pa.RecordBatch
    """Rows of the scores table."""
    scores_challenger: pa.RecordBatch
    """Rows of the challenger's table."""
    failures_challenger: pa.RecordBatch
    """Of the images in scores that the challenger could not score."""

    def __post_init__(self) -> None:
        rows = self.scores_challenger.num_rows + self.failures_challenger.num_rows
        if self.scores.num_rows != rows:
            raise ValueError(f"{self.scores.num_rows} images were scored, the challenger accounts for {rows}")

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return int(self.scores.nbytes + self.scores_challenger.nbytes + self.failures_challenger.nbytes)


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
    """scores or failures, or one of the challenger's two."""
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
