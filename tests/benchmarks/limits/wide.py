"""Rows of a thousand numbers to Parquet, no image anywhere.

--mode ours     logits -> probabilities -> top-k, margin, entropy -> the scores table -> part files
--mode write    the same batches, prepared beforehand, through pyarrow's own writer: the write limit
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.limits.common import say
from transforms import probabilities, tables
from transforms.part_files import PartWriter
from transforms.records import ImageInfo, ImageRef
from transforms.settings import WriteSettings

_DIFFERENT = 32
"""So many different batches are made, and used over and over: as many as do not fit the processor's cache."""


class Rows:
    """Synthetic batches of a fixed size."""

    def __init__(self, batch: int, classes: int) -> None:
        rng = np.random.default_rng(0)
        # As wide as the logits of a trained classifier: most probabilities are small, a few are not.
        self.logits = [rng.normal(0, 2.5, (batch, classes)).astype(np.float32) for _ in range(_DIFFERENT)]
        self.schema = tables.scores_schema(classes, with_logits=False)
        self._labels = pa.array([f"label {index}" for index in range(classes)]).dictionary_encode()
        self._refs = [
            [ImageRef(f"/photos/{number * batch + row:09}.jpg", 110_000 + row, "1-2") for row in range(batch)]
            for number in range(_DIFFERENT)
        ]
        self._infos = [ImageInfo(500, 375, "jpeg", 110_000 + row, "simplejpeg") for row in range(batch)]

    def score(self, number: int, logits: npt.NDArray[np.float32]) -> pa.RecordBatch:
        """Turn logits float32[batch, classes] into rows of the scores table, as a run does."""
        values = probabilities.softmax(logits)
        summary = probabilities.summarise(values, 5)
        refs = self._refs[number % _DIFFERENT]
        return tables.scores_batch(
            self.schema, refs, self._infos, values, summary, self._labels, "wide@0", 0, None, logits
        )


def write_ours(rows: Rows, count: int, batch: int, folder: Path) -> None:
    """Compute and write by our own rooms."""
    writer = PartWriter(str(folder), "scores", rows.schema, {}, WriteSettings())
    for number in _batches(count, batch):
        writer.write(rows.score(number, rows.logits[number % _DIFFERENT]))
    writer.close()


def write_prepared(prepared: list[pa.RecordBatch], count: int, batch: int, folder: Path) -> None:
    """Write batches that are there already, with the encodings and row groups of our part files."""
    flat = [field.name for field in prepared[0].schema if not pa.types.is_nested(field.type)]
    group = max(1, WriteSettings().row_group_bytes // prepared[0].nbytes)
    with pq.ParquetWriter(
        folder / "part-0.parquet",
        prepared[0].schema,
        compression="zstd",
        compression_level=WriteSettings().compression_level,
        use_dictionary=[name for name in flat if pa.types.is_dictionary(prepared[0].schema.field(name).type)],
        column_encoding={"probabilities.list.element": "BYTE_STREAM_SPLIT"},
        write_statistics=flat,
    ) as writer:
        pending: list[pa.RecordBatch] = []
        for number in _batches(count, batch):
            pending.append(prepared[number % _DIFFERENT])
            if len(pending) == group:
                writer.write_table(pa.Table.from_batches(pending), row_group_size=group * batch)
                pending = []
        if pending:
            writer.write_table(pa.Table.from_batches(pending), row_group_size=group * batch)


def _batches(count: int, batch: int) -> Iterator[int]:
    return iter(range(-(-count // batch)))


def main() -> None:
    """Write rows and say how long it took, without imports and preparation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", required=True, choices=["ours", "write"])
    parser.add_argument("--rows", type=int, required=True, help="rounded up to whole batches")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--report", required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True)
    rows = Rows(arguments.batch, arguments.classes)
    task = (arguments.rows, arguments.batch, arguments.output)
    if arguments.mode == "ours":
        started = time.perf_counter()
        write_ours(rows, *task)
    else:
        prepared = [rows.score(number, rows.logits[number]) for number in range(_DIFFERENT)]
        started = time.perf_counter()
        write_prepared(prepared, *task)
    seconds = time.perf_counter() - started
    files = list(arguments.output.glob("*.parquet"))
    say(
        arguments.report,
        rows=sum(pq.read_metadata(file).num_rows for file in files),
        size_bytes=sum(file.stat().st_size for file in files),
        seconds=seconds,
    )


if __name__ == "__main__":
    main()
