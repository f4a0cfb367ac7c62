"""A published run as what cleanlab takes: a matrix of probabilities, and the labels that it is to doubt.

The matrix is written a row group at a time, so that its size is bounded by the disk; cleanlab reads it memory-mapped.
With a truth it holds the images that have one, in the order of labels.npy, or of labels.json where an image may have
several labels; without one it holds all images of the run.
"""

import json
import os
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from pyarrow import csv

from pipeline.after.export_source import ExportSource, plain, vectors

PRED_PROBS = "pred_probs.npy"
LABELS = "labels.npy"
LABEL_LISTS = "labels.json"
IMAGES = "images.csv"
CLASSES = "classes.json"
FILES = (PRED_PROBS, LABELS, LABEL_LISTS, IMAGES, CLASSES)
_IMAGES_SCHEMA = pa.schema([("image_path", pa.string()), ("predicted_label", pa.string()), ("true_label", pa.string())])


def write_cleanlab(source: ExportSource, folder: str) -> int:
    """Write the files into an empty folder.

    Args:
        source: The rows.
        folder: Exists.

    Returns:
        N, the rows of the matrix float32[N, C].
    """
    run = source.run
    matched = source.truth is not None
    rows = source.count(matched=matched)
    classes: list[tuple[int, ...]] = []
    with (
        open(os.path.join(folder, PRED_PROBS), "xb") as matrix,
        csv.CSVWriter(os.path.join(folder, IMAGES), _IMAGES_SCHEMA) as images,
    ):
        _write_header(matrix, (rows, len(run.labels)), np.dtype(np.float32))
        for block in source.blocks(["image_path", "predicted_label", "probabilities"], matched=matched):
            p = vectors(block.rows["probabilities"], len(run.labels))
            matrix.write(np.ascontiguousarray(p, dtype="<f4").data)
            images.write_table(
                pa.table(
                    {
                        "image_path": plain(block.rows["image_path"]),
                        "predicted_label": plain(block.rows["predicted_label"]),
                        "true_label": source.true_labels(block.positions, run.labels),
                    },
                    schema=_IMAGES_SCHEMA,
                )
            )
            classes += [named for named in source.true_classes(block.positions) if named is not None]
    _write_json(os.path.join(folder, CLASSES), run.labels)
    if matched and run.independent:
        _write_json(os.path.join(folder, LABEL_LISTS), classes)
    elif matched:
        np.save(os.path.join(folder, LABELS), np.array([named[0] for named in classes], np.int64))
    return rows


def _write_header(file: BinaryIO, shape: tuple[int, int], dtype: np.dtype[np.float32]) -> None:
    header = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype.newbyteorder("<"))}
    np.lib.format.write_array_header_1_0(file, header)


def _write_json(path: str, value: object) -> None:
    with open(path, "x", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False)
