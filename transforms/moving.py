"""Move, copy and delete files and folders, on local disks and in stores, each so that it can be repeated after a kill.

What is done already is no error. Troubles of a store that pass are tried again, as in storage.py.
"""

import errno
import os
from collections.abc import Callable, Iterable

import pyarrow as pa
from pyarrow import fs

from transforms import storage, stores


def move_files(pairs: list[tuple[str, str]]) -> None:
    """Move files to new names, replacing what is there; many at once on remote stores.

    A file that is already at its new place and gone from the old one counts as moved, so that an interrupted
    call can be repeated.

    Raises:
        FileNotFoundError: A file is at neither place.
        OSError: A file cannot be moved.
    """
    _transfer_all(pairs, lambda filesystem_: filesystem_.move)


def copy_files(pairs: list[tuple[str, str]]) -> None:
    """Copy files to new names as move_files moves them; the old ones stay.

    In a store a move is a copy and a deletion, and many deletions are one request.

    Raises:
        FileNotFoundError: A file is at neither place.
        OSError: A file cannot be copied.
    """
    _transfer_all(pairs, lambda filesystem_: filesystem_.copy_file)


def _transfer_all(pairs: list[tuple[str, str]], choose: Callable[[fs.FileSystem], Callable[[str, str], None]]) -> None:
    for folder in {storage.parent(target) for _, target in pairs}:
        storage.make_folder(folder)
    storage.in_threads(lambda pair: _transfer(*pair, choose), pairs)


def _transfer(source: str, target: str, choose: Callable[[fs.FileSystem], Callable[[str, str], None]]) -> None:
    filesystem_, inner = storage.impatient_filesystem(source)
    place = storage.filesystem(target)[1]
    transfer = choose(filesystem_)

    def attempt() -> None:
        # Not asked first: that is a request for each file, and the answer is nearly always the same.
        try:
            transfer(inner, place)
        except (OSError, pa.ArrowException) as error:
            # It is at its new place already, or the answer was lost on its way: what the store has done counts.
            if _exists(filesystem_, inner):
                raise
            if not _exists(filesystem_, place):
                what = "neither at its old place nor at its new one"
                raise FileNotFoundError(errno.ENOENT, what, f"{source}, {target}") from error

    storage.persist(attempt)


def _exists(filesystem_: fs.FileSystem, inner: str) -> bool:
    return bool(filesystem_.get_file_info(inner).type == fs.FileType.File)


def exchange_folder(new: str, place: str, old: str) -> None:
    """Put a local folder in the place of another; what was there goes to `old`. Repeatable after a kill.

    Raises:
        OSError: A folder cannot be renamed.
    """
    if not os.path.isdir(new):
        return
    if os.path.isdir(place):
        retire_folder(place, old)
    storage.make_folder(storage.parent(place))
    os.rename(new, place)


def retire_folder(place: str, old: str) -> None:
    """Move a local folder away in one step; what was at `old` goes.

    Raises:
        OSError: It cannot be renamed.
    """
    delete_folder(old)
    storage.make_folder(storage.parent(old))
    os.rename(place, old)


def delete_folder(path: str) -> None:
    """Delete a folder with everything below it; one that does not exist is no error."""
    filesystem_, inner = storage.filesystem(path)
    _delete(filesystem_, inner.rstrip("/"), fs.FileType.Directory, filesystem_.delete_dir)


def delete_files(paths: Iterable[str]) -> None:
    """Delete files, many at once; one that does not exist is no error."""
    storage.in_threads(delete_file, paths)


def delete_file(path: str) -> None:
    """Delete a file; one that does not exist is no error."""
    filesystem_, inner = storage.impatient_filesystem(path)
    _delete(filesystem_, inner, fs.FileType.File, filesystem_.delete_file)


def _delete(filesystem_: fs.FileSystem, inner: str, kind: fs.FileType, delete: Callable[[str], None]) -> None:
    def look_and_delete() -> None:
        if filesystem_.get_file_info(inner).type == kind:
            delete(inner)

    # Gone between the question and the deletion, as after an attempt whose answer was lost: the next attempt sees it.
    # GCS says so of every folder, too, after it has deleted all below it: no object has the folder's own name.
    storage.persist(look_and_delete, lambda error: isinstance(error, FileNotFoundError) or stores.is_passing(error))
