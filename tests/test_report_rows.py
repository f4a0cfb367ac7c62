"""What is counted from rows: against a slow obvious version, over any cut into files and row groups."""

import heapq
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.after.report_data import throughput
from pipeline.after.report_rows import (
    BYTE_EDGES,
    PIXEL_EDGES,
    Spread,
    Ticks,
    UncertainRow,
    read_places,
    scan_failures,
    scan_scores,
)
from transforms import tables
from transforms.errors import FailureCode, Stage
from transforms.probabilities import summarise
from transforms.records import FORMATS, Failure, ImageInfo, ImageRef

LABELS = ("cat", "dog", "<emu>")
START_US = 1_800_000_000_000_000


def scores(count: int, seed: int, first: int = 0) -> pa.Table:
    """Rows of random probabilities, sizes, formats and moments."""
    random = np.random.default_rng(seed)
    p = random.dirichlet([1, 1, 1], count).astype(np.float32)
    schema = tables.scores_schema(3, with_logits=False)
    batches = [
        tables.scores_batch(
            schema,
            [ImageRef(f"/{first + row}.png", 1, "v")],
            [ImageInfo(int(random.integers(1, 9000)), int(random.integers(1, 9000)),
                       FORMATS[random.integers(0, 3)], int(random.integers(1, 10**8)), "pillow")],
            p[row : row + 1],
            summarise(p[row : row + 1], 3, independent=False),
            pa.array(LABELS),
            "toy@1",
            START_US + int(random.integers(0, 10**8)),
            None,
            p[row : row + 1],
        )
        for row in range(count)
    ]  # fmt: skip
    return pa.Table.from_batches(batches, schema)


def write(folder: Path, parts: list[pa.Table], group_rows: int) -> list[str]:
    """Write each part as a file."""
    folder.mkdir()
    for number, part in enumerate(parts):
        pq.write_table(part, folder / f"{number}.parquet", row_group_size=group_rows)
    return [str(folder / f"{number}.parquet") for number in range(len(parts))]


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4), group_rows=st.integers(1, 9),
       keep=st.integers(1, 12), independent=st.booleans(), seed=st.integers(0, 1000))  # fmt: skip
def test_a_scan_is_what_the_rows_amount_to(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    group_rows: int,
    keep: int,
    independent: bool,
    seed: int,
) -> None:
    """However they are cut: counts, extremes, and the least certain rows in their order."""
    parts = [scores(size, seed + number, 100 * number) for number, size in enumerate(sizes)]
    files = write(tmp_path_factory.mktemp("scan") / "x", parts, group_rows)
    found = scan_scores(files, LABELS, independent=independent, keep=keep)
    rows = [row for part in parts for row in part.to_pylist()]
    assert found.distributions.rows == len(rows)
    assert found.formats == Counter(row["image_format"] for row in rows)
    assert found.decoders == Counter(row["image_decoder"] for row in rows)
    sizes_, areas = [row["image_bytes"] for row in rows], [row["image_width"] * row["image_height"] for row in rows]
    for spread, values, edges in ((found.sizes, sizes_, BYTE_EDGES), (found.pixels, areas, PIXEL_EDGES)):
        assert (spread.total, spread.smallest, spread.largest) == (
            sum(values), min(values, default=None), max(values, default=None),
        )  # fmt: skip
        in_bins = [sum(low <= value < high for value in values) for low, high in pairwise(edges)]
        assert spread.counts.tolist() == in_bins
    assert sum(found.ticks.counts.values()) == len(rows)
    for name, column in (("confidence", "predicted_probability"), ("margin", "margin"), ("entropy", "entropy")):
        expected = pytest.approx(sum(row[column] for row in rows) / len(rows)) if rows else None
        assert found.means[name] == expected
    ranked = heapq.nsmallest(keep, rows, key=lambda row: -row["entropy"] if independent else row["margin"])
    assert read_places(files, found.least_certain) == [
        UncertainRow(
            row["image_path"], row["margin"], row["entropy"],
            tuple((entry["label"], entry["probability"]) for entry in row["top_k"]),
        )
        for row in ranked
    ]  # fmt: skip


def test_of_rows_that_are_equally_uncertain_the_first_stay(tmp_path: Path) -> None:
    """Two runs over the same files tell of the same images."""
    same = pa.concat_tables([scores(1, 0, first=number) for number in range(20)])
    files = write(tmp_path / "x", [same.slice(0, 10), same.slice(10)], 3)
    found = scan_scores(files, LABELS, independent=False, keep=5)
    assert [(place.file, place.row) for place in found.least_certain] == [(0, row) for row in range(5)]


