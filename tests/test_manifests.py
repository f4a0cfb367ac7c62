"""Manifests: every common form, every line a literal, and what each refusal says."""

import csv
import gzip
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.test_inputs import DEFAULTS, literal, make, manifest, refusal
from transforms.errors import FailureCode, InputError
from transforms.inputs import BadName, list_input, parse_input
from transforms.records import ImageRef


class TestManifests:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("l.txt", "/a/1.jpg\n/b b/#2?.jpg\n"),
            ("l.txt", "/a/1.jpg\n/b b/#2?.jpg"),  # no end of the last line
            ("l.txt", "\ufeff/a/1.jpg\r\n\r\n/b b/#2?.jpg\r\n\n"),  # Windows, with blank lines
            ("L.TXT", "\n\n/a/1.jpg\n/b b/#2?.jpg\n"),
            ("l.csv", "image_path\n/a/1.jpg\n/b b/#2?.jpg\n"),
            ("l.csv", "\ufefflabel,image_path\r\ncat,/a/1.jpg\r\n\r\ndog,/b b/#2?.jpg\r\n"),
            ("l.CSV", 'label,"image_path"\n"a\nb","/a/1.jpg"\n"a ""b"", c",/b b/#2?.jpg'),
            ("l.jsonl", '{"image_path": "/a/1.jpg"}\n{"label": 1, "image_path": "/b b/#2?.jpg"}'),
            ("l.jsonl", '\ufeff\r\n\r\n{"image_path": "/a/1.jpg"}\r\n\r\n{"image_path": "/b b/\\u00232?.jpg"}\r\n'),
            ("l.ndjson", '{"image_path":"/a/1.jpg"}\n{"image_path":"/b b/#2?.jpg"}\n'),
        ],
    )
    def test_every_common_form_is_read(self, tmp_path: Path, name: str, content: str) -> None:
        """All of these name the same two images."""
        assert manifest(tmp_path, name, content) == literal("/a/1.jpg", "/b b/#2?.jpg")

    @pytest.mark.parametrize(
        "kind",
        [
            pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string()),
        ],
    )  # fmt: skip
    def test_parquet_columns_of_text_are_read(self, tmp_path: Path, kind: pa.DataType) -> None:
        """However the writer stored them."""
        column = pa.array(["/a/1.jpg", "/b b/#2?.jpg"]).cast(kind)
        table = pa.table({"n": [1, 2], "image_path": column})
        assert manifest(tmp_path, "l.parquet", table) == literal("/a/1.jpg", "/b b/#2?.jpg")

    def test_another_column_can_hold_the_paths(self, tmp_path: Path) -> None:
        """--path-column, in every kind that has columns; dots and spaces in its name do no harm."""
        options = {"path_column": "my.path x"}
        assert manifest(tmp_path, "l.csv", "image_path,my.path x\n/no,/a.jpg\n", **options) == literal("/a.jpg")
        assert manifest(tmp_path, "l.jsonl", '{"my.path x": "/a.jpg"}', **options) == literal("/a.jpg")
        table = pa.table({"image_path": ["/no"], "my.path x": ["/a.jpg"]})
        assert manifest(tmp_path, "l.parquet", table, **options) == literal("/a.jpg")

    @pytest.mark.parametrize(
        ("name", "content", "columns"),
        [
            ("l.csv", "path,label\n/a.jpg,cat\n", "path, label"),
            ("l.csv", "path;label\n/a.jpg;cat\n", "path;label"),  # a comma is needed, and this shows it
            ("l.jsonl", '\n{"path": "/a.jpg", "label": "cat"}\n', "path, label"),
            ("l.parquet", pa.table({"path": ["/a.jpg"], "label": ["cat"]}), "path, label"),
        ],
    )
    def test_missing_column_is_refused(self, tmp_path: Path, name: str, content: str | pa.Table, columns: str) -> None:
        """The message names those that are there."""
        assert refusal(lambda: manifest(tmp_path, name, content)) == (
            f"manifest @{tmp_path}/{name} has no column image_path; it has {columns}; "
            "name the right one with --path-column"
        )

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("l.csv", 'image_path,n\n/a.jpg,1\n"",2\n,3\n/b.jpg,4\n'),
            ("l.csv", "n,image_path\n1,/a.jpg\n2\n3,\n4,/b.jpg\n"),  # a short row
            ("l.jsonl", '{"image_path": "/a.jpg"}\n{"image_path": null}\n{"x": 1}\n{"image_path": "/b.jpg"}\n'),
            ("l.parquet", pa.table({"image_path": ["/a.jpg", None, "", "/b.jpg"]})),
        ],
    )
    def test_entries_without_a_path_become_failures(self, tmp_path: Path, name: str, content: str | pa.Table) -> None:
        """Each has a name of its own, so that none is taken for a duplicate of the other."""
        entries = manifest(tmp_path, name, content)
        assert entries[::3] == literal("/a.jpg", "/b.jpg")
        found = [(entry.path, entry.error.code, entry.error.message) for entry in entries if isinstance(entry, BadName)]
        assert found == [
            (
                f"{tmp_path}/{name}#{number}",
                FailureCode.NOT_FOUND,
                f"entry {number} of the manifest has no path in column image_path",
            )
            for number in (2, 3)
        ]

    def test_parquet_column_of_nulls_becomes_failures(self, tmp_path: Path) -> None:
        """A column that holds nothing has no type; its rows are failures, not an error."""
        entries = manifest(tmp_path, "l.parquet", pa.table({"image_path": pa.nulls(2)}))
        assert [type(entry) for entry in entries] == [BadName, BadName]

    def test_every_line_is_a_literal(self, tmp_path: Path) -> None:
        """No globs, no comments, no trimming, no escapes: letter for letter."""
        make(tmp_path, "photo1.jpg")
        lines = [
            "photo[1].jpg",
            "*.jpg",
            " a.jpg ",
            "#x.jpg",
            "50%20.jpg",
            '"q".jpg',
            "~/x.jpg",
            "@l.txt",
            "a\tb",
            "\x0c",
        ]
        assert manifest(tmp_path, "l.txt", "\n".join(lines)) == literal(*(f"{tmp_path}/{line}" for line in lines))

    def test_relative_lines_start_at_the_manifest(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not at the working directory."""
        (tmp_path / "lists").mkdir()
        monkeypatch.chdir("/")
        lines = "1.jpg\n./2.jpg\n../3.jpg\n/4.jpg\ns3://b/5.jpg\nfile:///6%207.jpg\n"
        assert manifest(tmp_path / "lists", "l.txt", lines) == literal(
            f"{tmp_path}/lists/1.jpg",
            f"{tmp_path}/lists/2.jpg",
            f"{tmp_path}/3.jpg",
            "/4.jpg",
            "s3://b/5.jpg",
            "/6 7.jpg",
        )

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("l.csv", 'image_path\na.jpg\n"b.jpg', " line 3 cannot be read as csv: unexpected end of data"),
            ("l.csv", 'image_path\n"a" b.jpg\n', " line 2 cannot be read as csv: ',' expected after '\"'"),
            ("l.jsonl", '{"image_path": "a"}\n\nb.jpg', " line 3 cannot be read as jsonl: Expecting value at column 1"),
            ("l.jsonl", '{"image_path": "a"', " line 1 cannot be read as jsonl: Expecting ',' delimiter at column 19"),
            ("l.jsonl", '["a"]\n', ' line 1 cannot be read as jsonl: ["a"] is no object; write {"image_path": "..."}'),
            ("l.jsonl", '{"image_path": 7}\n', " line 1 cannot be read as jsonl: image_path is 7, a string is needed"),
            ("l.jsonl", "[" * 100_000, " line 1 cannot be read as jsonl: maximum recursion depth exceeded"),
            ("l.jsonl", "9" * 5000, " line 1 cannot be read as jsonl: Exceeds the limit (4300 digits)"),
            ("l.parquet", "no parquet", " cannot be read as parquet: Parquet magic bytes not found in footer"),
            ("l.parquet", "", " cannot be read as parquet: Parquet file size is 0 bytes"),
            (
                "l.parquet",
                pa.table({"image_path": [1, 2]}),
                " cannot be read as parquet: column image_path is int64, strings are needed",
            ),
            (
                "l.parquet",
                pa.table({"image_path": [["a"]]}),
                " cannot be read as parquet: column image_path is list<element: string>, strings are needed",
            ),
            ("l.parquet", pa.table({"image_path": [b"\xff"]}), " cannot be read as parquet: Invalid UTF8 payload"),
            ("l.txt", "a.jpg\n".encode("utf-16"), " is UTF-16 text; save it as UTF-8"),  # PowerShell's >
            ("l.txt", gzip.compress(b"a.jpg\n", mtime=0), " is compressed, whatever its name says: unpack it first"),
            ("l.csv", gzip.compress(b"image\n", mtime=0), " is compressed, whatever its name says: unpack it first"),
            ("l.jsonl", b"PK\x03\x04", " is compressed, whatever its name says: unpack it first"),
            ("l.csv", b"\xfe\xff" + "image_path".encode("utf-16-be"), " is UTF-16 text; save it as UTF-8"),
        ],
    )  # fmt: skip
    def test_unreadable_manifest_is_refused(
        self, tmp_path: Path, name: str, content: str | bytes | pa.Table, message: str
    ) -> None:
        """Manifest, line and reason."""
        assert refusal(lambda: manifest(tmp_path, name, content)).startswith(f"manifest @{tmp_path}/{name}{message}")

    def test_lines_before_a_bad_one_are_listed(self, tmp_path: Path) -> None:
        """A manifest is read as a stream: a hundred million lines are never held."""
        (tmp_path / "l.jsonl").write_text('{"image_path": "/a.jpg"}\nbroken')
        entries = list_input(parse_input(f"@{tmp_path}/l.jsonl"), DEFAULTS)
        assert next(entries) == ImageRef("/a.jpg", None, None)
        with pytest.raises(InputError, match="line 2"):
            next(entries)

    def test_addresses_that_no_storage_has_become_failures(self, tmp_path: Path) -> None:
        """One wrong line of a hundred million is no reason to score none."""
        entries = manifest(tmp_path, "l.txt", "https://host/a.jpg\n/b.jpg\nfile://host/c.jpg\n")
        assert entries[1] == ImageRef("/b.jpg", None, None)
        found = [(entry.path, entry.error.code, entry.error.message) for entry in entries if isinstance(entry, BadName)]
        assert found == [
            (
                "https://host/a.jpg",
                FailureCode.READ_ERROR,
                "storage scheme https:// of https://host/a.jpg is not supported; use local, s3:// or gs://",
            ),
            (
                "file://host/c.jpg",
                FailureCode.READ_ERROR,
                "file://host/c.jpg names the machine host; a local file has three slashes, file:///host/c.jpg",
            ),
        ]


# Every character that a file name can hold, without the end of a line: a text manifest has one name a line.
FILE_NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0/\n"), min_size=1, max_size=40
).filter(lambda name: name not in (".", ".."))


@settings(deadline=None, max_examples=150)
@given(file_names=st.lists(FILE_NAMES, min_size=1, max_size=5))
@example(["\r", "a\r", "\r\n".strip("\n")])
@example(['"', "'", ",", ", ", "\\", "\\n", "\u2028", "\x85", "\x1c", "\t", " "])
@example(["\ufeffa"])
def test_any_file_name_survives_every_manifest(file_names: list[str]) -> None:
    """Written by the usual writers, read back: the same names in the same order."""
    with tempfile.TemporaryDirectory() as folder:
        expected = literal(*(f"{folder}/{name}" for name in file_names))
        here = Path(folder)
        with (here / "l.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["n", "image_path"], *enumerate(file_names)])
        lines = [json.dumps({"image_path": name}, ensure_ascii=bool(i % 2)) for i, name in enumerate(file_names)]
        (here / "l.jsonl").write_bytes("\n".join(lines).encode())
        pq.write_table(pa.table({"image_path": file_names}), here / "l.parquet")
        assert [
            list(list_input(parse_input(f"@{folder}/l.{kind}"), DEFAULTS)) for kind in ("csv", "jsonl", "parquet")
        ] == [expected] * 3
        # A text manifest cannot hold a name that ends in a carriage return, and begins with a mark or not at all.
        if not any(name.endswith("\r") for name in file_names):
            (here / "l.txt").write_bytes(b"\xef\xbb\xbf" + "\n".join(file_names).encode())
            assert list(list_input(parse_input(f"@{folder}/l.txt"), DEFAULTS)) == expected
