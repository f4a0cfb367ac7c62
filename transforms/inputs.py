"""What an --input means, and the images that it names.

An input is a file, a folder or prefix, a glob, or a manifest (`@list.txt`, `.csv`, `.parquet`, `.jsonl`). A path
that exists is taken by its name, whatever characters it has; only one that does not exist is read as a glob.
A manifest's line is always a literal.
"""

import contextlib
import csv
import io
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from wcmatch import glob as wcglob

from transforms import storage
from transforms.errors import FailureCode, ImageError, InputError
from transforms.records import ImageRef
from transforms.settings import InputSettings

DEFAULT_PATH_COLUMN = "image_path"
_GLOB_CHARACTERS = re.compile(r"[*?\[{]")
_GLOB_FLAGS = wcglob.GLOBSTAR | wcglob.BRACE | wcglob.DOTGLOB | wcglob.CASE
_MANIFEST_KINDS = {".txt": "txt", ".csv": "csv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}

InputKind = Literal["file", "folder", "glob", "txt", "csv", "parquet", "jsonl"]


class InputSource(NamedTuple):
    """One --input, understood."""

    text: str
    """As the user wrote it, for messages."""
    kind: InputKind
    """What it is."""
    path: str
    """Absolute path or URL; for a glob the pattern."""
    path_column: str
    """The column of a manifest that holds the paths."""


class BadName(NamedTuple):
    """A listed entry that cannot be a path: it becomes a failures row of the list stage."""

    path: str
    """A name for the failures row, unique in its input."""
    error: ImageError
    """Why."""


def parse_input(text: str, path_column: str = DEFAULT_PATH_COLUMN) -> InputSource:
    """Find out what an --input is.

    Args:
        text: File, folder, prefix, glob, or manifest with a leading `@`.
        path_column: The column of a CSV, Parquet or JSONL manifest that holds the paths.

    Raises:
        InputError: It names nothing that exists, or a manifest of an unknown kind.
    """
    if text.startswith("@"):
        path = storage.absolute(text[1:])
        kind = _MANIFEST_KINDS.get(os.path.splitext(path)[1].lower())
        if kind is None:
            raise InputError(f"manifest {text}: the name must end in one of {', '.join(sorted(_MANIFEST_KINDS))}")
        if storage.stat(path) is None:
            raise InputError(f"manifest {text}: there is no file {path}")
        return InputSource(text, kind, path, path_column)  # type: ignore[arg-type]
    path = storage.absolute(text)
    if storage.is_folder(path):
        return InputSource(text, "folder", path, path_column)
    if not text.endswith("/") and storage.stat(path) is not None:
        return InputSource(text, "file", path, path_column)
    if _GLOB_CHARACTERS.search(text):
        return InputSource(text, "glob", path, path_column)
    raise InputError(
        f"input {text} matches nothing: {path} is no file and no folder; "
        "give a file, folder, glob ('photos/**/*.jpg') or manifest (@paths.csv)"
    )


def check_not_empty(source: InputSource, settings: InputSettings) -> None:
    """Refuse an input that names no image, after looking at no more of it than its first one.

    Raises:
        InputError: It matches nothing, or its manifest cannot be read.
    """
    if next(list_input(source, settings), None) is not None:
        return
    if source.kind == "folder":
        seen = [os.path.basename(file.path) for file in itertools.islice(storage.list_folder(source.path), 3)]
        what = f"it holds {', '.join(seen)}, ..., and none ends in" if seen else "it holds no file ending in"
        raise InputError(
            f"input {source.text} matches nothing: {what} {', '.join(settings.extensions)}; "
            "set input.extensions, use a glob or a manifest"
        )
    if source.kind == "glob":
        raise InputError(f"input {source.text} matches nothing: no file has a name like {source.path}")
    raise InputError(f"input {source.text} names no image: the manifest is empty")


def list_input(source: InputSource, settings: InputSettings) -> Iterator[ImageRef | BadName]:
    """Yield every image that an input names, duplicates included.

    Files are described by the listing itself (size and version); a manifest's lines are not looked at, so that
    listing a hundred million of them asks the storage nothing.

    Raises:
        InputError: The manifest cannot be read, or lacks its column.
        OSError: The storage cannot be listed.
    """
    if source.kind == "file":
        found = storage.stat(source.path)
        yield ImageRef(source.path, found.size_bytes if found else None, found.version if found else None)
        return
    if source.kind == "folder":
        yield from map(_checked, _only_images(storage.list_folder(source.path), settings.extensions))
        return
    if source.kind == "glob":
        yield from map(_checked, _matching(source.path))
        return
    folder = storage.parent(source.path)
    for number, text in enumerate(_manifest_entries(source), start=1):
        if text is None or text == "":
            message = f"entry {number} of the manifest has no path in column {source.path_column}"
            yield BadName(f"{source.path}#{number}", ImageError(FailureCode.NOT_FOUND, message))
        else:
            yield _checked(storage.FileStat(storage.absolute(text, folder), -1, ""))


def _checked(file: storage.FileStat) -> ImageRef | BadName:
    try:
        file.path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(file.path).decode("utf-8", "backslashreplace")
        message = "the name is not valid UTF-8 and cannot be written to a table; rename the file"
        return BadName(shown, ImageError(FailureCode.READ_ERROR, message))
    return ImageRef(file.path, file.size_bytes, file.version) if file.version else ImageRef(file.path, None, None)


def _only_images(files: Iterator[storage.FileStat], extensions: Sequence[str]) -> Iterator[storage.FileStat]:
    if "*" in extensions:
        return files
    endings = tuple(f".{extension.lower().lstrip('.')}" for extension in extensions)
    return (file for file in files if file.path.lower().endswith(endings))


def _matching(pattern: str) -> Iterator[storage.FileStat]:
    fixed = pattern[: _GLOB_CHARACTERS.search(pattern).start()].rpartition("/")[0]  # type: ignore[union-attr]
    folder = fixed or "/"
    if not storage.is_folder(folder):
        return iter(())
    deep = "**" in pattern or "/" in pattern[len(fixed) + 1 :]
    matcher = wcglob.compile(pattern, flags=_GLOB_FLAGS)
    return (file for file in storage.list_folder(folder, recursive=deep) if matcher.match(file.path))


def _manifest_entries(source: InputSource) -> Iterator[str | None]:
    readers = {"txt": _text_lines, "csv": _csv_values, "jsonl": _jsonl_values, "parquet": _parquet_values}
    try:
        yield from readers[source.kind](source)
    except (pa.ArrowException, csv.Error, json.JSONDecodeError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"manifest {source.text} cannot be read as {source.kind}: {reason}") from error


@contextlib.contextmanager
def _open_text(path: str, newline: str) -> Iterator[io.TextIOWrapper]:
    filesystem, inner = storage.filesystem(path)
    # Names need not be UTF-8 on a local disk: what is not, survives as surrogates and fails by name later.
    with (
        filesystem.open_input_stream(inner, buffer_size=1 << 20) as stream,
        io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline) as text,
    ):
        yield text


