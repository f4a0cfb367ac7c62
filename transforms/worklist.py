"""What becomes of a listed path: scored, or skipped for a row that stands for it already; and each path once."""

from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa

from transforms import storage
from transforms.earlier_runs import EarlierRow
from transforms.records import Failure, ImageRef

Listed = ImageRef | Failure


class Unasked(NamedTuple):
    """An image that an earlier run has scored, whose listing (a manifest's line) did not tell its version."""

    ref: ImageRef
    """The image."""
    scored_version: str
    """Of the file that was scored."""


class Choice(NamedTuple):
    """What becomes of one path. At most one of the first three is set."""

    todo: Listed | None = None
    """To be scored, or a failure of the listing to be written."""
    unasked: Unasked | None = None
    """To be asked for its version first."""
    skipped: bool = False
    """An earlier run has scored it as it is."""
    duplicates: int = 0
    """How often it was listed again."""
    unlisted: bool = False
    """An earlier attempt of this run has scored it, and it is not listed any more."""


def choose(listed: Iterable[Listed], rows: Iterable[EarlierRow | None]) -> Choice:
    """Decide about one path.

    Args:
        listed: Its entries, any number.
        rows: Of earlier runs; None for a row of an earlier attempt of this run, which stands whatever its version.
    """
    known = list(rows)  # one a night
    done = None in known
    # One after the other: a faulty manifest may name one path a million times.
    entry: Listed | None = None
    duplicates = -1
    for found in listed:
        duplicates += 1
        # A listing knows size and version, a manifest's line does not: keep what knows more, and of equals the same
        # one in every attempt.
        if entry is None or _knowledge(found) > _knowledge(entry):
            entry = found
    if entry is None:
        return Choice(unlisted=done)
    if done:
        return Choice(duplicates=duplicates)
    scored_version = _newest_version([row for row in known if row is not None])
    if scored_version is None or isinstance(entry, Failure):
        return Choice(todo=entry, duplicates=duplicates)
    if entry.version is None:
        return Choice(unasked=Unasked(entry, scored_version), duplicates=duplicates)
    if entry.version == scored_version:
        return Choice(skipped=True, duplicates=duplicates)
    return Choice(todo=entry, duplicates=duplicates)


def _knowledge(entry: Listed) -> tuple[bool, str]:
    ref = entry.ref if isinstance(entry, Failure) else entry
    return ref.version is not None, ref.version or ""


def _newest_version(rows: list[EarlierRow]) -> str | None:
    """Return the version in the newest row; None where there is none that may be relied on."""
    # Of two rows of the same microsecond, the one that may not be relied on.
    newest = max(rows, key=lambda row: (row.scored_at_us, row.version is None), default=None)
    return newest.version if newest else None


def ask(image: Unasked) -> Choice:
    """Ask the storage for the version of an image, and decide about it.

    What is not there, or is not told, is scored: reading it gives the row, or the reason.
    """
    try:
        found = storage.stat(image.ref.path)
    except (OSError, ValueError, pa.ArrowException):
        # ValueError: a name with a NUL; ArrowException: what pyarrow does not translate into OSError.
        found = None
    if found is None:
        return Choice(todo=image.ref)
    if found.version == image.scored_version:
        return Choice(skipped=True)
    return Choice(todo=ImageRef(image.ref.path, found.size_bytes, found.version))
