"""Bytes in and out of local disks, s3:// and gs://, through one cached filesystem a process.

Local disks are asked with plain system calls, everything else through pyarrow.fs: its clients are cached here
because a client made for every object costs tens of times the read itself, and they release the GIL.
What is done with a whole object or folder of a store is tried again while its troubles pass, for two minutes.
"""

import contextlib
import functools
import hashlib
import os
import re
import stat as stat_module
import threading
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from pyarrow import fs

from transforms import folders, stores
from transforms.errors import ConfigError
from transforms.redaction import redact_url
from transforms.retrying import Backoff, call_with_retries

A = TypeVar("A")
T = TypeVar("T")

REMOTE_SCHEMES = stores.SCHEMES
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_THREADS = 16
_CHUNK_BYTES = 1024**2
_making = threading.Lock()
SECOND = 1_000_000_000  # nanoseconds


class FileStat(NamedTuple):
    """One file as the storage describes it."""

    path: str
    """Absolute local path, or URL with its scheme."""
    size_bytes: int
    """Bytes."""
    version: str
    """Modification time in nanoseconds and size: changes whenever the content is replaced."""


def is_remote(path: str) -> bool:
    """Tell whether a path is an object of a remote store."""
    return path.startswith(tuple(f"{scheme}://" for scheme in REMOTE_SCHEMES))


def absolute(path: str, base: str | None = None) -> str:
    """Return the one name that a path has in tables and manifests.

    Local paths become absolute, against `base` or the working directory; `..` goes by name, links are not followed.
    URLs of a known scheme keep their key letter for letter, relative paths below a remote base become URLs.

    Args:
        path: A local path, `file://` URL (percent escapes are decoded), `s3://` or `gs://` URL.
        base: The folder that relative paths start from.

    Raises:
        ConfigError: The scheme is not known, or the URL names no bucket or another machine.

    >>> absolute("cats/1.jpg", "s3://photos/2026")
    's3://photos/2026/cats/1.jpg'
    """
    if found := _SCHEME.match(path):
        return _absolute_url(path, found[1].lower(), path[found.end() :])
    if base is not None and is_remote(base) and not os.path.isabs(path):
        return _below_url(base.rstrip("/"), path)
    normal = os.path.normpath(os.path.join(base if base is not None else os.getcwd(), path))
    # POSIX lets normpath keep two leading slashes: one image would have two names.
    return normal[1:] if normal.startswith("//") else normal


def _absolute_url(url: str, scheme: str, rest: str) -> str:
    place = rest.partition("/")[0]
    if scheme == "file":
        if place not in ("", "localhost"):
            raise ConfigError(f"{url} names the machine {place}; a local file has three slashes, file:///{rest}")
        # Not urlparse: it would take # and ? out of a file's name.
        return absolute(os.fsdecode(urllib.parse.unquote_to_bytes(os.fsencode(rest[len(place) :] or "/"))))
    if scheme not in REMOTE_SCHEMES:
        hint = {"gcs": "; write gs://", "s3a": "; write s3://", "s3n": "; write s3://"}.get(scheme, "")
        raise ConfigError(
            f"storage scheme {scheme}:// of {redact_url(url)} is not supported{hint}; use local, s3:// or gs://"
        )
    if not place:
        raise ConfigError(f"{url} names no bucket; write {scheme}://bucket/folder")
    return f"{scheme}://{rest}"


def _below_url(base: str, path: str) -> str:
    while path.startswith(("./", "../")):
        if path.startswith("../"):
            if base.count("/") <= 2:
                break  # nothing lies above a bucket: the key stays as it is and is not found
            base = parent(base)
        path = path.partition("/")[2]
    return f"{base}/{path}"


def join(folder: str, *parts: str) -> str:
    """Join path parts with slashes, for local folders and URLs alike."""
    return "/".join((folder.rstrip("/") or "", *parts))


def parent(path: str) -> str:
    """Return the folder of a file, for local paths and URLs alike."""
    return path.rpartition("/")[0] or "/"


@functools.cache
def _remote_filesystem(scheme: str, patient: bool) -> fs.FileSystem:
    return stores.connect(scheme, patient=patient)


def filesystem(path: str) -> tuple[fs.FileSystem, str]:
    """Return the cached filesystem of a path, and the path as that filesystem wants it.

    Args:
        path: An absolute local path, or a URL with a known scheme.
    """
    if is_remote(path):
        scheme, _, rest = path.partition("://")
        return _client(scheme, patient=True), rest
    return _local_filesystem(), path


def impatient_filesystem(path: str) -> tuple[fs.FileSystem, str]:
    """Return what `filesystem` does, but a store's client tries once: for callers that try again themselves.

    The patient one is made with it: once a request has been left behind, it could not be made any more.
    """
    patient, rest = filesystem(path)
    return (_client(path.partition("://")[0], patient=False), rest) if is_remote(path) else (patient, rest)


def _client(scheme: str, *, patient: bool) -> fs.FileSystem:
    # One thread makes it: Arrow makes no client of S3 while a request of another is under way, were it for hours.
    with _making:
        return _remote_filesystem(scheme, patient)


@functools.cache
def _local_filesystem() -> fs.FileSystem:
    return fs.LocalFileSystem()


def persist(operation: Callable[[], T], is_passing: Callable[[Exception], bool] = stores.is_passing) -> T:
    """Try an operation of a store again while its troubles pass, for two minutes."""
    return call_with_retries(lambda _: operation(), is_passing, Backoff())


