"""WriteTables: record batches into closed, staged Parquet files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import apache_beam as beam
import pyarrow as pa

from transforms.layout import RunLayout, Table
from transforms.part_groups import TableFiles
from transforms.records import WrittenFile
from transforms.settings import WriteSettings
from transforms.write_parts import WritePartsDoFn


@dataclass
class WriteTables(beam.PTransform):
    """Write record batches of one table; PCollection[pa.RecordBatch] in, PCollection[WrittenFile] out.

    Only what comes out counts: a bundle that is retried writes again under new names, and the files of the
    failed attempt are never reported.
    """

    folder: str
    """Where the files are staged."""
    table: Table
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
        files = TableFiles(self.table, self.folder, self.schema, dict(self.metadata))
        return batches | "Write" >> beam.ParDo(
            _WriteTablesDoFn((files,), self.settings, self.layout)
        ).with_output_types(WrittenFile)


class _WriteTablesDoFn(WritePartsDoFn):
    def process(self, batch: pa.RecordBatch) -> Iterator[WrittenFile]:
        (files,) = self._tables
        yield from self.write({files.table: batch})
