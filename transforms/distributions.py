"""How a run's answers are distributed: the class mix, and histograms of confidence, margin and entropy.

They are counted from four narrow columns of the scores table, one batch after the other, and add up: a night of a
hundred million images is measured in the memory of a few batches, and tomorrow's gate needs no more of it than this.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage

COLUMNS = ("predicted_index", "predicted_probability", "margin", "entropy")
"""The columns of the scores table that are read."""
BINS = 100
"""Bins of every histogram: fine enough that groups of equal weight can be made of them later."""
VERSION = 1
"""Of the JSON."""
_LOCAL_THREADS, _REMOTE_THREADS = 4, 16
_BATCH_ROWS = 65_536

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of values in fixed bins."""

    edges: npt.NDArray[np.float64]
    """float64[B + 1], ascending: bin i holds edges[i] <= value < edges[i + 1], the last one its upper edge, too."""
    counts: Counts
    """int64[B]."""

    def __add__(self, other: Self) -> "Histogram":
        if not np.array_equal(self.edges, other.edges):
            raise ValueError(f"histograms up to {self.edges[-1]:g} and {other.edges[-1]:g} do not add up")
        return Histogram(self.edges, self.counts + other.counts)

    def to_json(self) -> dict[str, Any]:
        """Return it as what json.dumps takes."""
        return {"edges": self.edges.tolist(), "counts": self.counts.tolist()}


def probability_edges() -> npt.NDArray[np.float64]:
    """Return float64[B + 1], the edges of the bins of confidence and margin: equal steps from 0 to 1."""
    return np.linspace(0.0, 1.0, BINS + 1)


def entropy_edges(num_classes: int, *, independent: bool) -> npt.NDArray[np.float64]:
    """Return float64[B + 1], the edges of the bins of entropy, in nats.

    Args:
        num_classes: C.
        independent: The row's entropy is the sum over C coins, of ln 2 each at most. All but a few of many labels are
            decided, so that the sums crowd at the lower end: the edges are there the closer, as squares. For classes
            that exclude each other they are equal steps up to ln C.
    """
    if independent:
        return np.square(probability_edges()) * (num_classes * math.log(2))
    return probability_edges() * math.log(max(num_classes, 2))


@dataclass(frozen=True, eq=False)
class Distributions:
    """How the answers of a run, or of a part of it, are distributed; parts add up with +."""

    labels: tuple[str, ...]
    """C names, in the order of the classes; two classes may share one."""
    independent: bool
    """Whether an image may have several labels or none (multi-label sigmoid)."""
    class_counts: Counts
    """int64[C]: images by the class that was predicted; of independent labels by the strongest one."""
    confidence: Histogram
    """Of predicted_probability, the top-1 probability, over [0, 1]."""
    margin: Histogram
    """Over [0, 1]."""
    entropy: Histogram
    """In nats; see entropy_edges."""

    @property
    def rows(self) -> int:
        """Images."""
        return int(self.class_counts.sum())

    def __add__(self, other: Self) -> "Distributions":
        if (self.labels, self.independent) != (other.labels, other.independent):
            raise ValueError("distributions over different labels do not add up: compare them by label")
        return Distributions(
            self.labels,
            self.independent,
            self.class_counts + other.class_counts,
            self.confidence + other.confidence,
            self.margin + other.margin,
            self.entropy + other.entropy,
        )

    def by_label(self) -> dict[str, int]:
        """Return the images of every label, zeros included; classes that share a label are one."""
        found: dict[str, int] = dict.fromkeys(self.labels, 0)
        for label, count in zip(self.labels, self.class_counts.tolist(), strict=True):
            found[label] += count
        return found

    def to_json(self) -> dict[str, Any]:
        """Return everything as what json.dumps takes."""
        return {
            "version": VERSION,
            "rows": self.rows,
            "independent": self.independent,
            "labels": list(self.labels),
            "class_counts": self.class_counts.tolist(),
            "confidence": self.confidence.to_json(),
            "margin": self.margin.to_json(),
            "entropy": self.entropy.to_json(),
        }

    @classmethod
    def from_json(cls, found: Any) -> "Distributions":
        """Read what to_json has returned.

        Raises:
            ValueError: It is something else, or damaged.
        """
        try:
            if found["version"] != VERSION:
                raise ValueError(f"they are of version {found['version']}, this program knows {VERSION}")
            labels = tuple(str(label) for label in found["labels"])
            read = cls(
                labels,
                bool(found["independent"]),
                _counts(found["class_counts"], len(labels)),
                *(_histogram(found[name]) for name in ("confidence", "margin", "entropy")),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"they are no distributions: {type(error).__name__} {error}") from error
        units = {"confidence": read.confidence, "margin": read.margin}
        if odd := next((name for name, h in units.items() if not np.array_equal(h.edges, probability_edges())), None):
            raise ValueError(f"the edges of {odd} are not {BINS} equal steps from 0 to 1")
        sums = {int(h.counts.sum()) for h in (read.confidence, read.margin, read.entropy)}
        if sums != {read.rows} or read.rows != found.get("rows"):
            raise ValueError(f"their counts contradict each other: {found.get('rows')} rows, {read.rows}, {sums}")
        return read


