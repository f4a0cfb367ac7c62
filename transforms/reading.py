"""Read one image file whole, or say why not: every trouble of a storage becomes a failure code.

Local files are read with plain system calls, objects with one question and one read through pyarrow.fs.
"""

import errno
import os
import stat as stat_module
from datetime import datetime
from typing import NamedTuple

import pyarrow as pa

from transforms import storage
from transforms.errors import FailureCode, ImageError

# What the AWS client says in text only; Arrow gives these errors no errno.
_CODES_BY_TEXT = (
    ("ACCESS_DENIED", FailureCode.PERMISSION_DENIED),
    ("Timeout was reached", FailureCode.READ_TIMEOUT),
    ("REQUEST_TIMEOUT", FailureCode.READ_TIMEOUT),
)
_CODES_BY_ERRNO = {
    errno.ENOENT: FailureCode.NOT_FOUND,
    errno.ENOTDIR: FailureCode.NOT_FOUND,
    errno.EACCES: FailureCode.PERMISSION_DENIED,
    errno.EPERM: FailureCode.PERMISSION_DENIED,
    errno.ETIMEDOUT: FailureCode.READ_TIMEOUT,
}
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


def read_image_bytes(path: str, max_bytes: int, version: str | None = None) -> FileContent:
    """Read one image file whole, unless it is too large.

    Args:
        path: An absolute local path, or a URL.
        max_bytes: A larger file is not read.
        version: What the listing said; None asks the storage.

    Raises:
        ImageError: not_found, permission_denied, read_timeout, too_large_file, empty_file or read_error.
    """
    try:
        content = _read_remote(path, max_bytes, version) if storage.is_remote(path) else _read_local(path, max_bytes)
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
    found = _CODES_BY_ERRNO.get(getattr(error, "errno", None) or 0)
    by_text = (code for text, code in _CODES_BY_TEXT if text in str(error))
    return found or next(by_text, FailureCode.READ_ERROR)


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


def _read_remote(path: str, max_bytes: int, version: str | None) -> FileContent:
    filesystem, inner = storage.filesystem(path)
    with filesystem.open_input_file(inner) as file:
        size = file.size()
        _check_size(size, max_bytes)
        data = file.read(size)
        modified = file.metadata().get(_LAST_MODIFIED)
    if len(data) != size:
        raise ImageError(FailureCode.READ_ERROR, _changed(size, len(data)))
    if version is None and modified is not None:
        # Opening has asked S3 for it: a stat would ask a second time.
        seconds = round(datetime.fromisoformat(modified.decode()).timestamp())
        version = storage.file_version(seconds * storage.SECOND, size)
    if version is None:
        found = storage.stat(path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "it is gone since it was read")
        version = found.version
    return FileContent(data, version)


def _changed(announced: int, read: int) -> str:
    return f"the file changed while it was read: {announced:,} bytes announced, {read:,} read"
