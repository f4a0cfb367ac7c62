"""What an --input means: files, folders, globs and manifests, and what each refusal says."""

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms import storage
from transforms.errors import ConfigError, FailureCode, InputError
from transforms.inputs import BadName, InputSource, check_not_empty, list_input, parse_input, resolve
from transforms.records import ImageRef
from transforms.settings import InputSettings

pytest_plugins = ["tests.s3_store"]

DEFAULTS = InputSettings()


def make(folder: Path, *names: str) -> None:
    """Make small files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def paths(text: str, settings: InputSettings = DEFAULTS, **options: str) -> list[str]:
    """Return the paths that an input names; none of them may be a bad name."""
    entries = list(list_input(parse_input(text, **options), settings))
    assert not [entry for entry in entries if isinstance(entry, BadName)]
    return [entry.path for entry in entries]


def below(folder: Path, text: str, **options: Any) -> list[str]:
    """Return the paths that an input in a folder names, relative to it."""
    return [os.path.relpath(path, folder) for path in paths(f"{folder}/{text}", **options)]


def refusal(function: Callable[[], Any]) -> str:
    """Return the text of an InputError."""
    with pytest.raises(InputError) as caught:
        function()
    return str(caught.value)


class TestImages:
    def test_one_file_is_described(self, tmp_path: Path) -> None:
        """Size and version come with the name."""
        make(tmp_path, "x.jpg")
        stat = storage.stat(f"{tmp_path}/x.jpg")
        assert stat is not None
        source = parse_input(f"{tmp_path}/x.jpg")
        assert source == (f"{tmp_path}/x.jpg", "file", f"{tmp_path}/x.jpg", "image_path")
        assert list(list_input(source, DEFAULTS)) == [ImageRef(*stat)]

    def test_file_that_has_gone_is_listed_nevertheless(self, tmp_path: Path) -> None:
        """Between parsing and listing: it becomes a failures row when it is read, not a gap."""
        make(tmp_path, "x.jpg")
        source = parse_input(f"{tmp_path}/x.jpg")
        (tmp_path / "x.jpg").unlink()
        assert list(list_input(source, DEFAULTS)) == [ImageRef(f"{tmp_path}/x.jpg", None, None)]

    def test_one_file_needs_no_extension(self, tmp_path: Path) -> None:
        """Who names a file means it."""
        make(tmp_path, "photo")
        assert below(tmp_path, "photo") == ["photo"]

    def test_folder_gives_all_images_below_it(self, tmp_path: Path) -> None:
        """By the end of the name, in any case; nothing else, whatever the content."""
        images = ["a.jpg", "b.JPG", "c.JpEg", "d.d/e.Webp", "f f/g#.tiff", "h.txt.png", "z.heic"]
        make(tmp_path, *images, "a.txt", "jpg", "b.jpg.txt", "c.jpgx", "d.d/README")
        assert below(tmp_path, "") == images
        assert below(tmp_path, "d.d/") == ["d.d/e.Webp"]
        described = [ImageRef(*file) for file in storage.list_folder(f"{tmp_path}/d.d")][-1:]
        assert list(list_input(parse_input(f"{tmp_path}/d.d"), DEFAULTS)) == described

    @pytest.mark.parametrize(
        ("extensions", "found"),
        [
            (("dat",), ["a.dat"]),
            ((".DAT", "jpg"), ["a.dat", "b.jpg"]),  # a dot and capitals do no harm
            (("*",), ["a.dat", "b.jpg", "c"]),
        ],
    )
    def test_settings_say_which_files_of_a_folder_count(
        self, tmp_path: Path, extensions: tuple[str, ...], found: list[str]
    ) -> None:
        """input.extensions, for folders."""
        make(tmp_path, "a.dat", "b.jpg", "c")
        assert below(tmp_path, "", settings=InputSettings(extensions=extensions)) == found

    def test_relative_inputs_start_at_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """File, folder, glob and manifest alike."""
        make(tmp_path, "in/x.jpg")
        (tmp_path / "list.txt").write_text("in/x.jpg\n")
        monkeypatch.chdir(tmp_path)
        for text in ("in/x.jpg", "in", "./in/", "in/*.jpg", "**/*.jpg", "@list.txt", f"file://{tmp_path}/in"):
            assert paths(text) == [f"{tmp_path}/in/x.jpg"], text


class TestGlobs:
    @pytest.mark.parametrize(
        ("pattern", "found"),
        [
            ("*.jpg", [".h.jpg", "a.jpg", "b.jpg", "photo[2.jpg"]),  # letter for letter: not c.JPG
            ("*", [".h.jpg", "a.jpg", "b.jpg", "c.JPG", "d.png", "photo[2.jpg"]),  # a star does not cross folders
            ("**/*.jpg", [".h.jpg", "a.jpg", "b.jpg", "n/a.jpg", "n/m/x1.jpg", "n/m/x2.jpg", "photo[2.jpg"]),
            ("**/x?.jpg", ["n/m/x1.jpg", "n/m/x2.jpg"]),
            ("n/**", ["n/a.jpg", "n/m/x1.jpg", "n/m/x2.jpg"]),
            ("*/*.jpg", ["n/a.jpg"]),
            ("{a,c}.{jpg,JPG}", ["a.jpg", "c.JPG"]),
            ("{a,n/a}.jpg", ["a.jpg", "n/a.jpg"]),  # a slash within braces
            ("n/m/x[12].jpg", ["n/m/x1.jpg", "n/m/x2.jpg"]),
            ("[!a].jpg", ["b.jpg"]),
            ("photo[2*", ["photo[2.jpg"]),  # a bracket that never closes is a bracket
        ],
    )
    def test_globs_match(self, tmp_path: Path, pattern: str, found: list[str]) -> None:
        """Stars, question marks, sets, braces and folders in between."""
        make(
            tmp_path, ".h.jpg", "a.jpg", "b.jpg", "c.JPG", "d.png", "n/a.jpg", "n/m/x1.jpg", "n/m/x2.jpg", "photo[2.jpg"
        )
        assert below(tmp_path, pattern) == found

    def test_names_that_exist_are_no_globs(self, tmp_path: Path) -> None:
        """photo[1].jpg is itself where it exists; only else it stands for photo1.jpg."""
        make(tmp_path, "photo[1].jpg", "photo1.jpg", "photo2.jpg")
        assert below(tmp_path, "photo[1].jpg") == ["photo[1].jpg"]
        assert below(tmp_path, "photo[2].jpg") == ["photo2.jpg"]

    def test_folders_that_exist_are_no_globs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """run[1]/*.jpg lists run[1] and not run1, and so does *.jpg inside it."""
        make(tmp_path, "run[1]/a.jpg", "run1/b.jpg", "run2/c.jpg", "x*/d.jpg", "xy/e.jpg")
        assert below(tmp_path, "run[1]/*.jpg") == ["run[1]/a.jpg"]
        assert below(tmp_path, "run[2]/*.jpg") == ["run2/c.jpg"]
        assert below(tmp_path, "x*/*.jpg") == ["x*/d.jpg"]
        monkeypatch.chdir(tmp_path / "run[1]")
        assert paths("*.jpg") == [f"{tmp_path}/run[1]/a.jpg"]

    def test_only_the_fixed_folder_is_listed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A glob over one night does not list every other one; without ** it does not list what is deeper."""
        make(tmp_path, "2026/11/22/a.jpg", "2026/11/21/b.jpg")
        asked = []
        real = storage.list_folder

        def list_folder(folder: str, **options: Any) -> Iterator[storage.FileStat]:
            asked.append((os.path.relpath(folder, tmp_path), options["recursive"]))
            return real(folder, **options)

        monkeypatch.setattr(storage, "list_folder", list_folder)
        assert below(tmp_path, "2026/11/22/*.jpg") == ["2026/11/22/a.jpg"]
        assert below(tmp_path, "2026/*/22/*.jpg") == ["2026/11/22/a.jpg"]
        assert asked == [("2026/11/22", False), ("2026", True)]

    def test_too_many_braces_are_refused(self, tmp_path: Path) -> None:
        """A list of that length is a manifest."""
        text = f"{tmp_path}/{{1..5000}}.jpg"
        assert refusal(lambda: parse_input(text)) == (
            f"input {text} is no usable glob: Pattern limit exceeded the limit of 1000; use * or a manifest"
        )


class TestEmpty:
    def test_input_that_names_nothing_is_refused(self, tmp_path: Path) -> None:
        """Misspelt file, file with a slash, broken link."""
        make(tmp_path, "x.jpg")
        (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
        for name, path in (("y.jpg", "y.jpg"), ("x.jpg/", "x.jpg"), ("broken", "broken")):
            text = f"{tmp_path}/{name}"
            assert refusal(functools.partial(parse_input, text)) == (
                f"input {text} matches nothing: {tmp_path}/{path} is no file and no folder; "
                "give a file, folder, glob ('photos/**/*.jpg') or manifest (@paths.csv)"
            )

    @pytest.mark.parametrize("text", ["", " "])
    def test_empty_input_is_refused(self, text: str) -> None:
        """An unset shell variable must not score the working directory."""
        message = "an input is empty: give a file, folder, glob or manifest; is a shell variable not set?"
        assert refusal(lambda: parse_input(text)) == message

    @pytest.mark.parametrize(
        ("names", "what"),
        [
            ((), "it holds no file, let alone one ending in jpg; "),
            (("a.txt",), "it holds a.txt, and none ends in jpg; "),
            (("a.txt", "b", "c"), "it holds a.txt, b, c, and none ends in jpg; "),
            (("a.txt", "b", "c", "d"), "it holds a.txt, b, c, ..., and none ends in jpg; "),
        ],
    )
    def test_folder_without_images_is_refused(self, tmp_path: Path, names: Sequence[str], what: str) -> None:
        """The message shows what lies there instead."""
        make(tmp_path, *names)
        source = parse_input(str(tmp_path))
        assert refusal(lambda: check_not_empty(source, InputSettings(extensions=("jpg",)))) == (
            f"input {tmp_path} matches nothing: {what}set input.extensions, use a glob or a manifest"
        )

    @pytest.mark.parametrize("pattern", ["*.jpg", "none/*.jpg"])
    def test_glob_without_a_match_is_refused(self, tmp_path: Path, pattern: str) -> None:
        """Also where the folder is missing."""
        make(tmp_path, "a.png")
        text = f"{tmp_path}/{pattern}"
        assert refusal(lambda: check_not_empty(parse_input(text), DEFAULTS)) == (
            f"input {text} matches nothing: no file has a name like {text}"
        )

    @pytest.mark.parametrize(
        ("name", "content"),
        [("l.txt", b""), ("l.txt", b"\n\r\n\n"), ("l.csv", b""), ("l.csv", b"image_path\n"), ("l.jsonl", b"\n \n")],
    )
    def test_manifest_without_an_entry_is_refused(self, tmp_path: Path, name: str, content: bytes) -> None:
        """Blank lines are no entries, and neither is a header."""
        (tmp_path / name).write_bytes(content)
        text = f"@{tmp_path}/{name}"
        assert refusal(lambda: check_not_empty(parse_input(text), DEFAULTS)) == (
            f"input {text} matches nothing: the manifest has no entry"
        )

    def test_input_with_an_image_is_accepted(self, tmp_path: Path) -> None:
        """Folder, glob, file and manifest."""
        make(tmp_path, "a.jpg")
        (tmp_path / "list.txt").write_text("never-looked-at.jpg\n")
        for text in (f"{tmp_path}", f"{tmp_path}/*", f"{tmp_path}/a.jpg", f"@{tmp_path}/list.txt"):
            check_not_empty(parse_input(text), DEFAULTS)

    def test_closed_places_are_refused_with_the_reason(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Neither a traceback nor "matches nothing"."""

        def closed(path: str, *_: Any, **__: Any) -> Any:
            raise PermissionError(13, "Permission denied", path)

        source = parse_input(str(tmp_path))
        monkeypatch.setattr(storage, "list_folder", closed)
        assert refusal(lambda: check_not_empty(source, DEFAULTS)) == (
            f"input {tmp_path} cannot be listed: [Errno 13] Permission denied: '{tmp_path}'"
        )
        monkeypatch.setattr(storage, "is_folder", closed)
        assert refusal(lambda: parse_input("/photos")) == (
            "input /photos cannot be looked at: [Errno 13] Permission denied: '/photos'"
        )


