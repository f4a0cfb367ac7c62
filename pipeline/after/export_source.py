"""The rows of a published run for other tools: some thousand at a time, with the truth beside them if there is one."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.after.published import UNREADABLE, PublishedRun
from pipeline.after.truth import SEPARATOR, Join, Truth
from transforms.errors import InputError


class Block(NamedTuple):
    """Some rows of the scores table."""

    rows: pa.Table
    """N rows of the columns that were asked for."""
    positions: npt.NDArray[np.intp]
    """intp[N], the image of each in the truth; -1 where the truth does not name it, or there is none."""


@dataclass(frozen=True)
class ExportSource:
    """What is exported."""

    run: PublishedRun
    """The run."""
    truth: Truth | None
    """What some of its images really show."""
    joined: Join | None
    """Which rows have a truth; None without one."""
    progress: Callable[[int], None] | None = None
    """Told the number of rows after each block."""

    def count(self, *, matched: bool = False) -> int:
        """Return how many rows `blocks` gives in all, from the footers of the files."""
        if matched:
            return sum(map(len, self._join.rows))
        return sum(
            group.file.metadata.row_group(group.number).num_rows for group in self.run.row_groups(self.run.table)
        )

    def blocks(self, columns: Sequence[str], *, matched: bool = False) -> Iterator[Block]:
        """Yield the rows in the order of the files, a row group at a time.

        Args:
            columns: To read.
            matched: Give only the rows that have a truth.

        Raises:
            InputError: A file is missing or damaged.
        """
        for number, group in enumerate(self.run.row_groups(self.run.table)):
            try:
                rows = group.read(columns)
            except UNREADABLE as error:
                raise InputError(
                    f"run {self.run.layout.run_id} cannot be read: {str(error).splitlines()[0]}; score-images verify "
                    "says which file is damaged"
                ) from error
            size = len(rows)
            positions = np.full(size, -1, np.intp)
            if self.joined is not None:
                positions[self.joined.rows[number]] = self.joined.positions[number]
            if matched:
                chosen = self._join.rows[number]
                rows, positions = rows.take(pa.array(chosen)), positions[chosen]
            if len(rows):
                yield Block(rows, positions)
            if self.progress is not None:
                self.progress(size)

    def no_rows(self, columns: Sequence[str]) -> Block:
        """Return a block without rows: what a file has for a header where a run has none."""
        return Block(self.run.schema.empty_table().select(columns), np.zeros(0, np.intp))

    @property
    def _join(self) -> Join:
        if self.joined is None:
            raise ValueError("rows that have a truth were asked for, and there is no truth")
        return self.joined

    def true_classes(self, positions: npt.NDArray[np.intp]) -> list[tuple[int, ...] | None]:
        """Return the classes that hold for each of some images; None where the truth does not name the image."""
        if self.truth is None:
            return [None] * len(positions)
        classes = self.truth.classes
        return [classes[position] if position >= 0 else None for position in positions.tolist()]

    def true_labels(self, positions: npt.NDArray[np.intp], names: Sequence[str]) -> pa.Array:
        """Return a text for each of some images, several labels parted by `;`; null where there is no truth.

        Args:
            positions: Of a block.
            names: C names of classes.
        """
        texts = [
            None if classes is None else SEPARATOR.join(names[c] for c in classes)
            for classes in self.true_classes(positions)
        ]
        return pa.array(texts, pa.string())


def plain(column: pa.ChunkedArray) -> pa.Array:
    """Return a column in one piece, dictionary texts as texts: tools differ in what they make of dictionaries."""
    whole = column.combine_chunks()
    return whole.dictionary_decode() if pa.types.is_dictionary(whole.type) else whole


def vectors(column: pa.ChunkedArray, width: int) -> npt.NDArray[np.float32]:
    """Return a column of N lists of equal length as float32[N, width]; N may be 0."""
    return np.asarray(plain(column).flatten().to_numpy()).reshape(-1, width)


def unique_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Return C different names: a label that two classes share gets the index of its class.

    >>> unique_names(["crane", "cat", "crane"])
    ('crane (0)', 'cat', 'crane (2)')
    """
    shared = {label for label, times in Counter(labels).items() if times > 1}
    return tuple(f"{label} ({index})" if label in shared else label for index, label in enumerate(labels))


def top_k_columns(column: pa.ChunkedArray) -> list[tuple[pa.Array, pa.Array]]:
    """Take a column of top-k lists apart.

    Args:
        column: N lists of K entries each.

    Returns:
        K pairs of labels string[N] and probabilities float32[N], the strongest first.

    Raises:
        InputError: The lists differ in length.
    """
    lists = plain(column)
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    if not len(lengths):
        return []
    k = int(lengths[0])
    if (lengths != k).any():
        raise InputError(
            f"the lists of top_k hold {k} and {lengths[lengths != k][0]} entries, and one run gives each image equally "
            "many; score-images verify says what else is wrong"
        )
    entries = lists.flatten()
    return [
        tuple(entries.field(name).take(pa.array(np.arange(rank, len(entries), k))) for name in ("label", "probability"))
        for rank in range(k)
    ]
