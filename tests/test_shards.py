"""Inputs taken apart: however that is done, the entries are those of the listing in one go, each as often."""

import functools
import gc
import http.client
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.loopback import Quiet, serving
from tests.test_inputs import make
from transforms import levels, storage
from transforms.google_levels import list_google_level
from transforms.inputs import BadName, InputSource, check_not_empty, list_input, parse_input
from transforms.levels import Level
from transforms.manifests import Split
from transforms.records import ImageRef
from transforms.settings import InputSettings
from transforms.shards import FolderShard, Shard, list_shard, plan_shards, take_apart
from transforms.storage import FileStat

pytest_plugins = ["tests.gcs_store", "tests.s3_store"]

EVERYTHING = InputSettings(extensions=("*",))


def in_shards(source: InputSource, enough: int, chosen: InputSettings = EVERYTHING) -> list[ImageRef | BadName]:
    """List an input shard by shard."""
    found: list[ImageRef | BadName] = []
    for part in plan_shards(source, chosen, enough=enough):
        found += [part] if isinstance(part, ImageRef | BadName) else list_shard(part, chosen)
    return found


def shards(source: InputSource, enough: int) -> list[Shard]:
    """Return only what is listed later."""
    planned = plan_shards(source, EVERYTHING, enough=enough)
    return [part for part in planned if not isinstance(part, ImageRef | BadName)]


def check_equal(text: str, enough: int, chosen: InputSettings = EVERYTHING) -> int:
    """See that both roads give the same entries, each as often; return how many."""
    source = parse_input(text)
    expected = Counter(list_input(source, chosen))
    assert Counter(in_shards(source, enough, chosen)) == expected
    return sum(expected.values())


NAMES = st.sampled_from(["a", "b", "a.jpg", "c.PNG", "[x]", " ", "é", "a b"])
TREES = st.recursive(st.none(), lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=25)
Tree = dict[str, "Tree | None"]


def grow(folder: Path, tree: Tree) -> None:
    """Make the files and folders of a tree."""
    folder.mkdir()
    for name, inner in tree.items():
        if inner is None:
            (folder / name).write_bytes(b"x")
        else:
            grow(folder / name, inner)


@settings(deadline=None, max_examples=60)
@given(tree=TREES.filter(lambda tree: tree is not None), enough=st.integers(1, 9))
def test_any_tree_is_listed_whole_and_once(tree: Tree, enough: int) -> None:
    """Folders and globs, with files at every level and empty folders, in any number of shards."""
    with tempfile.TemporaryDirectory() as place:
        grow(Path(place) / "in", tree)
        check_equal(f"{place}/in", enough)
        check_equal(f"{place}/in", enough, InputSettings())
        for pattern in ("**", "**/*.jpg", "a/**", "*/*", "{a,b}/*.jpg", "*"):
            check_equal(f"{place}/in/{pattern}", enough)


@pytest.mark.parametrize("enough", [1, 2, 3, 100])
def test_links_are_followed_as_in_one_go(tmp_path: Path, enough: int) -> None:
    """A folder that two links lead to is listed twice more, a link to a folder above it not, wherever the cut is."""
    make(tmp_path, "in/a/b/1.jpg", "in/a/2.jpg", "in/c/d/e/3.jpg", "other/4.jpg", "in/5.jpg")
    os.symlink(tmp_path / "in" / "a", tmp_path / "in" / "c" / "again")
    os.symlink(tmp_path / "other", tmp_path / "in" / "c" / "d" / "out")
    os.symlink(tmp_path / "in", tmp_path / "in" / "a" / "b" / "up")
    os.symlink(tmp_path / "in" / "a", tmp_path / "in" / "a" / "b" / "self")
    os.symlink(tmp_path / "nowhere", tmp_path / "in" / "c" / "broken")
    assert check_equal(f"{tmp_path}/in", enough) == 8


def test_a_folder_is_taken_apart_until_there_are_enough(tmp_path: Path) -> None:
    """A chain of single folders is followed; enough folders are left whole; files on the way are listed on the way."""
    make(tmp_path, *(f"2026/11/{day:02}/{name}.jpg" for day in range(1, 5) for name in ("x/1", "y/1", "2")))
    make(tmp_path, "2026/0.jpg")
    source = parse_input(str(tmp_path))
    for enough, expected in ((1, ["2026"]), (2, [f"2026/11/{day:02}" for day in range(1, 5)])):
        assert [os.path.relpath(part.folder, tmp_path) for part in shards(source, enough)] == expected  # type: ignore[union-attr]
    assert len(shards(source, 5)) == 8
    # Where it gets flat, all has been listed on the way.
    assert shards(source, 9) == []
    assert check_equal(str(tmp_path), 9) == 13


