"""Names, listings, writes and moves, on a local disk and on both kinds of store, sound and faulty."""

import contextlib
import functools
import hashlib
import os
import stat as stat_module
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from tests.fault_proxy import PASSING, Fault, FaultyStore
from transforms import folders, moving, storage, stores
from transforms.errors import ConfigError
from transforms.retrying import Backoff

pytest_plugins = ["tests.s3_store", "tests.gcs_store", "tests.faulty_stores"]

# Characters that a URL, a glob, a shell or a table could take for something else.
HARD_NAMES = (
    "a b.jpg", " lead.jpg", "trail ", "50%.jpg", "%20.jpg", "#1.jpg", "?q.jpg", "[1].jpg", "*.jpg", "{a,b}.jpg",
    "it's.jpg", '"q".jpg', "a+b&c=d.jpg", "a\\b.jpg", "~x.jpg", "@x.jpg", "-x.jpg", "ñ日本🍏.jpg", "n\u0303.jpg",
)  # fmt: skip


class TestAbsolute:
    @pytest.mark.parametrize(
        ("path", "base", "name"),
        [
            ("/a/b.jpg", None, "/a/b.jpg"),
            ("b.jpg", "/a", "/a/b.jpg"),
            ("./c/../b.jpg", "/a", "/a/b.jpg"),
            ("../b.jpg", "/a/c", "/a/b.jpg"),
            ("/a//b.jpg", None, "/a/b.jpg"),
            ("//a/b.jpg", None, "/a/b.jpg"),  # POSIX may keep two slashes in front: that would be a second name
            ("/", None, "/"),
            ("a:b.jpg", "/a", "/a/a:b.jpg"),  # no scheme without ://
            ("x.jpg", "s3://bucket/in", "s3://bucket/in/x.jpg"),
            ("x.jpg", "s3://bucket/in/", "s3://bucket/in/x.jpg"),
            ("./x.jpg", "gs://bucket", "gs://bucket/x.jpg"),
            ("../x.jpg", "s3://bucket/in/lists", "s3://bucket/in/x.jpg"),
            ("./../../x.jpg", "s3://bucket/in/lists", "s3://bucket/x.jpg"),
            ("../../x.jpg", "s3://bucket/in", "s3://bucket/../x.jpg"),  # nothing lies above a bucket
            ("a/../x.jpg", "s3://bucket", "s3://bucket/a/../x.jpg"),  # a store has keys, not folders
            ("/local/x.jpg", "s3://bucket", "/local/x.jpg"),
            ("s3://bucket/a%20b#1?.jpg", "/a", "s3://bucket/a%20b#1?.jpg"),  # a key, letter for letter
            ("s3://bucket//x.jpg", None, "s3://bucket//x.jpg"),
            ("S3://bucket/X.jpg", None, "s3://bucket/X.jpg"),
            ("file:///a/b.jpg", "s3://bucket", "/a/b.jpg"),
            ("file://localhost/a/b.jpg", None, "/a/b.jpg"),
            ("file:///a/x%20y%2520.jpg", None, "/a/x y%20.jpg"),
            ("file:///a/50%.jpg", None, "/a/50%.jpg"),  # no escape: stays
            ("file:///a/n#1?.jpg", None, "/a/n#1?.jpg"),  # a file has no query
            ("file:///a/%C3%B1.jpg", None, "/a/ñ.jpg"),
            ("file:///a/%FF.jpg", None, "/a/\udcff.jpg"),  # not UTF-8: the name that Python gives to the byte
            ("file:///a/b%2Fc.jpg", None, "/a/b/c.jpg"),
        ],
    )
    def test_every_form_has_one_name(self, path: str, base: str | None, name: str) -> None:
        """The table says which; a name is its own name."""
        assert storage.absolute(path, base) == name
        assert storage.absolute(name) == name

    def test_relative_paths_start_at_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without a base it is the process's own folder."""
        monkeypatch.chdir(tmp_path)
        assert storage.absolute("a/b.jpg") == f"{tmp_path}/a/b.jpg"

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            (
                "https://photos/a.jpg",
                "storage scheme https:// of https://photos/a.jpg is not supported; use local, s3:// or gs://",
            ),
            (
                "s3a://photos/a.jpg",
                "storage scheme s3a:// of s3a://photos/a.jpg is not supported; write s3://; use local, s3:// or gs://",
            ),
            (
                "git+ssh://x/a.jpg",
                "storage scheme git+ssh:// of git+ssh://x/a.jpg is not supported; use local, s3:// or gs://",
            ),
            (
                "https://me:pass word@host/a cat.jpg?X-Amz-Signature=f00",
                "storage scheme https:// of https://***@host/a cat.jpg?*** is not supported; use local, s3:// or gs://",
            ),
            ("s3:///a.jpg", "s3:///a.jpg names no bucket; write s3://bucket/folder"),
            ("gs://", "gs:// names no bucket; write gs://bucket/folder"),
            (
                "file://photos/a.jpg",
                "file://photos/a.jpg names the machine photos; a local file has three slashes, file:///photos/a.jpg",
            ),
        ],
    )
    def test_what_cannot_be_read_is_refused(self, path: str, message: str) -> None:
        """The message names the path and the way out."""
        with pytest.raises(ConfigError) as caught:
            storage.absolute(path)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        (("/a", "b", "c"), "/a/b/c"),
        (("/a/", "b"), "/a/b"),
        (("/", "b"), "/b"),
        (("s3://bucket", "b"), "s3://bucket/b"),
        (("s3://bucket/a/", "b c"), "s3://bucket/a/b c"),
    ],
)
def test_joined_parts_have_one_slash_between(parts: tuple[str, ...], joined: str) -> None:
    """Local and remote alike; parent takes the last part off again."""
    assert storage.join(*parts) == joined
    assert storage.join(storage.parent(joined), joined.rpartition("/")[2]) == joined