class TestManifestNames:
    @pytest.mark.parametrize("name", ["l.csv.gz", "l.txt.GZ", "l.zst"])
    def test_compressed_manifest_is_refused(self, tmp_path: Path, name: str) -> None:
        """It cannot be read in parts, and the way out is one command."""
        text = f"@{tmp_path}/{name}"
        ending = name[name.rindex(".") :].lower()
        assert refusal(lambda: parse_input(text)) == (
            f"manifest {text} is compressed ({ending}) and cannot be read in parts: unpack it first"
        )

    @pytest.mark.parametrize("name", ["l.lst", "l"])
    def test_unknown_kind_is_refused(self, tmp_path: Path, name: str) -> None:
        """The kinds are named."""
        text = f"@{tmp_path}/{name}"
        assert refusal(lambda: parse_input(text)) == (
            f"manifest {text}: the name must end in one of .csv, .jsonl, .ndjson, .parquet, .txt"
        )

    def test_missing_manifest_is_refused(self, tmp_path: Path) -> None:
        """A folder is no manifest either."""
        (tmp_path / "l.csv").mkdir()
        for name in ("none.txt", "l.csv"):
            text = f"@{tmp_path}/{name}"
            assert refusal(functools.partial(parse_input, text)) == (
                f"manifest {text}: there is no file {tmp_path}/{name}"
            )

    def test_name_that_is_not_utf8_is_refused(self, tmp_path: Path) -> None:
        """The manifest of the run could not name it."""
        text = f"{tmp_path}/{os.fsdecode(bytes([255]))}"
        Path(text).mkdir()
        assert refusal(lambda: parse_input(text)) == (
            f"input {tmp_path}/\\xff is not valid UTF-8 and fits no table; rename it"
        )