def test_a_folder_with_too_many_folders_is_listed_in_one_go() -> None:
    """A request for each of its folders would cost more than one for each thousand files."""
    tree = {"r": ["r/a", "r/b"], "r/a": [f"r/a/{i}" for i in range(5)], "r/b": ["r/b/1", "r/b/2"]}

    def list_one(folder: str) -> Level:
        return Level([FileStat(f"{folder}/f", 1, "v")], tree.get(folder, []))

    found = list(take_apart("r", list_one, enough=4, most=4))
    assert [part if isinstance(part, str) else part.path for part in found] == [
        "r/f", "r/a", "r/b/f", "r/b/1/f", "r/b/2/f",
    ]  # fmt: skip


def test_what_cannot_be_taken_apart_is_listed_in_one_go() -> None:
    """The rest goes on."""
    levels = {"r": Level([], ["r/odd", "r/b"]), "r/odd": None, "r/b": Level([], ["r/b/1", "r/b/2"])}
    assert list(take_apart("r", levels.__getitem__, enough=3)) == ["r/odd", "r/b/1", "r/b/2"]


def test_a_folder_that_goes_while_it_is_taken_apart_is_no_error(tmp_path: Path) -> None:
    """As in one go: what is deleted meanwhile is not listed. The input itself must be there."""
    make(tmp_path, "a/1.jpg", "b/2.jpg")
    source = parse_input(str(tmp_path))
    parts = list(plan_shards(source, EVERYTHING, enough=2))
    (tmp_path / "a" / "1.jpg").unlink()
    (tmp_path / "a").rmdir()
    listed = [entry for part in parts for entry in list_shard(part, EVERYTHING)]  # type: ignore[arg-type]
    assert [entry.path for entry in listed] == [f"{tmp_path}/b/2.jpg"]
    gone = InputSource("gone", "folder", f"{tmp_path}/gone", "image_path")
    with pytest.raises(FileNotFoundError):
        list(plan_shards(gone, EVERYTHING))
    assert list(plan_shards(gone._replace(kind="glob", path=f"{tmp_path}/gone/**/*.jpg"), EVERYTHING)) == []


def test_single_files_and_manifests_have_shards_of_their_own(tmp_path: Path) -> None:
    """A file is itself, a manifest its splits, a glob without folders one listing."""
    make(tmp_path, "1.jpg")
    (tmp_path / "l.txt").write_text("a.jpg\n" * 10)
    file, glob = (parse_input(f"{tmp_path}/{name}") for name in ("1.jpg", "*.jpg"))
    assert shards(file, 9) == [file]
    assert shards(glob, 9) == [glob]
    listed = list(plan_shards(parse_input(f"@{tmp_path}/l.txt"), EVERYTHING, split_bytes=25))
    assert [(part.start, part.end) for part in listed if isinstance(part, Split)] == [(0, 25), (25, 50), (50, 60)]


KEYS = (
    "1.jpg", "a/1.jpg", "a/2.jpg", "a/b/c/1.jpg", "a/b/d/1.jpg", "e/f/g/1.jpg", "e/f/h.png", "x", "x/1.jpg",
    "marker/1.jpg", "q 1/[2].jpg", "é/1.jpg",
)  # fmt: skip
# What only a store can hold: an empty part, a part that is a step elsewhere, the marker of a folder.
ODD_KEYS = ("a//1.jpg", "/2.jpg", "e/./1.jpg", "e/../1.jpg", "marker/", "e/f//g//h.jpg")


def put(place: str, keys: Sequence[str]) -> None:
    """Write small objects."""
    for key in keys:
        filesystem, inner = storage.filesystem(place)
        with filesystem.open_output_stream(f"{inner}/{key}") as stream:
            stream.write(b"x")


def put_oddly(endpoint: str, place: str, keys: Sequence[str]) -> None:
    """Write objects of S3 whose keys Arrow does not write."""
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
    for key in keys:
        connection.request("PUT", f"/{place.removeprefix('s3://')}/{key}", b"x")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
    connection.close()


@pytest.mark.parametrize("odd", [(), ODD_KEYS[:1], ODD_KEYS])
def test_prefixes_of_s3_are_listed_whole_and_once(s3_endpoint: str, bucket: str, odd: Sequence[str]) -> None:
    """With keys that only a store can hold, too."""
    put(f"{bucket}/in", KEYS)
    put_oddly(s3_endpoint, f"{bucket}/in", odd)
    for enough in (1, 3, 7, 100):
        for text in ("in", "in/a", "in/**/*.jpg", "in/*/*.jpg"):
            assert check_equal(f"{bucket}/{text}", enough) >= 1
        check_equal(bucket, enough)
    found = [part for part in shards(parse_input(f"{bucket}/in"), 3) if isinstance(part, FolderShard)]
    assert len(found) == (1 if odd == ODD_KEYS else 6)  # the empty part lies at the first level there


def test_prefixes_of_gcs_are_listed_whole_and_once(gcs_bucket: str) -> None:
    """The same keys."""
    put(f"{gcs_bucket}/in", KEYS)
    for enough in (1, 3, 100):
        for text in ("in", "in/a", "in/**/*.jpg"):
            assert check_equal(f"{gcs_bucket}/{text}", enough) >= 1
        check_equal(gcs_bucket, enough)
    found = [part for part in shards(parse_input(f"{gcs_bucket}/in"), 3) if isinstance(part, FolderShard)]
    assert len(found) == 6