def _text_lines(source: InputSource) -> Iterator[str]:
    with _open_text(source.path, newline="\n") as lines:
        for line in lines:
            # A blank line is no entry; every other character but the line's end belongs to the name.
            if name := line.removesuffix("\n").removesuffix("\r"):
                yield name


def _csv_values(source: InputSource) -> Iterator[str | None]:
    with _open_text(source.path, newline="") as lines:
        rows = csv.reader(lines, strict=True)
        header = next(rows, None)
        if header is None:
            return
        position = _column_position(source, header)
        for row in rows:
            if row:
                yield row[position] if position < len(row) else None


def _jsonl_values(source: InputSource) -> Iterator[str | None]:
    with _open_text(source.path, newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise InputError(
                    f"manifest {source.text} line {number}: {line.strip()[:60]} is no JSON object; "
                    f'write one object a line, {{"{source.path_column}": "..."}}'
                )
            if number == 1:
                _column_position(source, list(entry))
            value = entry.get(source.path_column)
            if value is not None and not isinstance(value, str):
                raise InputError(
                    f"manifest {source.text} line {number}: {source.path_column} is {value!r}, a string is needed"
                )
            yield value


def _parquet_values(source: InputSource) -> Iterator[str | None]:
    filesystem, inner = storage.filesystem(source.path)
    with filesystem.open_input_file(inner) as file:
        parquet = pq.ParquetFile(file)
        _column_position(source, parquet.schema_arrow.names)
        for batch in parquet.iter_batches(columns=[source.path_column]):
            yield from batch.column(0).cast(pa.string()).to_pylist()


def _column_position(source: InputSource, names: Sequence[str]) -> int:
    if source.path_column not in names:
        raise InputError(
            f"manifest {source.text} has no column {source.path_column}; it has {', '.join(names)}; "
            "name the right one with --path-column"
        )
    return list(names).index(source.path_column)
