"""Which images are in the tables of a run: none twice, and with a challenger the same in both models' tables.

Memory: 8 bytes a row. Two paths may share a hash: those that do are read again, and compared letter for letter.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from transforms import storage
from transforms.layout import ALL_TABLES, CHALLENGER_TABLES, Table

# More paths than these are not compared letter for letter: then the run is broken enough.
_MOST_SUSPECTS = 1_000_000


class Difference(NamedTuple):
    """Images that only one of two models accounts for."""

    example: str
    """What is wrong with the first of them."""
    images: int
    """How many there are."""


class PathsOfRun:
    """The paths of a run, gathered a row group at a time.

    Args:
        output: The folder that the files' names in messages start from.
    """

    def __init__(self, output: str) -> None:
        self._output = output
        self._hashes = {table: array("q") for table in ALL_TABLES}
        self._read: list[tuple[Table, str, int]] = []

    def add(self, table: Table, path: str, number: int, paths: Sequence[str]) -> None:
        """Remember the paths of row group `number` of a file."""
        self._read.append((table, path, number))
        self._hashes[table].frombytes(_hashes(paths).tobytes())

    def repeated(self, tables: Sequence[Table]) -> Iterator[str]:
        """Say of each path that is there twice, in a table or in two of them, where."""
        hashes = self._hashes_of(tables)
        suspects = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])[:_MOST_SUSPECTS]
        if not len(suspects):
            return
        seen: dict[str, str] = {}
        for name, paths in self._read_again(tables):
            for at in np.flatnonzero(np.isin(_hashes(paths), suspects)):
                if paths[at] in seen:
                    yield f"{paths[at]} is in {seen[paths[at]]} and in {name}"
                seen.setdefault(paths[at], name)

    def differences(self) -> Iterator[Difference]:
        """Say which images of scores the challenger does not account for, and which others it does."""
        scored, rival = self._hashes_of(("scores",)), self._hashes_of(CHALLENGER_TABLES)
        if np.array_equal(scored, rival):
            return
        lost, added = np.setdiff1d(scored, rival), np.setdiff1d(rival, scored)
        if len(lost):
            where = "is in scores and in none of the challenger's tables"
            yield Difference(f"{self._path_of(lost[0], ('scores',))} {where}", len(lost))
        if len(added):
            where = "is in one of the challenger's tables and not in scores"
            yield Difference(f"{self._path_of(added[0], CHALLENGER_TABLES)} {where}", len(added))
        if not len(lost) and not len(added):
            yield Difference(f"scores has {len(scored)} rows, the challenger's tables have {len(rival)}", 1)

    def _path_of(self, hashed: int, tables: Sequence[Table]) -> str:
        for _, paths in self._read_again(tables):
            for at in np.flatnonzero(_hashes(paths) == hashed):
                return paths[at]
        raise OSError(f"no path of {', '.join(tables)} has the hash {hashed}: a file has changed meanwhile")

    def _hashes_of(self, tables: Sequence[Table]) -> npt.NDArray[np.int64]:
        """Return them sorted."""
        hashes = np.concatenate([np.frombuffer(self._hashes[table], np.int64) for table in tables])
        hashes.sort()
        return hashes

    def _read_again(self, tables: Sequence[Table]) -> Iterator[tuple[str, list[str]]]:
        for table, path, number in self._read:
            if table in tables:
                filesystem, inner = storage.filesystem(path)
                with filesystem.open_input_file(inner) as stream:
                    group = pq.ParquetFile(stream).read_row_group(number, columns=["image_path"])
                yield path.removeprefix(storage.join(self._output, "")), group["image_path"].to_pylist()


def _hashes(paths: Sequence[str]) -> npt.NDArray[np.int64]:
    # Python's own hash of a text is of 64 bits, and salted: nobody can name files so that they collide.
    return np.fromiter(map(hash, paths), np.int64, len(paths))
