"""What WriteTables and WriteGroups share: a bundle's rows into part files, checked, timed, counted and closed."""

from collections.abc import Iterator, Mapping

import apache_beam as beam
import pyarrow as pa
from apache_beam.utils.windowed_value import WindowedValue

from transforms.bundles import at_end
from transforms.layout import RunLayout, Table
from transforms.observe import Capacity, Count
from transforms.part_groups import GroupWriter, TableFiles
from transforms.records import WrittenFile
from transforms.settings import WriteSettings
from transforms.staging import check_begun


class WritePartsDoFn(beam.DoFn):
    """Writes within each bundle; how an element is taken apart into tables is a subclass's `process`.

    Args:
        tables: Which, and where they go; the time that all take is told under the name of the first.
        settings: When files are closed.
        layout: The run that a launcher has begun there, which every worker has to find; None does not look for one.
    """

    def __init__(self, tables: tuple[TableFiles, ...], settings: WriteSettings, layout: RunLayout | None) -> None:
        self._layout = layout
        self._tables = tables
        self._settings = settings
        self._rows = {files.table: Count(f"write_{files.table}_rows") for files in tables}
        self._bytes = Count("write_bytes")
        self._ms = Count("write_ms")
        self._own_ms = Count(f"write_{tables[0].table}_ms")
        self._capacity = Capacity(f"write_{tables[0].table}_capacity_ms")

    def setup(self) -> None:
        """Begin as one that has not looked for its run yet."""
        self._has_checked = self._layout is None

    def start_bundle(self) -> None:
        """Look for the run, once, and begin new files: files never cross bundles."""
        # Not in setup: what that raises never reaches Flink's runner (score_batches.py).
        if self._layout is not None and not self._has_checked:
            check_begun(self._layout)
            self._has_checked = True
        self._writer = GroupWriter(self._tables, self._settings)
        self._capacity.start()

    def write(self, batches: Mapping[Table, pa.RecordBatch]) -> Iterator[WrittenFile]:
        """Write rows of the same images; yield the files that were completed since the last call."""
        with self._ms.time(), self._own_ms.time():
            files = self._writer.write(batches)
        for table, batch in batches.items():
            self._rows[table].add(batch.num_rows)
        self._bytes.add(sum(file.size_bytes for file in files))
        yield from files

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Close the open files; yield those that were not yielded yet."""
        with self._ms.time(), self._own_ms.time():
            files = self._writer.close()
        self._bytes.add(sum(file.size_bytes for file in files))
        for file in files:
            yield at_end(file)
        self._capacity.stop(1)
