"""One level of a folder or prefix: the files in it, and the folders in it that can be listed by themselves."""

from collections.abc import Iterator
from typing import NamedTuple

from pyarrow import fs

from transforms import folders, storage, stores
from transforms.google_levels import list_google_level
from transforms.storage import FileStat


class Level(NamedTuple):
    """What lies in one folder or prefix."""

    files: list[FileStat]
    """As storage.list_folder describes them."""
    folders: list[str]
    """Path of each folder or prefix in it; listed with all below them, and together with the files, they give what
    storage.list_folder gives for the folder."""
    cut: bool = False
    """There is more in it than was listed, and it cannot be taken apart."""


_EMPTY = Level([], [])


def list_level(root: str, folder: str) -> Level | None:
    """List a folder or prefix without what lies below its folders.

    Args:
        root: Where the listing began: a folder that is gone meanwhile is no error, the root is.
        folder: The root, or a folder below it from an earlier level.

    Returns:
        None where it cannot be taken apart: it has to be listed with all below it.

    Raises:
        FileNotFoundError: The root does not exist.
        OSError: It cannot be listed.
    """
    try:
        if folder.startswith("gs://"):
            google = list_google_level(folder)
            return google and Level(*google)
        return _remote_level(folder) if storage.is_remote(folder) else _local_level(root, folder)
    except FileNotFoundError:
        if folder == root:
            raise
        return _EMPTY


def list_below(root: str, folder: str) -> Iterator[FileStat]:
    """Yield every file below a folder that was found in a level: what storage.list_folder of the root gives there.

    Raises:
        FileNotFoundError: It is the root, and does not exist.
        OSError: It cannot be listed.
    """
    try:
        if storage.is_remote(folder):
            yield from storage.list_folder(folder)
        else:
            for path, status in folders.walk(folder, above=folders.identities(root, folder)):
                yield storage.local_stat(path, status)
    except FileNotFoundError:
        if folder == root:
            raise


def _local_level(root: str, folder: str) -> Level:
    found = folders.level(folder, folders.identities(root, folder))
    return Level([storage.local_stat(path, status) for path, status in found.files], found.folders)


def _remote_level(folder: str) -> Level | None:
    filesystem, inner = storage.filesystem(folder.rstrip("/"))
    scheme = folder.partition("://")[0]
    start = storage.join(inner, "")
    found = Level([], [])
    for info in storage.persist(lambda: stores.list_all(filesystem, fs.FileSelector(inner))):
        name = info.path.removeprefix(start)
        if info.type == fs.FileType.Directory:
            # Keys with an empty part, or one that a client may take for a step: nothing but the whole is sure there.
            if not info.path.startswith(start) or name in ("", ".", "..") or "/" in name:
                return None
            found.folders.append(f"{scheme}://{info.path}")
        elif described := storage.remote_stat(f"{scheme}://{info.path}", info):
            found.files.append(described)
    return found
