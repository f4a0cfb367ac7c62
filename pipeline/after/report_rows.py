"""What a report takes from the rows of a run: counted from narrow columns, file by file, in bounded memory.

Of a hundred million rows, some counts stay, and where the least certain rows lie; `probabilities` is never read. What
two files have adds up, so that threads share the work.
"""

import heapq
import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms import distributions, storage
from transforms.distributions import Distributions

COLUMNS = (
    *distributions.COLUMNS, "image_width", "image_height", "image_bytes", "image_format", "image_decoder", "scored_at",
)  # fmt: skip
"""The columns of the scores table that are read of every row."""
BYTE_EDGES = (0, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, math.inf)
"""Bins of the sizes of files, in bytes."""
PIXEL_EDGES = (0, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, math.inf)
"""Bins of width times height."""
_MEASURED = {"confidence": "predicted_probability", "margin": "margin", "entropy": "entropy"}
_THREADS = 4
_BATCH_ROWS = 65_536
_TICK_US = 100_000
_MOST_TICKS = 20_000


class Spread:
    """How large things are: their number, sum, extremes, and counts between edges.

    Args:
        edges: B + 1, ascending, from 0 to infinity.
    """

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = tuple(edges)
        self.counts = np.zeros(len(edges) - 1, np.int64)
        self.total = 0
        self.smallest: int | None = None
        self.largest: int | None = None

    def add(self, values: npt.NDArray[np.int64]) -> None:
        """Count values of at least 0."""
        if len(values):
            places = np.searchsorted(self.edges[1:-1], values, side="right")
            self.counts += np.bincount(places, minlength=len(self.counts))
            self.total += int(values.sum())
            self._widen(int(values.min()), int(values.max()))

    def merge(self, other: "Spread") -> None:
        """Add what another one of the same edges has counted."""
        self.counts += other.counts
        self.total += other.total
        if other.smallest is not None and other.largest is not None:
            self._widen(other.smallest, other.largest)

    def _widen(self, smallest: int, largest: int) -> None:
        self.smallest = smallest if self.smallest is None else min(self.smallest, smallest)
        self.largest = largest if self.largest is None else max(self.largest, largest)

    def to_json(self) -> dict[str, Any]:
        """Return it as what json.dumps takes; the last edge, infinity, is left out."""
        return {
            "count": int(self.counts.sum()),
            "total": self.total,
            "min": self.smallest,
            "max": self.largest,
            "edges": list(self.edges[:-1]),
            "counts": self.counts.tolist(),
        }