def names(folder: Path, **options: Any) -> list[str]:
    """Return what is listed, relative to the folder."""
    return [os.path.relpath(file.path, folder) for file in storage.list_folder(str(folder), **options)]


@contextlib.contextmanager
def deep_folder(top: Path, levels: int) -> Iterator[None]:
    """Make folders in folders with a file in the last one; take them down again, for rmtree does not get so deep."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        here = change(here, "d")
    os.close(os.open("x.jpg", os.O_CREAT, dir_fd=here))
    try:
        yield
    finally:
        os.unlink("x.jpg", dir_fd=here)
        for _ in range(levels):
            here = change(here, "..")
            os.rmdir("d", dir_fd=here)
        os.close(here)


def change(here: int, name: str) -> int:
    """Return a descriptor of another folder, and close this one."""
    there = os.open(name, os.O_RDONLY, dir_fd=here)
    os.close(here)
    return there


class TestListFolder:
    def test_every_file_is_described(self, tmp_path: Path) -> None:
        """Path, size and version, for hard names and deep ones, sorted by name within a folder."""
        for name in HARD_NAMES:
            (tmp_path / name).write_bytes(name.encode())
        (tmp_path / "deep" / "er").mkdir(parents=True)
        (tmp_path / "deep" / "er" / "x.jpg").write_bytes(b"x")
        (tmp_path / "empty").mkdir()
        found = list(storage.list_folder(str(tmp_path)))
        assert [file.path for file in found] == [f"{tmp_path}/{name}" for name in sorted([*HARD_NAMES, "deep"])][
            : sorted([*HARD_NAMES, "deep"]).index("deep")
        ] + [f"{tmp_path}/deep/er/x.jpg"] + [f"{tmp_path}/{name}" for name in sorted(HARD_NAMES) if name > "deep"]
        for file in found:
            assert file == storage.stat(file.path)
            assert file.size_bytes == len(Path(file.path).read_bytes())

    def test_without_recursion_folders_below_are_left_out(self, tmp_path: Path) -> None:
        """Only the folder's own files."""
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "b.jpg").touch()
        (tmp_path / "c.jpg").touch()
        assert names(tmp_path, recursive=False) == ["c.jpg"]

    def test_links_are_followed_but_never_in_circles(self, tmp_path: Path) -> None:
        """A link to a folder elsewhere is listed under its own name; one to a folder above is not."""
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x.jpg").touch()
        (tmp_path / "a" / "above").symlink_to(tmp_path)
        (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
        (tmp_path / "b").symlink_to(tmp_path / "a")
        (tmp_path / "c.jpg").symlink_to(tmp_path / "a" / "x.jpg")
        assert names(tmp_path) == ["a/x.jpg", "b/x.jpg", "c.jpg"]

    def test_broken_links_are_listed(self, tmp_path: Path) -> None:
        """To nowhere, to itself, or below a file: reading them will say what is wrong."""
        (tmp_path / "a.jpg").symlink_to(tmp_path / "nowhere")
        (tmp_path / "b.jpg").symlink_to(tmp_path / "b.jpg")
        (tmp_path / "c.jpg").write_bytes(b"x")
        (tmp_path / "d.jpg").symlink_to(tmp_path / "c.jpg" / "below")
        assert names(tmp_path) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]

    def test_pipes_are_listed(self, tmp_path: Path) -> None:
        """What is no regular file fails by name when it is read."""
        os.mkfifo(tmp_path / "pipe.jpg")
        assert names(tmp_path) == ["pipe.jpg"]

    def test_names_that_are_not_utf8_are_listed(self, tmp_path: Path) -> None:
        """Any byte but slash and NUL may stand in a name."""
        name = os.fsdecode(b"caf\xe9.jpg")
        (tmp_path / name).write_bytes(b"x")
        assert names(tmp_path) == [name]
        assert storage.stat(f"{tmp_path}/{name}") == next(storage.list_folder(str(tmp_path)))

    def test_deep_trees_are_listed_whole(self, tmp_path: Path) -> None:
        """Deeper than Python's stack of calls: 1,200 folders."""
        with deep_folder(tmp_path, 1200):
            assert names(tmp_path) == ["d/" * 1200 + "x.jpg"]

    def test_what_vanishes_meanwhile_is_not_listed(self, tmp_path: Path) -> None:
        """Files and folders that are deleted between two entries are no error."""
        for name in "ab":
            (tmp_path / f"{name}.jpg").touch()
        (tmp_path / "c").mkdir()
        listing = storage.list_folder(str(tmp_path))
        assert next(listing).path.endswith("a.jpg")
        (tmp_path / "b.jpg").unlink()
        (tmp_path / "c").rmdir()
        assert list(listing) == []

    def test_missing_folder_is_an_error(self, tmp_path: Path) -> None:
        """Nothing there is not the same as nothing in it."""
        with pytest.raises(FileNotFoundError):
            list(storage.list_folder(str(tmp_path / "none")))

    def test_unreadable_folder_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A part of the images never goes missing in silence: the folder below is named."""
        (tmp_path / "closed").mkdir(mode=0)
        if os.geteuid() == 0:  # root may read everything: the system call itself refuses
            real = os.scandir
            monkeypatch.setattr(os, "scandir", functools.partial(refuse, real, str(tmp_path / "closed")))
        with pytest.raises(PermissionError, match="closed"):
            list(storage.list_folder(str(tmp_path)))

    def test_link_into_a_closed_place_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whether photos lie behind it cannot be told: that is said, not passed over."""
        (tmp_path / "closed" / "photos").mkdir(parents=True)
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "link").symlink_to(tmp_path / "closed" / "photos")
        (tmp_path / "closed").chmod(0)
        if os.geteuid() == 0:
            monkeypatch.setattr(folders, "_entry_status", lambda entry: refuse(len, entry.path, entry.path))
        with pytest.raises(PermissionError, match="link"):
            names(tmp_path / "in")
        (tmp_path / "closed").chmod(0o700)


