"""Read the paths in a manifest: a text file of names, or a column of CSV, JSONL or Parquet.

Manifests are read as streams: one may name a hundred million images. They are read whole, or in splits by several
workers; `manifest_splits.py` says where a manifest can be split.
"""

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.errors import InputError

ManifestKind = Literal["txt", "csv", "parquet", "jsonl"]

KINDS: dict[str, ManifestKind] = {
    ".txt": "txt",
    ".csv": "csv",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
"""Kinds by the end of the name."""

MARK = b"\xef\xbb\xbf"
"""A text may begin with it; it belongs to no name."""
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# The first bytes of gzip, zstd and zip.
_COMPRESSED = (b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")
# A store is asked for so much at a time.
_BUFFER_BYTES = 4 * 1024**2


class Manifest(NamedTuple):
    """A file that names images."""

    text: str
    """As the user wrote it, for messages."""
    kind: ManifestKind
    """What it is."""
    path: str
    """Absolute path or URL."""
    path_column: str
    """The column that holds the paths; a text file has none."""


class Split(NamedTuple):
    """A part of a manifest that is read by itself."""

    manifest: Manifest
    """The manifest."""
    start: int = 0
    """Of text, CSV and JSONL the first byte, of Parquet the first row group."""
    end: int | None = None
    """Behind the last one; None for the end of the file. A line of text or JSONL belongs to the split that its first
    byte lies in; of CSV, both are where a row begins."""
    first: int = 0
    """How many entries stand before it: known of Parquet only."""
    column: int | None = None
    """Of CSV, which column holds the paths, where the header stands in another split."""

    def name(self, number: int) -> str:
        """Return a name for an entry that no other entry of the manifest has.

        Args:
            number: Of the entry, from 1: in the manifest where that is known, else in the split.

        >>> Split(Manifest("@l.txt", "txt", "/l.txt", ""), 4096).name(3)
        '4096+3'
        """
        return f"{self.start}+{number}" if self._counts_from_byte else f"{number}"

    def says(self, number: int) -> str:
        """Return the same for a person."""
        return f"entry {number}{self._after}"

    @property
    def _counts_from_byte(self) -> bool:
        return self.manifest.kind != "parquet" and self.start > 0

    @property
    def _after(self) -> str:
        return f" after byte {self.start}" if self._counts_from_byte else ""

    def unreadable(self, reason: object, line: int | None = None) -> InputError:
        """Return what to raise where it cannot be read as what it is."""
        where = f" line {line}{self._after}" if line is not None else ""
        first = str(reason).split("\n")[0]
        return InputError(f"manifest {self.manifest.text}{where} cannot be read as {self.manifest.kind}: {first}")


def read_split(split: Split) -> Iterator[str | None]:
    """Yield the paths of a manifest, or of a part of it, as they stand there; None where an entry has none.

    Blank lines are no entries. Bytes that are not UTF-8 come as surrogates, as Python names such files.

    Raises:
        InputError: It cannot be read as what it is, or lacks its column.
        OSError: The storage does not give it.
    """
    readers = {"txt": _text_lines, "csv": _csv_values, "jsonl": _jsonl_values, "parquet": _parquet_values}
    return readers[split.manifest.kind](split)


@contextlib.contextmanager
def open_bytes(manifest: Manifest, start: int = 0, end: int | None = None) -> "Iterator[io.BufferedReader[Any]]":
    """Open a part of a manifest that is text: a store is asked for no more than that.

    Raises:
        InputError: It is text of another kind than UTF-8, or compressed.
        OSError: The storage does not give it.
    """
    filesystem, inner = storage.filesystem(manifest.path)
    with contextlib.ExitStack() as stack:
        if start == 0 and end is None:
            # Not open_input_file: pyarrow holds Python's lock while Arrow makes its first request to GCS.
            raw = stack.enter_context(filesystem.open_input_stream(inner, buffer_size=_BUFFER_BYTES))
        else:
            raw = _Range(stack.enter_context(filesystem.open_input_file(inner)), start, end)
        stream = stack.enter_context(io.BufferedReader(raw, _BUFFER_BYTES))
        if start == 0 and stream.peek(2)[:2] in _UTF16_MARKS:
            raise InputError(f"manifest {manifest.text} is UTF-16 text; save it as UTF-8")
        if start == 0 and stream.peek(8).startswith(_COMPRESSED):
            raise InputError(f"manifest {manifest.text} is compressed, whatever its name says: unpack it first")
        yield stream


class _Range(io.RawIOBase):
    """Reads a part of a file."""

    def __init__(self, file: pa.NativeFile, start: int, end: int | None) -> None:
        self._file = file
        self._position = start
        self._end = file.size() if end is None else end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._end - self._position)
        if wanted <= 0:
            return 0
        data = self._file.read_at(wanted, self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _lines(split: Split) -> Iterator[str]:
    """Yield the lines that begin in a split, with their ends."""
    # From one byte before it on: where that ends a line, the next one is the split's first.
    position = max(0, split.start - 1)
    with open_bytes(split.manifest, position) as stream:
        if split.start:
            position += len(stream.readline())
        while split.end is None or position < split.end:
            line = stream.readline()
            if not line:
                return
            # Names need not be UTF-8 on a local disk: what is not, survives as surrogates and fails by name later.
            yield (line.removeprefix(MARK) if position == 0 else line).decode("utf-8", "surrogateescape")
            position += len(line)


def _text_lines(split: Split) -> Iterator[str]:
    for line in _lines(split):
        # A blank line is no entry; every other character but the line's end belongs to the name.
        if name := line.removesuffix("\n").removesuffix("\r"):
            yield name


def _csv_values(split: Split) -> Iterator[str | None]:
    encoding = "utf-8" if split.start else "utf-8-sig"
    with (
        open_bytes(split.manifest, split.start, split.end) as stream,
        io.TextIOWrapper(stream, encoding, "surrogateescape", newline="") as lines,
    ):
        rows = csv.reader(lines, strict=True)
        try:
            position = split.column
            if position is None:
                header = next(rows, None)
                if header is None:
                    return
                position = column_position(split.manifest, header)
            for row in rows:
                if row:
                    yield row[position] if position < len(row) else None
        except csv.Error as error:
            raise split.unreadable(error, rows.line_num) from error


def _jsonl_values(split: Split) -> Iterator[str | None]:
    column = split.manifest.path_column
    checked = split.start > 0
    for number, line in enumerate(_lines(split), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise split.unreadable(f"{error.msg} at column {error.colno}", number) from error
        except (ValueError, RecursionError) as error:  # an endless number, or brackets without end
            raise split.unreadable(error, number) from error
        if not isinstance(entry, dict):
            raise split.unreadable(f'{line.strip()[:60]} is no object; write {{"{column}": "..."}}', number)
        if not checked:
            column_position(split.manifest, list(entry))
            checked = True
        value = entry.get(column)
        if value is not None and not isinstance(value, str):
            raise split.unreadable(f"{column} is {value!r:.60}, a string is needed", number)
        yield value


@contextlib.contextmanager
def open_parquet(split: Split) -> Iterator[pq.ParquetFile]:
    """Open a Parquet manifest, and see that it has its column.

    Raises:
        InputError: It is no Parquet file, lacks its column, or holds no text there; also where the caller meets damage.
        OSError: The storage does not give it.
    """
    filesystem, inner = storage.filesystem(split.manifest.path)
    with filesystem.open_input_file(inner) as file:
        try:
            # A buffer: pages one after the other, not a whole column of a row group.
            parquet = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES)
            position = column_position(split.manifest, parquet.schema_arrow.names)
            found = parquet.schema_arrow.field(position).type
            if not _holds_text(found):
                raise split.unreadable(f"column {split.manifest.path_column} is {found}, strings are needed")
            yield parquet
        except pa.ArrowException as error:
            raise split.unreadable(error) from error


def _parquet_values(split: Split) -> Iterator[str | None]:
    with open_parquet(split) as parquet:
        end = parquet.num_row_groups if split.end is None else split.end
        groups = range(split.start, end)
        for batch in parquet.iter_batches(row_groups=groups, columns=[split.manifest.path_column]):
            yield from batch.column(0).cast(pa.string()).to_pylist()


def _holds_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in (*tests, pa.types.is_null))


def column_position(manifest: Manifest, names: Sequence[str]) -> int:
    """Return which of its columns holds the paths.

    Raises:
        InputError: None does.
    """
    if manifest.path_column not in names:
        raise InputError(
            f"manifest {manifest.text} has no column {manifest.path_column}; it has {', '.join(names)}; "
            "name the right one with --path-column"
        )
    return list(names).index(manifest.path_column)