def test_probabilities_are_never_read(tmp_path: Path) -> None:
    """A file whose probabilities are gone is scanned all the same: they are most of its bytes."""
    whole = scores(5, 1)
    files = write(tmp_path / "x", [whole.drop_columns(["probabilities"])], 2)
    assert scan_scores(files, LABELS, independent=False, keep=2).distributions.rows == 5


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    """An index that is no label's, with the file that holds it."""
    files = write(tmp_path / "x", [scores(5, 1)], 2)
    with pytest.raises(ValueError, match=r"0\.parquet: predicted_index goes from .* there are 1 labels"):
        scan_scores(files, LABELS[:1], independent=False, keep=2)


@given(st.lists(st.integers(0, 10**12), max_size=60), st.integers(1, 20), st.integers(1, 5))
def test_ticks_stay_few_and_lose_no_row(moments: list[int], most: int, parts: int) -> None:
    """Merged from any parts: all rows, few ticks, the true first and last moment."""
    total = Ticks(most)
    for part in range(parts):
        ticks = Ticks(most)
        ticks.add(np.array(moments[part::parts], np.int64))
        total.merge(ticks)
    assert sum(total.counts.values()) == len(moments)
    assert len(total.counts) <= most
    assert (total.first_us, total.last_us) == (min(moments, default=None), max(moments, default=None))
    assert all(any(moment // total.tick_us == tick for moment in moments) for tick in total.counts)


def test_a_spread_without_values_has_no_extremes() -> None:
    """Of a night on which everything failed."""
    spread = Spread(BYTE_EDGES)
    spread.add(np.array([], np.int64))
    assert (spread.to_json()["min"], spread.to_json()["count"]) == (None, 0)


def ticks_of(*seconds: float, rows: int = 10) -> Ticks:
    """So many rows at each of some seconds."""
    ticks = Ticks()
    for second in seconds:
        ticks.add(np.full(rows, START_US + round(second * 1e6), np.int64))
    return ticks


def test_the_pace_begins_after_the_first_batch() -> None:
    """Ten rows a second: eleven batches are ten seconds."""
    pace = throughput(ticks_of(*range(11)))
    assert pace is not None
    assert (pace["seconds"], pace["images"], pace["images_per_second"]) == (10, 100, 10)
    assert pace["images_by_step"] == [20] * 5
    assert pace["step_seconds"] == 2
    assert (pace["first_scored_at"], pace["last_scored_at"]) == (
        "2027-01-15T08:00:00.000+00:00", "2027-01-15T08:00:10.000+00:00",
    )  # fmt: skip


def test_a_pace_of_one_moment_is_none() -> None:
    """Neither nothing nor one batch has one."""
    assert throughput(Ticks()) is None
    assert throughput(ticks_of(3)) is None


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=200))
def test_no_row_of_the_pace_is_lost(tenths: list[int]) -> None:
    """All but those of the first tick are in a step."""
    pace = throughput(ticks_of(*(tenth / 10 for tenth in tenths), rows=1))
    later = [tenth for tenth in tenths if tenth > min(tenths)]
    if pace is None:
        assert not later
    else:
        assert sum(pace["images_by_step"]) == pace["images"] == len(later)


def test_failures_are_counted_and_the_first_of_each_code_kept(tmp_path: Path) -> None:
    """In the order of the table, over files."""

    def failure(number: int, code: FailureCode, stage: Stage) -> Failure:
        return Failure(ImageRef(f"/{number}.jpg", None, None), stage, code, f"reason {number}", 0)

    gone = [failure(number, FailureCode.NOT_FOUND, Stage.READ) for number in range(5)]
    cut = [failure(number, FailureCode.TRUNCATED_IMAGE, Stage.DECODE) for number in range(5, 8)]
    late = [failure(9, FailureCode.NOT_FOUND, Stage.LIST)]
    parts = [tables.failures_batch([*gone[:3], *cut]), tables.failures_batch([*gone[3:], *late])]
    files = write(tmp_path / "x", [pa.Table.from_batches([part]) for part in parts], 2)
    counts, rows = scan_failures(files, 2)
    assert counts == {("read", "not_found"): 5, ("decode", "truncated_image"): 3, ("list", "not_found"): 1}
    assert [row.image_path for row in rows] == ["/0.jpg", "/1.jpg", "/5.jpg", "/6.jpg"]
    assert rows[0] == ("/0.jpg", "read", "not_found", "reason 0")
