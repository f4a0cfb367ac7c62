"""Reading one image file: its bytes and version, or the code and the sentence of its failure."""

import contextlib
import inspect
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.fault_proxy import PASSING, Fault, FaultyStore
from tests.loopback import Quiet, serving
from transforms import reading, storage, stores
from transforms.errors import ImageError
from transforms.reading import read_image_bytes
from transforms.settings import LoadSettings

pytest_plugins = ["tests.s3_store", "tests.gcs_store", "tests.faulty_stores"]

LIMIT = 1000
ROOT = Path(__file__).parent.parent
# What a user's script does, which does not end as the command does.
SCRIPT = """
import sys
from transforms.errors import ImageError
from transforms.reading import read_image_bytes
try:
    read_image_bytes(sys.argv[1], 1000, deadline_seconds=0.5)
except ImageError as error:
    print(error.code)
sys.exit(7)
"""


def refusal(path: str, version: str | None = None, **limits: float) -> tuple[str, str]:
    """Return code and message of the failure to read."""
    with pytest.raises(ImageError) as caught:
        read_image_bytes(path, LIMIT, version, **limits)
    return str(caught.value.code), caught.value.message


def test_bytes_and_version_are_read(tmp_path: Path) -> None:
    """Exactly the limit is allowed; the version is the one that a listing gives."""
    file = tmp_path / "50% #1 [1]?.jpg"
    file.write_bytes(b"x" * LIMIT)
    listed = storage.stat(str(file))
    assert listed is not None
    assert read_image_bytes(str(file), LIMIT) == (b"x" * LIMIT, listed.version)


def test_name_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    """The bytes of a name are the system's affair."""
    path = f"{tmp_path}/{os.fsdecode(bytes([255]))}.jpg"
    Path(path).write_bytes(b"x")
    assert read_image_bytes(path, LIMIT).data == b"x"


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("none", "not_found", "there is no such file"),
        ("broken", "not_found", "there is no such file"),
        ("file/below", "not_found", "there is no such file"),  # ENOTDIR
        ("nul\0", "read_error", "reading failed: embedded null byte"),
        ("loop", "read_error", "reading failed: Too many levels of symbolic links"),
        ("n" * 300, "read_error", "reading failed: File name too long"),
        ("folder", "read_error", "the path is a folder, an image file is needed"),
        ("pipe", "read_error", "the path is not a regular file, an image file is needed"),  # and does not wait
        ("empty", "empty_file", "the file has no bytes"),
        ("large", "too_large_file", "the file has 1,001 bytes, decode.max_file_bytes allows 1,000"),
    ],
)
def test_every_trouble_has_its_code(tmp_path: Path, name: str, code: str, message: str) -> None:
    """The table says which, and in what words."""
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(b"x" * (LIMIT + 1))
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    assert refusal(f"{tmp_path}/{name}") == (code, message)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_closed_file_is_not_permitted(tmp_path: Path) -> None:
    """By the system's own refusal."""
    (tmp_path / "x.jpg").touch(mode=0)
    assert refusal(f"{tmp_path}/x.jpg") == ("permission_denied", "reading is not permitted: Permission denied")


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (13, "permission_denied", "reading is not permitted: Permission denied"),
        (1, "permission_denied", "reading is not permitted: Operation not permitted"),
        (110, "read_timeout", "the storage did not answer in time: Connection timed out"),  # a network disk
        (5, "read_error", "reading failed: Input/output error"),
    ],
)
def test_refusals_of_the_system_have_their_codes(
    monkeypatch: pytest.MonkeyPatch, number: int, code: str, message: str
) -> None:
    """As open raises them; a test that runs as root cannot make them happen."""

    def fail(path: str, _: int) -> int:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "open", fail)
    assert refusal("/photos/x.jpg") == (code, message)


