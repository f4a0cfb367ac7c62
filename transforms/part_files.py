"""Write record batches as Parquet part files that are closed early enough to survive a crash."""

import hashlib
import time
import uuid
from collections.abc import Callable, Mapping
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.records import WrittenFile
from transforms.settings import WriteSettings

OPEN_SUFFIX = ".open"
# A dictionary of values that hardly repeat is written beside them for nothing.
_RARELY_REPEATED = {
    "image_path", "image_version", "image_bytes", "predicted_probability", "margin", "entropy",
    "scored_at", "failed_at",
}  # fmt: skip
# A batch costs some kilobytes besides its rows: 50,000 failures of one row each held 300 MB until they were merged.
_PENDING_BATCHES = 1024


class PartWriter:
    """Coalesces record batches into row groups and part files of one table.

    A file on a local disk has the suffix `.open` until it is closed; an object appears in a remote store when
    it is closed. So whatever carries the final suffix is whole.

    Args:
        folder: Where the files go; names are unique, also between processes and retries.
        table: The table's name, for WrittenFile.
        schema: Of every batch.
        metadata: Key-value metadata of every file.
        settings: When to close.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        folder: str,
        table: str,
        schema: pa.Schema,
        metadata: Mapping[str, str],
        settings: WriteSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._table = table
        self._schema = _with_metadata(schema, metadata)
        self._settings = settings
        self._clock = clock
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0
        self._file: _OpenFile | None = None

    def write(self, batch: pa.RecordBatch) -> WrittenFile | None:
        """Add a batch; return the file that it completed, if it completed one."""
        if batch.num_rows == 0:
            return None
        if self._file is None:
            self._file = _OpenFile(self._folder, self._table, self._schema, self._settings, self._clock())
        self._pending.append(batch)
        self._pending_bytes += _row_bytes(batch)
        if len(self._pending) >= _PENDING_BATCHES:
            self._pending = [pa.concat_batches(self._pending)]
        self._file.rows += batch.num_rows
        if self._pending_bytes >= self._settings.row_group_bytes:
            self._write_row_group(self._file)
        full = (
            self._file.rows >= self._settings.rows_per_file
            or self._file.size_bytes + self._pending_bytes >= self._settings.bytes_per_file
            or self._clock() - self._file.opened_at >= self._settings.seconds_per_file
        )
        return self.close() if full else None

    def close(self) -> WrittenFile | None:
        """Close the open file and return it; None where nothing is open."""
        file, self._file = self._file, None
        if file is None:
            return None
        self._write_row_group(file)
        return file.close()

    def _write_row_group(self, file: "_OpenFile") -> None:
        if self._pending:
            file.write(pa.Table.from_batches(self._pending).replace_schema_metadata(self._schema.metadata))
            self._pending, self._pending_bytes = [], 0


def write_empty_file(
    folder: str, table: str, schema: pa.Schema, metadata: Mapping[str, str], settings: WriteSettings
) -> WrittenFile:
    """Write a part file without rows, so that a table without rows can be queried."""
    file = _OpenFile(folder, table, _with_metadata(schema, metadata), settings, 0.0)
    return file.close()


def _row_bytes(batch: pa.RecordBatch) -> int:
    # Without dictionaries: every batch shares the labels, and counting them each time made row groups too small.
    columns = (column.indices if pa.types.is_dictionary(column.type) else column for column in batch.columns)
    return sum(column.nbytes for column in columns)


def _with_metadata(schema: pa.Schema, metadata: Mapping[str, str]) -> pa.Schema:
    return schema.with_metadata({**(schema.metadata or {}), **metadata})


class _OpenFile:
    """One Parquet file on its way."""

    def __init__(self, folder: str, table: str, schema: pa.Schema, settings: WriteSettings, opened_at: float) -> None:
        self.rows = 0
        self.opened_at = opened_at
        self._table = table
        self._path = storage.join(folder, f"{uuid.uuid4().hex}.parquet")
        self._open_path = self._path if storage.is_remote(self._path) else self._path + OPEN_SUFFIX
        storage.make_folder(folder)
        filesystem, inner = storage.filesystem(self._open_path)
        self._stream = _HashingStream(filesystem.open_output_stream(inner))
        names = [field.name for field in schema if not pa.types.is_nested(field.type)]
        vectors = [
            f"{field.name}.list.element"
            for field in schema
            if pa.types.is_fixed_size_list(field.type) or (pa.types.is_list(field.type) and field.name == "logits")
        ]
        dictionary = [name for name in names if name not in _RARELY_REPEATED]
        dictionary += [f"top_k.list.element.{name}" for name in ("label", "index", "rank")]
        dictionary.append("positive_labels.list.element")
        self._footers: list[Any] = []
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._stream, mode="w"),
            schema,
            compression="zstd",
            compression_level=settings.compression_level,
            use_dictionary=dictionary,
            # The bytes of float32 probabilities compress best sorted by significance.
            column_encoding=dict.fromkeys(vectors, "BYTE_STREAM_SPLIT"),
            write_statistics=[name for name in names if name != "scored_at"],
            # Spark and BigQuery expect list.element, which pyarrow writes by default since 5.0: said, not hoped.
            use_compliant_nested_type=True,
            # A file that an interrupted run left is adopted only if every page is what was written.
            write_page_checksum=True,
            metadata_collector=self._footers,
        )

    @property
    def size_bytes(self) -> int:
        return self._stream.size

    def write(self, table: pa.Table) -> None:
        try:
            self._writer.write_table(table, row_group_size=table.num_rows)
        except OSError:
            # Of a full disk, for one: a writer that is collected open tries to write its footer, and complains.
            self._writer.is_open = False
            raise

    def close(self) -> WrittenFile:
        self._writer.close()
        self._stream.close()
        if self._open_path != self._path:
            # The name must not outlive its bytes in a power failure.
            storage.flush_file(self._open_path)
            storage.move_files([(self._open_path, self._path)])
        return WrittenFile(
            self._table, self._path, self._footers[0].num_rows, self._stream.size, self._stream.digest.hexdigest()
        )


class _HashingStream:
    """A write-only file that counts and hashes what passes: the digest costs no second read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()
        self.size = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self._stream.write(data)
        self.size += len(data)
        return len(data)

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._stream.close()
