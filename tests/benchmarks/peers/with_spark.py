"""Spark: binaryFile, mapInArrow with a model a Python worker, write.parquet.

mapInArrow and not mapInPandas or a pandas_udf: a probability vector then never becomes a Python object.
"""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from tests.benchmarks.peers import common

DDL = "image_path string, probabilities array<float>, top_index array<int>, top_probability array<float>"


def scorer(model: str, interpolation: str) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Return the function that Spark runs on the Arrow batches of a partition."""

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        classify = cached_classifier(model)
        for batch in batches:
            pixels = np.stack([common.prepare(data.as_py(), interpolation) for data in batch["content"]])
            yield from common.to_table(batch["path"].to_pylist(), classify(pixels)).to_batches()

    return score


@functools.cache
def cached_classifier(model: str) -> Callable[[Any], common.Answer]:
    """Load the model once a Python worker: workers outlive partitions. There is one a core, each on one thread."""
    return common.load_classifier(model, threads=1)


def main() -> None:
    """Score a folder."""
    job = common.read_job(__doc__)
    os.environ["PYSPARK_PYTHON"] = sys.executable  # the workers would take whatever python3 is first
    session = (
        SparkSession.builder.master(f"local[{os.cpu_count()}]")
        .config("spark.driver.memory", "4g")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", str(job.batch))
        .config("spark.sql.parquet.compression.codec", "zstd")
        .config("spark.executorEnv.PYTHONPATH", str(Path.cwd()))
        .getOrCreate()
    )
    photos = session.read.format("binaryFile").load(str(job.photos)).select("path", "content")
    photos.mapInArrow(scorer(job.model, job.interpolation), DDL).write.parquet(str(job.output))
    session.stop()


if __name__ == "__main__":
    # Spark pickles functions of __main__ by value, and with them the cache that is to hold the model.
    from tests.benchmarks.peers import with_spark

    with_spark.main()
