"""Where a model comes from, and its way to the local disk.

    a path, file://          as it is
    https://, http://        TF Hub: an archive, unpacked once a machine into TF Hub's own cache
    gs://, s3://             copied once a machine through transforms.storage

Nothing is half there: a download or copy gets its final name only once it is complete.
"""

import fcntl
import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from pathlib import Path
from typing import Any

from transforms import storage
from transforms.errors import ConfigError, ModelError
from transforms.model_interface import first_line
from transforms.settings import ModelSettings

STALL_SECONDS = 60.0
"""A server that sends nothing for so long is given up."""
DOWNLOAD_SECONDS = 30 * 60.0
"""A download that takes longer is given up, however steadily it drips."""
_CHUNK = 1 << 20


def local_path(settings: ModelSettings) -> Path:
    """Return the model's place on the local disk, fetching it first if it is elsewhere.

    Args:
        settings: path and hub_cache are read.

    Raises:
        ModelError: It cannot be fetched.
    """
    path = settings.path
    if path.startswith(("https://", "http://")):
        return _resolve_handle(path, settings)
    if storage.is_remote(path):
        return _copy_remote(path.rstrip("/"), cache_folder(settings))
    try:
        return Path(storage.absolute(os.path.expanduser(path)))
    except ConfigError as error:
        raise ModelError(f"model.path {path}: {error}; or a TF Hub handle (https://...)") from error


