"""Read what was predicted, whoever wrote it, and compare it photo by photo."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.materials import photo_of

Predictions = dict[str, npt.NDArray[np.float32]]
"""Probabilities float32[C] by the linked name of the photo."""


class Agreement(NamedTuple):
    """How two sets of predictions compare."""

    photos: int
    """Names that both have."""
    missing: int
    """Names that only one has."""
    same_top_1: float
    """Share of the common names with the same strongest class, 0 to 1."""
    mean_difference: float
    """Mean absolute difference of all probabilities."""
    largest_difference: float
    """The largest."""


def read_predictions(output: Path) -> Predictions:
    """Read every Parquet file below a folder that holds probabilities.

    Raises:
        ValueError: A photo has two rows.
    """
    found: Predictions = {}
    for file in sorted(output.rglob("*.parquet")):
        schema = pq.read_schema(file)
        if "probabilities" not in schema.names:
            continue
        table = pq.read_table(file, columns=["image_path", "probabilities"], partitioning=None)
        for batch in table.to_batches():
            vectors = _matrix(batch["probabilities"])
            for path, vector in zip(batch["image_path"].to_pylist(), vectors, strict=True):
                name = path.rpartition("/")[2]
                if name in found:
                    raise ValueError(f"{output}: {name} has two rows")
                found[name] = vector
    return found


def _matrix(column: pa.Array) -> npt.NDArray[np.float32]:
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(len(column), -1)


def compare(one: Predictions, other: Predictions) -> Agreement:
    """Compare two sets of predictions name by name.

    Raises:
        ValueError: They have no name in common.
    """
    common = sorted(one.keys() & other.keys())
    if not common:
        raise ValueError("no photo was predicted by both")
    first, second = np.stack([one[name] for name in common]), np.stack([other[name] for name in common])
    difference = np.abs(first.astype(np.float64) - second)
    return Agreement(
        len(common),
        len(one.keys() ^ other.keys()),
        float((first.argmax(axis=1) == second.argmax(axis=1)).mean()),
        float(difference.mean()),
        float(difference.max()),
    )


def one_a_photo(predictions: Predictions) -> Predictions:
    """Keep one prediction a photo, under the photo's own name."""
    return {photo_of(f"/{name}"): vector for name, vector in sorted(predictions.items(), reverse=True)}


def read_truth(file: Path) -> dict[str, int]:
    """Read the class of each photo from a CSV with the columns `file` and `class_index`; empty without the file."""
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8", newline="") as lines:
        return {row["file"]: int(row["class_index"]) for row in csv.DictReader(lines)}


def top_1(predictions: Predictions, truth: dict[str, int]) -> float | None:
    """Tell the share of photos whose strongest class is the true one; None where nothing is known.

    Args:
        predictions: By the photo's own name.
        truth: Class by the photo's own name.
    """
    known = [int(vector.argmax()) == truth[name] for name, vector in predictions.items() if name in truth]
    return sum(known) / len(known) if known else None