def _counts(values: Sequence[int], length: int) -> Counts:
    if len(values) != length or any(type(value) is not int or value < 0 for value in values):
        raise ValueError(f"{length} counts of at least 0 are needed, got {str(values)[:60]}")
    return np.array(values, np.int64)


def _histogram(found: Mapping[str, Any]) -> Histogram:
    edges = np.array(found["edges"], np.float64)
    if edges.ndim != 1 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise ValueError(f"edges must ascend, got {str(found['edges'])[:60]}")
    return Histogram(edges, _counts(found["counts"], len(edges) - 1))


def empty(labels: Sequence[str], *, independent: bool) -> Distributions:
    """Return the distributions of no rows.

    Args:
        labels: C names.
        independent: As in Distributions.
    """
    zeros = np.zeros(BINS, np.int64)
    unit = Histogram(probability_edges(), zeros)
    entropy = Histogram(entropy_edges(len(labels), independent=independent), zeros)
    return Distributions(tuple(labels), independent, np.zeros(len(labels), np.int64), unit, unit, entropy)


def count(batch: pa.RecordBatch | pa.Table, labels: Sequence[str], *, independent: bool) -> Distributions:
    """Count the rows of one batch.

    Args:
        batch: N rows with at least COLUMNS.
        labels: C names.
        independent: As in Distributions.

    Raises:
        ValueError: A predicted_index is that of no label, or a value is no number: the table is damaged.
    """
    index, confidence, margin, entropy = (np.asarray(batch.column(name)) for name in COLUMNS)
    if len(index) and (index.min() < 0 or index.max() >= len(labels)):
        raise ValueError(
            f"predicted_index goes from {index.min()} to {index.max()}, and there are {len(labels)} labels"
        )
    unit = probability_edges()
    return Distributions(
        tuple(labels),
        independent,
        np.bincount(index, minlength=len(labels)).astype(np.int64),
        fill(unit, confidence, "predicted_probability"),
        fill(unit, margin, "margin"),
        fill(entropy_edges(len(labels), independent=independent), entropy, "entropy"),
    )


def fill(edges: npt.NDArray[np.float64], values: npt.NDArray[np.float32], name: str) -> Histogram:
    """Count values in bins.

    Args:
        edges: float64[B + 1], ascending.
        values: float32[N].
        name: Of the values, for messages.

    Raises:
        ValueError: A value is no number.
    """
    if np.isnan(values).any():
        raise ValueError(f"{name} holds a value that is no number")
    # Probabilities that a model has computed itself may lie a little outside: they belong to the last bins.
    places = np.searchsorted(edges[1:-1], values.astype(np.float64), side="right")
    return Histogram(edges, np.bincount(places, minlength=len(edges) - 1).astype(np.int64))


def measure(files: Sequence[str], labels: Sequence[str], *, independent: bool) -> Distributions:
    """Count the rows of scores files, in threads and in bounded memory.

    Args:
        files: Paths or URLs of Parquet files of the scores table, staged or published.
        labels: C names, in the order of the classes.
        independent: As in Distributions.

    Returns:
        Their sum; that of no rows where there are no files.

    Raises:
        OSError: A file is missing, or the storage does not give it.
        pa.ArrowException: A file is no Parquet file, or lacks a column.
        ValueError: A file holds what no scores table holds.
    """
    total = empty(labels, independent=independent)
    remote = any(map(storage.is_remote, files))
    with ThreadPoolExecutor(_REMOTE_THREADS if remote else _LOCAL_THREADS) as pool:
        for part in pool.map(lambda file: _measure_file(file, labels, independent=independent), files):
            total += part
    return total


def _measure_file(path: str, labels: Sequence[str], *, independent: bool) -> Distributions:
    total = empty(labels, independent=independent)
    try:
        for batch in _batches(path):
            total += count(batch, labels, independent=independent)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return total


def _batches(path: str) -> Iterator[pa.RecordBatch]:
    filesystem, inner = storage.filesystem(path)
    with contextlib.ExitStack() as closing:
        # In a store the pieces of the narrow columns are asked for together, not one after the other.
        stream = closing.enter_context(filesystem.open_input_file(inner))
        parquet = pq.ParquetFile(stream, pre_buffer=storage.is_remote(path))
        missing = [name for name in COLUMNS if name not in parquet.schema_arrow.names]
        if missing:
            raise ValueError(f"it has no column {missing[0]}")
        yield from parquet.iter_batches(_BATCH_ROWS, columns=list(COLUMNS), use_threads=False)