def cache_folder(settings: ModelSettings) -> Path:
    """Return where fetched models are kept: model.hub_cache, TFHUB_CACHE_DIR, or TF Hub's own default."""
    chosen = settings.hub_cache or os.environ.get("TFHUB_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else Path(tempfile.gettempdir()) / "tfhub_modules"


def _resolve_handle(handle: str, settings: ModelSettings) -> Path:
    """Do what hub.resolve does, with its cache, its locks and its formats, but with limits and checks.

    hub.resolve waits for ever on a silent server, and takes an archive that ends early between two files for
    whole: it would stay in the cache, broken.
    """
    import tensorflow as tf
    from tensorflow_hub import resolver as hub

    if hub.model_load_format() == hub.ModelLoadFormat.UNCOMPRESSED.value:
        return _resolve_uncompressed(handle, settings)
    cache = cache_folder(settings)
    cache.mkdir(parents=True, exist_ok=True)
    # The same name that hub.resolve gives, so that both share one copy.
    folder = cache / hashlib.sha1(handle.encode()).hexdigest()  # noqa: S324 - a name, not a secret
    try:
        # The hub's own lock lets two in at the same instant, looks every five seconds, and outlives a killed process
        # by ten minutes. With ours before it, it only ever meets other users of the cache.
        with folder.with_suffix(".flock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _descend(Path(hub.atomic_download(handle, _download_archive, str(folder))))
    except (OSError, EOFError, zlib.error, tarfile.TarError, tf.errors.OpError) as error:
        raise ModelError(f"model.path {handle} cannot be downloaded: {_say(error)}") from error


def _download_archive(handle: str, folder: str) -> None:
    archive = Path(folder) / ".archive"
    _fetch(with_format(handle, "compressed"), archive)
    unpack(archive, Path(folder))
    archive.unlink()


def _resolve_uncompressed(handle: str, settings: ModelSettings) -> Path:
    """Ask a hub server for the model's place on gs://, as TFHUB_MODEL_LOAD_FORMAT=UNCOMPRESSED wants it."""
    request = urllib.request.Request(with_format(handle, "uncompressed"))  # noqa: S310 - http(s) by the caller

    class _Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    try:
        urllib.request.build_opener(_Stay).open(request, timeout=STALL_SECONDS).close()
    except urllib.error.HTTPError as answer:
        with answer:
            location = answer.read(4096).decode(errors="replace").strip()
        if answer.code == 303 and storage.is_remote(location):
            return _copy_remote(location.rstrip("/"), cache_folder(settings))
        raise ModelError(
            f"model.path {handle} has no uncompressed form: the server answered {answer.code}; "
            "unset TFHUB_MODEL_LOAD_FORMAT to download the archive"
        ) from answer
    except OSError as error:
        raise ModelError(f"model.path {handle} cannot be downloaded: {_say(error)}") from error
    raise ModelError(
        f"model.path {handle} has no uncompressed form: the server did not name its place; "
        "unset TFHUB_MODEL_LOAD_FORMAT to download the archive"
    )


def with_format(handle: str, form: str) -> str:
    """Add the query by which a hub server tells a download from a page for people.

    >>> with_format("https://hub.example/cats/1", "compressed")
    'https://hub.example/cats/1?tf-hub-format=compressed'
    """
    parts = urllib.parse.urlsplit(handle)
    query = [*urllib.parse.parse_qsl(parts.query), ("tf-hub-format", form)]
    return urllib.parse.urlunsplit(parts._replace(query=urllib.parse.urlencode(query)))


def _fetch(url: str, target: Path) -> None:
    """Download a file whole, or raise OSError."""
    end = time.monotonic() + DOWNLOAD_SECONDS
    size = 0
    try:
        answer = urllib.request.urlopen(url, timeout=STALL_SECONDS)  # noqa: S310 - http(s) by the caller
    except urllib.error.HTTPError as error:
        error.close()  # it is the answer, its connection open
        raise
    with answer, target.open("wb") as file:
        # read1 returns what has arrived: read would wait for a full chunk, and no limit would be seen meanwhile.
        while chunk := answer.read1(_CHUNK):
            size += file.write(chunk)
            if time.monotonic() > end:
                raise TimeoutError(f"{size:,} bytes came in {DOWNLOAD_SECONDS:g} s, and not the whole file")
        announced = answer.headers.get("Content-Length")
    if announced is not None and size != int(announced):
        raise ConnectionError(f"the download is truncated: {size:,} of {int(announced):,} bytes came")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .tar or .tar.gz of files and folders, none of them outside of a folder.

    Args:
        archive: The file.
        folder: Where its content goes.

    Raises:
        OSError, EOFError, zlib.error, tarfile.TarError: It is damaged, or holds links or paths that lead outside.
    """
    with archive.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if packed:
        # tarfile alone stops at the last whole member and never sees the checksum at the end.
        with gzip.open(archive) as stream:
            while stream.read(_CHUNK):
                pass
    root = folder.resolve()
    with tarfile.open(archive) as tar:
        for member in tar:
            target = (root / member.name.lstrip("/")).resolve()
            if not target.is_relative_to(root):
                raise tarfile.TarError(f"it holds {member.name!r}, which leads out of its folder")
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            elif member.isfile():
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None  # noqa: S101 - a regular file has content
                with source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
            else:
                raise tarfile.TarError(f"it holds {member.name!r}, which is neither a file nor a folder")


def _descend(folder: Path) -> Path:
    """Step into the only folder of an archive that was packed with its outer folder."""
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder


def _copy_remote(url: str, cache: Path) -> Path:
    """Copy a model from an object store; a changed one gets a new place, a known one is not copied again."""
    try:
        single = storage.stat(url)
        files = [single] if single else list(storage.list_folder(url))
        if not files:
            raise ModelError(f"model.path {url} holds no files; give the SavedModel's own folder")
        listing = "\n".join(f"{file.path} {file.version}" for file in sorted(files))
        place = cache / hashlib.sha256(listing.encode()).hexdigest()
        name = url.rsplit("/", 1)[-1]
        if not (place / name).exists():
            _copy_files(files, url, place, name)
    except OSError as error:
        raise ModelError(f"model.path {url} cannot be read: {_say(error)}") from error
    return place / name


def _copy_files(files: list[storage.FileStat], url: str, place: Path, name: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f"{place.name}.") as temporary:
        root = Path(temporary) / "model" / name
        for file in files:
            target = root if file.path == url else root / file.path.removeprefix(url).lstrip("/")
            if ".." in target.relative_to(root).parts:
                raise ModelError(f"model.path {url} holds {file.path}, whose name leads out of its folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            filesystem, inner = storage.filesystem(file.path)
            with filesystem.open_input_stream(inner) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, _CHUNK)
            if target.stat().st_size != file.size_bytes:
                raise ConnectionError(
                    f"{file.path} is truncated: {target.stat().st_size:,} of {file.size_bytes:,} bytes"
                )
        try:
            (Path(temporary) / "model").rename(place)
        except OSError:
            # Another process of this machine was quicker: its copy has the same content.
            if not (place / name).exists():
                raise


def _say(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}; check the address"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError) and "timed out" in str(reason):
        return f"the server sent nothing for {STALL_SECONDS:g} s; try again, or download the model and give its folder"
    if isinstance(reason, (EOFError, zlib.error, gzip.BadGzipFile, tarfile.ReadError)):
        return f"what came is no whole .tar.gz archive ({first_line(reason)}); check the address, and try again"
    return first_line(reason) if isinstance(reason, BaseException) else str(reason)
