"""Read the paths in a manifest: a text file of names, or a column of CSV, JSONL or Parquet.

Manifests are read as streams: one may name a hundred million images.
"""

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

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

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


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


def read_manifest(source: Manifest) -> Iterator[str | None]:
    """Yield the paths of a manifest as they stand there; None where an entry has none.

    Blank lines are no entries. Bytes that are not UTF-8 come as surrogates, as Python names such files.

    Raises:
        InputError: It cannot be read as what it is, or lacks its column.
        OSError: The storage does not give it.
    """
    readers = {"txt": _text_lines, "csv": _csv_values, "jsonl": _jsonl_values, "parquet": _parquet_values}
    return readers[source.kind](source)


def _unreadable(source: Manifest, reason: object, line: int | None = None) -> InputError:
    where = f" line {line}" if line is not None else ""
    first = str(reason).split("\n")[0]
    return InputError(f"manifest {source.text}{where} cannot be read as {source.kind}: {first}")


@contextlib.contextmanager
def _open_text(source: Manifest, newline: str) -> Iterator[io.TextIOWrapper]:
    filesystem, inner = storage.filesystem(source.path)
    with filesystem.open_input_stream(inner, buffer_size=1 << 20) as stream:
        head = stream.read(2)
    if head in _UTF16_MARKS:
        raise InputError(f"manifest {source.text} is UTF-16 text; save it as UTF-8")
    # Names need not be UTF-8 on a local disk: what is not, survives as surrogates and fails by name later.
    with (
        filesystem.open_input_stream(inner, buffer_size=1 << 20) as stream,
        io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline) as text,
    ):
        yield text


def _text_lines(source: Manifest) -> Iterator[str]:
    with _open_text(source, newline="\n") as lines:
        for line in lines:
            # A blank line is no entry; every other character but the line's end belongs to the name.
            if name := line.removesuffix("\n").removesuffix("\r"):
                yield name


def _csv_values(source: Manifest) -> Iterator[str | None]:
    with _open_text(source, newline="") as lines:
        rows = csv.reader(lines, strict=True)
        try:
            header = next(rows, None)
            if header is None:
                return
            position = _column_position(source, header)
            for row in rows:
                if row:
                    yield row[position] if position < len(row) else None
        except csv.Error as error:
            raise _unreadable(source, error, rows.line_num) from error


def _jsonl_values(source: Manifest) -> Iterator[str | None]:
    column = source.path_column
    checked = False
    with _open_text(source, newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except json.JSONDecodeError as error:
                raise _unreadable(source, f"{error.msg} at column {error.colno}", number) from error
            except (ValueError, RecursionError) as error:  # an endless number, or brackets without end
                raise _unreadable(source, error, number) from error
            if not isinstance(entry, dict):
                raise _unreadable(source, f'{line.strip()[:60]} is no object; write {{"{column}": "..."}}', number)
            if not checked:
                _column_position(source, list(entry))
                checked = True
            value = entry.get(column)
            if value is not None and not isinstance(value, str):
                raise _unreadable(source, f"{column} is {value!r:.60}, a string is needed", number)
            yield value


def _parquet_values(source: Manifest) -> Iterator[str | None]:
    filesystem, inner = storage.filesystem(source.path)
    with filesystem.open_input_file(inner) as file:
        try:
            parquet = pq.ParquetFile(file)
            position = _column_position(source, parquet.schema_arrow.names)
            found = parquet.schema_arrow.field(position).type
            if not _holds_text(found):
                raise _unreadable(source, f"column {source.path_column} is {found}, strings are needed")
            for batch in parquet.iter_batches(columns=[source.path_column]):
                yield from batch.column(0).cast(pa.string()).to_pylist()
        except pa.ArrowException as error:
            raise _unreadable(source, error) from error


def _holds_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in (*tests, pa.types.is_null))


def _column_position(source: Manifest, names: Sequence[str]) -> int:
    if source.path_column not in names:
        raise InputError(
            f"manifest {source.text} has no column {source.path_column}; it has {', '.join(names)}; "
            "name the right one with --path-column"
        )
    return list(names).index(source.path_column)
