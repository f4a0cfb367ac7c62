"""Ray Data: read_binary_files, map over rows for the pixels, map_batches over actors that hold the model.

Ray fuses the two maps, so that no pixel leaves its process: an actor a core, each on one thread.
"""

import os
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from tests.benchmarks.peers.common import load_classifier, prepare, read_job, to_table


class Classifier:
    """Holds a model in an actor."""

    def __init__(self, model: str) -> None:
        self._classify = load_classifier(model, threads=1)

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """Score a batch of pixels uint8[N, 224, 224, 3]."""
        return to_table(batch["path"].tolist(), self._classify(batch["pixels"]))


def main() -> None:
    """Score a folder."""
    job = read_job(__doc__)
    cores = os.cpu_count() or 1
    # One slot more than there are cores: actors keep theirs for as long as they live, and reading needs one.
    ray.init(num_cpus=cores + 1, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False

    def pixels_of(row: dict[str, Any]) -> dict[str, Any]:
        return {"path": row["path"], "pixels": prepare(row["bytes"], job.interpolation)}

    (
        ray.data.read_binary_files(str(job.photos), include_paths=True)
        .map(pixels_of)
        .map_batches(
            Classifier,
            fn_constructor_args=[job.model],
            batch_size=job.batch,
            compute=ActorPoolStrategy(size=cores),
            num_cpus=1,
        )
        .write_parquet(str(job.output), compression="zstd")
    )
    ray.shutdown()


if __name__ == "__main__":
    main()
