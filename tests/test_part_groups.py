"""Files that are closed together: whatever a crash leaves, an image counts for both models or for none."""

import gc
import random
import time
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_part_files import Clock, threads_of
from transforms import moving, storage
from transforms.layout import RunLayout, Table
from transforms.part_files import group_of
from transforms.part_groups import GroupWriter, TableFiles
from transforms.records import WrittenFile
from transforms.settings import WriteSettings
from transforms.staging import StagedTable, claim_staging

pytest_plugins = ["tests.s3_store"]

SCHEMA = pa.schema([pa.field("image_path", pa.string(), nullable=False)])
TABLES: tuple[Table, ...] = ("scores", "scores_challenger", "failures_challenger")
IDENTITY = {"model": "1"}


def layout(output: Path | str) -> RunLayout:
    """The run that is begun and continued."""
    return RunLayout(str(output), "night")


def writer(output: Path | str, clock: Clock | None = None, **limits: int) -> GroupWriter:
    """Write what a run with a challenger stages: of each row its path."""
    tables = [TableFiles(table, layout(output).staged_table(table), SCHEMA, {"of": table}) for table in TABLES]
    return GroupWriter(tables, WriteSettings(**limits), clock or Clock())


def rows(scored: list[str], failed: list[str]) -> Mapping[Table, pa.RecordBatch]:
    """Images that the challenger has scored, and those that it has failed on."""
    by_table = zip(TABLES, ([*scored, *failed], scored, failed), strict=True)
    return {table: pa.record_batch({"image_path": paths}, schema=SCHEMA) for table, paths in by_table}


def claim(output: Path | str) -> tuple[set[str], dict[str, int]]:
    """Continue the run: the images that it keeps, and the rows of each table's files."""
    tables = [StagedTable(table, SCHEMA, {"of": table}) for table in TABLES[1:]]
    adopted = claim_staging(layout(output), IDENTITY, SCHEMA, {"of": "scores"}, tables)
    found = {table: sum(file.rows for file in adopted.files if file.table == table) for table in TABLES}
    kept = {path for name in adopted.scores for path in paths_of(name)}
    assert len(kept) == adopted.rows == found["scores"] == found["scores_challenger"] + found["failures_challenger"]
    return kept, found


def paths_of(name: str) -> list[str]:
    """The images of a file."""
    table = pq.read_table(pa.BufferReader(storage.read_bytes(name)))
    paths: list[str] = table["image_path"].to_pylist()
    return paths


def staged(output: Path | str, table: Table) -> list[Path]:
    """The closed files of a table."""
    return sorted(Path(layout(output).staged_table(table)).glob("*.parquet"))


def write_groups(output: Path | str, batches: int, **limits: int) -> list[WrittenFile]:
    """Batches of three images, of which the challenger fails on one in every second batch."""
    group = writer(output, **limits)
    files = []
    for number in range(batches):
        names = [f"/{number}{letter}.jpg" for letter in "abc"]
        split = 2 if number % 2 else 3
        files += group.write(rows(names[:split], names[split:]))
    return [*files, *group.close()]


def test_files_of_one_name_hold_the_same_images(tmp_path: Path) -> None:
    """Rolled by rows: where one is closed all are, and one without rows is not there."""
    files = write_groups(tmp_path, 8, rows_per_file=6)
    groups: dict[str, dict[str, set[str]]] = {}
    for file in files:
        groups.setdefault(group_of(file.path), {})[file.table] = set(paths_of(file.path))
    assert len(groups) == 4
    for tables in groups.values():
        assert len(tables["scores"]) == 6
        assert tables["scores_challenger"] | tables["failures_challenger"] == tables["scores"]
        assert not tables["scores_challenger"] & tables["failures_challenger"]


