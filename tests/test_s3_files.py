"""Files of S3 that are read and written in spite of faults that Arrow's client passes on."""

import gc
import hashlib
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from tests.fault_proxy import PASSING, Fault, FaultyStore
from transforms import s3_files, storage
from transforms.s3_files import SteadyS3FileSystem, Upload

pytest_plugins = ["tests.s3_store", "tests.gcs_store", "tests.faulty_stores"]
pytestmark = pytest.mark.parametrize("scheme", ["s3"], indirect=True)

DATA = bytes(range(256)) * 100


@pytest.fixture
def steady(faulty: FaultyStore) -> tuple[SteadyS3FileSystem, str]:
    """The filesystem, and the path of a file that holds DATA."""
    storage.write_bytes(f"{faulty.url}/x", DATA)
    filesystem, inner = storage.filesystem(f"{faulty.url}/x")
    assert isinstance(filesystem, SteadyS3FileSystem)
    return filesystem, inner


@pytest.mark.parametrize("fault", PASSING)
def test_stream_is_read_whole(
    faulty: FaultyStore, steady: tuple[SteadyS3FileSystem, str], monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """In pieces, of which every other one meets the fault; pyarrow's own stream fails at the first."""
    monkeypatch.setattr(s3_files, "_PIECE_BYTES", 4096)
    filesystem, inner = steady
    with filesystem.open_input_stream(inner) as stream:
        parts = []
        for turn in range(13):
            if turn % 2:
                faulty.proxy.inject(fault, "^GET", times=1)
            parts.append(stream.read(2000))
        parts.append(stream.read())
    assert b"".join(parts) == DATA
    assert faulty.proxy.injected[fault] >= 3


def test_pyarrows_own_stream_is_why(faulty: FaultyStore, steady: tuple[SteadyS3FileSystem, str]) -> None:
    """When this fails, pyarrow has learnt to repeat them, and this module may go."""
    filesystem, inner = steady
    stream = fs.S3FileSystem.open_output_stream(filesystem, inner)
    stream.write(b"x")
    faulty.proxy.inject(Fault.TOO_MANY, "^PUT", times=1)
    with pytest.raises(OSError, match="HTTP status 429"):
        stream.close()


def test_text_and_parquet_are_read_through_it(faulty: FaultyStore, steady: tuple[SteadyS3FileSystem, str]) -> None:
    """By the readers of manifests and tables, which seek, buffer and wrap."""
    filesystem, inner = steady
    table = pa.table({"image_path": [f"photo {number}" for number in range(5000)]})
    for name, content in (("t.parquet", io.BytesIO()), ("t.txt", io.BytesIO(b"one\ntwo\n"))):
        if name == "t.parquet":
            pq.write_table(table, content, row_group_size=1000)
        storage.write_bytes(f"{faulty.url}/{name}", content.getvalue())
    folder = inner.rpartition("/")[0]
    faulty.proxy.rates = {Fault.UNAVAILABLE: 0.3}
    with filesystem.open_input_file(f"{folder}/t.parquet") as file:
        assert pq.ParquetFile(file).read() == table
    with filesystem.open_input_stream(f"{folder}/t.txt", buffer_size=1 << 20) as stream:
        assert list(io.TextIOWrapper(stream, "utf-8")) == ["one\n", "two\n"]
    with filesystem.open_input_file(inner) as file:
        assert file.size() == len(DATA)
        file.seek(-6, 2)
        assert (file.read(4), file.read(), file.read()) == (DATA[-6:-2], DATA[-2:], b"")
        file.seek(300)
        assert file.tell() == 300
        assert file.read(3) == DATA[300:303]


def test_missing_file_is_missing_at_once(steady: tuple[SteadyS3FileSystem, str]) -> None:
    """Not only when it is read."""
    filesystem, inner = steady
    for open_file in (filesystem.open_input_file, filesystem.open_input_stream):
        with pytest.raises(FileNotFoundError):
            open_file(f"{inner}/none")


@pytest.mark.parametrize("fault", [fault for fault in PASSING if fault is not Fault.TRUNCATED])
def test_upload_is_sent_as_often_as_it_takes(
    faulty: FaultyStore, steady: tuple[SteadyS3FileSystem, str], fault: Fault
) -> None:
    """Whole, from its first byte on; closing it again does nothing."""
    filesystem, inner = steady
    faulty.proxy.inject(fault, "^PUT", times=3)
    stream = filesystem.open_output_stream(inner)
    assert stream.write(b"new ") == 4
    stream.write(memoryview(b"content"))
    assert faulty.proxy.injected.total() == 0
    assert storage.read_bytes(f"{faulty.url}/x") == DATA  # it appears when it is closed
    stream.close()
    assert storage.read_bytes(f"{faulty.url}/x") == b"new content"
    puts = faulty.proxy.count("^PUT")
    stream.close()
    assert faulty.proxy.count("^PUT") == puts
    assert faulty.proxy.injected[fault] == 3


def test_upload_of_several_parts_is_whole(faulty: FaultyStore, steady: tuple[SteadyS3FileSystem, str]) -> None:
    """Larger than memory holds and than one request takes."""
    filesystem, inner = steady
    data = DATA * 1000  # 24 MiB
    with filesystem.open_output_stream(inner) as stream:
        for start in range(0, len(data), 1 << 20):
            stream.write(data[start : start + (1 << 20)])
    assert faulty.proxy.count("partNumber=") >= 2
    assert hashlib.sha256(storage.read_bytes(f"{faulty.url}/x")).digest() == hashlib.sha256(data).digest()


def test_upload_that_is_given_up_leaves_nothing(faulty: FaultyStore, steady: tuple[SteadyS3FileSystem, str]) -> None:
    """Neither after an error nor forgotten: half a file must not get a whole one's name."""
    filesystem, inner = steady

    def give_up() -> None:
        with filesystem.open_output_stream(f"{inner}1") as stream:
            stream.write(b"half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        give_up()
    stream: Upload | None = filesystem.open_output_stream(f"{inner}2")
    assert stream is not None
    stream.write(b"half")
    stream = None
    gc.collect()
    assert [file.path for file in storage.list_folder(faulty.url)] == [f"{faulty.url}/x"]


def test_lasting_refusal_reaches_who_closes(faulty: FaultyStore, steady: tuple[SteadyS3FileSystem, str]) -> None:
    """At once: no permission is no passing trouble."""
    filesystem, inner = steady
    faulty.proxy.inject(Fault.FORBIDDEN, "^PUT")
    stream = filesystem.open_output_stream(inner)
    stream.write(b"x")
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        stream.close()
    assert faulty.proxy.injected == {Fault.FORBIDDEN: 1}
