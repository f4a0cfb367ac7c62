"""Local folders, walked file by file in an order that is stable, with plain system calls."""

import errno
import os
import stat as stat_module
from collections.abc import Iterator
from typing import NamedTuple

_NO_SUCH_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_Folders = frozenset[tuple[int, int]]


class Level(NamedTuple):
    """What lies in one folder."""

    files: list[tuple[str, os.stat_result]]
    """Path of each file, and what the system says of it."""
    folders: list[str]
    """Path of each folder that a walk would enter."""


def status(path: str) -> os.stat_result | None:
    """Return what the system says of a path; None where nothing is.

    Raises:
        OSError: The question is not permitted, or not answered.
    """
    # Not through pyarrow: it cannot ask for names that are not UTF-8.
    try:
        return os.stat(path)
    except ValueError:  # a NUL, or a character that no file name can hold
        return None
    except OSError as error:
        if error.errno in _NO_SUCH_PLACE:
            return None
        raise


def walk(folder: str, *, recursive: bool = True, above: _Folders = frozenset()) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the path of every file below a folder, and what the system says of it; `storage.list_folder` says of which.

    Args:
        folder: Where to begin.
        recursive: Also what lies in the folders below it.
        above: From `identities`, where the walk is a part of one that began further up.

    Raises:
        OSError: A folder does not exist or cannot be listed.
    """
    # A stack of half-listed folders, not a recursion: trees can be deeper than Python's stack.
    stack = [_scan(folder, above)]
    while stack:
        above, entries = stack[-1]
        for entry in entries:
            found = _entry_status(entry)
            if found is None:
                continue
            if not stat_module.S_ISDIR(found.st_mode):
                yield entry.path, found
            elif recursive and (found.st_dev, found.st_ino) not in above:
                try:
                    stack.append(_scan(entry.path, above))
                except FileNotFoundError:
                    continue
                break
        else:
            stack.pop()


def level(folder: str, above: _Folders) -> Level:
    """List one folder as a walk would.

    Args:
        folder: The folder.
        above: From `identities`.

    Raises:
        OSError: It does not exist or cannot be listed.
    """
    known, entries = _scan(folder, above)
    found = Level([], [])
    for entry in entries:
        status = _entry_status(entry)
        if status is None:
            continue
        if not stat_module.S_ISDIR(status.st_mode):
            found.files.append((entry.path, status))
        elif (status.st_dev, status.st_ino) not in known:
            found.folders.append(entry.path)
    return found


def identities(root: str, folder: str) -> _Folders:
    """Return which folders lie above a folder, up to and with the root of its walk: links to those are not followed.

    Raises:
        OSError: One of them does not exist.

    >>> identities("/", "/") == frozenset()
    True
    """
    found = set()
    while folder != root:
        folder = os.path.dirname(folder)
        status = os.stat(folder)
        found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def _scan(folder: str, above: _Folders) -> tuple[_Folders, Iterator[os.DirEntry[str]]]:
    found = os.stat(folder)
    with os.scandir(folder) as entries:
        return above | {(found.st_dev, found.st_ino)}, iter(sorted(entries, key=lambda entry: entry.name))


def _entry_status(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError as error:
        if error.errno not in _NO_SUCH_PLACE:
            raise
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
