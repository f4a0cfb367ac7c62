"""Manifests read in splits: whatever their size, the entries are those of the manifest read as one."""

import csv
import io
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.gcs_store import make_gcs_bucket, use_gcs
from tests.test_inputs import DEFAULTS, refusal
from transforms import storage
from transforms.inputs import BadName, list_input, manifest_of, parse_input, resolve_entries
from transforms.manifest_splits import plan_splits
from transforms.manifests import Split, read_split
from transforms.records import ImageRef

pytest_plugins = ["tests.s3_store"]


def splits_of(path: Path | str, split_bytes: int) -> list[Split]:
    """Plan a manifest's splits."""
    return list(plan_splits(manifest_of(parse_input(f"@{path}")), split_bytes))


def values(splits: Sequence[Split]) -> list[str | None]:
    """Read splits one after the other."""
    return [value for split in splits for value in read_split(split)]


def whole(path: Path) -> list[str | None]:
    """Read a manifest as one."""
    return list(read_split(Split(manifest_of(parse_input(f"@{path}")))))


# Ends of lines of every kind, a mark in the middle, half characters, quotes: all that a cut could fall into.
PIECES = st.sampled_from(
    [b"\n", b"\r\n", b"\r", b"a", b"/x/1.jpg", "é\U0001f600".encode(), b"\xef\xbb\xbf", b"\xff", b" "]
)
SIZES = st.integers(1, 40)