def test_too_large_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one byte: a terabyte of zeros costs nothing."""
    with (tmp_path / "x.jpg").open("wb") as file:
        file.truncate(2**40)

    def forbidden(*_: Any) -> bytes:
        raise AssertionError("read")

    monkeypatch.setattr(os, "read", forbidden)
    assert refusal(f"{tmp_path}/x.jpg")[0] == "too_large_file"


@pytest.mark.parametrize(("change", "read"), [(+5, 11), (-4, 6)])
def test_file_that_changes_while_it_is_read_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: int, read: int
) -> None:
    """Half an old and half a new file would be scored as one picture."""
    file = tmp_path / "x.jpg"
    file.write_bytes(b"x" * 10)
    real = os.read

    def read_late(descriptor: int, count: int) -> bytes:
        os.truncate(file, 10 + change)
        return real(descriptor, count)

    monkeypatch.setattr(os, "read", read_late)
    assert refusal(str(file)) == (
        "read_error",
        f"the file changed while it was read: 10 bytes announced, {read} read",
    )


def test_short_reads_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system may hand out fewer bytes than were asked for."""
    (tmp_path / "x.jpg").write_bytes(bytes(range(100)))
    real = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, count: real(descriptor, min(count, 7)))
    assert read_image_bytes(f"{tmp_path}/x.jpg", LIMIT).data == bytes(range(100))


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """Neither by success nor by failure: a night reads millions."""
    (tmp_path / "x.jpg").write_bytes(b"x")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        read_image_bytes(f"{tmp_path}/x.jpg", LIMIT)
        refusal(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before


class TestS3:
    def test_version_is_the_listings_own(self, bucket: str) -> None:
        """Listed, asked for, or read: one version of one content."""
        path = f"{bucket}/in/a b#1.jpg"
        storage.write_bytes(path, b"x" * LIMIT)
        listed = next(storage.list_folder(bucket))
        assert storage.stat(path) == listed
        assert read_image_bytes(path, LIMIT) == (b"x" * LIMIT, listed.version)
        assert read_image_bytes(path, LIMIT, listed.version) == (b"x" * LIMIT, listed.version)

    def test_store_without_the_header_is_asked_for_the_version(
        self, bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not every store says with the bytes when they were written."""
        path = f"{bucket}/x.jpg"
        storage.write_bytes(path, b"x")
        expected = storage.stat(path)
        assert expected is not None

        class Datetime:
            @staticmethod
            def fromisoformat(_: str) -> None:
                raise AssertionError("used")

        monkeypatch.setattr(reading, "_LAST_MODIFIED", "X-None")
        monkeypatch.setattr(reading, "datetime", Datetime)
        assert read_image_bytes(path, LIMIT).version == expected.version

    def test_every_trouble_has_its_code(self, bucket: str) -> None:
        """With the version of a listing and without."""
        storage.write_bytes(f"{bucket}/empty", b"")
        storage.write_bytes(f"{bucket}/large", b"x" * (LIMIT + 1))
        storage.write_bytes(f"{bucket}/folder/x", b"x")
        for version in (None, "1-1"):
            missing = ("not_found", "there is no such file")
            assert refusal(f"{bucket}/none", version) == missing
            assert refusal(f"{bucket}-none/x", version) == missing
            assert refusal(f"{bucket}/folder", version) == missing
            assert refusal(f"{bucket}/empty", version) == ("empty_file", "the file has no bytes")
            large = "the file has 1,001 bytes, decode.max_file_bytes allows 1,000"
            assert refusal(f"{bucket}/large", version) == ("too_large_file", large)
            # A key that Arrow cannot name is listed, and fails by name.
            key = f"reading failed: Empty path component in path {bucket[5:]}/a//x"
            assert refusal(f"{bucket}/a//x", version) == ("read_error", key)


@pytest.fixture
def stubborn(monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """A store that answers every request with the status of its class."""

    class Handler(Quiet, BaseHTTPRequestHandler):
        status = 403

        def do_HEAD(self) -> None:
            self.send_response(self.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()

    with s3_of(Handler, monkeypatch):
        yield Handler


@contextlib.contextmanager
def s3_of(handler: type[BaseHTTPRequestHandler], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have s3:// mean a server with this handler."""
    from tests.s3_store import use_s3  # pytest has to import it first, as a plugin

    with serving(handler) as server:
        use_s3(monkeypatch, server.url)
        yield
        storage._remote_filesystem.cache_clear()


@pytest.fixture
def trickling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A store whose objects have ten bytes; those with slow in their names come a byte in a second."""
    stop = threading.Event()

    class Handler(Quiet, BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.send_header("Last-Modified", "Thu, 26 Nov 2026 10:00:00 GMT")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            with contextlib.suppress(OSError):  # the client has given up
                for _ in range(10):
                    self.wfile.write(b"x")
                    if "slow" in self.path and stop.wait(1.0):
                        self.close_connection = True  # no client can be made before its read has ended
                        return

    with s3_of(Handler, monkeypatch):
        yield
        stop.set()


class TestTricklingStore:
    def test_reads_that_were_left_behind_cost_no_other_read_its_time(self, trickling: None) -> None:
        """They keep their connections: more of them than the AWS client has when nothing is said."""
        del trickling
        with ThreadPoolExecutor(40) as pool:
            late = [pool.submit(refusal, f"s3://bucket/slow{n}.jpg", deadline_seconds=0.5) for n in range(40)]
            assert {end.result()[0] for end in late} == {"read_timeout"}
        started = time.monotonic()
        assert read_image_bytes("s3://bucket/sound.jpg", LIMIT, deadline_seconds=5.0).data == b"x" * 10
        # What publishes is a client of its own, which is there already: it could not be made any more.
        filesystem, inner = storage.filesystem("s3://bucket/sound.jpg")
        assert filesystem.get_file_info(inner).size == 10
        assert time.monotonic() - started < 5

    def test_clients_are_made_once_by_however_many_threads(
        self, trickling: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that is made while another client's read trickles would be there only after its end."""
        del trickling
        made: list[bool] = []
        real = stores.connect

        def connect(scheme: str, *, patient: bool) -> Any:
            made.append(patient)
            return real(scheme, patient=patient)

        monkeypatch.setattr(stores, "connect", connect)
        barrier = threading.Barrier(20)

        def read(number: int) -> bytes:
            barrier.wait(20)
            return read_image_bytes(f"s3://bucket/{number}.jpg", LIMIT).data

        with ThreadPoolExecutor(20) as pool:
            assert set(pool.map(read, range(20))) == {b"x" * 10}
        assert sorted(made) == [False, True]

    def test_script_ends_without_its_left_behind_read_and_with_its_own_status(self, trickling: None) -> None:
        """Pyarrow would wait for the last byte, and a process without that wait would crash."""
        del trickling
        assert end_of_script("s3://bucket/slow.jpg") == (7, "read_timeout\n", "")


def end_of_script(path: str) -> tuple[int, str, str]:
    """Return how a script ends that reads an image in half a second: its status and what it has said."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, path], cwd=ROOT, text=True, capture_output=True, timeout=60, check=False
    )
    assert time.monotonic() - started < 6
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("version", [None, "1-1"])
def test_closed_bucket_is_not_permitted(stubborn: type, version: str | None) -> None:
    """The client says so in text only."""
    del stubborn
    code, message = refusal("s3://bucket/x.jpg", version)
    assert code == "permission_denied"
    assert message.startswith("reading is not permitted: When reading information for key 'x.jpg' in bucket 'bucket'")


class TestFaultyStores:
    @pytest.mark.parametrize("version", [None, "1-1"])
    @pytest.mark.parametrize("fault", PASSING)
    def test_image_is_read_in_spite_of_a_passing_fault(
        self, faulty: FaultyStore, fault: Fault, version: str | None
    ) -> None:
        """At the question, and at the read: every byte comes, once, with the version of the listing."""
        path = f"{faulty.url}/in/x.jpg"
        storage.write_bytes(path, bytes(range(250)) * 4)
        (listed,) = storage.list_folder(faulty.url)
        # S3 is asked by HEAD, GCS by a GET of what it knows; each then gives the bytes.
        for request in ("^HEAD|^GET .*x.jpg HTTP", "^GET .*x.jpg HTTP|^GET .*alt=media"):
            faulty.proxy.inject(fault, request, times=1)
        assert read_image_bytes(path, LIMIT, version) == (bytes(range(250)) * 4, version or listed.version)
        assert faulty.proxy.injected[fault] == (1 if fault is Fault.TRUNCATED and path.startswith("s3") else 2)

    def test_every_code_comes_from_a_real_answer(self, faulty: FaultyStore) -> None:
        """Of a store that answers well, refuses, has trouble without end, or says nothing at all."""
        url, proxy = faulty
        contents = {"empty": b"", "large": b"x" * (LIMIT + 1)}
        for name in ("empty", "large", "closed", "wrong", "troubled", "silent", "sound"):
            storage.write_bytes(f"{url}/{name}.jpg", contents.get(name, b"x"))
        proxy.requests.clear()
        proxy.stall_seconds = 30
        for name, fault in (
            ("closed", Fault.FORBIDDEN),
            ("wrong", Fault.BAD_REQUEST),
            ("troubled", Fault.UNAVAILABLE),
            ("silent", Fault.STALL),
        ):
            proxy.inject(fault, f"/{name}.jpg")
        assert refusal(f"{url}/none.jpg") == ("not_found", "there is no such file")
        assert refusal(f"{url}/empty.jpg") == ("empty_file", "the file has no bytes")
        large = "the file has 1,001 bytes, decode.max_file_bytes allows 1,000"
        assert refusal(f"{url}/large.jpg") == ("too_large_file", large)
        code, message = refusal(f"{url}/closed.jpg")
        assert code == "permission_denied"
        assert re.match("reading is not permitted: .*(ACCESS_DENIED|PERMISSION_DENIED)", message)
        assert proxy.count("/closed.jpg") == 1  # a refusal is not asked for twice
        code, message = refusal(f"{url}/wrong.jpg")
        assert code == "read_error"
        assert re.match("reading failed: .*400", message)
        assert proxy.count("/wrong.jpg") == 1
        code, message = refusal(f"{url}/troubled.jpg", deadline_seconds=1.0)
        assert code == "read_timeout"
        pattern = r"the storage did not answer in time: tried \d+ times in \d\.\d s, the last error: .*503"
        assert re.match(pattern, message)
        assert proxy.count("/troubled.jpg") > 2
        assert refusal(f"{url}/silent.jpg", deadline_seconds=0.5) == (
            "read_timeout",
            "the storage did not answer in time: tried once in 0.5 s, the last error: no answer in 0.5 s",
        )
        assert read_image_bytes(f"{url}/sound.jpg", LIMIT).data == b"x"

    def test_script_ends_without_waiting_for_a_silent_store(self, faulty: FaultyStore) -> None:
        """Of both kinds, with the status that it has chosen."""
        storage.write_bytes(f"{faulty.url}/silent.jpg", b"x")
        faulty.proxy.stall_seconds = 30
        faulty.proxy.inject(Fault.STALL, "/silent.jpg")
        assert end_of_script(f"{faulty.url}/silent.jpg") == (7, "read_timeout\n", "")

    @pytest.mark.parametrize("scheme", ["gs"], indirect=True)
    @pytest.mark.parametrize("old", [b"short", b"as long as it was before"])
    def test_image_that_is_replaced_under_the_reader_is_read_anew(
        self, faulty: FaultyStore, monkeypatch: pytest.MonkeyPatch, old: bytes
    ) -> None:
        """Shorter or longer, between the question for its size and the read; of S3, Arrow does not tell."""
        path = f"{faulty.url}/x.jpg"
        storage.write_bytes(path, old)
        real = stores.connect

        class Slow:
            """Replaces the object after the question for its size."""

            def __init__(self, scheme: str, *, patient: bool) -> None:
                self._filesystem = real(scheme, patient=patient)
                self._replaced = False

            def __getattr__(self, name: str) -> Any:
                return getattr(self._filesystem, name)

            def get_file_info(self, inner: str) -> Any:
                info = self._filesystem.get_file_info(inner)
                self._replace()
                return info

            def _replace(self) -> None:
                if not self._replaced:
                    self._replaced = True
                    with self._filesystem.open_output_stream(path.partition("://")[2]) as stream:
                        stream.write(b"it is new")

        monkeypatch.setattr(stores, "connect", Slow)
        storage._remote_filesystem.cache_clear()
        assert read_image_bytes(path, LIMIT).data == b"it is new"


def test_deadline_is_that_of_the_setting() -> None:
    """Whoever leaves it out waits as long as a run does."""
    default = inspect.signature(read_image_bytes).parameters["deadline_seconds"].default
    assert default == LoadSettings().read_timeout_seconds
