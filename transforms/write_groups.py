"""WriteGroups: rows that two models have made of the same images into closed, staged Parquet files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam

from transforms.layout import RunLayout
from transforms.part_groups import TableFiles
from transforms.records import RivalRows, WrittenFile
from transforms.settings import WriteSettings
from transforms.write_parts import WritePartsDoFn


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


class _WriteGroupsDoFn(WritePartsDoFn):
    def process(self, rows: RivalRows) -> Iterator[WrittenFile]:
        yield from self.write({files.table: getattr(rows, files.table) for files in self._tables})