def refuse(real: Any, closed: str, path: str) -> Any:
    """Raise what the system raises for a closed place, call the real function for any other."""
    if path == closed:
        raise PermissionError(13, "Permission denied", path)
    return real(path)


class TestStat:
    def test_version_changes_with_the_content(self, tmp_path: Path) -> None:
        """Modification time and size: a replaced file has another version, an untouched one the same."""
        file = tmp_path / "x.jpg"
        file.write_bytes(b"abc")
        os.utime(file, ns=(0, 1_700_000_000_123_456_789))
        assert storage.stat(str(file)) == (str(file), 3, "1700000000123456789-3")
        file.write_bytes(b"abc")
        assert storage.stat(str(file)) != (str(file), 3, "1700000000123456789-3")

    def test_only_a_file_is_a_file_and_only_a_folder_a_folder(self, tmp_path: Path) -> None:
        """Everything else is neither, without an error."""
        (tmp_path / "x.jpg").touch()
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        (tmp_path / "link").symlink_to(tmp_path)
        os.mkfifo(tmp_path / "pipe")
        neither = ["none", "loop", "pipe", "x.jpg/below", "n" * 300, "a\0b", "\ud83d"]
        assert [storage.stat(f"{tmp_path}/{name}") for name in neither] == [None] * 7
        assert [storage.is_folder(f"{tmp_path}/{name}") for name in [*neither, "x.jpg"]] == [False] * 8
        assert storage.stat(str(tmp_path)) is None
        assert storage.is_folder(str(tmp_path))
        assert storage.is_folder(f"{tmp_path}/link/")
        assert storage.is_folder("/")

    def test_closed_place_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not permitted is not the same as not there."""
        monkeypatch.setattr(os, "stat", functools.partial(refuse, os.stat, "/closed/x.jpg"))
        for question in (storage.stat, storage.is_folder):
            with pytest.raises(PermissionError):
                question("/closed/x.jpg")


class TestWriteBytes:
    def test_content_is_replaced_in_one_step(self, tmp_path: Path) -> None:
        """A reader sees one content or the other, never none and never a part; nothing is left beside it."""
        path = str(tmp_path / "new" / "latest.json")
        contents = [bytes([letter]) * 100_000 for letter in b"ab"]
        storage.write_bytes(path, contents[0])
        seen: set[bytes] = set()
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                seen.add(storage.read_bytes(path))

        reader = threading.Thread(target=read)
        reader.start()
        for turn in range(40):
            storage.write_bytes(path, contents[turn % 2])
        stop.set()
        reader.join()
        assert seen <= set(contents)
        assert os.listdir(tmp_path / "new") == ["latest.json"]

    def test_two_writers_do_not_meet(self, tmp_path: Path) -> None:
        """Threads of one process write the same name at the same time: one of the contents stands, whole."""
        path = str(tmp_path / "latest.json")
        contents = [bytes([letter]) * 50_000 for letter in b"abcd"]
        threads = [
            threading.Thread(target=lambda data=data: [storage.write_bytes(path, data) for _ in range(20)])
            for data in contents
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert storage.read_bytes(path) in contents
        assert os.listdir(tmp_path) == ["latest.json"]

    def test_failed_write_leaves_the_old_content_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A full disk costs the write, not what was there."""
        path = str(tmp_path / "latest.json")
        storage.write_bytes(path, b"old")

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            storage.write_bytes(path, b"new")
        assert os.listdir(tmp_path) == ["latest.json"]
        assert storage.read_bytes(path) == b"old"


