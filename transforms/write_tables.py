"""WriteTables: record batches into closed, staged Parquet files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from transforms.layout import RunLayout
from transforms.observe import Capacity, Count
from transforms.part_files import PartWriter
from transforms.records import WrittenFile
from transforms.settings import WriteSettings
from transforms.staging import check_begun


@dataclass
class WriteTables(beam.PTransform):
    """Write record batches of one table; PCollection[pa.RecordBatch] in, PCollection[WrittenFile] out.

    Only what comes out counts: a bundle that is retried writes again under new names, and the files of the
    failed attempt are never reported.
    """

    folder: str
    """Where the files are staged."""
    table: str
    """scores or failures."""
    schema: pa.Schema
    """Of every batch."""
    settings: WriteSettings
    """When a file is closed."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Key-value metadata of every file."""
    layout: RunLayout | None = None
    """The run that a launcher has begun there, which every worker has to find; None does not look for one."""

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[WrittenFile]:
        """Write within each bundle; files never cross bundles."""
        return batches | "Write" >> beam.ParDo(
            _WriteDoFn(self.folder, self.table, self.schema, self.settings, dict(self.metadata), self.layout)
        ).with_output_types(WrittenFile)


class _WriteDoFn(beam.DoFn):
    def __init__(
        self,
        folder: str,
        table: str,
        schema: pa.Schema,
        settings: WriteSettings,
        metadata: Mapping[str, str],
        layout: RunLayout | None,
    ) -> None:
        self._layout = layout
        self._arguments = (folder, table, schema, metadata, settings)
        self._rows = Count(f"write_{table}_rows")
        self._bytes = Count("write_bytes")
        self._ms = Count("write_ms")
        self._own_ms = Count(f"write_{table}_ms")
        self._capacity = Capacity(f"write_{table}_capacity_ms")

    def setup(self) -> None:
        self._has_checked = self._layout is None

    def start_bundle(self) -> None:
        # Not in setup: what that raises never reaches Flink's runner (score_batches.py).
        if self._layout is not None and not self._has_checked:
            check_begun(self._layout)
            self._has_checked = True
        self._writer = PartWriter(*self._arguments)
        self._capacity.start()

    def process(self, batch: pa.RecordBatch) -> Iterator[WrittenFile]:
        with self._ms.time(), self._own_ms.time():
            files = self._writer.write(batch)
        self._rows.add(batch.num_rows)
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
