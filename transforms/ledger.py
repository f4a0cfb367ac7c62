"""The ledger law: every listed image is a duplicate, scored, failed or skipped, and each of them once."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from transforms.records import WrittenFile


class Ledger(NamedTuple):
    """Where every listed image went."""

    listed: int
    """Entries of all inputs."""
    duplicates: int
    """Entries beyond the first of the same path."""
    unique: int
    """Different paths, counted after the shuffle."""
    scored: int
    """Rows in the closed files of the scores table."""
    failed: int
    """Rows in the closed files of the failures table."""
    skipped: int
    """Images that an earlier published run has scored with the same fingerprints."""

    def mismatch(self) -> str | None:
        """Return what does not add up; None where both laws hold."""
        if self.listed != self.unique + self.duplicates:
            return (
                f"listed {self.listed} is not unique {self.unique} + duplicates {self.duplicates}: "
                f"{self.listed - self.unique - self.duplicates:+d}"
            )
        if self.unique != self.scored + self.failed + self.skipped:
            return (
                f"unique {self.unique} is not scored {self.scored} + failed {self.failed} + skipped {self.skipped}: "
                f"{self.unique - self.scored - self.failed - self.skipped:+d}"
            )
        return None


class Counts(NamedTuple):
    """What this attempt has counted besides the rows of its files."""

    listed: int
    """Listed entries."""
    duplicates: int
    """Entries beyond the first of a path."""
    unique: int
    """Different paths that this attempt had to score."""
    unlisted: int
    """Rows of an earlier attempt whose image is not listed any more."""
    skipped: int
    """Images that an earlier run has scored as they are."""


def count_ledger(written: Sequence[WrittenFile], adopted: Sequence[WrittenFile], counts: Counts) -> Ledger:
    """Add up where every listed image went.

    Args:
        written: Files of this attempt, of both tables.
        adopted: Files of an earlier attempt.
        counts: Of this attempt.
    """
    rows = Counter[str]()
    for file in (*adopted, *written):
        rows[file.table] += file.rows
    return Ledger(
        # An image that was listed when the run began and is gone now was listed nevertheless.
        listed=counts.listed + counts.unlisted,
        duplicates=counts.duplicates,
        unique=counts.unique + counts.skipped + sum(file.rows for file in adopted),
        scored=rows["scores"],
        failed=rows["failures"],
        skipped=counts.skipped,
    )