@pytest.fixture
def place(scheme: str, request: pytest.FixtureRequest) -> str:
    """The URL of a new, empty bucket of each kind of store."""
    return str(request.getfixturevalue("bucket" if scheme == "s3" else "gcs_bucket"))


class TestStores:
    def test_hard_names_survive_the_round_trip(self, place: str) -> None:
        """Written, listed, asked for and read under their own name, with one version."""
        for name in HARD_NAMES:
            storage.write_bytes(f"{place}/in/{name}", name.encode())
        listed = list(storage.list_folder(f"{place}/in"))
        assert {file.path for file in listed} == {f"{place}/in/{name}" for name in HARD_NAMES}
        for file in listed:
            assert storage.stat(file.path) == file
            assert storage.read_bytes(file.path) == file.path.rpartition("/")[2].encode()

    def test_prefixes_are_folders(self, place: str) -> None:
        """With or without a slash at the end; below them lie files, with or without those of prefixes below."""
        for name in ("x.jpg", "a/x.jpg", "a/b/x.jpg", "ab/x.jpg"):
            storage.write_bytes(f"{place}/{name}", b"x")
        assert storage.is_folder(place)
        assert storage.is_folder(f"{place}/a/")
        assert not storage.is_folder(f"{place}/x.jpg")
        assert not storage.is_folder(f"{place}/none")
        assert storage.stat(f"{place}/a") is None
        listed = [file.path for file in storage.list_folder(f"{place}/a/")]
        assert sorted(listed) == [f"{place}/a/b/x.jpg", f"{place}/a/x.jpg"]
        assert [file.path for file in storage.list_folder(f"{place}/a", recursive=False)] == [f"{place}/a/x.jpg"]
        assert len(list(storage.list_folder(place))) == 4

    def test_names_of_a_folder_are_its_files_and_folders(self, place: str) -> None:
        """Not what lies deeper; where there is no folder, there are none."""
        storage.write_bytes(f"{place}/in/x.json", b"x")
        storage.write_bytes(f"{place}/in/deep/er/y.json", b"y")
        found = {info.base_name: info.type for info in storage.list_names(f"{place}/in")}
        assert found == {"x.json": fs.FileType.File, "deep": fs.FileType.Directory}
        assert storage.list_names(f"{place}/none") == []

    def test_missing_places_are_errors_or_none(self, place: str) -> None:
        """A listing of nothing is an error; a question about nothing has the answer None."""
        with pytest.raises(FileNotFoundError):
            list(storage.list_folder(f"{place}/none"))
        with pytest.raises(OSError, match="NO_SUCH_BUCKET|NOT_FOUND"):
            list(storage.list_folder(f"{place}-none"))
        assert list(storage.list_folder(f"{place}/none", missing_ok=True)) == []
        assert storage.stat(f"{place}/none") is None
        assert storage.stat(f"{place}-none/x") is None
        with pytest.raises(FileNotFoundError):
            storage.read_bytes(f"{place}/none")

    def test_objects_are_moved_and_deleted_repeatably(self, place: str) -> None:
        """The staged protocol of a run, twice over."""
        pairs = [(f"{place}/run/_staging/{n}", f"{place}/scores/{n}") for n in ("a b", "50%", "c")]
        storage.make_folder(f"{place}/run/_staging")
        for source, _ in pairs:
            storage.write_bytes(source, source.encode())
        moving.move_files(pairs[:1])
        for _ in range(2):
            moving.move_files(pairs)
            assert [storage.read_bytes(target) for _, target in pairs] == [source.encode() for source, _ in pairs]
            assert [storage.stat(source) for source, _ in pairs] == [None] * 3
        with pytest.raises(FileNotFoundError, match="neither at its old place nor at its new one"):
            moving.move_files([(f"{place}/none", f"{place}/new")])
        for _ in range(2):
            moving.delete_file(pairs[0][1])
            assert storage.stat(pairs[0][1]) is None
        for _ in range(2):
            moving.delete_folder(f"{place}/scores")
            assert not storage.is_folder(f"{place}/scores")

    def test_objects_are_copied_and_deleted_repeatably(self, place: str) -> None:
        """The old ones stay; one that is gone is copied where the new one is there."""
        pairs = [(f"{place}/run/_staging/{n}", f"{place}/scores/{n}") for n in ("a b", "50%", "c")]
        for source, _ in pairs:
            storage.write_bytes(source, source.encode())
        for _ in range(2):
            moving.copy_files(pairs)
            assert [storage.read_bytes(path) for pair in pairs for path in pair] == [
                source.encode() for source, _ in pairs for _ in range(2)
            ]
        moving.delete_folder(f"{place}/run/_staging")
        moving.copy_files(pairs)
        with pytest.raises(FileNotFoundError, match="neither at its old place nor at its new one"):
            moving.copy_files([(f"{place}/none", f"{place}/new")])
        for _ in range(2):
            moving.delete_files(target for _, target in pairs[:2])
            assert [file.path for file in storage.list_folder(f"{place}/scores")] == [f"{place}/scores/c"]

    def test_digests_are_those_of_all_bytes(self, place: str) -> None:
        """Of a file larger than what is read at a time, too."""
        data = bytes(range(256)) * 9000
        storage.write_bytes(f"{place}/x", data)
        assert storage.read_digest(f"{place}/x") == hashlib.sha256(data).hexdigest()

    def test_client_is_made_once(self, place: str) -> None:
        """A client an object would cost tens of times the read."""
        assert storage.filesystem(f"{place}/a")[0] is storage.filesystem(f"{place}/b")[0]