class Ticks:
    """How many rows were scored when, in ticks that grow with the night, so that their number does not.

    Args:
        most: How many ticks are kept; over it, ten become one.
    """

    def __init__(self, most: int = _MOST_TICKS) -> None:
        self.tick_us = _TICK_US
        self.counts: Counter[int] = Counter()
        self.first_us: int | None = None
        self.last_us: int | None = None
        self._most = most

    def add(self, moments_us: npt.NDArray[np.int64]) -> None:
        """Count moments, in microseconds since the epoch."""
        if len(moments_us):
            ticks, counts = np.unique(moments_us // self.tick_us, return_counts=True)
            self.counts.update(dict(zip(ticks.tolist(), counts.tolist(), strict=True)))
            self._widen(int(moments_us.min()), int(moments_us.max()))
            self._thin()

    def merge(self, other: "Ticks") -> None:
        """Add what another one has counted."""
        while self.tick_us < other.tick_us:
            self._coarsen()
        for tick, count in other.counts.items():
            self.counts[tick * other.tick_us // self.tick_us] += count
        if other.first_us is not None and other.last_us is not None:
            self._widen(other.first_us, other.last_us)
        self._thin()

    def _widen(self, first: int, last: int) -> None:
        self.first_us = first if self.first_us is None else min(self.first_us, first)
        self.last_us = last if self.last_us is None else max(self.last_us, last)

    def _thin(self) -> None:
        while len(self.counts) > self._most:
            self._coarsen()

    def _coarsen(self) -> None:
        self.tick_us *= 10
        coarse: Counter[int] = Counter()
        for tick, count in self.counts.items():
            coarse[tick // 10] += count
        self.counts = coarse


class Place(NamedTuple):
    """Where an uncertain row lies; the smaller, the less certain, and of equals the first."""

    value: float
    """The margin; of independent labels minus the entropy."""
    file: int
    """The number of its file."""
    row: int
    """In the file."""


@dataclass
class Scan:
    """What the rows of some files amount to."""

    distributions: Distributions
    """Class mix, confidence, margin, entropy."""
    ticks: Ticks = field(default_factory=Ticks)
    """When they were scored."""
    formats: Counter[str] = field(default_factory=Counter)
    """Images of each format."""
    decoders: Counter[str] = field(default_factory=Counter)
    """Images of each decoder."""
    sizes: Spread = field(default_factory=lambda: Spread(BYTE_EDGES))
    """Encoded bytes."""
    pixels: Spread = field(default_factory=lambda: Spread(PIXEL_EDGES))
    """Width times height, as displayed."""
    least_certain: list[Place] = field(default_factory=list)
    """Sorted, no more than asked for."""
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_MEASURED, 0.0))
    """Of confidence, margin and entropy: the middles of a histogram's bins do not tell a mean of 0.001 from 0.005."""

    @property
    def means(self) -> dict[str, float | None]:
        """Return the means of confidence, margin and entropy; None of no rows."""
        rows = self.distributions.rows
        return {name: self.sums[name] / rows if rows else None for name in _MEASURED}

    def merge(self, other: "Scan", keep: int) -> None:
        """Add what other files amount to."""
        self.distributions += other.distributions
        self.ticks.merge(other.ticks)
        self.formats += other.formats
        self.decoders += other.decoders
        self.sizes.merge(other.sizes)
        self.pixels.merge(other.pixels)
        self.sums = {name: value + other.sums[name] for name, value in self.sums.items()}
        self.least_certain = heapq.nsmallest(keep, [*self.least_certain, *other.least_certain])


class UncertainRow(NamedTuple):
    """An image that the model was least certain of."""

    image_path: str
    """The image."""
    margin: float
    """p1 - p2."""
    entropy: float
    """In nats."""
    top: tuple[tuple[str, float], ...]
    """Label and probability of the strongest classes, three at most."""


class FailedRow(NamedTuple):
    """An image that could not be scored."""

    image_path: str
    """The image."""
    stage: str
    """Where it was lost."""
    code: str
    """Why."""
    message: str
    """Why, for a person."""


def scan_scores(paths: Sequence[str], labels: Sequence[str], *, independent: bool, keep: int) -> Scan:
    """Count the rows of scores files, in threads.

    Args:
        paths: Parquet files of the scores table.
        labels: C names.
        independent: Whether an image may have several labels or none: then entropy says how uncertain it is, because
            the strongest two labels may both be right.
        keep: How many of the least certain rows are found.

    Raises:
        OSError: A file is missing, or the storage does not give it.
        pa.ArrowException: A file is no Parquet file, or lacks a column.
        ValueError: A file holds what no scores table holds.
    """
    total = Scan(distributions.empty(labels, independent=independent))
    scan = partial(_scan_file, labels=labels, independent=independent, keep=keep)
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in pool.map(scan, range(len(paths)), paths):
            total.merge(part, keep)
    return total


def _scan_file(number: int, path: str, labels: Sequence[str], *, independent: bool, keep: int) -> Scan:
    found = Scan(distributions.empty(labels, independent=independent))
    filesystem, inner = storage.filesystem(path)
    with filesystem.open_input_file(inner) as stream:
        start = 0
        for batch in pq.ParquetFile(stream).iter_batches(_BATCH_ROWS, columns=list(COLUMNS), use_threads=False):
            try:
                found.distributions += distributions.count(batch, labels, independent=independent)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            for name, column in _MEASURED.items():
                found.sums[name] += float(np.asarray(batch.column(column), np.float64).sum())
            found.ticks.add(np.asarray(batch.column("scored_at").cast(pa.int64())))
            found.formats.update(_counted(batch.column("image_format")))
            found.decoders.update(_counted(batch.column("image_decoder")))
            found.sizes.add(np.asarray(batch.column("image_bytes")))
            width, height = (np.asarray(batch.column(f"image_{name}"), np.int64) for name in ("width", "height"))
            found.pixels.add(width * height)
            values = -np.asarray(batch.column("entropy")) if independent else np.asarray(batch.column("margin"))
            found.least_certain = _least(found.least_certain, values, number, start, keep)
            start += batch.num_rows
    return found


def _counted(column: pa.Array) -> dict[str, int]:
    counted = pc.value_counts(column)
    return dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))


