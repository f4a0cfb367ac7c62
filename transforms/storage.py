"""Bytes in and out of local disks, s3:// and gs://, through one cached filesystem a process.

Local files are read with plain system calls, everything else with pyarrow.fs: its clients are cached here
because a client made for every object costs tens of times the read itself, and they release the GIL.
Endpoints and credentials come from the platforms' own places (environment, profiles, metadata servers).
"""

import errno
import functools
import os
import stat as stat_module
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
from pyarrow import fs

from transforms.errors import ConfigError, FailureCode, ImageError

REMOTE_SCHEMES = ("s3", "gs")
_MOVE_THREADS = 16


class FileStat(NamedTuple):
    """One file as the storage describes it."""

    path: str
    """Absolute local path, or URL with its scheme."""
    size_bytes: int
    """Bytes."""
    version: str
    """Modification time in nanoseconds and size: changes whenever the content is replaced."""


class FileContent(NamedTuple):
    """A file's bytes, and the version that was read."""

    data: bytes
    """All bytes."""
    version: str
    """As in FileStat, of the very bytes that were read where the storage can tell."""


def is_remote(path: str) -> bool:
    """Tell whether a path is an object of a remote store."""
    return path.startswith(tuple(f"{scheme}://" for scheme in REMOTE_SCHEMES))


def absolute(path: str, base: str | None = None) -> str:
    """Return the one name that a path has in tables and manifests.

    Local paths become absolute, against `base` or the working directory, without following links; URLs of a
    known scheme stay as they are, relative paths below a remote base become URLs.

    Args:
        path: A local path, `file://` URL, `s3://` or `gs://` URL.
        base: The folder that relative paths start from.

    Raises:
        ConfigError: The scheme is not known.

    >>> absolute("cats/1.jpg", "s3://photos/2026")
    's3://photos/2026/cats/1.jpg'
    """
    scheme, separator, _ = path.partition("://")
    if separator and scheme.isalnum():
        if scheme in REMOTE_SCHEMES:
            return path
        if scheme == "file":
            return os.path.normpath(urllib.parse.unquote(urllib.parse.urlparse(path).path))
        if scheme in ("http", "https", "hdfs", "abfs", "abfss", "wasb", "gcs", "s3a", "s3n"):
            hint = {"gcs": "; write gs://", "s3a": "; write s3://", "s3n": "; write s3://"}.get(scheme, "")
            raise ConfigError(f"storage scheme {scheme}:// of {path} is not supported{hint}; use local, s3:// or gs://")
    if os.path.isabs(path):
        return os.path.normpath(path)
    if base is not None and is_remote(base):
        return f"{base.rstrip('/')}/{path.removeprefix('./')}"
    return os.path.normpath(os.path.join(base if base is not None else os.getcwd(), path))


def join(folder: str, *parts: str) -> str:
    """Join path parts with slashes, for local folders and URLs alike."""
    return "/".join((folder.rstrip("/") or "", *parts))


def parent(path: str) -> str:
    """Return the folder of a file, for local paths and URLs alike."""
    return path.rpartition("/")[0] or "/"


@functools.cache
def _remote_filesystem(scheme: str) -> fs.FileSystem:
    if scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return fs.S3FileSystem(endpoint_override=endpoint, region=region, background_writes=False)
    endpoint = os.environ.get("STORAGE_EMULATOR_HOST")
    if endpoint:
        url = urllib.parse.urlparse(endpoint if "://" in endpoint else f"http://{endpoint}")
        return fs.GcsFileSystem(anonymous=True, scheme=url.scheme, endpoint_override=url.netloc)
    return fs.GcsFileSystem()


def filesystem(path: str) -> tuple[fs.FileSystem, str]:
    """Return the cached filesystem of a path, and the path as that filesystem wants it.

    Args:
        path: An absolute local path, or a URL with a known scheme.
    """
    scheme, separator, rest = path.partition("://")
    if separator and scheme in REMOTE_SCHEMES:
        return _remote_filesystem(scheme), rest
    return _local_filesystem(), path