class TestFaultyStores:
    @pytest.mark.parametrize("fault", PASSING)
    def test_every_operation_survives_a_passing_fault(
        self, faulty: FaultyStore, fault: Fault, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first request of each meets it; the result is that of a sound store, though no client tries twice."""
        monkeypatch.setattr(stores, "_PATIENT_RETRIES", 0)
        monkeypatch.setattr(stores, "_PATIENT_SECONDS", 0.001)
        url, proxy = faulty
        source, target = f"{url}/a/x", f"{url}/b/x"
        for turn, (operation, result) in enumerate(
            [
                (lambda: storage.write_bytes(source, b"content"), None),
                (lambda: storage.read_bytes(source), b"content"),
                (lambda: getattr(storage.stat(source), "size_bytes", None), 7),
                (lambda: storage.stat(f"{url}/none"), None),
                (lambda: storage.is_folder(f"{url}/a"), True),
                (lambda: [file.path for file in storage.list_folder(url)], [source]),
                (lambda: [info.base_name for info in storage.list_names(url)], ["a"]),
                (lambda: storage.list_names(f"{url}/none"), []),
                (lambda: moving.move_files([(source, target)]), None),
                (lambda: storage.read_bytes(target), b"content"),
                (lambda: storage.stat(source), None),
                (lambda: moving.delete_file(target), None),
                (lambda: storage.stat(target), None),
                (lambda: storage.write_bytes(source, b""), None),
                (lambda: moving.delete_folder(f"{url}/a"), None),
                (lambda: storage.is_folder(f"{url}/a"), False),
            ]
        ):
            proxy.heal()
            # Only the body of a GET can be cut: other requests pass.
            proxy.inject(fault, "^GET" if fault is Fault.TRUNCATED else ".", times=1)
            assert operation() == result, turn
            if fault is not Fault.TRUNCATED:
                assert proxy.injected[fault] == turn + 1
        assert proxy.injected[fault] > 3

    @pytest.mark.parametrize("request_", ["^PUT .*/b/x|^POST .*rewriteTo", "^DELETE"])
    def test_move_whose_answer_was_lost_counts_as_moved(self, faulty: FaultyStore, request_: str) -> None:
        """The copy was made, or the source is gone already: nothing is lost, nothing is there twice."""
        url, proxy = faulty
        storage.write_bytes(f"{url}/a/x", b"new")
        storage.write_bytes(f"{url}/b/x", b"of an earlier night")
        proxy.inject(Fault.LOST_ANSWER, request_, times=1)
        moving.move_files([(f"{url}/a/x", f"{url}/b/x")])
        assert proxy.injected == {Fault.LOST_ANSWER: 1}
        assert storage.read_bytes(f"{url}/b/x") == b"new"
        assert [file.path for file in storage.list_folder(url)] == [f"{url}/b/x"]

    def test_deletions_whose_answers_were_lost_are_done(self, faulty: FaultyStore) -> None:
        """What is gone counts as deleted, and the rest of a folder follows."""
        url, proxy = faulty
        for name in ("x", "a/1", "a/2", "a/3"):
            storage.write_bytes(f"{url}/{name}", b"x")
        for operation in (lambda: moving.delete_file(f"{url}/x"), lambda: moving.delete_folder(f"{url}/a")):
            proxy.inject(Fault.LOST_ANSWER, "^DELETE|^POST .*delete", times=1)
            operation()
        assert proxy.injected == {Fault.LOST_ANSWER: 2}
        proxy.heal()
        assert storage.stat(f"{url}/x") is None
        assert not storage.is_folder(f"{url}/a")

    def test_publishing_asks_once_for_each_object(self, faulty: FaultyStore) -> None:
        """A copy is one request of S3, and three of GCS, where Arrow asks for both places itself: none are ours."""
        url, proxy = faulty
        pairs = [(f"{url}/a/{number}", f"{url}/b/{number}") for number in range(5)]
        for source, _ in pairs:
            storage.write_bytes(source, b"x")
        before = len(proxy.requests)
        moving.copy_files(pairs)
        assert len(proxy.requests) - before == len(pairs) * (1 if url.startswith("s3://") else 3)

    @pytest.mark.parametrize("fault", [Fault.FORBIDDEN, Fault.BAD_REQUEST])
    def test_lasting_error_is_not_asked_for_twice(self, faulty: FaultyStore, fault: Fault) -> None:
        """Refusals stay refusals: one request, and the error of the store."""
        url, proxy = faulty
        storage.write_bytes(f"{url}/x", b"x")
        proxy.inject(fault, ".")
        for operation, requests in (
            (lambda: storage.stat(f"{url}/x"), 1),
            (lambda: storage.read_bytes(f"{url}/x"), 1),
            (lambda: storage.write_bytes(f"{url}/y", b"y"), 1),
            (lambda: list(storage.list_folder(url)), 1),
            # One to move, and one to see whether the store has done it.
            (lambda: moving.move_files([(f"{url}/x", f"{url}/y")]), 2),
        ):
            before = len(proxy.requests)
            with pytest.raises((OSError, ValueError), match="ACCESS_DENIED|PERMISSION_DENIED|400|InvalidRequest"):
                operation()
            assert len(proxy.requests) - before == requests

    def test_trouble_that_does_not_pass_is_given_up(self, faulty: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the number of attempts and what the store said last; nothing has been written."""
        monkeypatch.setattr(storage, "Backoff", lambda: Backoff(deadline_seconds=0.5))
        url, proxy = faulty
        proxy.inject(Fault.UNAVAILABLE, ".")
        with pytest.raises(TimeoutError, match=r"tried \d+ times in \d\.\d s, the last error: .*(503|SLOW_DOWN)"):
            storage.write_bytes(f"{url}/x", b"x")
        assert proxy.injected[Fault.UNAVAILABLE] > 2
        proxy.heal()
        assert storage.stat(f"{url}/x") is None

    @pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.TOO_MANY, Fault.GATEWAY_TIMEOUT, Fault.LOST_ANSWER])
    def test_stream_survives_a_fault_at_each_of_its_requests(self, faulty: FaultyStore, fault: Fault) -> None:
        """Nobody can repeat a stream from outside: its client does, for opening, each part and the end."""
        url, proxy = faulty
        data = bytes(range(256)) * 4 * 1024 * 11  # 11 MiB: more than one part
        for pattern in ("uploads|uploadType=resumable&name", "partNumber=1&|upload_id", "partNumber=2&", "uploadId"):
            proxy.inject(fault, f"^(POST|PUT) .*({pattern})", times=1)
        filesystem, inner = storage.filesystem(f"{url}/part.parquet")
        with filesystem.open_output_stream(inner) as stream:
            for start in range(0, len(data), 1 << 20):
                stream.write(data[start : start + (1 << 20)])
        assert proxy.injected[fault] >= 2
        proxy.heal()
        assert storage.read_bytes(f"{url}/part.parquet") == data

    def test_missing_folder_is_missing_while_listings_fail(self, faulty: FaultyStore) -> None:
        """Of GCS, Arrow says that it exists when it cannot list it."""
        url, proxy = faulty
        proxy.inject(Fault.UNAVAILABLE, "^GET .*prefix=", times=1)
        assert not storage.is_folder(f"{url}/none")
        assert proxy.injected == {Fault.UNAVAILABLE: 1}


