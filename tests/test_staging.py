"""Staging: which files of an earlier attempt count, and that nothing else does, whatever it is."""

import hashlib
import json
import logging
import socket
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import moving, storage, tables
from transforms.errors import ExitCode, RunError
from transforms.layout import RunLayout
from transforms.part_files import PartWriter, write_empty_file
from transforms.part_groups import TableFiles
from transforms.probabilities import softmax, summarise
from transforms.records import ImageInfo, ImageRef, WrittenFile
from transforms.settings import WriteSettings
from transforms.staging import Adopted, check_begun, claim_staging, read_identity
from transforms.write_groups import _WriteGroupsDoFn
from transforms.write_tables import _WriteTablesDoFn

pytest_plugins = ["tests.s3_store"]

SCHEMA = tables.scores_schema(3, with_logits=True)
METADATA = tables.file_metadata({"model_id": "m@1", "labels": "[]", f"{tables.FINGERPRINT_KEY}model": "1"})
IDENTITY = {"model": "1", "inputs": ["photos"]}


def layout(output: Path | str) -> RunLayout:
    """The run that is begun and continued."""
    return RunLayout(str(output), "night")


def claim(output: Path | str, **identity: str) -> Adopted:
    """Begin or continue it."""
    return claim_staging(layout(output), {**IDENTITY, **identity}, SCHEMA, METADATA)


def stage(output: Path | str, *paths: str, metadata: dict[str, str] = METADATA) -> WrittenFile:
    """Write one staged scores file."""
    logits = np.arange(len(paths) * 3, dtype=np.float32).reshape(-1, 3)
    values = softmax(logits)
    batch = tables.scores_batch(
        SCHEMA,
        [ImageRef(path, 1, "1-1") for path in paths],
        [ImageInfo(1, 1, "png", 1, "pillow")] * len(paths),
        values,
        summarise(values, 2, independent=False),
        pa.array(["a", "b", "c"]),
        "m@1",
        0,
        None,
        logits,
    )
    writer = PartWriter(layout(output).staged_table("scores"), "scores", SCHEMA, metadata, WriteSettings())
    (file,) = [*writer.write(batch), *writer.close()]
    return file


def sealed(path: str, data: bytes) -> Path:
    """Put other bytes in a staged file's place, under their own digest, as nobody but a forger would."""
    Path(path).unlink(missing_ok=True)
    other = Path(path).with_name(f"0-{hashlib.sha256(data).hexdigest()}.parquet")
    other.write_bytes(data)
    return other


def parquet(columns: dict[str, Any], metadata: dict[str, str] = METADATA) -> bytes:
    """Return a Parquet file of these columns."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), sink)
    return sink.getvalue().to_pybytes()


def test_whole_files_of_the_run_are_adopted(tmp_path: Path) -> None:
    """With what their writer has told of them; one that overlaps them is not, and no word is lost on it."""
    assert claim(tmp_path) == Adopted((), 0)
    files = {stage(tmp_path, "a", "b"), stage(tmp_path, "c")}
    retried = Path(sorted(files)[0].path)
    retried.with_name(f"zz-{retried.name.partition('-')[2]}").write_bytes(retried.read_bytes())
    adopted = claim(tmp_path)
    assert set(adopted.files) == files
    assert adopted.rows == 3


@settings(deadline=None, max_examples=25)
@given(contents=st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4), max_size=6))
def test_any_overlap_is_resolved_file_by_file(contents: list[list[str]]) -> None:
    """Against the slow obvious way: a set of all paths, and each file in turn."""
    with tempfile.TemporaryDirectory() as folder:
        claim(Path(folder))
        paths = {stage(Path(folder), *names).path: names for names in contents}
        seen: set[str] = set()
        kept = []
        for path in sorted(paths):
            names = paths[path]
            if len(set(names)) == len(names) and seen.isdisjoint(names):
                seen.update(names)
                kept.append(path)
        adopted = claim(Path(folder))
        assert [file.path for file in adopted.files] == kept
        assert adopted.rows == len(seen)


def test_table_without_rows_is_adopted(tmp_path: Path) -> None:
    """A file of no image overlaps nothing."""
    claim(tmp_path)
    folder = layout(tmp_path).staged_table("scores")
    file = write_empty_file(folder, "scores", SCHEMA, METADATA, WriteSettings())
    assert claim(tmp_path) == Adopted((file,), 0)


def test_tables_without_an_identity_are_deleted(tmp_path: Path) -> None:
    """They may be of any configuration: the next attempt adopts nothing of them, and what is beside them stays."""
    claim(tmp_path)
    stage(tmp_path, "a")
    failures = Path(layout(tmp_path).staged_table("failures"))
    failures.mkdir()
    (failures / "b.parquet").touch()
    Path(layout(tmp_path).staged_identity).unlink()
    assert claim(tmp_path, model="2") == Adopted((), 0)
    assert [path.name for path in Path(layout(tmp_path).staging).iterdir()] == ["identity.json"]
    assert read_identity(layout(tmp_path)) == {**IDENTITY, "model": "2"}
    assert claim(tmp_path, model="2") == Adopted((), 0)


def test_tables_are_deleted_before_the_identity_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two, the next attempt finds nobody's files again, not files of its own."""
    file = Path(stage(tmp_path, "a").path)
    seen: list[bool] = []
    monkeypatch.setattr("transforms.staging.storage.write_bytes", lambda *_: seen.append(file.exists()))
    claim(tmp_path)
    assert seen == [False]


