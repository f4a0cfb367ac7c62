"""Write record batches as Parquet part files that are closed early enough to survive a crash."""

import contextlib
import hashlib
import re
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import moving, storage
from transforms.background import Background
from transforms.records import WrittenFile
from transforms.settings import WriteSettings

OPEN_SUFFIX = ".open"
DIGEST_SUFFIX = ".sha256"
_CLOSED_NAME = re.compile(r".+-([0-9a-f]{64})\.parquet")
# A dictionary of values that hardly repeat is written beside them for nothing.
_RARELY_REPEATED = {
    "image_path", "image_version", "image_bytes", "predicted_probability", "margin", "entropy",
    "scored_at", "failed_at",
}  # fmt: skip
# A batch costs some kilobytes besides its rows: 50,000 failures of one row each held 300 MB until they were merged.
_PENDING_BATCHES = 1024
# One row group is encoded and one waits; groups are a little larger than they should be, by a part of a batch.
_ROW_GROUPS = 2.5
_STORE_BYTES = 16 * 1024**2


class PartWriter:
    """Coalesces record batches into row groups and part files of one table, in threads of its own.

    One thread encodes and compresses row groups, a second one hashes and stores the bytes: whoever writes goes on
    meanwhile, and waits only where two row groups are under way already. What a thread raises is raised by the
    next call, and by every call after it.

    A file on a local disk has the suffix `.open` until it is closed, and then its SHA-256 in its name. An object
    appears in a remote store when it is closed, and then, beside it, one with its SHA-256. So whatever carries the
    final suffix is whole, and `closed_digest` tells what its bytes must be. A writer that nobody closes and nobody
    holds any more leaves such a file behind, and no thread.

    Args:
        folder: Where the files go; names are unique, also between processes and retries.
        table: The table's name, for WrittenFile.
        schema: Of every batch.
        metadata: Key-value metadata of every file.
        settings: When to close.
        clock: Seconds, monotonic.
        new_name: Makes the name that a file begins with, unique as said.
    """

    def __init__(
        self,
        folder: str,
        table: str,
        schema: pa.Schema,
        metadata: Mapping[str, str],
        settings: WriteSettings,
        clock: Callable[[], float] = time.monotonic,
        new_name: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._new_name = new_name
        self._folder = folder
        self._table = table
        self._schema = file_schema(schema, metadata)
        self._settings = settings
        self._clock = clock
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0
        self._file: _OpenFile | None = None
        self._encode = Background(f"encode-{table}", int(_ROW_GROUPS * settings.row_group_bytes))
        self._store = Background(f"store-{table}", _STORE_BYTES)
        self._closing: deque[Future[Future[WrittenFile]]] = deque()

    def write(self, batch: pa.RecordBatch) -> list[WrittenFile]:
        """Add a batch; return the files that were completed since the last call.

        Which rows share a file does not depend on how fast the threads are; when a file is returned does.

        Raises:
            Exception: What encoding or storing of earlier rows raised, OSError for one.
        """
        self.add(batch)
        if self.is_due():
            self.roll()
        return self.finished()

    def add(self, batch: pa.RecordBatch) -> None:
        """Add a batch to the open file, whether that is large enough or not.

        Raises:
            Exception: As write.
        """
        self._encode.check()
        self._store.check()
        if batch.num_rows == 0:
            return
        if self._file is None:
            name = storage.join(self._folder, self._new_name())
            self._file = _OpenFile(name, self._table, self._schema, self._settings, self._clock(), self._store)
        size = _row_bytes(batch)
        self._pending.append(batch)
        self._pending_bytes += size
        self._file.raw_bytes += size
        if len(self._pending) >= _PENDING_BATCHES:
            self._pending = [pa.concat_batches(self._pending)]
        self._file.rows += batch.num_rows
        if self._pending_bytes >= self._settings.row_group_bytes:
            self._write_row_group(self._file)

    def is_due(self) -> bool:
        """Tell whether there is an open file that is to be closed."""
        return self._file is not None and (
            self._file.rows >= self._settings.rows_per_file
            or self._is_large(self._file)
            or self._clock() - self._file.opened_at >= self._settings.seconds_per_file
        )

    def roll(self) -> None:
        """Close the open file, if there is one: the next row begins another."""
        if self._file is not None:
            self._close_file(self._file)

    def close(self) -> list[WrittenFile]:
        """Close the open file, wait for everything, and return the files that were not returned yet.

        Raises:
            Exception: What encoding or storing raised: the rows of no file that was not returned count.
        """
        self.roll()
        self._encode.settle()
        self._store.settle()
        return self.finished()

    def _write_row_group(self, file: "_OpenFile") -> None:
        if self._pending:
            batches, size = self._pending, self._pending_bytes
            self._pending, self._pending_bytes = [], 0
            self._encode.put(size, partial(file.write, batches))

    def _is_large(self, file: "_OpenFile") -> bool:
        # Rows count with their raw size until that is too much. Then what is under way is waited for, and the encoded
        # size decides: however fast the thread is, a file has the same rows.
        if file.known_bytes + file.raw_bytes < self._settings.bytes_per_file:
            return False
        self._encode.settle()
        file.known_bytes, file.raw_bytes = file.size_bytes, self._pending_bytes
        return file.known_bytes + file.raw_bytes >= self._settings.bytes_per_file

    def _close_file(self, file: "_OpenFile") -> None:
        self._file = None
        self._write_row_group(file)
        self._closing.append(self._encode.put(0, file.close))

    def finished(self) -> list[WrittenFile]:
        """Return the files that were completed since the last call."""
        files = []
        while self._closing and self._closing[0].done() and self._closing[0].result().done():
            files.append(self._closing.popleft().result().result())
        return files


def write_empty_file(
    folder: str, table: str, schema: pa.Schema, metadata: Mapping[str, str], settings: WriteSettings
) -> WrittenFile:
    """Write a part file without rows, so that a table without rows can be queried."""
    store = Background(f"store-{table}", _STORE_BYTES)
    name = storage.join(folder, uuid.uuid4().hex)
    return _OpenFile(name, table, file_schema(schema, metadata), settings, 0.0, store).close().result()


def group_of(path: str) -> str:
    """Return the name that a closed file begins with: files of different tables that share it were closed together.

    >>> group_of("/out/_staging/scores/0a1b-" + 64 * "c" + ".parquet"), group_of("s3://bucket/scores/0a1b.parquet")
    ('0a1b', '0a1b')
    """
    return path.rpartition("/")[2].removesuffix(".parquet").partition("-")[0]


def closed_digest(path: str) -> str | None:
    """Return the SHA-256 that a part file had when it was closed; None where it was not, or nobody says.

    Args:
        path: Of the file, under the name that its writer gave it.

    Raises:
        OSError: The store does not answer.
    """
    if not storage.is_remote(path):
        found = _CLOSED_NAME.fullmatch(path)
        return found[1] if found else None
    try:
        return storage.read_bytes(path + DIGEST_SUFFIX).decode("ascii", errors="replace")
    except FileNotFoundError:
        return None


def _row_bytes(batch: pa.RecordBatch) -> int:
    # Without dictionaries: every batch shares the labels, and counting them each time made row groups too small.
    columns = (column.indices if pa.types.is_dictionary(column.type) else column for column in batch.columns)
    return sum(column.nbytes for column in columns)


def file_schema(schema: pa.Schema, metadata: Mapping[str, str]) -> pa.Schema:
    """Return the schema that a part file has: with its key-value metadata."""
    return schema.with_metadata({**(schema.metadata or {}), **metadata})


class _OpenFile:
    """One Parquet file on its way; `write` and `close` belong to one thread, the rest to the writer's caller."""

    def __init__(
        self,
        stem: str,
        table: str,
        schema: pa.Schema,
        settings: WriteSettings,
        opened_at: float,
        store: Background,
    ) -> None:
        self.rows = 0
        self.opened_at = opened_at
        self.known_bytes = 0
        """Encoded, when it was last asked for."""
        self.raw_bytes = 0
        """Of the rows since then, before they are encoded."""
        self._table = table
        self._schema = schema
        self._stem = stem
        self._open_path = f"{stem}.parquet{'' if storage.is_remote(stem) else OPEN_SUFFIX}"
        storage.make_folder(storage.parent(stem))
        filesystem, inner = storage.filesystem(self._open_path)
        self._stream = _HashingStream(filesystem.open_output_stream(inner), store)
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

    def write(self, batches: list[pa.RecordBatch]) -> None:
        """Encode one row group."""
        table = pa.Table.from_batches(batches).replace_schema_metadata(self._schema.metadata)
        with self._given_up_on_error():
            self._writer.write_table(table, row_group_size=table.num_rows)

    def close(self) -> "Future[WrittenFile]":
        """Write the footer, and have the file closed and named when its last byte is stored."""
        with self._given_up_on_error():
            self._writer.close()
        return self._stream.close_with(partial(self._finish, self._footers[0].num_rows))

    @contextlib.contextmanager
    def _given_up_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._give_up()
            raise

    def _give_up(self) -> None:
        # One that is collected open tries to write its footer, first Python's class and then the C++ below it.
        self._writer.is_open = False
        self._stream.give_up()

    def _finish(self, rows: int) -> WrittenFile:
        digest = self._stream.digest.hexdigest()
        path = self._open_path
        if storage.is_remote(path):
            # An object has its name before its bytes, and a new name is a copy: a second object says the digest.
            storage.write_bytes(path + DIGEST_SUFFIX, digest.encode())
        else:
            path = f"{self._stem}-{digest}.parquet"
            # The name must not outlive its bytes in a power failure.
            storage.flush_file(self._open_path)
            moving.move_files([(self._open_path, path)])
        return WrittenFile(self._table, path, rows, self._stream.size, digest)

    def __del__(self) -> None:
        if hasattr(self, "_writer"):
            self._give_up()


class _HashingStream:
    """A write-only file that counts what passes, and hashes and stores it in the background.

    The digest costs no second read.
    """

    def __init__(self, stream: IO[bytes], store: Background) -> None:
        self._stream = stream
        self._store = store
        self.digest = hashlib.sha256()
        self.size = 0
        self.closed = False
        self._given_up = False

    def give_up(self) -> None:
        """Take nothing more.

        Arrow ends a file that is collected open, wherever that happens: inside a thread pool, too, which would wait
        for itself if bytes were put to be stored.
        """
        self._given_up = True

    def write(self, data: bytes) -> int:
        if not self._given_up:
            self._store.put(len(data), partial(self._write, data))
            self.size += len(data)
        return len(data)

    def _write(self, data: bytes) -> None:
        self.digest.update(data)
        self._stream.write(data)

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        """Nothing to do: what is written is under way already."""

    def close(self) -> None:
        """Nothing to do: `close_with` closes."""
        self.closed = True

    def close_with(self, finish: Callable[[], WrittenFile]) -> "Future[WrittenFile]":
        """Close the file when its last byte is stored, and do what is to be done then."""
        self.closed = True
        return self._store.put(0, partial(self._close, finish))

    def _close(self, finish: Callable[[], WrittenFile]) -> WrittenFile:
        self._stream.close()
        return finish()
