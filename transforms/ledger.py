"""The ledger law: every listed image is a duplicate, scored, failed or skipped, and each of them once.

With a challenger, every scored image is scored by it or failed for it besides.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

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
    challenger_scored: int | None = None
    """Rows in the closed files of the challenger's scores; None without a challenger."""
    challenger_failed: int | None = None
    """Rows in the closed files of its failures; None without a challenger."""

    def to_json(self) -> dict[str, Any]:
        """Return it for a manifest: what there is without a challenger is as it always was."""
        return {name: count for name, count in self._asdict().items() if count is not None}

    def mismatch(self) -> str | None:
        """Return what does not add up; None where the laws hold."""
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
        if self.challenger_scored is None and self.challenger_failed is None:
            return None
        scored, failed = self.challenger_scored or 0, self.challenger_failed or 0
        if self.scored != scored + failed:
            return (
                f"scored {self.scored} is not challenger_scored {scored} + challenger_failed {failed}: "
                f"{self.scored - scored - failed:+d}"
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


def count_ledger(
    written: Sequence[WrittenFile], adopted: Sequence[WrittenFile], counts: Counts, *, with_challenger: bool = False
) -> Ledger:
    """Add up where every listed image went.

    Args:
        written: Files of this attempt, of all tables.
        adopted: Files of an earlier attempt.
        counts: Of this attempt.
        with_challenger: Whether there is one.
    """
    rows = Counter[str]()
    for file in (*adopted, *written):
        rows[file.table] += file.rows
    return Ledger(
        # An image that was listed when the run began and is gone now was listed nevertheless.
        listed=counts.listed + counts.unlisted,
        duplicates=counts.duplicates,
        unique=counts.unique + counts.skipped + sum(file.rows for file in adopted if file.table == "scores"),
        scored=rows["scores"],
        failed=rows["failures"],
        skipped=counts.skipped,
        challenger_scored=rows["scores_challenger"] if with_challenger else None,
        challenger_failed=rows["failures_challenger"] if with_challenger else None,
    )
