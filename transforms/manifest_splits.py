"""Where a manifest can be split, so that many workers read it at once: a hundred million lines are gigabytes.

- Text and JSONL: anywhere, by bytes. A line belongs to the split that its first byte lies in; no split has to know
  another one. Nothing is read to find them.
- CSV: where a row begins. A quoted field may hold the end of a line, so that no byte in the middle of the file says
  by itself whether it ends a row, and a parity of quotes does not either: a quote within an unquoted field is a letter.
  So one worker reads the rows once, keeps none, and gives each split away as soon as it has found its end; what costs
  (making names of the values, and the shuffle) is done by all.
- Parquet: by row groups, of which only the footer is read. A file of one row group is one split.

Compressed text cannot be split, and is refused where the input is parsed.
"""

import csv
import io
from collections.abc import Iterator

from transforms import storage
from transforms.manifests import MARK, Manifest, Split, column_position, open_bytes, open_parquet

SPLIT_BYTES = 8 * 1024**2
"""Some 90,000 names of 90 bytes: a second for a worker, and a thousand splits of a hundred million names. Many small
ones are shared out more evenly than few large ones."""


def plan_splits(manifest: Manifest, split_bytes: int = SPLIT_BYTES) -> Iterator[Split]:
    """Yield splits that together hold each entry of a manifest once.

    A manifest gives the same splits each time, so that the names of its entries are the same in every attempt.

    Args:
        manifest: The manifest.
        split_bytes: About how large a split is: of Parquet, the column of paths uncompressed.

    Raises:
        InputError: It cannot be read as what it is, or lacks its column.
        OSError: The storage does not give it.
    """
    if manifest.kind == "parquet":
        yield from _row_groups(manifest, split_bytes)
        return
    found = storage.stat(manifest.path)
    size = found.size_bytes if found else 0  # what is gone is missed by whoever reads it
    if size <= split_bytes:
        yield Split(manifest)
    elif manifest.kind == "csv":
        yield from _csv_rows(manifest, size, split_bytes)
    else:
        for start in range(0, size, split_bytes):
            yield Split(manifest, start, min(start + split_bytes, size))


def _row_groups(manifest: Manifest, split_bytes: int) -> Iterator[Split]:
    with open_parquet(Split(manifest)) as parquet:
        metadata = parquet.metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    start = first = rows = size = 0
    for number, group in enumerate(groups, start=1):
        columns = (group.column(place) for place in range(group.num_columns))
        size += sum(
            column.total_uncompressed_size for column in columns if column.path_in_schema == manifest.path_column
        )
        rows += group.num_rows
        if size >= split_bytes or number == len(groups):
            yield Split(manifest, start, number, first)
            start, first, size = number, rows, 0


def _csv_rows(manifest: Manifest, size: int, split_bytes: int) -> Iterator[Split]:
    """Yield splits of a CSV file by the rows that Python's own reader finds in it."""
    with open_bytes(manifest) as stream:
        position = len(MARK) if stream.peek(len(MARK)).startswith(MARK) else 0
        stream.read(position)

        def counted(text: io.TextIOWrapper) -> Iterator[str]:
            nonlocal position
            for line in text:
                position += len(line)
                yield line

        # A character a byte: what makes a row are commas, quotes and ends of lines, which are the same in UTF-8.
        with io.TextIOWrapper(stream, "latin-1", newline="") as text:
            rows = csv.reader(counted(text), strict=True)
            start, column = 0, None
            try:
                header = next(rows, [])
                names = [name.encode("latin-1").decode("utf-8", "surrogateescape") for name in header]
                known = column_position(manifest, names)
                for _ in rows:
                    if position - start >= split_bytes:
                        yield Split(manifest, start, position, column=column)
                        start, column = position, known
            except csv.Error:
                # Whoever reads the rest says what is wrong with it, and in which line: it is one split.
                pass
            if start < size:
                yield Split(manifest, start, column=column)