@functools.cache
def _local_filesystem() -> fs.FileSystem:
    return fs.LocalFileSystem()


def stat(path: str) -> FileStat | None:
    """Describe a file; None where there is no file (a folder is no file).

    Raises:
        OSError: The storage does not answer, or does not permit the question.
    """
    filesystem_, inner = filesystem(path)
    info = filesystem_.get_file_info(inner)
    return _to_stat(path, info) if info.type == fs.FileType.File else None


def is_folder(path: str) -> bool:
    """Tell whether a path is a folder, or a prefix with objects below it."""
    filesystem_, inner = filesystem(path.rstrip("/") or "/")
    return bool(filesystem_.get_file_info(inner).type == fs.FileType.Directory)


def _version(mtime_ns: int | None, size: int) -> str:
    return f"{mtime_ns or 0}-{size}"


def _to_stat(path: str, info: fs.FileInfo) -> FileStat:
    return FileStat(path, info.size, _version(info.mtime_ns, info.size))


def list_folder(folder: str, *, recursive: bool = True) -> Iterator[FileStat]:
    """Yield every file below a folder or prefix, in an order that is stable on local disks.

    Local links to folders are followed, a link to a folder above itself is not.

    Raises:
        FileNotFoundError: The folder does not exist.
        OSError: A folder cannot be listed: a part of the images must never be missing in silence.
    """
    if is_remote(folder):
        filesystem_, inner = filesystem(folder)
        scheme = folder.partition("://")[0]
        for info in filesystem_.get_file_info(fs.FileSelector(inner.rstrip("/"), recursive=recursive)):
            if info.type == fs.FileType.File:
                yield _to_stat(f"{scheme}://{info.path}", info)
        return
    yield from _walk(folder, recursive, frozenset())


def _walk(folder: str, recursive: bool, above: frozenset[tuple[int, int]]) -> Iterator[FileStat]:
    status = os.stat(folder)
    here = above | {(status.st_dev, status.st_ino)}
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.is_dir():
            status = entry.stat()
            if recursive and (status.st_dev, status.st_ino) not in here:
                yield from _walk(entry.path, recursive, here)
            continue
        try:
            status = entry.stat()
        except FileNotFoundError:  # a broken link is listed, so that reading it becomes a failures row
            status = entry.stat(follow_symlinks=False)
        yield FileStat(entry.path, status.st_size, _version(status.st_mtime_ns, status.st_size))


def read_image_bytes(path: str, max_bytes: int, version: str | None = None) -> FileContent:
    """Read one image file whole, unless it is too large.

    Args:
        path: An absolute local path, or a URL.
        max_bytes: A larger file is not read.
        version: What the listing said; None asks the storage.

    Raises:
        ImageError: not_found, permission_denied, too_large_file, empty_file or read_error.
    """
    try:
        content = _read_remote(path, max_bytes, version) if is_remote(path) else _read_local(path, max_bytes)
    except FileNotFoundError as error:
        raise ImageError(FailureCode.NOT_FOUND, "there is no such file") from error
    except PermissionError as error:
        raise ImageError(FailureCode.PERMISSION_DENIED, f"reading is not permitted: {_reason(error)}") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        # ValueError: a name with a NUL byte; ArrowException: what pyarrow does not translate into OSError.
        code = {errno.EACCES: FailureCode.PERMISSION_DENIED, errno.ENOTDIR: FailureCode.NOT_FOUND}
        found = code.get(getattr(error, "errno", None) or 0, FailureCode.READ_ERROR)
        raise ImageError(found, f"reading failed: {_reason(error)}") from error
    if not content.data:
        raise ImageError(FailureCode.EMPTY_FILE, "the file has no bytes")
    return content


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error)).split("\n")[0]


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ImageError(
            FailureCode.TOO_LARGE_FILE,
            f"the file has {size:,} bytes, decode.max_file_bytes allows {max_bytes:,}",
        )


