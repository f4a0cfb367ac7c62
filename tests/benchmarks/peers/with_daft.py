"""Daft: native parallel download, a function a row for the pixels, a class with a batch method for the model.

Daft's own resize offers no choice of the interpolation, and its crop none of the middle: the pixels are Pillow's.
"""

from typing import Any

import daft
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from daft import DataType, col
from daft.functions import download

from tests.benchmarks.peers.common import SCHEMA, SIZE, load_classifier, photo_paths, prepare, read_job, to_table

PIXELS = DataType.tensor(DataType.uint8(), (SIZE, SIZE, 3))
ANSWER = pa.struct(list(SCHEMA)[1:])


@daft.func(return_dtype=PIXELS)
def pixels_of(data: bytes, interpolation: str) -> npt.NDArray[np.uint8]:
    """Decode, crop and resize one photo."""
    return prepare(data, interpolation)


def classifier(model: str, batch: int) -> Any:
    """Return the class that holds the model; the batch size is part of its declaration."""

    # In this process: a process of its own would get every pixel through a pipe.
    @daft.cls(max_concurrency=1, use_process=False)
    class Classifier:
        def __init__(self) -> None:
            self._classify = load_classifier(model)

        @daft.method.batch(return_dtype=DataType.from_arrow_type(ANSWER), unnest=True, batch_size=batch)
        def score(self, pixels: daft.Series) -> pa.Array:
            array = pixels.to_arrow()
            storage = array.storage if isinstance(array, pa.ExtensionArray) else array
            matrix = storage.flatten().to_numpy().reshape(-1, SIZE, SIZE, 3)
            table = to_table([""] * len(matrix), self._classify(matrix)).drop(["image_path"])
            return table.to_struct_array().combine_chunks()

    return Classifier()


def main() -> None:
    """Score a folder."""
    job = read_job(__doc__)
    model = classifier(job.model, job.batch)
    frame = daft.from_pydict({"image_path": photo_paths(job)}).into_batches(job.batch)
    frame = frame.with_column("data", download(col("image_path")))
    frame = frame.with_column("pixels", pixels_of(col("data"), job.interpolation))
    frame.select(col("image_path"), model.score(col("pixels"))).write_parquet(str(job.output), compression="zstd")


if __name__ == "__main__":
    main()
