"""What an --input means, and the images that it names.

An input is a file, a folder or prefix, a glob, or a manifest (`@list.txt`, `.csv`, `.parquet`, `.jsonl`). A path
that exists is taken by its name, whatever characters it has; only one that does not exist is read as a glob.
A manifest's line is always a literal.
"""

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

import pyarrow as pa
from wcmatch import glob as wcglob

from transforms import manifests, storage
from transforms.errors import ConfigError, FailureCode, ImageError, InputError, Stage
from transforms.levels import list_level
from transforms.manifests import Manifest, ManifestKind, Split, read_split
from transforms.records import Failure, ImageRef, now_us
from transforms.redaction import redact_url
from transforms.settings import InputSettings

InputKind = Literal["file", "folder", "glob"] | ManifestKind

DEFAULT_PATH_COLUMN = "image_path"
_GLOB_CHARACTERS = re.compile(r"[*?\[{]")
_GLOB_FLAGS = wcglob.GLOBSTAR | wcglob.BRACE | wcglob.DOTGLOB | wcglob.CASE
# ArrowException: what pyarrow does not translate into OSError.
_STORAGE_ERRORS = (OSError, pa.ArrowException)
# Requests that are made for a first image before everything is listed.
_MOST_LEVELS = 1000


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

    def failure(self) -> Failure:
        """Return its failures row."""
        return Failure(ImageRef(self.path, None, None), Stage.LIST, self.error.code, self.error.message, now_us())


def parse_input(text: str, path_column: str = DEFAULT_PATH_COLUMN) -> InputSource:
    """Find out what an --input is.

    Args:
        text: File, folder, prefix, glob, or manifest with a leading `@`.
        path_column: The column of a CSV, Parquet or JSONL manifest that holds the paths.

    Raises:
        InputError: It names nothing that exists, or a manifest of an unknown kind, or the storage does not say.
    """
    if not text.strip():
        raise InputError("an input is empty: give a file, folder, glob or manifest; is a shell variable not set?")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"input {_printable(text)} is not valid UTF-8 and fits no table; rename it") from error
    try:
        return _parse_manifest(text, path_column) if text.startswith("@") else _parse_images(text, path_column)
    except _STORAGE_ERRORS as error:
        raise InputError(f"input {text} cannot be looked at: {_first_line(error)}") from error


def _parse_manifest(text: str, path_column: str) -> InputSource:
    path = storage.absolute(text[1:])
    ending = os.path.splitext(path)[1].lower()
    kind = manifests.KINDS.get(ending)
    if ending in (".gz", ".bz2", ".zst", ".zip"):
        raise InputError(f"manifest {text} is compressed ({ending}) and cannot be read in parts: unpack it first")
    if kind is None:
        raise InputError(f"manifest {text}: the name must end in one of {', '.join(sorted(manifests.KINDS))}")
    if storage.stat(path) is None:
        raise InputError(f"manifest {text}: there is no file {path}")
    return InputSource(text, kind, path, path_column)


def _parse_images(text: str, path_column: str) -> InputSource:
    path = storage.absolute(text)
    if storage.is_folder(path):
        return InputSource(text, "folder", path, path_column)
    if not text.endswith("/") and storage.stat(path) is not None:
        return InputSource(text, "file", path, path_column)
    if _GLOB_CHARACTERS.search(text):
        try:
            wcglob.compile(path, flags=_GLOB_FLAGS)
        except Exception as error:  # wcmatch does not publish the class of "too many patterns"
            raise InputError(f"input {text} is no usable glob: {_first_line(error)}; use * or a manifest") from error
        return InputSource(text, "glob", path, path_column)
    raise InputError(
        f"input {text} matches nothing: {path} is no file and no folder; "
        "give a file, folder, glob ('photos/**/*.jpg') or manifest (@paths.csv)"
    )


def check_not_empty(source: InputSource, settings: InputSettings) -> None:
    """Refuse an input that names no image, after looking at no more of it than its first one.

    Raises:
        InputError: It matches nothing, its manifest cannot be read, or the storage does not list it.
    """
    try:
        if _names_an_image(source, settings):
            return
        raise InputError(f"input {source.text} matches nothing: {_why_empty(source, settings)}")
    except _STORAGE_ERRORS as error:
        raise InputError(f"input {source.text} cannot be listed: {_first_line(error)}") from error


def _names_an_image(source: InputSource, settings: InputSettings) -> bool:
    if source.kind in ("folder", "glob"):
        search = find_search(source)
        if search.deep and storage.is_remote(search.folder):
            found = _looks_below(search, settings)
            if found is not None:
                return found
    return next(list_input(source, settings), None) is not None


def _looks_below(search: "Search", settings: InputSettings) -> bool | None:
    """Tell whether there is an image, going down level by level; None where that does not lead to an answer.

    All that lies below a prefix of a store is listed as a whole: of a hundred million objects, by hours and gigabytes.
    """
    choose = image_filter(search, settings)
    waiting = [search.folder] if storage.is_folder(search.folder) else []
    for _ in range(_MOST_LEVELS):
        if not waiting:
            return False
        level = list_level(search.folder, waiting.pop())
        if level is None:
            return None
        if next(choose(level.files), None) is not None:
            return True
        if level.cut:
            return None
        waiting += reversed(level.folders)
    return None


