"""Outputs that cannot be written, and disks that fill up: one line, the right exit code, and nothing half-done."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.loopback import Quiet, serving
from tests.model_zoo import pooled_model
from tests.runs import make_photos, read_table, run_quietly, small_config, tree
from transforms import storage
from transforms.errors import ConfigError, ExitCode, RunError

pytest_plugins = ["tests.s3_store"]

PHOTOS = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel of four classes."""
    return pooled_model(tmp_path_factory.mktemp("model") / "pooled")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of photos."""
    make_photos(tmp_path / "photos", PHOTOS)
    return tmp_path / "photos"


Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a disk in memory, or mounts it anew with other options; skips where that is not allowed."""
    place = tmp_path / "disk"

    def mount_with(options: str) -> Path:
        again = ["-o", f"remount,{options}"] if place.exists() else ["-t", "tmpfs", "-o", options, "tmpfs"]
        place.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *again, str(place)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this test mounts a disk of its own: {done.stderr.strip()}")
        return place

    yield mount_with
    if os.path.ismount(place):
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def few_rows_a_file(model: Path) -> Any:
    """A configuration whose run closes many files."""
    return small_config(model, write={"rows_per_file": 2}, batch={"size": 2})


def broken_off(model: Path, photos: Path, output: Path) -> str:
    """Run, and return the one line of a run that broke off and can be continued."""
    with pytest.raises(RunError) as caught:
        run_quietly(few_rows_a_file(model), [photos], output, run_id="night")
    assert caught.value.exit_code == ExitCode.INTERRUPTED
    assert "\n" not in str(caught.value)
    assert not (output / "scores").exists()
    assert not (output / "latest.json").exists()
    assert not (output / "runs" / "night" / "_claim.lock").exists()
    return str(caught.value)


def refused(model: Path, photos: Path, output: Path | str) -> str:
    """Run, and return the one line of a run that was refused before it began."""
    with pytest.raises(ConfigError) as caught:
        run_quietly(small_config(model), [photos], output, run_id="night")  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_disk_that_fills_up_is_named_and_the_run_goes_on_when_there_is_room(
    model: Path, photos: Path, mount: Mount
) -> None:
    """A real disk of 200 kB: exit 130, closed files kept, and the same command publishes on a larger one."""
    disk = mount("size=200k")
    said = broken_off(model, photos, disk / "out")
    assert said.startswith(f"run night broke off: the disk of {disk}/out is full, make room there (OSError: [Errno 28]")
    assert said.endswith("finished files are kept, run again with --run-id night to continue")
    mount("size=64m")
    result = run_quietly(few_rows_a_file(model), [photos], disk / "out", run_id="night")
    assert result.outcome.exit_code == ExitCode.PUBLISHED
    assert result.adopted > 0
    assert len(set(read_table(result.layout, "scores")["image_path"].to_pylist())) == PHOTOS


def test_a_disk_that_is_full_from_the_start_is_refused(model: Path, photos: Path, mount: Mount) -> None:
    """Exit 2: nothing was begun, and the message says that room is wanted."""
    disk = mount("size=64k")
    (disk / "out").mkdir()
    with (disk / "filler").open("wb") as filler, pytest.raises(OSError, match="No space left"):
        filler.write(bytes(10**6))
        filler.flush()
    said = refused(model, photos, disk / "out")
    assert said == f"output {disk}/out cannot be written: [Errno 28] No space left on device; make room there"
    assert tree(disk / "out") == {}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["flush_file", "write_bytes"])
def test_a_write_without_room_breaks_off_and_can_be_continued(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int
) -> None:
    """While files are staged (the third one), and when the plan of publishing is written."""
    real, files = getattr(storage, where), [0]

    def write(path: str, *data: bytes) -> None:
        files[0] += path.endswith((".parquet.open", "publish.json"))
        if path.endswith("publish.json") or files[0] == 3:
            raise OSError(number, os.strerror(number), path)
        real(path, *data)

    with monkeypatch.context() as patch:
        patch.setattr(storage, where, write)
        said = broken_off(model, photos, tmp_path / "out")
    assert f"the disk of {tmp_path}/out is full, make room there (OSError: [Errno {number}] " in said
    result = run_quietly(few_rows_a_file(model), [photos], tmp_path / "out", run_id="night")
    assert result.outcome.exit_code == ExitCode.PUBLISHED
    assert result.adopted == (PHOTOS if where == "write_bytes" else 4)
    assert len(set(read_table(result.layout, "scores")["image_path"].to_pylist())) == PHOTOS


def test_a_folder_that_may_only_be_read_is_refused(model: Path, photos: Path, mount: Mount) -> None:
    """Exit 2, before an image is read, with what to do."""
    disk = mount("size=64k,ro")
    assert refused(model, photos, disk / "out") == (
        f"output {disk}/out cannot be written: [Errno 30] Read-only file system: '{disk}/out'; "
        "give a folder or bucket that this process may write"
    )


def test_a_run_that_is_published_is_found_on_a_disk_that_may_only_be_read(
    model: Path, photos: Path, mount: Mount
) -> None:
    """To say that nothing is to be done, nothing has to be written."""
    output = mount("size=64m") / "out"
    run_quietly(small_config(model), [photos], output, run_id="night")
    mount("ro")
    again = run_quietly(small_config(model), [photos], output, run_id="night")
    assert again.found == f"run night is already published in {output}: nothing was done"


def test_an_output_that_is_a_file_is_refused(model: Path, photos: Path, tmp_path: Path) -> None:
    """The file stays as it is."""
    (tmp_path / "out").write_text("mine")
    assert refused(model, photos, tmp_path / "out") == (
        f"output {tmp_path}/out cannot be written: [Errno 20] Not a directory: '{tmp_path}/out/runs'; "
        "give a folder or bucket that this process may write"
    )
    assert (tmp_path / "out").read_text() == "mine"


def test_a_bucket_that_is_missing_is_refused(model: Path, photos: Path, bucket: str) -> None:
    """It is not made: its name is a typo more often than a wish."""
    said = refused(model, photos, f"{bucket}-typo/out")
    assert said.startswith(f"output {bucket}-typo/out cannot be written: ")
    assert "The specified bucket does not exist" in said
    assert said.endswith("; give a folder or bucket that this process may write")


class ForbiddingStore(Quiet, BaseHTTPRequestHandler):
    """An S3 store that answers 403 to writes, or to everything."""

    protocol_version = "HTTP/1.1"
    forbidden: tuple[str, ...] = ()

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.command in self.forbidden:
            code, text = 403, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        elif self.command == "HEAD":
            code, text = 404, ""
        else:
            code, text = 200, "<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>"
        self.send_response(code)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815  the names are the library's


@pytest.mark.parametrize(("forbidden", "how"), [(("PUT", "POST"), "written"), (("GET", "HEAD", "PUT", "POST"), "used")])
def test_a_store_that_forbids_it_is_named(
    model: Path, photos: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, forbidden: tuple[str, ...], how: str
) -> None:
    """403 to writes alone, and to everything: exit 2 with what the store says."""
    with serving(type("", (ForbiddingStore,), {"forbidden": forbidden})) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        storage._remote_filesystem.cache_clear()
        said = refused(model, photos, f"{bucket}/out")
    assert said.startswith(f"output {bucket}/out cannot be {how}: ")
    assert "ACCESS_DENIED" in said
    assert said.endswith("; give a folder or bucket that this process may write")
