"""A published run as one flat CSV file: a line an image, quoted by RFC 4180, UTF-8."""

import itertools

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from pipeline.after.export_source import Block, ExportSource, plain, top_k_columns, unique_names, vectors
from pipeline.after.truth import SEPARATOR
from transforms.errors import InputError

_BEFORE = ("image_path", "predicted_label", "predicted_index", "predicted_probability")
_AFTER = (
    "margin", "entropy", "image_version", "image_width", "image_height", "image_format", "image_bytes",
    "image_decoder", "model_id", "scored_at",
)  # fmt: skip
# What spreadsheets take for the beginning of a formula, and the control characters that some of them skip before one.
_FORMULA = r"^([=+\-@\t\r])"


def write_csv(source: ExportSource, path: str, *, gzip: bool, probabilities: bool, spreadsheet: bool) -> int:
    """Write the file.

    Args:
        source: The rows.
        path: Of the file.
        gzip: Compress it.
        probabilities: Add a column a class, named `p(<label>)`.
        spreadsheet: Put an apostrophe before texts that a spreadsheet would take for formulas.

    Returns:
        How many lines there are below the header.
    """
    columns = [*_BEFORE, *_AFTER, "top_k", "positive_labels", *(["probabilities"] if probabilities else [])]

    def flat(block: Block) -> pa.Table:
        table = _flat(source, block, probabilities)
        return _harmless(table) if spreadsheet else table

    tables = map(flat, source.blocks(columns))
    # The header of a run without rows is that of a table without rows.
    first = next(tables, None) or flat(source.no_rows(columns))
    rows = 0
    with (
        pa.CompressedOutputStream(path, "gzip") if gzip else pa.OSFile(path, "wb") as stream,
        csv.CSVWriter(stream, first.schema) as writer,
    ):
        for table in itertools.chain([first], tables):
            if table.column_names != first.column_names:
                raise InputError(
                    f"run {source.run.layout.run_id}: its files differ in the number of top_k entries; score-images "
                    "verify says what else is wrong"
                )
            writer.write_table(table)
            rows += len(table)
    return rows


def _flat(source: ExportSource, block: Block, probabilities: bool) -> pa.Table:
    run = source.run
    columns: dict[str, pa.Array] = {name: plain(block.rows[name]) for name in _BEFORE}
    if source.truth is not None:
        columns["true_label"] = source.true_labels(block.positions, run.labels)
    for rank, (labels, values) in enumerate(top_k_columns(block.rows["top_k"]), 1):
        columns[f"label_{rank}"], columns[f"probability_{rank}"] = labels, values
    if run.activation == "sigmoid":
        # Arrow joins lists of texts that may be null, and no others.
        lists = plain(block.rows["positive_labels"]).cast(pa.list_(pa.string()))
        columns["positive_labels"] = pc.binary_join(lists, SEPARATOR)
    columns.update({name: plain(block.rows[name]) for name in _AFTER})
    if probabilities:
        p = vectors(block.rows["probabilities"], len(run.labels))
        for index, name in enumerate(unique_names(run.labels)):
            columns[f"p({name})"] = pa.array(p[:, index])
    return pa.table(columns)


def _harmless(table: pa.Table) -> pa.Table:
    """Mark what would be a formula, in cells and in names of columns."""
    columns = [
        pc.replace_substring_regex(column, pattern=_FORMULA, replacement=r"'\1")
        if pa.types.is_string(column.type)
        else column
        for column in table.columns
    ]
    return pa.table(columns, names=table.column_names)
