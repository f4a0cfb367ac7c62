"""A published run as the table that Evidently makes its Dataset of: flat columns, one row an image, Parquet."""

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.after.export_source import Block, ExportSource, plain, unique_names, vectors
from transforms.errors import ConfigError

_KEPT = ("margin", "entropy", "image_width", "image_height", "image_bytes", "image_format", "scored_at")


def write_evidently(source: ExportSource, path: str, *, probabilities: bool) -> int:
    """Write the file.

    Args:
        source: The rows.
        path: Of the file.
        probabilities: Add a column a class with the name of the class, which Evidently's metrics of classification
            ask for.

    Returns:
        How many rows there are.

    Raises:
        ConfigError: A class has the name of a column, or the run knows several labels an image.
    """
    run = source.run
    if source.truth is not None and run.independent:
        raise ConfigError(
            f"run {run.layout.run_id} gives an image several labels or none, and Evidently takes one target an image; "
            "leave out --truth"
        )
    names = unique_names(run.labels)
    columns = ["image_path", "predicted_index", "predicted_probability", *_KEPT]
    if probabilities:
        taken = sorted({*columns, "prediction", "target", "prediction_probability"} & set(names))
        if taken:
            raise ConfigError(
                f"class {taken[0]} has the name of a column of the export; leave out --probabilities, or rename the "
                "class"
            )
        columns.append("probabilities")
    empty = _flat(source, source.no_rows(columns), names, probabilities)
    rows = 0
    with pq.ParquetWriter(path, empty.schema, compression="zstd") as writer:
        for block in source.blocks(columns):
            writer.write_table(_flat(source, block, names, probabilities))
            rows += len(block.rows)
    return rows


def _flat(source: ExportSource, block: Block, names: tuple[str, ...], probabilities: bool) -> pa.Table:
    columns = {
        "image_path": plain(block.rows["image_path"]),
        # By index: two classes may share a label.
        "prediction": pa.array(names, pa.string()).take(plain(block.rows["predicted_index"])),
        "prediction_probability": plain(block.rows["predicted_probability"]),
    }
    if source.truth is not None:
        columns["target"] = source.true_labels(block.positions, names)
    columns.update({name: plain(block.rows[name]) for name in _KEPT})
    if probabilities:
        p = vectors(block.rows["probabilities"], len(names))
        columns.update({name: pa.array(p[:, index]) for index, name in enumerate(names)})
    return pa.table(columns)