def _read_local(path: str, max_bytes: int) -> FileContent:
    # O_NONBLOCK: opening a named pipe that nobody writes to would block for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat_module.S_ISREG(status.st_mode):
            kind = "a folder" if stat_module.S_ISDIR(status.st_mode) else "not a regular file"
            raise ImageError(FailureCode.READ_ERROR, f"the path is {kind}, an image file is needed")
        _check_size(status.st_size, max_bytes)
        # One byte more than stated tells whether the file grew after fstat.
        wanted = status.st_size + 1
        chunks = []
        while wanted > 0 and (chunk := os.read(descriptor, wanted)):
            chunks.append(chunk)
            wanted -= len(chunk)
    finally:
        os.close(descriptor)
    data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    if len(data) != status.st_size:
        raise ImageError(
            FailureCode.READ_ERROR,
            f"the file changed while it was read: {status.st_size:,} bytes announced, {len(data):,} read",
        )
    return FileContent(data, _version(status.st_mtime_ns, status.st_size))


def _read_remote(path: str, max_bytes: int, version: str | None) -> FileContent:
    if version is None:
        found = stat(path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", path)
        _check_size(found.size_bytes, max_bytes)
        version = found.version
    filesystem_, inner = filesystem(path)
    with filesystem_.open_input_stream(inner) as stream:
        data = stream.read(max_bytes + 1)
    _check_size(len(data), max_bytes)
    return FileContent(data, version)


def read_bytes(path: str) -> bytes:
    """Read a small file whole: configuration, labels, a manifest of a run.

    Raises:
        OSError: It does not exist or cannot be read.
    """
    filesystem_, inner = filesystem(path)
    with filesystem_.open_input_stream(inner) as stream:
        return bytes(stream.read())


def write_bytes(path: str, data: bytes) -> None:
    """Write a file in one step: a reader sees the old content or the new, never a part.

    Raises:
        OSError: It cannot be written.
    """
    filesystem_, inner = filesystem(path)
    if is_remote(path):
        with filesystem_.open_output_stream(inner) as stream:
            stream.write(data)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def make_folder(path: str) -> None:
    """Make a local folder and those above it; a remote store needs none."""
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)


def move_files(pairs: list[tuple[str, str]]) -> None:
    """Move files to new names, replacing what is there; many at once on remote stores.

    A file that is already at its new place and gone from the old one counts as moved, so that an interrupted
    call can be repeated.

    Raises:
        FileNotFoundError: A file is at neither place.
        OSError: A file cannot be moved.
    """
    for folder in {parent(target) for _, target in pairs}:
        make_folder(folder)
    with ThreadPoolExecutor(_MOVE_THREADS) as pool:
        list(pool.map(lambda pair: _move(*pair), pairs))


def _move(source: str, target: str) -> None:
    filesystem_, inner = filesystem(source)
    if filesystem_.get_file_info(inner).type == fs.FileType.NotFound:
        if stat(target) is None:
            raise FileNotFoundError(errno.ENOENT, "neither at its old place nor at its new one", f"{source}, {target}")
        return
    filesystem_.move(inner, filesystem(target)[1])


def exchange_folder(new: str, place: str, old: str) -> None:
    """Put a local folder in the place of another; what was there goes to `old`. Repeatable after a kill.

    Raises:
        OSError: A folder cannot be renamed.
    """
    if not os.path.isdir(new):
        return
    if os.path.isdir(place):
        delete_folder(old)
        make_folder(parent(old))
        os.rename(place, old)
    make_folder(parent(place))
    os.rename(new, place)


def delete_folder(path: str) -> None:
    """Delete a folder with everything below it; one that does not exist is no error."""
    filesystem_, inner = filesystem(path)
    if filesystem_.get_file_info(inner.rstrip("/")).type == fs.FileType.Directory:
        filesystem_.delete_dir(inner)


def delete_file(path: str) -> None:
    """Delete a file; one that does not exist is no error."""
    filesystem_, inner = filesystem(path)
    if filesystem_.get_file_info(inner).type == fs.FileType.File:
        filesystem_.delete_file(inner)
