"""What the peers share, so that only the tools differ: the photos, the pixels, the model, the columns."""

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

SIZE = 224
CROP = 0.875
MEAN, STD = 127.0, 128.0
TOP = 5

SCHEMA = pa.schema(
    [
        pa.field("image_path", pa.string()),
        pa.field("probabilities", pa.list_(pa.float32())),
        pa.field("top_index", pa.list_(pa.int32())),
        pa.field("top_probability", pa.list_(pa.float32())),
    ]
)


class Job(NamedTuple):
    """What every peer is told."""

    photos: Path
    """A folder of JPEG files and nothing else."""
    model: str
    """A SavedModel: serving_default maps float32[N, 224, 224, 3], (pixel - 127) / 128, to logits."""
    output: Path
    """A folder for Parquet files; it does not exist yet."""
    interpolation: str
    """bicubic, bilinear, area or bilinear_no_antialias, as transforms/settings.py names them."""
    batch: int
    """Images a call of the model."""


class Answer(NamedTuple):
    """What the model says of a batch."""

    probabilities: npt.NDArray[np.float32]
    """float32[N, C]."""
    index: npt.NDArray[np.int32]
    """int32[N, 5], strongest first."""
    top: npt.NDArray[np.float32]
    """float32[N, 5]."""


def read_job(description: str | None) -> Job:
    """Read the job from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--interpolation", default="bicubic")
    parser.add_argument("--batch", type=int, default=16)
    return Job(**vars(parser.parse_args()))


def photo_paths(job: Job) -> list[str]:
    """List the photos."""
    return sorted(str(path) for path in job.photos.iterdir())


def prepare(data: bytes, interpolation: str) -> npt.NDArray[np.uint8]:
    """Decode a photo with Pillow, keep the middle 0.875 of its largest square, resize it to 224.

    Args:
        data: The encoded file.
        interpolation: The antialiased ones are Pillow's; area and bilinear_no_antialias are OpenCV's.

    Returns:
        uint8[224, 224, 3], RGB.
    """
    from PIL import Image

    antialiased = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    image = Image.open(io.BytesIO(data)).convert("RGB")
    side = int(min(image.size) * CROP)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if interpolation in antialiased:
        # Not resize(box=...): that looks a little over the edge of the crop.
        part = image.crop((left, top, left + side, top + side))
        return np.asarray(part.resize((SIZE, SIZE), antialiased[interpolation]))
    import cv2

    method = {"area": cv2.INTER_AREA, "bilinear_no_antialias": cv2.INTER_LINEAR}[interpolation]
    pixels = np.ascontiguousarray(np.asarray(image)[top : top + side, left : left + side])
    return np.asarray(cv2.resize(pixels, (SIZE, SIZE), interpolation=method), dtype=np.uint8)


def load_classifier(model: str, threads: int | None = None) -> Callable[[Any], Answer]:
    """Load the SavedModel as its documentation says, with normalising, softmax and top-5 in one function.

    Args:
        model: Its directory.
        threads: Of one call; left out, TensorFlow takes every core. For tools that run several models at once.

    Returns:
        uint8[N, 224, 224, 3] -> Answer. One shape for all batch sizes: it is traced once.
    """
    import tensorflow as tf

    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    loaded = tf.saved_model.load(model)
    serve = loaded.signatures["serving_default"]
    name = next(iter(serve.structured_input_signature[1]))

    @tf.function(input_signature=[tf.TensorSpec((None, SIZE, SIZE, 3), tf.uint8)])
    def score(pixels: Any) -> Any:
        logits = next(iter(serve(**{name: (tf.cast(pixels, tf.float32) - MEAN) / STD}).values()))
        probabilities = tf.nn.softmax(logits)
        top = tf.math.top_k(probabilities, TOP)
        return probabilities, top.indices, top.values

    def classify(pixels: Any, _keep: Any = loaded) -> Answer:  # the function holds the variables only weakly
        return Answer(*(tensor.numpy() for tensor in score(pixels)))

    return classify


def to_table(paths: Sequence[str], answer: Answer) -> pa.Table:
    """Put a batch into the columns of the output without an object a number."""
    columns = [pa.array(paths, pa.string()), *(as_lists(values) for values in answer)]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def as_lists(values: npt.NDArray[Any]) -> pa.ListArray:
    """Wrap a matrix as one list a row."""
    count, width = values.shape
    offsets = np.arange(0, (count + 1) * width, width, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(values).reshape(-1)))


class RowGroups:
    """Writes tables to one Parquet file in row groups of a sensible size, for tools that bring no writer."""

    def __init__(self, folder: Path, rows: int = 2048) -> None:
        folder.mkdir(parents=True)
        # A dictionary of probabilities is written beside them for nothing.
        self._writer = pq.ParquetWriter(folder / "part-0.parquet", SCHEMA, compression="zstd", use_dictionary=False)
        self._rows = rows
        self._pending: list[pa.Table] = []

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        self._pending.append(table)
        if sum(map(len, self._pending)) >= self._rows:
            self._flush()

    def close(self) -> None:
        """Write what is left and the footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.concat_tables(self._pending))
            self._pending = []
