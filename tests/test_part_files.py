"""Part files: when they close, what they are called meanwhile, and what is told of them."""

import concurrent.futures.thread
import errno
import gc
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import storage, tables
from transforms.errors import FailureCode, Stage
from transforms.part_files import PartWriter, closed_digest, write_empty_file
from transforms.probabilities import softmax, summarise
from transforms.records import Failure, ImageInfo, ImageRef, WrittenFile
from transforms.settings import WriteSettings

pytest_plugins = ["tests.s3_store"]

SCHEMA = pa.schema([pa.field("image_path", pa.string(), nullable=False), pa.field("n", pa.int64())])


def batch(start: int, rows: int) -> pa.RecordBatch:
    """Return rows that count on from a number."""
    numbers = range(start, start + rows)
    return pa.record_batch({"image_path": [f"{n:06}" for n in numbers], "n": list(numbers)}, schema=SCHEMA)


class Clock:
    """A clock that stands still until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def writer(folder: Path, clock: Clock | None = None, schema: pa.Schema = SCHEMA, **limits: Any) -> PartWriter:
    """Return a writer with these limits."""
    return PartWriter(str(folder), "scores", schema, {"k": "v"}, WriteSettings(**limits), clock or Clock())


def closed(part: PartWriter) -> WrittenFile:
    """Close a writer that has written one file."""
    (file,) = part.close()
    return file


def read(file: WrittenFile) -> list[int]:
    """Return the numbers in a file, after holding what is told of it against the disk."""
    data = Path(file.path).read_bytes()
    metadata = pq.read_metadata(file.path)
    assert (file.table, file.rows, file.size_bytes) == ("scores", metadata.num_rows, len(data))
    assert file.sha256 == hashlib.sha256(data).hexdigest()
    return pq.read_table(file.path)["n"].to_pylist()


class TestRolling:
    def test_rows_close_a_file(self, tmp_path: Path) -> None:
        """At the limit, not one row later; what is left closes at the end."""
        part = writer(tmp_path, rows_per_file=10)
        files = [
            file
            for start, rows in ((0, 4), (4, 5), (9, 1), (10, 25), (35, 1))
            for file in part.write(batch(start, rows))
        ]
        files += part.close()
        # A batch is never cut.
        assert [read(file) for file in files] == [list(range(10)), list(range(10, 35)), [35]]
        assert part.close() == []

    def test_bytes_close_a_file(self, tmp_path: Path) -> None:
        """Counted from what is written and what waits; random numbers do not compress."""
        schema = pa.schema([("n", pa.int64()), ("image_bytes", pa.int64())])
        random = np.random.default_rng(0).integers(0, 2**62, 70_000)
        big = pa.record_batch({"n": [0] * 70_000, "image_bytes": random}, schema=schema)
        limits = {"rows_per_file": 10**9, "bytes_per_file": 1024**2, "row_group_bytes": 64 * 1024}
        part = writer(tmp_path, schema=schema, **limits)
        files = [file for _ in range(5) for file in part.write(big)] + part.close()
        assert [file.rows for file in files] == [140_000, 140_000, 70_000]
        for file in files[:2]:
            assert pq.read_table(file.path)["image_bytes"].to_pylist() == random.tolist() * 2
            assert 1024**2 < file.size_bytes < 1.3 * 1024**2

    def test_time_closes_a_file(self, tmp_path: Path) -> None:
        """At the first write after the limit, counted from the file's first row."""
        clock = Clock()
        part = writer(tmp_path, clock, seconds_per_file=60)
        clock.now += 1000  # nothing is open: nothing grows old
        files = part.write(batch(0, 1))
        # Of the file that the third row closes, and of the next one, which is not as old.
        for number, seconds in enumerate((59.9, 0.1, 30, 59), start=1):
            clock.now += seconds
            files += part.write(batch(number, 1))
        files += part.close()
        assert [read(file) for file in files] == [[0, 1, 2], [3, 4]]

    def test_batches_without_rows_open_nothing(self, tmp_path: Path) -> None:
        """A batch of failures only leaves no file."""
        part = writer(tmp_path / "none")
        assert part.write(batch(0, 0)) == []
        assert part.close() == []
        assert not (tmp_path / "none").exists()

    @settings(deadline=None, max_examples=40)
    @given(sizes=st.lists(st.integers(0, 12), max_size=30), limit=st.integers(1, 20))
    def test_every_row_is_in_one_file_in_order(
        self, sizes: list[int], limit: int, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Whatever the batches: a file ends with the batch that reaches the limit, never within one."""
        part = writer(tmp_path_factory.mktemp("parts"), rows_per_file=limit)
        files: list[WrittenFile] = []
        expected: list[list[int]] = [[]]
        start = 0
        for size in sizes:
            files += part.write(batch(start, size))
            expected[-1] += range(start, start + size)
            if len(expected[-1]) >= limit:
                expected.append([])
            start += size
        files += part.close()
        assert [read(file) for file in files] == [numbers for numbers in expected if numbers]

    def test_files_do_not_depend_on_the_speed_of_the_threads(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rows that compress well roll by their encoded size, and share a file with the same rows on a slow disk."""
        schema = pa.schema([("n", pa.int64()), ("image_bytes", pa.int64())])
        batches = []
        for number in range(60):
            n = np.random.default_rng(number).integers(0, 2**6, 20_000)
            batches.append(pa.record_batch({"n": n, "image_bytes": n}, schema=schema))
        limits = {"rows_per_file": 10**9, "bytes_per_file": 1024**2, "row_group_bytes": 1024**2}
        found = []
        for seconds in (0.0, 0.005):
            disk = Disk(monkeypatch, before_write=lambda pause=seconds: time.sleep(pause))
            part = writer(tmp_path / str(seconds), schema=schema, **limits)
            files = [file for rows in batches for file in part.write(rows)] + part.close()
            assert disk.written == sum(file.size_bytes for file in files)
            found.append([(file.rows, file.sha256) for file in files])
        assert found[0] == found[1]
        assert len(found[0]) > 2
        assert all(rows * 16 > 20_000 * 16 * 2 * 1.5 for rows, _ in found[0][:-1])


class Disk:
    """The real disk, with something done before each write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, before_write: Callable[[], None]) -> None:
        self.written = 0
        self._before_write = before_write
        self._filesystem = storage.filesystem
        monkeypatch.setattr("transforms.part_files.storage.filesystem", self.open)

    def open(self, path: str) -> tuple[Any, str]:
        """Take the place of storage.filesystem."""
        self._inner, inner = self._filesystem(path)
        return self, inner

    def open_output_stream(self, path: str) -> "Disk.Stream":
        """Take the place of the file system's."""
        return Disk.Stream(self, self._inner.open_output_stream(path))

    def __getattr__(self, name: str) -> Any:
        """Everything else is the file system's own."""
        return getattr(self._inner, name)

    class Stream:
        """One file."""

        def __init__(self, disk: "Disk", stream: Any) -> None:
            self._disk, self._stream = disk, stream

        def write(self, data: bytes) -> None:
            """Write after what is done before."""
            self._disk._before_write()
            self._disk.written += len(data)
            self._stream.write(data)

        def close(self) -> None:
            """Close."""
            self._stream.close()


def threads_of(*names: str) -> list[str]:
    """Return the threads that are alive and carry one of these names."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(names)]


class TestThreads:
    limits: ClassVar[dict[str, int]] = {"row_group_bytes": 64 * 1024}

    def test_writing_waits_for_nothing_but_two_row_groups(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While the disk stands still two row groups are taken, and the third one waits until it moves."""
        go = threading.Event()
        Disk(monkeypatch, before_write=lambda: go.wait(60) and None)
        monkeypatch.setattr("transforms.part_files._STORE_BYTES", 1)
        part = writer(tmp_path, **self.limits)
        taken = threading.Semaphore(0)

        def feed() -> None:
            for number in range(4):
                part.write(batch(number * 4000, 4000))
                taken.release()

        feeder = threading.Thread(target=feed)
        feeder.start()
        assert taken.acquire(timeout=60)
        assert taken.acquire(timeout=60)
        assert not taken.acquire(timeout=0.2)
        go.set()
        feeder.join(60)
        assert read(closed(part)) == list(range(16_000))

    @pytest.mark.parametrize("call", ["write", "close"])
    def test_full_disk_is_the_error_of_the_next_call(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        """With its own exception, again at every call, and no file is called .parquet."""
        error = OSError(errno.ENOSPC, "No space left on device")

        def refuse() -> None:
            raise error

        Disk(monkeypatch, before_write=refuse)
        part = writer(tmp_path, **self.limits)
        part.write(batch(0, 5000))
        again = partial(part.write, batch(5000, 5000))
        with pytest.raises(OSError, match="No space left") as raised:
            if call == "write":
                for _ in range(1000):
                    again()
                    time.sleep(0.01)
            part.close()
        assert raised.value is error
        for further in (again, part.close):
            with pytest.raises(OSError, match="No space left"):
                further()
        assert {path.suffix for path in tmp_path.iterdir()} == {".open"}

    def test_batch_that_cannot_be_encoded_is_the_error_of_the_next_call(self, tmp_path: Path) -> None:
        """A batch of another schema is refused by pyarrow, in the thread."""
        part = writer(tmp_path)
        part.write(pa.record_batch({"other": [1]}))
        with pytest.raises(ValueError, match="schema"):
            part.close()
        assert {path.suffix for path in tmp_path.iterdir()} == {".open"}

    def test_abandoned_writer_leaves_no_thread_and_no_whole_file(self, tmp_path: Path) -> None:
        """A bundle that fails elsewhere drops its writer, with rows waiting and rows under way."""
        part = PartWriter(str(tmp_path), "dropped", SCHEMA, {}, WriteSettings(**self.limits), Clock())
        for number in range(3):
            part.write(batch(number * 4000, 4000))
        part.write(batch(12_000, 10))
        assert sorted(threads_of("encode-dropped", "store-dropped")) == ["encode-dropped", "store-dropped"]
        del part
        deadline = time.monotonic() + 60
        while threads_of("encode-dropped", "store-dropped") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threads_of("encode-dropped", "store-dropped") == []
        assert [path.suffix for path in tmp_path.iterdir()] == [".open"]

    def test_abandoned_writer_may_be_collected_anywhere(self, tmp_path: Path) -> None:
        """Also where a thread pool holds the lock of all pools: Arrow's own end of a file must not want a thread."""
        part = PartWriter(str(tmp_path), "dropped", SCHEMA, {}, WriteSettings(**self.limits), Clock())
        part.write(batch(0, 4000))
        for background in (part._encode, part._store):
            background.settle()
        circle: list[Any] = [part]
        circle.append(circle)
        del part, background, circle
        collected = threading.Event()

        def collect() -> None:
            with concurrent.futures.thread._global_shutdown_lock:
                gc.collect()
            collected.set()

        threading.Thread(target=collect, daemon=True).start()
        assert collected.wait(30)
        assert [path.suffix for path in tmp_path.iterdir()] == [".open"]

    def test_process_ends_though_a_writer_is_open(self, tmp_path: Path) -> None:
        """With the exit code of its own, without a word, and without waiting for more than what is under way."""
        script = (
            "import sys, pyarrow as pa\n"
            "from transforms.part_files import PartWriter\n"
            "from transforms.settings import WriteSettings\n"
            "batch = pa.record_batch({'n': list(range(100_000))})\n"
            "settings = WriteSettings(row_group_bytes=64 * 1024, rows_per_file=10**9)\n"
            "part = PartWriter(sys.argv[1], 'scores', batch.schema, {}, settings)\n"
            "for _ in range(10):\n"
            "    part.write(batch)\n"
            "sys.exit(7)\n"
        )
        ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, timeout=60)
        assert (ended.returncode, ended.stdout, ended.stderr) == (7, b"", b"")
        assert [path.suffix for path in tmp_path.iterdir()] == [".open"]


class TestOpenFiles:
    def test_open_file_has_a_suffix(self, tmp_path: Path) -> None:
        """What is called .parquet is whole, at any moment."""
        part = writer(tmp_path)
        part.write(batch(0, 3))
        assert [Path(name).suffix for name in os.listdir(tmp_path)] == [".open"]
        file = closed(part)
        assert os.listdir(tmp_path) == [os.path.basename(file.path)]
        assert file.path.endswith(f"-{file.sha256}.parquet")
        assert closed_digest(file.path) == file.sha256

    @pytest.mark.parametrize("name", ["0a1b.parquet", f"0a1b-{'0' * 64}.parquet.open", f"0a1b-{'0' * 63}.parquet"])
    def test_file_that_was_not_closed_has_no_digest(self, tmp_path: Path, name: str) -> None:
        """Nor has one of an older version, or one whose name was cut."""
        assert closed_digest(f"{tmp_path}/{name}") is None

    def test_object_that_was_not_closed_has_no_digest(self, bucket: str) -> None:
        """Its writer was killed before it wrote the second object."""
        storage.write_bytes(f"{bucket}/staged/0a1b.parquet", b"PAR1")
        assert closed_digest(f"{bucket}/staged/0a1b.parquet") is None

    def test_names_are_never_the_same(self, tmp_path: Path) -> None:
        """Two writers, two files each: a retried bundle never writes over the first attempt's file."""
        parts = [writer(tmp_path, rows_per_file=1) for _ in range(2)]
        for number in range(2):
            for part in parts:
                part.write(batch(number, 1))
        assert len({file.path for part in parts for file in part.close()} | set(map(str, tmp_path.iterdir()))) == 4

    def test_object_appears_when_it_is_closed(self, bucket: str) -> None:
        """A store has no half objects and needs no suffix; the object beside it says what its bytes must be."""
        part = PartWriter(f"{bucket}/staged", "scores", SCHEMA, {}, WriteSettings(), Clock())
        part.write(batch(0, 3))
        assert not storage.is_folder(f"{bucket}/staged")
        file = closed(part)
        found = [found.path for found in storage.list_folder(f"{bucket}/staged")]
        assert found == [file.path, f"{file.path}.sha256"]
        assert closed_digest(file.path) == file.sha256
        data = storage.read_bytes(file.path)
        assert (file.size_bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert pq.read_table(pa.BufferReader(data))["n"].to_pylist() == [0, 1, 2]

    def test_folder_that_cannot_be_written_is_an_error(self, tmp_path: Path) -> None:
        """The bundle fails; nothing is reported."""
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="file"):
            writer(tmp_path / "file" / "below").write(batch(0, 1))


class TestContents:
    def test_batches_are_merged_into_row_groups(self, tmp_path: Path) -> None:
        """40 batches of 1,000 rows, 18 bytes each, are not 40 row groups."""
        part = writer(tmp_path, row_group_bytes=256 * 1024)
        for number in range(40):
            part.write(batch(number * 1000, 1000))
        file = closed(part)
        assert read(file) == list(range(40_000))
        metadata = pq.read_metadata(file.path)
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        assert rows == [15_000, 15_000, 10_000]

    def test_many_small_batches_are_merged(self, tmp_path: Path) -> None:
        """Failures come one by one; different dictionaries among them do no harm."""
        schema = pa.schema([("n", pa.int64()), ("d", pa.dictionary(pa.int32(), pa.string()))])
        part = writer(tmp_path, schema=schema)
        for number in range(3000):
            values = pa.array([str(number % 7)]).dictionary_encode()
            part.write(pa.record_batch({"n": [number], "d": values}, schema=schema))
        file = closed(part)
        assert read(file) == list(range(3000))
        assert pq.read_table(file.path)["d"].to_pylist() == [str(number % 7) for number in range(3000)]
        assert pq.read_metadata(file.path).num_row_groups == 1

    def test_shared_labels_do_not_count(self, tmp_path: Path) -> None:
        """Every batch refers to all labels; row groups are cut by rows, not by labels counted again and again."""
        schema = pa.schema([("n", pa.int64()), ("d", pa.dictionary(pa.int32(), pa.string()))])
        labels = pa.array([f"label {n}" for n in range(100_000)])
        part = writer(tmp_path, schema=schema, row_group_bytes=64 * 1024)
        for number in range(100):
            column = pa.DictionaryArray.from_arrays(pa.array([number], pa.int32()), labels)
            part.write(pa.record_batch({"n": [number], "d": column}, schema=schema))
        file = closed(part)
        assert pq.read_metadata(file.path).num_row_groups == 1

    def test_files_carry_the_metadata(self, tmp_path: Path) -> None:
        """Beside what the schema says of itself, also in a file without rows."""
        schema = SCHEMA.with_metadata({"own": "1"})
        part = writer(tmp_path, schema=schema)
        part.write(batch(0, 1))
        full = closed(part)
        empty = write_empty_file(str(tmp_path), "scores", schema, {"k": "v"}, WriteSettings())
        for file in (full, empty):
            found = pq.read_schema(file.path)
            assert found.metadata == {b"own": b"1", b"k": b"v"}
            assert found.equals(schema)

    def test_empty_file_has_columns_and_no_rows(self, tmp_path: Path) -> None:
        """So that a query over a table without rows says: no rows."""
        for schema in (tables.FAILURES_SCHEMA, tables.scores_schema(5, with_logits=True)):
            file = write_empty_file(str(tmp_path / "new"), "scores", schema, {}, WriteSettings())
            table = pq.read_table(file.path)
            assert (file.rows, table.num_rows) == (0, 0)
            assert table.schema.equals(schema)
            assert file.sha256 == hashlib.sha256(Path(file.path).read_bytes()).hexdigest()

    def test_compression_level_is_heeded(self, tmp_path: Path) -> None:
        """More work, fewer bytes."""
        sizes = []
        for level in (1, 19):
            part = writer(tmp_path, compression_level=level)
            part.write(batch(0, 40_000))
            file = closed(part)
            sizes.append(file.size_bytes)
        assert sizes[1] < sizes[0]


def score_batches(classes: int, rows: int, count: int) -> Iterator[pa.RecordBatch]:
    """Yield batches of a model with so many classes."""
    labels = pa.array([f"label {n}" for n in range(classes)])
    schema = tables.scores_schema(classes, with_logits=False)
    info = ImageInfo(640, 480, "jpeg", 100_000, "simplejpeg")
    for number in range(count):
        logits = np.random.default_rng(number).normal(0, 3, (rows, classes)).astype(np.float32)
        values = softmax(logits)
        refs = [ImageRef(f"/photos/{number}/{n}.jpg", 1, "1-1") for n in range(rows)]
        summary = summarise(values, 5, independent=False)
        yield tables.scores_batch(schema, refs, [info] * rows, values, summary, labels, "m@1", 0, None, logits)


@pytest.mark.parametrize(
    ("classes", "rows", "count", "groups", "group_rows"),
    [
        # 4,144 bytes a row: 16 MiB are 4,000 rows and more.
        (1_000, 64, 70, 2, range(3_800, 4_200)),
        # 400 kB a row: 42 rows, here to the next batch of 4.
        (100_000, 4, 12, 2, range(40, 48)),
    ],
)
def test_defaults_suit_few_and_many_classes(
    tmp_path: Path, classes: int, rows: int, count: int, groups: int, group_rows: range
) -> None:
    """Row groups near 16 MiB; the writer holds a few of them at most, whatever the number of classes."""
    batches = score_batches(classes, rows, count)
    first = next(batches)
    part = writer(tmp_path, schema=first.schema)
    part.write(first)
    process, peak = psutil.Process(), 0
    before = process.memory_info().rss
    for scored in batches:
        assert part.write(scored) == []
        peak = max(peak, process.memory_info().rss - before)
    file = closed(part)
    metadata = pq.read_metadata(file.path)
    assert metadata.num_row_groups == groups
    assert metadata.row_group(0).num_rows in group_rows
    assert file.rows == rows * count
    assert file.size_bytes < file.rows * classes * 4  # smaller than the bare floats
    assert peak < 8 * 16 * 1024**2


def test_failures_one_by_one_stay_small(tmp_path: Path) -> None:
    """10,000 batches of one row: without merging they held over 50 MB."""
    process = psutil.Process()
    part = writer(tmp_path, schema=tables.FAILURES_SCHEMA)
    before = process.memory_info().rss
    for number in range(10_000):
        ref = ImageRef(f"/photos/{number}.jpg", None, None)
        failure = Failure(ref, Stage.READ, FailureCode.NOT_FOUND, "there is no such file", 0)
        assert part.write(tables.failures_batch([failure])) == []
    grown = process.memory_info().rss - before
    file = closed(part)
    assert file.rows == 10_000
    assert grown < 30 * 1024**2
