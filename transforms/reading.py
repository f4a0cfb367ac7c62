"""Read one image file whole, or say why not: every trouble of a storage becomes a failure code.

Local files are read with plain system calls, objects with one question and one read through pyarrow.fs, again and
again while the store's troubles pass and time is left.
"""

import errno
import os
import stat as stat_module
from datetime import datetime
from functools import partial
from typing import NamedTuple

import pyarrow as pa
from pyarrow import fs

from transforms import storage, stores
from transforms.errors import FailureCode, ImageError
from transforms.retrying import Backoff, LeftBehindError, call_with_retries, call_within

# What the clients say in text only; Arrow gives these errors no errno.
_CODES_BY_TEXT = (
    ("ACCESS_DENIED", FailureCode.PERMISSION_DENIED),
    ("google::cloud::Status(UNAUTHENTICATED", FailureCode.PERMISSION_DENIED),
)
# By the classes that Python gives to ENOENT, ENOTDIR, EACCES and EPERM, ETIMEDOUT.
_CODES_BY_CLASS = (
    (FileNotFoundError, FailureCode.NOT_FOUND),
    (NotADirectoryError, FailureCode.NOT_FOUND),
    (PermissionError, FailureCode.PERMISSION_DENIED),
    (TimeoutError, FailureCode.READ_TIMEOUT),
)
# Of S3; GCS does not give it.
_LAST_MODIFIED = "Last-Modified"
_SENTENCES = {
    FailureCode.PERMISSION_DENIED: "reading is not permitted",
    FailureCode.READ_TIMEOUT: "the storage did not answer in time",
}


class FileContent(NamedTuple):
    """A file's bytes, and the version that was read."""

    data: bytes
    """All bytes."""
    version: str
    """As in FileStat, of the very bytes that were read where the storage can tell."""


def read_image_bytes(
    path: str,
    max_bytes: int,
    version: str | None = None,
    deadline_seconds: float = Backoff.deadline_seconds,
) -> FileContent:
    """Read one image file whole, unless it is too large.

    Args:
        path: An absolute local path, or a URL.
        max_bytes: A larger file is not read.
        version: What the listing said; None asks the storage.
        deadline_seconds: How long an object of a store may take, attempts that fail in passing included. A local
            read takes as long as the system lets it.

    Raises:
        ImageError: not_found, permission_denied, read_timeout, too_large_file, empty_file or read_error.
    """
    try:
        if storage.is_remote(path):
            content = call_with_retries(
                partial(_read_in_time, path, max_bytes, version),
                stores.is_passing,
                Backoff(deadline_seconds=deadline_seconds),
            )
        else:
            content = _read_local(path, max_bytes)
    except (OSError, ValueError, pa.ArrowException) as error:
        # ValueError: a name with a NUL byte; ArrowException: what pyarrow does not translate into OSError.
        code = _failure_code(error)
        if code is FailureCode.NOT_FOUND:
            raise ImageError(code, "there is no such file") from error
        raise ImageError(code, f"{_SENTENCES.get(code, 'reading failed')}: {_reason(error)}") from error
    if not content.data:
        raise ImageError(FailureCode.EMPTY_FILE, "the file has no bytes")
    return content


def _failure_code(error: Exception) -> FailureCode:
    by_class = (code for kind, code in _CODES_BY_CLASS if isinstance(error, kind))
    by_text = (code for text, code in _CODES_BY_TEXT if text in str(error))
    return next(by_class, None) or next(by_text, FailureCode.READ_ERROR)


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
        raise ImageError(FailureCode.READ_ERROR, _changed(status.st_size, len(data)))
    return FileContent(data, storage.file_version(status.st_mtime_ns, status.st_size))


def _read_in_time(path: str, max_bytes: int, version: str | None, seconds: float) -> FileContent:
    try:
        return call_within(seconds, partial(_read_remote, path, max_bytes, version))
    except LeftBehindError:
        stores.end_without_waiting()
        raise


def _read_remote(path: str, max_bytes: int, version: str | None) -> FileContent:
    filesystem, inner = storage.impatient_filesystem(path)
    if path.startswith("gs://"):
        return _read_google(filesystem, path, inner, max_bytes, version)
    with filesystem.open_input_file(inner) as file:
        size = file.size()
        _check_size(size, max_bytes)
        data = _whole(file.read(size), size)
        modified = file.metadata().get(_LAST_MODIFIED)
    if version is None and modified is not None:
        # Opening has asked S3 for it: a stat would ask a second time.
        seconds = round(datetime.fromisoformat(modified.decode()).timestamp())
        version = storage.file_version(seconds * storage.SECOND, size)
    if version is None:
        version = _described(filesystem, path, inner).version
    return FileContent(data, version)


def _read_google(filesystem: fs.FileSystem, path: str, inner: str, max_bytes: int, version: str | None) -> FileContent:
    # Not open_input_file: Arrow's file of GCS sends its request when it is first asked whether it is closed, and
    # pyarrow asks that with the GIL held. A slow answer would stop every thread of the process.
    found = _described(filesystem, path, inner)
    _check_size(found.size_bytes, max_bytes)
    with filesystem.open_input_stream(inner) as stream:
        # One byte more than stated tells whether the object was replaced since.
        data = _whole(stream.read(found.size_bytes + 1), found.size_bytes)
    return FileContent(data, version or found.version)


def _described(filesystem: fs.FileSystem, path: str, inner: str) -> storage.FileStat:
    found = storage.remote_stat(path, filesystem.get_file_info(inner))
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return found


def _whole(data: bytes, size: int) -> bytes:
    # An object never changes under its reader, it is replaced: what does not fit is gone at the next attempt. Of S3,
    # Arrow asks for the announced bytes and does not count what comes: there only decoding tells.
    if len(data) != size:
        raise ConnectionError(_changed(size, len(data)))
    return data


def _changed(announced: int, read: int) -> str:
    return f"the file changed while it was read: {announced:,} bytes announced, {read:,} read"
