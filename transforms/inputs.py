"""What an --input means, and the images that it names.

An input is a file, a folder or prefix, a glob, or a manifest (`@list.txt`, `.csv`, `.parquet`, `.jsonl`). A path
that exists is taken by its name, whatever characters it has; only one that does not exist is read as a glob.
A manifest's line is always a literal.
"""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
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
    if source.kind == "txt":
        yield from _text_lines(source.path)
        return
    try:
        yield from _column_values(source)
    except (pa.ArrowException, KeyError) as error:
        reason = str(error).strip("'\"").split("\n")[0]
        raise InputError(f"manifest {source.text} cannot be read as {source.kind}: {reason}") from error


def _text_lines(path: str) -> Iterator[str]:
    filesystem, inner = storage.filesystem(path)
    rest = b""
    first = True
    with filesystem.open_input_stream(inner) as stream:
        while chunk := stream.read(1 << 20):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield from _text_line(line, first)
                first = False
    yield from _text_line(rest, first)


def _text_line(line: bytes, first: bool) -> Iterator[str]:
    if first:
        line = line.removeprefix(b"\xef\xbb\xbf")
    # A blank line is no entry; every other byte but the line's end belongs to the name.
    if line := line.removesuffix(b"\r"):
        yield os.fsdecode(line)


def _column_values(source: InputSource) -> Iterator[str | None]:
    column = source.path_column
    filesystem, inner = storage.filesystem(source.path)
    if source.kind == "parquet":
        with filesystem.open_input_file(inner) as file:
            parquet = pq.ParquetFile(file)
            _check_column(source, parquet.schema_arrow.names)
            for batch in parquet.iter_batches(columns=[column]):
                yield from batch.column(0).cast(pa.string()).to_pylist()
        return
    with filesystem.open_input_stream(inner) as stream:
        if source.kind == "csv":
            # Paths stay text, whatever they look like: 007 is a name, and so are NA and an empty field's "".
            convert = pa.csv.ConvertOptions(column_types={column: pa.string()}, strings_can_be_null=False)
            try:
                reader = pa.csv.open_csv(stream, convert_options=convert)
            except pa.ArrowInvalid as error:
                if "Empty CSV" in str(error):
                    return
                raise
        else:
            schema = pa.schema([pa.field(column, pa.string())])
            options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer")
            reader = pa.json.open_json(stream, parse_options=options)
        for batch in reader:
            _check_column(source, batch.schema.names)
            yield from batch.column(batch.schema.names.index(column)).to_pylist()


def _check_column(source: InputSource, names: Sequence[str]) -> None:
    if source.path_column not in names:
        raise InputError(
            f"manifest {source.text} has no column {source.path_column}; it has {', '.join(names)}; "
            "name the right one with --path-column"
        )