@pytest.mark.parametrize(
    ("limit", "value", "expected"),
    [
        ("bytes_per_file", 1024**2, [12_000, 12_000, 12_000]),
        ("seconds_per_file", 10, [24_000, 12_000]),  # at the first write after that time
    ],
)
def test_what_closes_one_file_closes_all(tmp_path: Path, limit: str, value: int, expected: list[int]) -> None:
    """Time and bytes as rows: none of the tables is left with a file that the others have left behind."""
    clock = Clock()
    group = writer(tmp_path, clock, **{limit: value})
    chance = random.Random(0)  # noqa: S311  names, not secrets
    for _ in range(3):
        names = [f"{chance.getrandbits(512):x}" for _ in range(12_000)]
        group.write(rows(names[:6000], names[6000:]))
        clock.now += 11
    group.close()
    counts = {table: [len(paths_of(str(path))) for path in staged(tmp_path, table)] for table in TABLES}
    assert sorted(counts["scores"], reverse=True) == expected
    assert counts["scores_challenger"] == counts["failures_challenger"] == [count // 2 for count in counts["scores"]]


def test_whole_groups_are_adopted_with_all_their_files(tmp_path: Path) -> None:
    """As they were written; the failures of the challenger stay failures."""
    claim(tmp_path)
    files = write_groups(tmp_path, 6, rows_per_file=3)
    kept, counts = claim(tmp_path)
    assert len(kept) == 18
    assert counts == {"scores": 18, "scores_challenger": 15, "failures_challenger": 3}
    assert {file.path for file in files} == {str(path) for table in TABLES for path in staged(tmp_path, table)}


@given(lost=st.sets(st.integers(0, 14), min_size=1))
@settings(max_examples=25, deadline=None)
def test_any_lost_file_costs_its_group_and_no_other(lost: set[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whichever files a crash has cost: kept is what is whole in all tables."""
    output = tmp_path_factory.mktemp("run")
    claim(output)
    write_groups(output, 6, rows_per_file=3)
    files = [path for table in TABLES for path in staged(output, table)]
    assert len(files) == 15  # three groups have no failures
    broken = {group_of(str(files[number])) for number in lost}
    expected = {
        path for file in staged(output, "scores") if group_of(str(file)) not in broken for path in paths_of(str(file))
    }
    for number in lost:
        files[number].unlink()
    assert claim(output)[0] == expected


def test_a_group_that_was_written_twice_counts_once(tmp_path: Path) -> None:
    """A retried bundle writes again under new names: one of the two is dropped whole."""
    claim(tmp_path)
    write_groups(tmp_path, 2, rows_per_file=3)
    write_groups(tmp_path, 4, rows_per_file=3)
    kept, counts = claim(tmp_path)
    assert len(kept) == 12
    assert counts == {"scores": 12, "scores_challenger": 10, "failures_challenger": 2}


def test_files_without_their_scores_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And those of scores, with how many images the others account for."""
    claim(tmp_path)
    write_groups(tmp_path, 2, rows_per_file=3)
    with_failures = next(path for path in staged(tmp_path, "failures_challenger"))
    scores = next(path for path in staged(tmp_path, "scores") if group_of(str(path)) == group_of(str(with_failures)))
    with_failures.unlink()
    other = next(path for path in staged(tmp_path, "scores") if path != scores)
    rival = next(path for path in staged(tmp_path, "scores_challenger") if group_of(str(path)) == group_of(str(other)))
    other.unlink()
    assert claim(tmp_path)[0] == set()
    assert caplog.messages == [
        f"staged file {scores} is not adopted: it has 3 images, the challenger's files that were closed with it "
        "account for 2",
        f"staged file {rival} is not adopted: the scores that were closed with it are missing",
    ]


def test_groups_in_a_store_are_known_by_their_names_as_well(bucket: str) -> None:
    """Objects have no digest in their names."""
    claim(f"{bucket}/out")
    write_groups(f"{bucket}/out", 4, rows_per_file=3)
    victim = next(iter(storage.list_folder(layout(f"{bucket}/out").staged_table("scores_challenger")))).path
    moving.delete_file(victim)
    assert len(claim(f"{bucket}/out")[0]) == 9


@pytest.mark.parametrize("closed", [True, False])
def test_a_writer_that_nobody_holds_leaves_no_thread(tmp_path: Path, closed: bool) -> None:
    """Each bundle has a writer, and a process has thousands of bundles: none waits for Python to look for circles."""
    names = [f"{work}-{table}" for work in ("encode", "store") for table in TABLES]
    before = threads_of(*names)
    gc.disable()
    try:
        files = writer(tmp_path)
        files.write(rows(["a"], ["b"]))
        if closed:
            files.close()
        del files
        deadline = time.monotonic() + 60
        while len(threads_of(*names)) > len(before) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(threads_of(*names)) <= len(before)
    finally:
        gc.enable()
