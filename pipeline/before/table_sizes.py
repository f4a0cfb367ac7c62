"""Measure what rows take in Parquet, from a sample that is much smaller than a row group.

A hundred rows compress worse than thousands: dictionaries have paid for few values, and zstd learns from little. So
numbers are stretched to many rows like those of the sample; names, which are all different, are taken as they are.
"""

import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.before.prediction import TableSizes
from transforms.part_files import PartWriter, write_empty_file
from transforms.settings import WriteSettings

_STRETCHED = 4096
_SPREAD = 0.5
"""Of the logarithm of a stretched number: enough that no two rows have the same bytes."""


def measure_table(
    table: str, rows: pa.Table, expected: int, metadata: dict[str, str], settings: WriteSettings
) -> TableSizes:
    """Write the rows of a sample to temporary files, as a run does, and return what they take.

    Args:
        table: scores or failures.
        rows: Of the sample; possibly none.
        expected: Rows of the night.
        metadata: Of its files.
        settings: Of its files.
    """
    rows = rows.combine_chunks()
    named = [field.name for field in rows.schema if pa.types.is_string(field.type)]
    numbers = rows.drop_columns(named)
    raw_row = sum(_raw_bytes(column) for column in rows.columns) / max(1, len(rows))
    fitting = int(settings.row_group_bytes / max(1.0, raw_row))
    stretched = min(_STRETCHED, expected, fitting, settings.rows_per_file)
    if len(rows) and numbers.num_columns and stretched > len(rows):
        numbers = _stretched(numbers, stretched)
    with tempfile.TemporaryDirectory(prefix="score-images-") as folder:
        writing = _Writing(folder, table, settings)
        empty = writing.size(rows.slice(0, 0), metadata)
        parts = [part for part in (rows.select(named), numbers) if part.num_columns]
        found = [writing.slope(part) for part in parts]
    return TableSizes(empty, sum(group for _, group in found), sum(row for row, _ in found), raw_row)


class _Writing:
    def __init__(self, folder: str, table: str, settings: WriteSettings) -> None:
        self._folder = folder
        self._table = table
        # All rows in one row group of one file.
        self._settings = settings.model_copy(update={"rows_per_file": 10**9, "row_group_bytes": 10**9})

    def size(self, rows: pa.Table, metadata: dict[str, str]) -> int:
        """Return the bytes of a file."""
        arguments = self._folder, self._table, rows.schema, metadata, self._settings
        if not len(rows):
            return write_empty_file(*arguments).size_bytes
        writer = PartWriter(*arguments)
        files = [file for batch in rows.to_batches() for file in writer.write(batch)]
        return sum(file.size_bytes for file in [*files, *writer.close()])

    def slope(self, rows: pa.Table) -> tuple[float, float]:
        """Return the bytes that one more row adds, and those that a row group takes besides."""
        if not len(rows):
            return 0.0, 0.0
        half = len(rows) // 2
        empty, few, all_ = (self.size(part, {}) for part in (rows.slice(0, 0), rows.slice(0, half), rows))
        row = max(0.0, (all_ - few) / (len(rows) - half))
        return row, max(0.0, all_ - empty - row * len(rows))


def _raw_bytes(column: pa.ChunkedArray) -> int:
    # As the writer counts: without dictionaries.
    if pa.types.is_dictionary(column.type):
        return sum(chunk.indices.nbytes for chunk in column.chunks)
    return int(column.nbytes)


def _stretched(rows: pa.Table, count: int) -> pa.Table:
    """Return count rows: each one of the given ones, chosen at random, with other floats of the same size."""
    chance = np.random.default_rng(0)
    taken = rows.take(chance.integers(0, len(rows), count)).combine_chunks()
    columns = [_moved(column.chunk(0), chance) for column in taken.columns]
    return pa.Table.from_arrays(columns, schema=taken.schema)


def _moved(column: pa.Array, chance: np.random.Generator) -> pa.Array:
    """Return other numbers than those of a column, where those of a night hardly repeat.

    Floats, at any depth, and sizes of files are others; times are in the order in which rows are written. What comes
    from a small set repeats: widths, classes, ranks.
    """
    kind = column.type
    if column.null_count:
        return column
    if pa.types.is_floating(kind):
        return pa.array(_near(column.to_numpy(), chance).astype(np.float32), kind)
    if pa.types.is_int64(kind):
        return pa.array(_near(column.to_numpy(), chance).astype(np.int64), kind)
    if pa.types.is_timestamp(kind):
        return column.take(pc.sort_indices(column))
    if pa.types.is_struct(kind):
        fields = [_moved(column.field(index), chance) for index in range(kind.num_fields)]
        return pa.StructArray.from_arrays(fields, fields=list(kind))
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(_moved(column.flatten(), chance), type=kind)
    if pa.types.is_list(kind):
        lengths = column.value_lengths().to_numpy()
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), _moved(column.flatten(), chance), type=kind)
    return column


def _near(values: npt.NDArray[Any], chance: np.random.Generator) -> npt.NDArray[np.float64]:
    return values * np.exp(chance.normal(0.0, _SPREAD, len(values)))
