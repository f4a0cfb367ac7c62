"""What becomes of a listed path, case by case; and the versions that the storage tells."""

import functools
import os
import time
import tracemalloc
from pathlib import Path

import pytest

from transforms import storage
from transforms.earlier_runs import EarlierRow
from transforms.errors import FailureCode, Stage
from transforms.reading import read_image_bytes
from transforms.records import Failure, ImageRef
from transforms.retrying import Backoff
from transforms.worklist import Choice, Listed, Unasked, ask, choose

pytest_plugins = ["tests.s3_store"]

OLD, NEW = ImageRef("a", 1, "v1"), ImageRef("a", 1, "v2")
LINE = ImageRef("a", None, None)  # of a manifest
BAD = Failure(LINE, Stage.LIST, FailureCode.NOT_FOUND, "", 0)


def row(scored_at_us: int, version: str | None) -> EarlierRow:
    """A row of an earlier run."""
    return EarlierRow(scored_at_us, version)


@pytest.mark.parametrize(
    ("listed", "rows", "choice"),
    [
        ([NEW], [], Choice(todo=NEW)),  # never scored
        ([NEW], [row(1, "v2")], Choice(skipped=True)),
        ([NEW], [row(1, "v1")], Choice(todo=NEW)),  # changed
        ([NEW], [row(1, "v1"), row(2, "v2")], Choice(skipped=True)),
        ([OLD], [row(1, "v1"), row(2, "v2")], Choice(todo=OLD)),  # changed back: the newest row is of something else
        ([OLD], [row(2, "v2"), row(1, "v1")], Choice(todo=OLD)),  # in whatever order they come
        ([OLD], [row(1, "v1"), row(2, None)], Choice(todo=OLD)),  # the newest row is of another model
        ([OLD], [row(2, "v1"), row(1, None)], Choice(skipped=True)),  # that was before
        ([OLD], [row(1, "v1"), row(1, None)], Choice(todo=OLD)),  # nobody knows which is newer
        ([OLD], [row(1, None)], Choice(todo=OLD)),
        # Listed several times
        ([OLD, OLD], [row(1, "v1")], Choice(skipped=True, duplicates=1)),
        ([LINE, OLD, LINE], [row(1, "v1")], Choice(skipped=True, duplicates=2)),
        ([LINE, OLD], [], Choice(todo=OLD, duplicates=1)),
        # A manifest's line
        ([LINE], [], Choice(todo=LINE)),
        ([LINE], [row(1, None)], Choice(todo=LINE)),  # reading it will tell the version
        ([LINE], [row(1, "v1")], Choice(unasked=Unasked(LINE, "v1"))),
        ([LINE, LINE], [row(1, "v1")], Choice(unasked=Unasked(LINE, "v1"), duplicates=1)),
        # What a listing could not name
        ([BAD], [row(1, "v1")], Choice(todo=BAD)),
        # An earlier attempt of this run
        ([NEW], [None], Choice()),
        ([NEW, NEW], [None], Choice(duplicates=1)),
        ([NEW], [None, row(1, "v1")], Choice()),
        ([NEW], [row(1, "v2"), None], Choice()),  # not skipped as well: it would be counted twice
        ([], [None], Choice(unlisted=True)),
        ([], [None, row(1, "v1")], Choice(unlisted=True)),
        # Deleted since it was scored
        ([], [row(1, "v1")], Choice()),
    ],
)  # fmt: skip
def test_every_path_has_one_fate(listed: list[Listed], rows: list[EarlierRow | None], choice: Choice) -> None:
    """The newest row of a path decides; a row of this run stands whatever its version."""
    assert choose(listed, rows) == choice
    assert choose(reversed(listed), reversed(rows)) == choice


def test_a_path_that_is_listed_a_million_times_is_not_held_as_often() -> None:
    """Whoever writes one name into every line of a manifest gets one image, and no worker without memory."""
    tracemalloc.start()
    try:
        choice = choose((ImageRef(f"{'a' * 100}", None, None) for _ in range(100_000)), [])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert choice == Choice(todo=ImageRef("a" * 100, None, None), duplicates=99_999)
    assert peak < 100_000


def test_local_versions_of_listing_stat_and_read_are_the_same(tmp_path: Path) -> None:
    """To the nanosecond: what was read under a manifest's line is skipped by a folder's listing, and the reverse."""
    path = tmp_path / "a.png"
    path.write_bytes(b"12345")
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    (listed,) = storage.list_folder(str(tmp_path))
    read = read_image_bytes(str(path), 100)
    assert listed.version == read.version == "1234567890123456789-5"
    line = ImageRef(str(path), None, None)
    assert ask(Unasked(line, read.version)) == Choice(skipped=True)
    assert ask(Unasked(line, "1234567890123456788-5")) == Choice(todo=ImageRef(str(path), 5, read.version))


def test_versions_of_an_object_store_are_the_same_on_every_way(bucket: str) -> None:
    """Listing, question and read say whole seconds alike; another size is another version."""
    path = f"{bucket}/folder/a.png"
    storage.write_bytes(path, b"12345")
    (listed,) = storage.list_folder(f"{bucket}/folder")
    read = read_image_bytes(path, 100)
    assert listed.version == read.version == read_image_bytes(path, 100, listed.version).version
    line = ImageRef(path, None, None)
    assert ask(Unasked(line, read.version)) == Choice(skipped=True)
    storage.write_bytes(path, b"123456")
    changed = ask(Unasked(line, read.version)).todo
    assert isinstance(changed, ImageRef)
    assert (changed.size_bytes, changed.version) == (6, read_image_bytes(path, 100).version)


@pytest.mark.parametrize("name", ["missing.png", "folder", "missing/a.png", "nul\0.png", "x" * 300])
def test_image_that_is_not_there_stays_without_a_version(tmp_path: Path, name: str) -> None:
    """Its read says why."""
    (tmp_path / "folder").mkdir()
    line = ImageRef(str(tmp_path / name), None, None)
    assert ask(Unasked(line, "v1")) == Choice(todo=line)


def test_object_that_is_not_there_stays_without_a_version(bucket: str) -> None:
    """Neither the object nor its bucket."""
    for path in (f"{bucket}/missing.png", "s3://no-such-bucket-here/a.png"):
        line = ImageRef(path, None, None)
        assert ask(Unasked(line, "v1")) == Choice(todo=line)


def test_storage_that_does_not_answer_costs_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server there is no version: the image is read, which gives it its failure."""
    for name, value in (("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_REGION", "us-east-1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(storage, "Backoff", functools.partial(Backoff, deadline_seconds=1.0))  # not two minutes
    storage._remote_filesystem.cache_clear()
    line = ImageRef("s3://bucket/a.png", None, None)
    started = time.monotonic()
    assert ask(Unasked(line, "v1")) == Choice(todo=line)
    assert time.monotonic() - started < 60
    storage._remote_filesystem.cache_clear()