def stat(path: str) -> FileStat | None:
    """Describe a file; None where there is no file (a folder is no file).

    Raises:
        OSError: The storage does not answer, or does not permit the question.
    """
    if is_remote(path):
        filesystem_, inner = impatient_filesystem(path)
        return remote_stat(path, persist(lambda: filesystem_.get_file_info(inner)))
    status = folders.status(path)
    return local_stat(path, status) if status is not None and stat_module.S_ISREG(status.st_mode) else None


def is_folder(path: str) -> bool:
    """Tell whether a path is a folder, or a prefix with objects below it.

    Raises:
        OSError: The storage does not answer, or does not permit the question.
    """
    if is_remote(path):
        # Not impatiently: of GCS, Arrow takes an error of the listing for its first object.
        filesystem_, inner = filesystem(path.rstrip("/"))
        return bool(persist(lambda: filesystem_.get_file_info(inner)).type == fs.FileType.Directory)
    status = folders.status(path)
    return status is not None and stat_module.S_ISDIR(status.st_mode)


def local_stat(path: str, status: os.stat_result) -> FileStat:
    """Return what the system says of a local file."""
    return FileStat(path, status.st_size, file_version(status.st_mtime_ns, status.st_size))


def remote_stat(path: str, info: fs.FileInfo) -> FileStat | None:
    """Return what a store says of an object; None where it says that there is none."""
    if info.type != fs.FileType.File:
        return None
    # Some S3 stores list milliseconds and answer a question for one object in seconds: whole seconds are the same.
    return FileStat(path, info.size, file_version((info.mtime_ns or 0) // SECOND * SECOND, info.size))


def file_version(mtime_ns: int, size: int) -> str:
    """Return the version of a file: its modification time in nanoseconds (whole seconds in stores), and its bytes."""
    return f"{mtime_ns}-{size}"


def list_folder(folder: str, *, recursive: bool = True, missing_ok: bool = False) -> Iterator[FileStat]:
    """Yield every file below a folder or prefix, in an order that is stable on local disks.

    Local links to folders are followed, a link to a folder above itself is not. A broken link is listed, so that
    reading it becomes a failures row; what is deleted while the listing goes on is not.

    Args:
        folder: Absolute local path, or URL.
        recursive: Also what lies in the folders below it.
        missing_ok: No files where there is no such folder, instead of an error.

    Raises:
        FileNotFoundError: The folder does not exist.
        OSError: A folder cannot be listed: a part of the images must never be missing in silence.
    """
    if missing_ok and not is_folder(folder):
        return
    if is_remote(folder):
        filesystem_, inner = filesystem(folder)
        scheme = folder.partition("://")[0]
        selector = fs.FileSelector(inner.rstrip("/"), recursive=recursive)
        # Whole before its first entry is given away: one that breaks off is repeated without a trace. Single pages are
        # repeated by the client: at one fault in a hundred requests, no listing of a million objects would end.
        for info in persist(lambda: stores.list_all(filesystem_, selector)):
            if found := remote_stat(f"{scheme}://{info.path}", info):
                yield found
        return
    for path, status in folders.walk(folder, recursive=recursive):
        yield local_stat(path, status)


def list_names(folder: str) -> list[fs.FileInfo]:
    """Return the files and folders that lie in a folder or prefix itself; none where there is no such folder.

    Raises:
        OSError: It cannot be listed.
    """
    filesystem_, inner = filesystem(folder.rstrip("/") or "/")
    # Of GCS, Arrow tells a folder's objects only, not the prefixes in it: those are known by what lies below.
    selector = fs.FileSelector(inner, allow_not_found=True, recursive=folder.startswith("gs://"))
    entries = {}
    for info in persist(lambda: stores.list_all(filesystem_, selector)):
        name, below, _ = info.path[len(join(inner, "")) :].partition("/")
        entries[name] = fs.FileInfo(join(inner, name), fs.FileType.Directory) if below else info
    return list(entries.values())


def read_bytes(path: str) -> bytes:
    """Read a small file whole: configuration, labels, a manifest of a run.

    Raises:
        OSError: It does not exist or cannot be read.
    """
    if not is_remote(path):
        with open(path, "rb") as file:
            return file.read()
    filesystem_, inner = impatient_filesystem(path)

    def read() -> bytes:
        with filesystem_.open_input_stream(inner) as stream:
            return bytes(stream.read())

    return persist(read)


def read_digest(path: str) -> str:
    """Return the SHA-256 of a file of any size.

    Raises:
        OSError: It does not exist or cannot be read.
    """
    filesystem_, inner = filesystem(path)
    digest = hashlib.sha256()
    with filesystem_.open_input_stream(inner) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_bytes(path: str, data: bytes) -> None:
    """Write a file in one step: a reader sees the old content or the new, never a part.

    Raises:
        OSError: It cannot be written.
    """
    if is_remote(path):
        filesystem_, inner = impatient_filesystem(path)

        def write() -> None:
            with filesystem_.open_output_stream(inner) as stream:
                stream.write(data)

        persist(write)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def flush_file(path: str) -> None:
    """Wait until a local file's bytes are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: str) -> None:
    """Make a local folder and those above it; a remote store needs none."""
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)


def in_threads(work: Callable[[A], T], items: Iterable[A]) -> list[T]:
    """Do something with each item, many at a time; return the results in their order.

    Raises:
        Exception: What the first item that failed has raised; what was not begun then is left.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            return list(pool.map(work, items))
        finally:
            pool.shutdown(cancel_futures=True)
