"""Write the rows of several tables into part files that are closed together, so that no crash parts them.

A group is one file of each table that had rows, all of the same images, and all begin with the same name. A table that
had none has no file in the group; whether one is missing that was there shows by the images: those of `scores` are
those of the challenger's two tables together (staging.py).
"""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from transforms.layout import Table
from transforms.part_files import PartWriter
from transforms.records import WrittenFile
from transforms.settings import WriteSettings


class TableFiles(NamedTuple):
    """What the files of one table are like."""

    table: Table
    """Its name."""
    folder: str
    """Where they are staged."""
    schema: pa.Schema
    """Of every batch."""
    metadata: Mapping[str, str]
    """Key-value metadata of every file."""


class _GroupName:
    """The name that the open files of a group begin with.

    An object of its own, since writers hold it: if they held the GroupWriter, each would live, with its threads, until
    Python looks for circles, which with millions of objects is seldom.
    """

    def __init__(self) -> None:
        self.change()

    def change(self) -> None:
        self._name = uuid.uuid4().hex

    def get(self) -> str:
        return self._name


class GroupWriter:
    """Writes several tables in lockstep: where the file of one is closed, those of all are.

    Args:
        tables: Which, and where they go.
        settings: When to close: what is reached first, in whatever table.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, tables: Sequence[TableFiles], settings: WriteSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = _GroupName()
        self._writers = {
            files.table: PartWriter(
                files.folder, files.table, files.schema, files.metadata, settings, clock, self._name.get
            )
            for files in tables
        }

    def write(self, batches: Mapping[Table, pa.RecordBatch]) -> list[WrittenFile]:
        """Add rows of the same images; return the files that were completed since the last call.

        Raises:
            Exception: As PartWriter.write.
        """
        for table, batch in batches.items():
            self._writers[table].add(batch)
        if any(writer.is_due() for writer in self._writers.values()):
            for writer in self._writers.values():
                writer.roll()
            self._name.change()
        return [file for writer in self._writers.values() for file in writer.finished()]

    def close(self) -> list[WrittenFile]:
        """Close the open files, wait for everything, and return the files that were not returned yet.

        Raises:
            Exception: As PartWriter.close.
        """
        for writer in self._writers.values():
            writer.roll()
        return [file for writer in self._writers.values() for file in writer.close()]