def manifest(folder: Path, name: str, content: str | bytes | pa.Table, **options: str) -> list[ImageRef | BadName]:
    """Write a manifest and list it."""
    file = folder / name
    if isinstance(content, pa.Table):
        pq.write_table(content, file)
    else:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(list_input(parse_input(f"@{file}", **options), DEFAULTS))


def literal(*names: str) -> list[ImageRef]:
    """Return what a manifest's lines become: nothing is asked of the storage."""
    return [ImageRef(name, None, None) for name in names]


def test_signed_urls_of_a_manifest_are_failures_without_their_signatures(tmp_path: Path) -> None:
    """Each keeps a row of its own: without their queries they would be one image."""
    entries = manifest(
        tmp_path, "l.txt", "https://host/get?id=1&sig=f00\nhttps://host/get?id=2&sig=f00\nhttps://host/x\n"
    )
    assert [(entry.path, entry.error.message) for entry in entries if isinstance(entry, BadName)] == [
        (name, f"storage scheme https:// of https://host/{rest} is not supported; use local, s3:// or gs://")
        for name, rest in [
            (f"{tmp_path}/l.txt#1", "get?***"),
            (f"{tmp_path}/l.txt#2", "get?***"),
            ("https://host/x", "x"),
        ]
    ]
    found = resolve("https://me:pw@host/get?id=1")
    assert isinstance(found, BadName)
    assert found.path == "https://***@host/get?***"