@pytest.mark.parametrize("scheme", ["s3"], indirect=True)
class TestFaultyS3:
    def test_listing_that_breaks_off_is_repeated_whole(
        self, faulty: FaultyStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A later page fails more often than the client tries: no entry is missing, none comes twice."""
        monkeypatch.setattr(stores, "_PATIENT_RETRIES", 1)
        url, proxy = faulty
        names = [f"{url}/in/{number}" for number in range(7)]
        for name in names:
            storage.write_bytes(name, b"x")
        proxy.replace = (b"max-keys=1000", b"max-keys=2")  # pages of two objects
        proxy.inject(Fault.UNAVAILABLE, "^GET .*continuation-token", times=3)
        assert [file.path for file in storage.list_folder(f"{url}/in")] == names
        assert proxy.injected[Fault.UNAVAILABLE] == 3
        assert proxy.count(r"^GET [^?]*\?list-type=2&max-keys=2&prefix=in") == 2  # it began twice

    def test_patience_does_not_wear_out(self, faulty: FaultyStore) -> None:
        """Pyarrow's own strategy stops retrying after a hundred retries in the life of a client."""
        url, proxy = faulty
        filesystem, inner = storage.filesystem(f"{url}/x")
        for _ in range(150):
            proxy.inject(Fault.UNAVAILABLE, "^HEAD", times=1)
            filesystem.get_file_info(inner)
        assert proxy.injected[Fault.UNAVAILABLE] == 150

    def test_silent_store_is_asked_again(self, faulty: FaultyStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """After the seconds that a connection may be silent."""
        monkeypatch.setattr(stores, "_SILENT_SECONDS", 1.0)
        url, proxy = faulty
        storage.write_bytes(f"{url}/x", b"x")
        proxy.stall_seconds = 20
        proxy.inject(Fault.STALL, "^GET", times=1)
        assert storage.read_bytes(f"{url}/x") == b"x"
        assert proxy.injected == {Fault.STALL: 1}


def test_written_files_obey_the_umask(tmp_path: Path) -> None:
    """Others can read what a night publishes: files are made like any program makes them."""
    plain = tmp_path / "plain"
    plain.touch()
    storage.write_bytes(str(tmp_path / "written"), b"x")
    modes = {stat_module.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "written")}
    assert len(modes) == 1