@pytest.mark.parametrize("beside", [True, False])
def test_object_is_adopted_with_the_digest_beside_it(
    bucket: str, caplog: pytest.LogCaptureFixture, beside: bool
) -> None:
    """And without it is not: its writer was killed before it was closed."""
    claim(bucket)
    file = stage(bucket, "a")
    if not beside:
        moving.delete_file(f"{file.path}.sha256")
    assert claim(bucket) == (Adopted((file,), 1) if beside else Adopted((), 0))
    said = f"staged file {file.path} is not adopted: nothing says the SHA-256 that it was closed with"
    assert (said in caplog.text) is not beside


def test_object_with_other_bytes_is_not_adopted(bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    """Also where they are a whole file of the same run."""
    claim(bucket)
    first, second = stage(bucket, "a"), stage(bucket, "b")
    storage.write_bytes(first.path, storage.read_bytes(second.path))
    assert claim(bucket) == Adopted((second,), 1)
    assert f"staged file {first.path} is damaged and not adopted: its bytes have the SHA-256" in caplog.text


def test_objects_without_an_identity_are_deleted(bucket: str) -> None:
    """As on a disk, with their digests."""
    stage(bucket, "a")
    assert claim(bucket) == Adopted((), 0)
    assert [file.path for file in storage.list_folder(layout(bucket).staging)] == [layout(bucket).staged_identity]


def test_no_flipped_bit_is_adopted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One of each byte of a small part: pages, their headers, schema, statistics, metadata and length."""
    claim(tmp_path)
    file = stage(tmp_path, *[f"/photos/{number}.jpg" for number in range(20)])
    path, data = Path(file.path), Path(file.path).read_bytes()
    caplog.set_level(logging.ERROR)  # a line a byte is slow
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        assert claim(tmp_path) == Adopted((), 0), place
    path.write_bytes(data)
    assert claim(tmp_path) == Adopted((file,), 20)


def test_no_flipped_bit_is_an_exception(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Under a digest of their own such files are read: what Arrow makes of them never ends the run."""
    claim(tmp_path)
    file = stage(tmp_path, "/photos/1.jpg", "/photos/2.jpg")
    data = Path(file.path).read_bytes()
    caplog.set_level(logging.ERROR)
    refused = 0
    for place in range(0, len(data), 3):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        other = sealed(file.path, bytes(damaged))
        refused += not claim(tmp_path).files
        other.unlink()
    assert refused > len(data) / 3 / 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (parquet({"image_path": ["a"]}), "is not adopted: its columns are not those of this run: "),
        (parquet({"path": ["a"]}), "is not adopted: its columns are not those of this run: "),
        (parquet({"image_path": pa.nulls(1, pa.string())}), "is not adopted: its columns are not those of this run: "),
        (b"", "is damaged and not adopted: "),
        (b"PAR1", "is damaged and not adopted: "),
        (b"PAR1" * 100, "is damaged and not adopted: "),
    ],
)
def test_file_of_another_kind_is_not_adopted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes, said: str
) -> None:
    """A table of only paths, one without, one of nothing, no table: each a line of the log."""
    claim(tmp_path)
    folder = Path(layout(tmp_path).staged_table("scores"))
    folder.mkdir()
    other = sealed(str(folder / "x"), data)
    assert claim(tmp_path) == Adopted((), 0)
    assert f"staged file {other} {said}" in caplog.text
    assert len(caplog.records) == 1