def test_signatures_behind_a_space_are_taken_out_too(tmp_path: Path) -> None:
    """In the rows' names and in their messages: a name may hold white space, and so may a password."""
    url = "https://me:pass word@host/a cat.jpg?sig=f00"
    told = "https://***@host/a cat.jpg?***"
    message = f"storage scheme https:// of {told} is not supported; use local, s3:// or gs://"
    (row,) = manifest(tmp_path, "l.txt", f"{url}\n")
    found = resolve(url)
    assert isinstance(row, BadName)
    assert isinstance(found, BadName)
    assert (row.path, row.error.message) == (f"{tmp_path}/l.txt#1", message)
    assert (found.path, found.error.message) == (told, message)


class TestNamesThatAreNotUnicode:
    MESSAGE = "the name is not valid UTF-8 and cannot be written to a table; rename the file"

    def check(self, entries: list[ImageRef | BadName], path: str) -> None:
        """Hold entries equal to one bad name."""
        assert [
            (entry.path, entry.error.code, entry.error.message) for entry in entries if isinstance(entry, BadName)
        ] == [(path, FailureCode.READ_ERROR, self.MESSAGE)]
        assert len(entries) == 1

    def test_in_a_folder_they_become_failures(self, tmp_path: Path) -> None:
        """The bytes are shown."""
        (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
        for text in (f"{tmp_path}", f"{tmp_path}/*.jpg"):
            self.check(list(list_input(parse_input(text), DEFAULTS)), f"{tmp_path}/caf\\xe9.jpg")

    def test_in_manifests_they_become_failures(self, tmp_path: Path) -> None:
        """A list made by find, or by a tool of another age."""
        self.check(manifest(tmp_path, "l.txt", b"caf\xe9.jpg\n"), f"{tmp_path}/caf\\xe9.jpg")
        self.check(manifest(tmp_path, "l.csv", b"image_path\ncaf\xe9.jpg\n"), f"{tmp_path}/caf\\xe9.jpg")
        self.check(manifest(tmp_path, "l.jsonl", b'{"image_path": "caf\xe9.jpg"}\n'), f"{tmp_path}/caf\\xe9.jpg")

    @pytest.mark.parametrize("prefix", ["", "file:///"])
    def test_half_a_character_becomes_a_failure(self, tmp_path: Path, prefix: str) -> None:
        """A JSON escape can name what no file system can."""
        entries = manifest(tmp_path, "l.jsonl", json.dumps({"image_path": f"{prefix}\ud83d.jpg"}))
        self.check(entries, f"{prefix or f'{tmp_path}/'}\\ud83d.jpg")


class TestS3:
    def test_every_kind_of_input_is_listed(self, bucket: str) -> None:
        """Object, prefix, glob and manifests, with size and version where the listing gives them."""
        for name in ("in/a 1.jpg", "in/deep/[2].PNG", "in/notes.txt", "other/3.jpg"):
            storage.write_bytes(f"{bucket}/{name}", b"x")
        refs = {file.path.rpartition("/")[2]: ImageRef(*file) for file in storage.list_folder(bucket)}
        first, second = refs["a 1.jpg"], refs["[2].PNG"]
        assert list(list_input(parse_input(f"{bucket}/in/a 1.jpg"), DEFAULTS)) == [first]
        for text in (f"{bucket}/in", f"{bucket}/in/"):
            assert sorted(list_input(parse_input(text), DEFAULTS)) == [first, second]
        assert list(list_input(parse_input(f"{bucket}/in/deep/[2].PNG"), DEFAULTS)) == [second]
        assert list(list_input(parse_input(f"{bucket}/i*/**/*.PNG"), DEFAULTS)) == [second]
        assert list(list_input(parse_input(f"{bucket}/in/*.jpg"), DEFAULTS)) == [first]
        assert len(list(list_input(parse_input(bucket), DEFAULTS))) == 3

    @pytest.mark.parametrize(
        ("folder", "says"), [("/in/../in", "matches nothing"), ("//in", "cannot be looked at: Empty path component")]
    )
    def test_a_folder_with_dots_or_an_empty_part_is_refused_and_a_key_with_them_is_an_image(
        self, bucket: str, folder: str, says: str
    ) -> None:
        """A line of a manifest is a key, letter for letter."""
        storage.write_bytes(f"{bucket}/in/a.jpg", b"x")
        with pytest.raises(InputError, match=f"^input {bucket}{folder} {says}"):
            parse_input(f"{bucket}{folder}")
        assert resolve(f"{bucket}{folder}/a.jpg") == ImageRef(f"{bucket}{folder}/a.jpg", None, None)

    def test_manifests_are_read(self, bucket: str, tmp_path: Path) -> None:
        """Relative lines are objects beside the manifest."""
        expected = literal(f"{bucket}/in/a 1.jpg", f"{bucket}/b.jpg", "/local.jpg", "gs://c/d.jpg")
        names = ["a 1.jpg", "../b.jpg", "/local.jpg", "gs://c/d.jpg"]
        storage.write_bytes(f"{bucket}/in/l.txt", "\r\n".join(names).encode())
        storage.write_bytes(f"{bucket}/in/l.csv", "\n".join(["image_path", *names]).encode())
        storage.write_bytes(f"{bucket}/in/l.jsonl", "\n".join(json.dumps({"image_path": n}) for n in names).encode())
        pq.write_table(pa.table({"image_path": names}), tmp_path / "l.parquet")
        storage.write_bytes(f"{bucket}/in/l.parquet", (tmp_path / "l.parquet").read_bytes())
        for kind in ("txt", "csv", "jsonl", "parquet"):
            assert list(list_input(parse_input(f"@{bucket}/in/l.{kind}"), DEFAULTS)) == expected

    @pytest.mark.parametrize("text", ["in", "in/**/*.jpg", "in/*/2/*"])
    def test_a_first_image_is_found_without_listing_all_below_a_prefix(
        self, bucket: str, text: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The launcher asks level by level: a listing of everything would be its night, and its memory."""
        for name in ("in/a.txt", "in/0/notes.txt", "in/1/2/3.jpg", "in/2/2/4.jpg"):
            storage.write_bytes(f"{bucket}/{name}", b"x")

        def list_all(*_: object, **__: object) -> Iterator[storage.FileStat]:
            raise AssertionError("everything is listed")

        monkeypatch.setattr(storage, "list_folder", list_all)
        check_not_empty(parse_input(f"{bucket}/{text}"), DEFAULTS)

    def test_a_prefix_without_an_image_is_refused_however_deep_it_is(self, bucket: str) -> None:
        """What is looked at level by level is looked at to its end."""
        for name in ("in/a.txt", "in/0/notes.txt", "in/1/2/3.gif.txt"):
            storage.write_bytes(f"{bucket}/{name}", b"x")
        assert refusal(lambda: check_not_empty(parse_input(f"{bucket}/in"), DEFAULTS)).startswith(
            f"input {bucket}/in matches nothing: it holds "
        )
        for text in ("in/**/*.jpg", "none/**/*.jpg"):
            assert refusal(lambda text=text: check_not_empty(parse_input(f"{bucket}/{text}"), DEFAULTS)) == (
                f"input {bucket}/{text} matches nothing: no file has a name like {bucket}/{text}"
            )

    def test_nothing_there_is_refused(self, bucket: str) -> None:
        """Missing prefix, empty glob, missing manifest, a key that no store client can name."""
        storage.write_bytes(f"{bucket}/a.txt", b"x")
        assert refusal(lambda: parse_input(f"{bucket}/none")).startswith(
            f"input {bucket}/none matches nothing: {bucket}/none is no file and no folder; "
        )
        assert refusal(lambda: check_not_empty(parse_input(f"{bucket}/*.jpg"), DEFAULTS)) == (
            f"input {bucket}/*.jpg matches nothing: no file has a name like {bucket}/*.jpg"
        )
        assert refusal(lambda: parse_input(f"@{bucket}/none.csv")) == (
            f"manifest @{bucket}/none.csv: there is no file {bucket}/none.csv"
        )
        assert refusal(lambda: parse_input(f"{bucket}//x.jpg")) == (
            f"input {bucket}//x.jpg cannot be looked at: Empty path component in path {bucket[5:]}//x.jpg"
        )


def test_unknown_schemes_are_refused() -> None:
    """As an input it stops the run before it starts."""
    with pytest.raises(ConfigError, match=r"^storage scheme https:// of https://x/a.jpg is not supported; use local"):
        parse_input("https://x/a.jpg")


def test_sources_say_what_they_are(tmp_path: Path) -> None:
    """The manifest of a run records kind and path of every input."""
    make(tmp_path, "l.csv", "l.ndjson", "x.jpg")
    sources = [parse_input(f"{tmp_path}/{text}", "p") for text in ("", "x.jpg", "*.jpg")]
    sources += [parse_input(f"@{tmp_path}/{text}", "p") for text in ("l.csv", "l.ndjson")]
    assert sources == [
        InputSource(f"{tmp_path}/", "folder", str(tmp_path), "p"),
        InputSource(f"{tmp_path}/x.jpg", "file", f"{tmp_path}/x.jpg", "p"),
        InputSource(f"{tmp_path}/*.jpg", "glob", f"{tmp_path}/*.jpg", "p"),
        InputSource(f"@{tmp_path}/l.csv", "csv", f"{tmp_path}/l.csv", "p"),
        InputSource(f"@{tmp_path}/l.ndjson", "jsonl", f"{tmp_path}/l.ndjson", "p"),
    ]