@settings(deadline=None, max_examples=100)
@given(pieces=st.lists(PIECES, max_size=30), size=SIZES)
@example([b"a", b"\n", b"b", b"\n"], 2)  # an end exactly on a boundary
@example([b"a", b"\n", b"b", b"\n"], 1)
@example([b"\n"] * 5, 2)
def test_any_text_gives_the_same_names_in_splits(pieces: list[bytes], size: int) -> None:
    """Against the slow obvious reader: the whole file, cut at line feeds."""
    content = b"".join(pieces)
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    expected = [line.removesuffix(b"\r").decode("utf-8", "surrogateescape") for line in lines]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "l.txt"
        path.write_bytes(content)
        splits = splits_of(path, size)
        assert values(splits) == whole(path) == [line for line in expected if line]
        assert len(splits) == max(1, -(-len(content) // size))


CELLS = st.text(st.sampled_from('ab,"\n\r \ufeffé'), max_size=5)


@settings(deadline=None, max_examples=100)
@given(
    rows=st.lists(st.lists(CELLS, min_size=1, max_size=3), max_size=12),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    mark=st.booleans(),
    size=SIZES,
)
def test_any_csv_gives_the_same_values_in_splits(
    rows: list[list[str]], quoting: Literal[0, 1], end: str, mark: bool, size: int
) -> None:
    """Ends of lines within quotes, short rows, empty rows, every end of a line that the reader knows."""
    text = io.StringIO()
    csv.writer(text, quoting=quoting, lineterminator=end).writerows([["n", "image_path"], *rows])
    content = ("\ufeff" if mark else "").encode() + text.getvalue().encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "l.csv"
        path.write_bytes(content)
        # The slow obvious reader: all rows by the csv module.
        expected = [
            row[1] if len(row) > 1 else None
            for row in list(csv.reader(io.StringIO(text.getvalue(), newline="")))[1:]
            if row
        ]
        splits = splits_of(path, size)
        assert values(splits) == whole(path) == expected
        assert splits[0].start == 0
        assert all(one.end == other.start for one, other in itertools.pairwise(splits))


@pytest.mark.parametrize("field", ['5" disk', 'a"b"', '"q""r"', '"x\ny"', "'"])
@pytest.mark.parametrize("size", [1, 7, 20, 64])
def test_quotes_within_unquoted_fields_are_letters(tmp_path: Path, field: str, size: int) -> None:
    """No parity of quotes tells where a row ends."""
    path = tmp_path / "l.csv"
    path.write_text("note,image_path\n" + "".join(f"{field},/{number}.jpg\n" for number in range(20)))
    splits = splits_of(path, size)
    assert values(splits) == [f"/{number}.jpg" for number in range(20)]
    assert len(splits) > 1


@settings(deadline=None, max_examples=100)
@given(
    names=st.lists(st.text(max_size=6).map(lambda text: text.encode("utf-8", "replace").decode()), max_size=15),
    end=st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"]),
    size=SIZES,
)
def test_any_jsonl_gives_the_same_values_in_splits(names: list[str], end: str, size: int) -> None:
    """Blank lines are no entries; what is not ASCII may be escaped or not."""
    lines = [json.dumps({"image_path": name or None}, ensure_ascii=bool(n % 2)) for n, name in enumerate(names)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "l.jsonl"
        path.write_bytes(end.join(lines).encode())
        assert values(splits_of(path, size)) == whole(path) == [name or None for name in names]


@pytest.mark.parametrize(("size", "count"), [(1, 15), (200, 8), (10**9, 1)])
def test_parquet_is_split_by_row_groups(tmp_path: Path, size: int, count: int) -> None:
    """And its entries keep their numbers."""
    path = tmp_path / "l.parquet"
    paths = [f"/{number}.jpg" if number % 10 else None for number in range(100)]
    pq.write_table(pa.table({"other": range(100), "image_path": paths}), path, row_group_size=7)
    splits = splits_of(path, size)
    assert values(splits) == paths
    assert len(splits) == count
    bad = [e.path for split in splits for e in resolve_entries(split) if isinstance(e, BadName)]
    assert bad == [f"{path}#{number}" for number in range(1, 101, 10)]


def test_a_parquet_without_rows_has_no_splits(tmp_path: Path) -> None:
    """No row groups, no work."""
    pq.write_table(pa.table({"image_path": pa.array([], pa.string())}), tmp_path / "l.parquet")
    assert values(splits_of(tmp_path / "l.parquet", 10)) == []


def test_names_of_bad_entries_are_unique_and_say_where(tmp_path: Path) -> None:
    """In the first split they are those of the manifest; behind it they count from a byte."""
    path = tmp_path / "l.csv"
    path.write_text("image_path,n\n" + ",1\n/a.jpg,2\n" * 6)
    splits = splits_of(path, 30)
    assert [split.start for split in splits] == [0, 37, 73]
    entries = [entry for split in splits for entry in resolve_entries(split)]
    assert [entry for entry in entries if isinstance(entry, ImageRef)] == [ImageRef("/a.jpg", None, None)] * 6
    bad = [entry for entry in entries if isinstance(entry, BadName)]
    assert [entry.path.rpartition("#")[2] for entry in bad] == ["1", "3", "37+1", "37+3", "37+5", "73+1"]
    assert bad[2].error.message == "entry 1 after byte 37 of the manifest has no path in column image_path"
    one_go = [entry for entry in list_input(parse_input(f"@{path}"), DEFAULTS) if isinstance(entry, BadName)]
    assert [(e.path, e.error.message) for e in bad[:2]] == [(e.path, e.error.message) for e in one_go[:2]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.jsonl", '{"image_path": "a"}\n' * 4 + "b\n", " line 2 after byte 60 cannot be read as jsonl: Expecting"),
        ("l.csv", "image_path\n" + "a.jpg\n" * 20 + '"b.jpg', " cannot be read as csv: unexpected end of data"),
        ("l.csv", "path,n\n" + "a.jpg,1\n" * 20, " has no column image_path; it has path, n"),
        ("l.jsonl", '{"path": "a"}\n' * 20, " has no column image_path; it has path"),
        ("l.txt", "a.jpg\n".encode("utf-16") * 20, " is UTF-16 text; save it as UTF-8"),
        ("l.parquet", "x" * 99, " cannot be read as parquet: Parquet magic bytes not found in footer"),
    ],
)  # fmt: skip
def test_unreadable_manifests_are_refused_in_splits(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    """With the place, counted from a byte where that is all that is known."""
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    said = refusal(lambda: values(splits_of(path, 30)))
    assert said.startswith(f"manifest @{path}")
    assert message in said


def test_a_row_longer_than_the_reader_takes_is_said_by_whoever_reads_it(tmp_path: Path) -> None:
    """Not by the search for splits: 100,000 letters of two bytes are few enough for the reader, and many for that."""
    path = tmp_path / "l.csv"
    path.write_text("image_path\n/a.jpg\n" + "é" * 100_000 + "\n/b.jpg\n", encoding="utf-8")
    assert values(splits_of(path, 12)) == ["/a.jpg", "é" * 100_000, "/b.jpg"]
    path.write_text("image_path\n/a.jpg\n" + "e" * 200_000 + "\n/b.jpg\n")
    assert "field larger than field limit" in refusal(lambda: values(splits_of(path, 12)))


GCS_SERVER = """
from gcp_storage_emulator.server import create_server
server = create_server("127.0.0.1", 0, in_memory=True)
server.start()
print(server._api._httpd.server_address[1], flush=True)
input()
server.stop()
"""


@pytest.fixture
def distant_gcs_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A GCS store in another process: Arrow holds Python's lock while it asks GCS for a file that is read anywhere."""
    pytest.importorskip("gcp_storage_emulator.server", reason="gcp-storage-emulator is not installed")
    command = [sys.executable, "-c", GCS_SERVER]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True) as server:
        assert server.stdout
        endpoint = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        use_gcs(monkeypatch, endpoint)
        yield make_gcs_bucket(endpoint)
        storage._remote_filesystem.cache_clear()
        server.communicate("\n")


@pytest.mark.parametrize("store", ["bucket", "distant_gcs_bucket"])
def test_manifests_of_stores_are_read_in_splits(request: pytest.FixtureRequest, store: str) -> None:
    """By requests for ranges."""
    place = request.getfixturevalue(store)
    content = "".join(f"{number}.jpg\n" for number in range(200))
    for name, head in (("l.txt", ""), ("l.csv", "image_path\n")):
        storage.write_bytes(f"{place}/in/{name}", f"{head}{content}".encode())
        splits = splits_of(f"{place}/in/{name}", 300)
        assert len(splits) in (5, 6)
        listed = [entry for split in splits for entry in resolve_entries(split)]
        assert listed == [ImageRef(f"{place}/in/{number}.jpg", None, None) for number in range(200)]


@pytest.mark.heavy
def test_memory_does_not_grow_with_the_manifest(tmp_path: Path) -> None:
    """The last split of 60 MB takes what the last one of 3 MB does, for each kind of manifest."""
    program = (
        "import re, sys\n"
        "from transforms.manifests import Manifest, read_split\n"
        "from transforms.manifest_splits import plan_splits\n"
        "name = sys.argv[1]\n"
        "for split in plan_splits(Manifest('@' + name, name.rpartition('.')[2], name, 'image_path'), 1 << 20): pass\n"
        "count = sum(1 for _ in read_split(split))\n"
        "assert count\n"
        # Not ru_maxrss: a new process begins with that of the one that has started it.
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    )
    line = f"/photos/{'x' * 80}.jpg"
    for kind in ("txt", "csv", "parquet"):
        peaks = []
        for count in (30_000, 600_000):
            path = tmp_path / f"{count}.{kind}"
            if kind == "parquet":
                table = pa.table({"image_path": [f"{line}{number}" for number in range(count)]})
                pq.write_table(table, path, row_group_size=10_000, compression="none")
            else:
                path.write_text("image_path\n" + f"{line}\n" * count)
            command = [sys.executable, "-c", program, str(path)]
            told = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks.append(int(told.stdout))
        assert peaks[1] < peaks[0] + 15_000, (kind, peaks)