def _least(known: list[Place], values: npt.NDArray[np.float32], file: int, start: int, keep: int) -> list[Place]:
    """Return the smallest of what is known and of new values: only those that can be among them become objects."""
    # Of equals the first row stays.
    rows = np.flatnonzero(values < known[-1].value) if len(known) == keep else np.arange(len(values))
    if len(rows) > keep:
        rows = rows[np.argsort(values[rows], kind="stable")[:keep]]
    new = [Place(float(values[row]), file, start + int(row)) for row in rows]
    return heapq.nsmallest(keep, [*known, *new])


def read_places(paths: Sequence[str], places: Sequence[Place]) -> list[UncertainRow]:
    """Read the rows that were found, in the order of places: a row group for each at most."""
    found: dict[Place, UncertainRow] = {}
    for file in sorted({place.file for place in places}):
        filesystem, inner = storage.filesystem(paths[file])
        with filesystem.open_input_file(inner) as stream:
            parquet = pq.ParquetFile(stream)
            start = 0
            for group in range(parquet.num_row_groups):
                end = start + parquet.metadata.row_group(group).num_rows
                here = [place for place in places if place.file == file and start <= place.row < end]
                if here:
                    columns = ["image_path", "margin", "entropy", "top_k"]
                    rows = parquet.read_row_group(group, columns=columns).take([place.row - start for place in here])
                    found.update(zip(here, map(_uncertain, rows.to_pylist()), strict=True))
                start = end
    return [found[place] for place in places]


def _uncertain(row: dict[str, Any]) -> UncertainRow:
    top = tuple((entry["label"], entry["probability"]) for entry in row["top_k"][:3])
    return UncertainRow(row["image_path"], row["margin"], row["entropy"], top)


def scan_failures(paths: Sequence[str], examples: int) -> tuple[Counter[tuple[str, str]], list[FailedRow]]:
    """Count the rows of failures files, and keep the first ones of every code.

    Args:
        paths: Parquet files of the failures table.
        examples: How many rows of each code are kept.

    Returns:
        Rows by stage and code, and the kept ones in the order of the table.

    Raises:
        OSError: A file is missing, or the storage does not give it.
        pa.ArrowException: A file is no Parquet file, or lacks a column.
    """
    counts: Counter[tuple[str, str]] = Counter()
    kept: Counter[str] = Counter()
    rows: list[FailedRow] = []
    for path in paths:
        filesystem, inner = storage.filesystem(path)
        with filesystem.open_input_file(inner) as stream:
            for batch in pq.ParquetFile(stream).iter_batches(_BATCH_ROWS, columns=list(FailedRow._fields)):
                codes, stages = batch.column("code").to_pylist(), batch.column("stage").to_pylist()
                counts.update(zip(stages, codes, strict=True))
                wanted = []
                for row, code in enumerate(codes):
                    if kept[code] < examples:
                        kept[code] += 1
                        wanted.append(row)
                rows += [FailedRow(**row) for row in batch.take(pa.array(wanted, pa.int64())).to_pylist()]
    return counts, rows