def test_file_without_its_digest_is_not_adopted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whole as it is: an older version has written it, or somebody has copied it here."""
    claim(tmp_path)
    path = Path(stage(tmp_path, "a").path)
    old = path.rename(path.with_name("0a1b.parquet"))
    assert claim(tmp_path) == Adopted((), 0)
    assert f"staged file {old} is not adopted: nothing says the SHA-256 that it was closed with" in caplog.text


@pytest.mark.parametrize(
    ("metadata", "other"),
    [
        ({**METADATA, "score_images.fingerprint.model": "2"}, "score_images.fingerprint.model"),
        ({**METADATA, "score_images.labels": '["x"]', "more": "1"}, "more, score_images.labels"),
        ({}, "score_images.fingerprint.model, score_images.labels, score_images.model_id"),
    ],
)
def test_file_of_another_configuration_is_not_adopted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, metadata: dict[str, str], other: str
) -> None:
    """It says so itself, whatever the identity says."""
    claim(tmp_path)
    kept, foreign = stage(tmp_path, "a"), stage(tmp_path, "b", metadata=metadata)
    assert claim(tmp_path) == Adopted((kept,), 1)
    assert f"staged file {foreign.path} is not adopted: it was made with other {other}" in caplog.text


def test_columns_that_differ_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On both sides; another order is one, too."""
    claim(tmp_path)
    path = Path(stage(tmp_path, "a").path)
    table = pq.read_table(path, partitioning=None)
    for other, said in (
        (table.drop_columns("entropy").append_column("x", [[1]]), "entropy, x\n"),
        (table.select(table.column_names[::-1]), "their order\n"),
    ):
        sink = pa.BufferOutputStream()
        pq.write_table(other, sink)
        path = sealed(str(path), sink.getvalue().to_pybytes())
        caplog.clear()
        assert claim(tmp_path) == Adopted((), 0)
        assert f"{path} is not adopted: its columns are not those of this run: {said}" in caplog.text


def test_worker_with_another_disk_stops_the_run(tmp_path: Path) -> None:
    """The path is there, and not what the launcher has written below it: it is a disk of the pod's own."""
    with pytest.raises(RunError) as raised:
        check_begun(layout(tmp_path))
    assert raised.value.exit_code == ExitCode.WRONG_INPUT
    assert str(raised.value) == (
        f"worker {socket.gethostname()} does not find in {tmp_path} what the launcher has begun run night with: the "
        "output must be one place for the launcher and all workers; give a bucket, or a folder on a disk that all of "
        "them have mounted"
    )


@pytest.mark.parametrize("with_challenger", [False, True])
def test_worker_with_another_disk_is_told_in_its_first_bundle(tmp_path: Path, with_challenger: bool) -> None:
    """Not in setup, whose errors Flink's runner never gets: it would wait for the worker, and then say only that."""
    place, write = layout(tmp_path), WriteSettings()
    tables = tuple(
        TableFiles(table, place.staged_table(table), pa.schema([]), {})
        for table in (("scores", "scores_challenger") if with_challenger else ("scores",))
    )
    function = (_WriteGroupsDoFn if with_challenger else _WriteTablesDoFn)(tables, write, place)
    function.setup()
    with pytest.raises(RunError, match="does not find in"):
        function.start_bundle()


@pytest.mark.parametrize("name", ["staged_identity", "success", "refused", "plan"])
def test_worker_finds_the_run_at_every_stage(tmp_path: Path, name: str) -> None:
    """Begun, published, refused, or while it is published: a runner repeats what it is not sure of, at any time."""
    storage.write_bytes(getattr(layout(tmp_path), name), b"{}")
    check_begun(layout(tmp_path))


def test_identity_is_what_the_run_was_begun_with(tmp_path: Path) -> None:
    """JSON on the disk, None before."""
    assert read_identity(layout(tmp_path)) is None
    claim(tmp_path)
    assert read_identity(layout(tmp_path)) == IDENTITY
    assert json.loads(Path(layout(tmp_path).staged_identity).read_text()) == IDENTITY