def test_a_large_level_of_gcs_is_listed_by_itself(gcs_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by who plans: 100 million objects in one prefix are 34 GB. A first image is found in it all the same."""
    put(f"{gcs_bucket}/in", KEYS)
    monkeypatch.setattr(levels, "list_google_level", functools.partial(list_google_level, most=2))
    for enough in (1, 3, 100):
        assert check_equal(f"{gcs_bucket}/in", enough) == len(KEYS)
    assert [part.folder for part in shards(parse_input(f"{gcs_bucket}/in"), 3) if isinstance(part, FolderShard)] == [
        f"{gcs_bucket}/in"
    ]
    with monkeypatch.context() as patch:
        patch.setattr(storage, "list_folder", None)
        check_not_empty(parse_input(f"{gcs_bucket}/in"), InputSettings())


def test_a_level_of_gcs_with_many_folders_and_no_file_is_large_too(gcs_bucket: str) -> None:
    """A folder for each of a hundred million images: who plans does not list them all first."""
    put_in_google(gcs_bucket, *(f"in/{number}/1.jpg" for number in range(5)))
    level = list_google_level(f"{gcs_bucket}/in", most=5)
    assert level is not None
    assert (len(level.folders), level.cut) == (5, False)
    level = list_google_level(f"{gcs_bucket}/in", most=4)
    assert level is not None
    assert level.cut


def test_a_first_image_of_gcs_is_found_beside_an_empty_folder(gcs_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The console leaves the marker of a folder that was emptied: no reason to list all that lies beside it."""
    put_in_google(gcs_bucket, "in/", "in/a/", "in/b/1.jpg")
    level = list_google_level(f"{gcs_bucket}/in/a")
    assert level is not None
    assert (level.files, level.folders) == ([], [])
    assert check_equal(f"{gcs_bucket}/in", 100) == 1
    monkeypatch.setattr(storage, "list_folder", None)
    check_not_empty(parse_input(f"{gcs_bucket}/in"), InputSettings())


def test_keys_of_gcs_that_are_no_folders_are_listed_in_one_go(gcs_bucket: str) -> None:
    """An empty part; and the marker of a folder is no object in it."""
    level = list_google_level(gcs_bucket)
    assert level is None  # nothing there: the listing of all says what that means
    put_in_google(gcs_bucket, "in/", "in/a.jpg", "in/b/1.jpg")
    level = list_google_level(f"{gcs_bucket}/in")
    assert level is not None
    assert ([file.path for file in level.files], level.folders) == ([f"{gcs_bucket}/in/a.jpg"], [f"{gcs_bucket}/in/b"])
    put_in_google(gcs_bucket, "empty//1.jpg", "empty/2.jpg")
    assert list_google_level(f"{gcs_bucket}/empty") is None


class KeepsConnections(Quiet, BaseHTTPRequestHandler):
    """Answers with one prefix, as Google's servers do: on a connection that stays open."""

    protocol_version = "HTTP/1.1"
    held: ClassVar[set[object]] = set()

    def setup(self) -> None:
        """Note a connection."""
        super().setup()
        self.held.add(self)

    def finish(self) -> None:
        """Note its end."""
        super().finish()
        self.held.discard(self)

    def do_GET(self) -> None:
        """Tell the prefix."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body := b'{"prefixes": ["in/a/"]}')))
        self.end_headers()
        self.wfile.write(body)


def test_a_level_of_gcs_leaves_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher asks for a thousand levels, and many systems allow a process a thousand open files."""
    from tests.gcs_store import use_gcs  # pytest has to import it first, as a plugin

    gc.disable()
    try:
        with serving(KeepsConnections) as server, monkeypatch.context() as patch:
            use_gcs(patch, server.url)
            for _ in range(10):
                level = list_google_level("gs://bucket/in")
                assert level is not None
                assert level.folders == ["gs://bucket/in/a"]
            deadline = time.monotonic() + 30
            # Each level would keep one. On a busy machine two of ten were seen to stay longer.
            while len(KeepsConnections.held) > 4 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(KeepsConnections.held) <= 4
    finally:
        gc.enable()
        storage._remote_filesystem.cache_clear()


def put_in_google(bucket: str, *keys: str) -> None:
    """Write objects whose keys Arrow does not write."""
    client = Client(project=None, credentials=AnonymousCredentials())
    for key in keys:
        client.bucket(bucket.removeprefix("gs://")).blob(key).upload_from_string(b"x")


def test_a_bucket_of_gcs_that_is_not_there_is_named(gcs_bucket: str) -> None:
    """As an error of the storage."""
    with pytest.raises(FileNotFoundError, match=f"^{gcs_bucket}-none: "):
        list_google_level(f"{gcs_bucket}-none")
