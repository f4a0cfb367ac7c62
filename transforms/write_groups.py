"""WriteGroups: rows that two models have made of the same images into closed, staged Parquet files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from transforms.layout import RunLayout
from transforms.observe import Capacity, Count
from transforms.part_groups import GroupWriter, TableFiles
from transforms.records import RivalRows, WrittenFile
from transforms.settings import WriteSettings
from transforms.staging import check_begun


@dataclass
class WriteGroups(beam.PTransform):
    """Write the tables of a champion and a challenger; PCollection[RivalRows] in, PCollection[WrittenFile] out.

    As in WriteTables, only what comes out counts. What a crash leaves behind is whole for an image, or is nothing.
    """

    tables: Sequence[TableFiles]
    """scores, scores_challenger and failures_challenger."""
    settings: WriteSettings
    """When files are closed."""
    layout: RunLayout | None = None
    """The run that a launcher has begun there, which every worker has to find; None does not look for one."""

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, rows: beam.PCollection[RivalRows]) -> beam.PCollection[WrittenFile]:
        """Write within each bundle; files never cross bundles."""
        return rows | "Write" >> beam.ParDo(
            _WriteGroupsDoFn(tuple(self.tables), self.settings, self.layout)
        ).with_output_types(WrittenFile)


class _WriteGroupsDoFn(beam.DoFn):
    def __init__(self, tables: tuple[TableFiles, ...], settings: WriteSettings, layout: RunLayout | None) -> None:
        self._layout = layout
        self._tables = tables
        self._settings = settings
        self._rows = {files.table: Count(f"write_{files.table}_rows") for files in tables}
        self._bytes = Count("write_bytes")
        self._ms = Count("write_ms")
        self._own_ms = Count("write_scores_ms")
        self._capacity = Capacity("write_scores_capacity_ms")

    def setup(self) -> None:
        self._has_checked = self._layout is None

    def start_bundle(self) -> None:
        # Not in setup: what that raises never reaches Flink's runner (score_batches.py).
        if self._layout is not None and not self._has_checked:
            check_begun(self._layout)
            self._has_checked = True
        self._writer = GroupWriter(self._tables, self._settings)
        self._capacity.start()

    def process(self, rows: RivalRows) -> Iterator[WrittenFile]:
        batches = {files.table: getattr(rows, files.table) for files in self._tables}
        with self._ms.time(), self._own_ms.time():
            files = self._writer.write(batches)
        for table, batch in batches.items():
            self._rows[table].add(batch.num_rows)
        self._bytes.add(sum(file.size_bytes for file in files))
        yield from files

    def finish_bundle(self) -> Iterator[WindowedValue]:
        with self._ms.time(), self._own_ms.time():
            files = self._writer.close()
        self._bytes.add(sum(file.size_bytes for file in files))
        window = GlobalWindow()
        for file in files:
            yield WindowedValue(file, window.max_timestamp(), (window,))
        self._capacity.stop(1)