def _why_empty(source: InputSource, settings: InputSettings) -> str:
    if source.kind == "folder":
        seen = [os.path.basename(file.path) for file in itertools.islice(storage.list_folder(source.path), 4)]
        shown = ", ".join([*seen[:3], *["..."] * (len(seen) > 3)])
        what = f"it holds {shown}, and none ends in" if seen else "it holds no file, let alone one ending in"
        return f"{what} {', '.join(settings.extensions)}; set input.extensions, use a glob or a manifest"
    if source.kind == "glob":
        return f"no file has a name like {source.path}"
    return "the manifest has no entry"


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


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
        # What is gone since it was parsed is listed nevertheless: reading it says so.
        yield _checked(source.path, found)
        return
    if source.kind in ("folder", "glob"):
        search = find_search(source)
        files = storage.list_folder(search.folder, recursive=search.deep, missing_ok=source.kind == "glob")
        yield from image_filter(search, settings)(files)
        return
    yield from resolve_entries(Split(manifest_of(source)))


def manifest_of(source: InputSource) -> Manifest:
    """Return the manifest that an input is.

    Raises:
        ValueError: It is none.
    """
    if source.kind == "file" or source.kind == "folder" or source.kind == "glob":
        raise ValueError(f"a {source.kind} is no manifest")
    return Manifest(source.text, source.kind, source.path, source.path_column)


def resolve_entries(split: Split) -> Iterator[ImageRef | BadName]:
    """Yield what the entries of a split mean, in their order.

    Raises:
        InputError: The manifest cannot be read, or lacks its column.
        OSError: The storage does not give it.
    """
    manifest = split.manifest
    folder = storage.parent(manifest.path)
    for number, text in enumerate(read_split(split), start=split.first + 1):
        if text is None or text == "":
            message = f"{split.says(number)} of the manifest has no path in column {manifest.path_column}"
            yield BadName(f"{manifest.path}#{split.name(number)}", ImageError(FailureCode.NOT_FOUND, message))
            continue
        entry = resolve(text, folder)
        if isinstance(entry, BadName) and redact_url(text) != text:
            # Without their queries two entries may be the same, and neither must vanish as a duplicate.
            entry = BadName(f"{manifest.path}#{split.name(number)}", entry.error)
        yield entry


def resolve(text: str, folder: str | None = None) -> ImageRef | BadName:
    """Return the image that one literal path means.

    Args:
        text: As a manifest's line or a pipeline's element says it.
        folder: Where relative paths start; None is the working directory.
    """
    try:
        path = storage.absolute(text, folder)
    except ConfigError as error:
        # One line of a hundred million is no reason to score none.
        return BadName(redact_url(_printable(text)), ImageError(FailureCode.READ_ERROR, str(error)))
    except UnicodeEncodeError:
        return _not_unicode(text)
    return _checked(path, None)


def _checked(path: str, file: storage.FileStat | None) -> ImageRef | BadName:
    try:
        path.encode()
    except UnicodeEncodeError:
        return _not_unicode(path)
    return ImageRef(path, file.size_bytes, file.version) if file else ImageRef(path, None, None)


def _not_unicode(path: str) -> BadName:
    message = "the name is not valid UTF-8 and cannot be written to a table; rename the file"
    return BadName(_printable(path), ImageError(FailureCode.READ_ERROR, message))


def _printable(text: str) -> str:
    try:
        return os.fsencode(text).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a character, as a faulty JSON escape leaves it
        return text.encode("utf-8", "backslashreplace").decode()


class Search(NamedTuple):
    """Where the images of a folder or glob are looked for."""

    folder: str
    """Where it begins."""
    deep: bool
    """Whether the folders below it matter."""
    pattern: str | None
    """What the rest of a path has to match; None where the end of the name decides."""


def find_search(source: InputSource) -> Search:
    """Return where the images of a folder or glob are to be looked for.

    Of a glob, a folder that exists is taken by its name here, too: run[1]/*.jpg lists the folder run[1] where there
    is one.

    Raises:
        OSError: The storage does not say.
    """
    if source.kind == "folder":
        return Search(source.path, True, None)
    scheme = source.path[: source.path.index("://") + 3] if storage.is_remote(source.path) else ""
    folder, *parts = source.path.removeprefix(scheme).split("/")
    folder = scheme + folder
    while len(parts) > 1:
        deeper = f"{folder}/{parts[0]}"
        if _GLOB_CHARACTERS.search(parts[0]) and not storage.is_folder(deeper):
            break
        folder = deeper
        parts = parts[1:]
    below = "/".join(parts)
    return Search(folder or "/", "**" in below or "/" in below, below)


def image_filter(
    search: Search, settings: InputSettings
) -> Callable[[Iterable[storage.FileStat]], Iterator[ImageRef | BadName]]:
    """Return what gives those of the files below a search's folder that it is for."""
    if search.pattern is not None:
        matcher = wcglob.compile(search.pattern, flags=_GLOB_FLAGS)
        start = len(storage.join(search.folder, ""))
        return lambda files: (_checked(file.path, file) for file in files if matcher.match(file.path[start:]))
    if "*" in settings.extensions:
        return lambda files: (_checked(file.path, file) for file in files)
    endings = tuple(f".{extension.lower().lstrip('.')}" for extension in settings.extensions)
    return lambda files: (_checked(file.path, file) for file in files if file.path.lower().endswith(endings))
