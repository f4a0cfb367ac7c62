"""Beam's RunInference as its notebooks write it: a model handler, rows as dictionaries, WriteToParquet.

Beam's own TensorFlow handlers load no SavedModel under Keras 3 (apache/beam #30616), so the handler is written here.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.io.parquetio import WriteToParquet
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from tests.benchmarks.peers.common import SCHEMA, Answer, load_classifier, photo_paths, prepare, read_job

Pixels = npt.NDArray[np.uint8]


class Prediction(NamedTuple):
    """What the model says of one photo."""

    probabilities: npt.NDArray[np.float32]
    index: npt.NDArray[np.int32]
    top: npt.NDArray[np.float32]


class SavedModelHandler(ModelHandler[Pixels, Prediction, Callable[[Any], Answer]]):
    """Loads a SavedModel once a process and calls it on stacked pixels."""

    def __init__(self, model: str, batch: int) -> None:
        # Without a minimum batches start at 1 and grow by measured times.
        super().__init__(min_batch_size=batch, max_batch_size=batch)
        self._model = model

    def load_model(self) -> Callable[[Any], Answer]:
        """Load the model."""
        return load_classifier(self._model)

    def run_inference(
        self,
        batch: Sequence[Pixels],
        model: Callable[[Any], Answer],
        inference_args: dict[str, Any] | None = None,  # noqa: ARG002  Beam's signature
    ) -> Iterable[Prediction]:
        """Score a batch."""
        return [Prediction(*row) for row in zip(*model(np.stack(batch)), strict=True)]


class Load(beam.DoFn):
    """Reads and decodes a photo."""

    def __init__(self, interpolation: str) -> None:
        self._interpolation = interpolation

    def process(self, path: str) -> Iterator[tuple[str, Pixels]]:
        """Yield path and pixels."""
        with beam.io.filesystems.FileSystems.open(path) as file:
            yield path, prepare(file.read(), self._interpolation)


def to_row(keyed: tuple[str, Prediction]) -> dict[str, Any]:
    """Make a row of the output."""
    path, prediction = keyed
    return {
        "image_path": path,
        "probabilities": prediction.probabilities,
        "top_index": prediction.index,
        "top_probability": prediction.top,
    }


def main() -> None:
    """Score a folder."""
    job = read_job(__doc__)
    # The runner of one machine, with a bundle and a thread for every core.
    options = PipelineOptions(
        ["--runner=FnApiRunner", "--direct_num_workers=0", "--direct_running_mode=multi_threading"]
    )
    with beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | beam.Create(photo_paths(job))
            | beam.Reshuffle()
            | "Load" >> beam.ParDo(Load(job.interpolation))
            | RunInference(KeyedModelHandler(SavedModelHandler(job.model, job.batch)))
            | "ToRow" >> beam.Map(to_row)
            | WriteToParquet(str(job.output / "part"), SCHEMA, file_name_suffix=".parquet", codec="zstd")
        )


if __name__ == "__main__":
    main()
