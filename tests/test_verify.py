"""A published run held to its promises: a whole one keeps all, and every planted breach is found and named."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.after import verify_paths
from pipeline.after.ended import find_ended
from pipeline.after.published import find_run
from pipeline.after.report import write_report
from pipeline.after.verify import PROMISES, verify
from pipeline.cli import main
from tests.digits import Digits
from tests.published_runs import publish_scores
from transforms import moving, storage
from transforms.errors import InputError
from transforms.settings import CalibrationSettings

pytest_plugins = ["tests.s3_store"]

PATHS = ["/a.png", "/b.png", "/c.png"]
THIRDS = [[0.5, 0.25, 0.25], [0.25, 0.75, 0.0], [0.0, 0.0, 1.0]]
LABELS = ["ant", "bee", "cat"]
SCORES = "scores/run_id=night/part-00000-of-00001.parquet"
FAILURES = "failures/run_id=night/part-00000-of-00001.parquet"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A folder with one published run: three rows in two row groups, and a failure."""
    publish_scores(tmp_path, PATHS, THIRDS, labels=LABELS, failed=["/d.png"], top_k=2)
    return tmp_path


def broken(output: Path | str) -> dict[str, tuple[int, str | None]]:
    """What verify finds: by promise, how often it is broken, and the example."""
    found = verify(f"{output}/runs/night")
    assert [promise.name for promise in found.promises] == list(PROMISES)
    return {promise.name: (promise.broken, promise.example) for promise in found.broken}


def change_manifest(output: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite the manifest."""
    path = output / "runs" / "night" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def renew_entry(output: Path, name: str) -> None:
    """Make the manifest say of a file what it is now."""
    data = (output / name).read_bytes()
    now = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change_manifest(output, lambda manifest: next(f for f in manifest["files"] if f["path"] == name).update(now))


def rewrite(output: Path, name: str, **columns: Callable[[list[Any]], list[Any]]) -> None:
    """Change columns of a part file, so that nothing but its rows gives it away."""
    file = output / name
    table = pq.read_table(file, partitioning=None)
    for column, change in columns.items():
        at = table.schema.get_field_index(column)
        field = table.schema.field(at)
        table = table.set_column(at, field, pa.array(change(table[column].to_pylist())).cast(field.type))
    pq.write_table(table, file, row_group_size=2, write_page_checksum=True)
    renew_entry(output, name)


def put(row: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    """A change of one row."""
    return lambda values: [*values[:row], value, *values[row + 1 :]]


def test_a_whole_run_keeps_every_promise(output: Path) -> None:
    """All are checked, none is broken, and the rows are counted."""
    found = verify(str(output))
    assert found.broken == ()
    assert [promise.skipped for promise in found.promises] == [None] * len(PROMISES)
    assert (found.run_id, found.output, found.rows, found.files) == (
        "night", str(output), {"scores": 3, "failures": 1}, 2,
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "skipped"), [("ten", set()), ("eight", set()), ("labels", {"sums"})])
def test_runs_of_real_models_keep_every_promise(digits: Digits, kind: str, skipped: set[str]) -> None:
    """As a pipeline has published them, thresholds included."""
    layout = digits.layouts[kind]
    found = verify(layout.run_folder)
    assert found.broken == ()
    assert found.rows == {"scores": 240, "failures": 0}
    assert {promise.name for promise in found.promises if promise.skipped} == skipped


@pytest.mark.parametrize(
    ("change", "example"),
    [
        (lambda told: told.update(class_counts=[9, 0, 0]), "the manifest says other class_counts than the files hold"),
        (lambda told: told["entropy"]["counts"].reverse(), "the manifest says other entropy than the files hold"),
        (lambda told: told.update(rows=4), "the manifest says other rows than the files hold"),
    ],
)
def test_distributions_of_other_rows_break_a_promise(
    output: Path, change: Callable[[dict[str, Any]], None], example: str
) -> None:
    """Tomorrow's gate would compare with them."""
    change_manifest(output, lambda manifest: change(manifest["distributions"]))
    assert broken(output) == {"answers": (1, example)}


def test_a_manifest_without_distributions_keeps_every_promise(output: Path) -> None:
    """Older runs have none: it is said that nothing was checked."""
    change_manifest(output, lambda manifest: manifest.pop("distributions"))
    found = verify(str(output))
    assert found.broken == ()
    assert {p.name: p.skipped for p in found.promises if p.skipped} == {"answers": "the manifest does not say them"}


def test_a_run_without_rows_keeps_every_promise(tmp_path: Path) -> None:
    """Both tables are files without rows."""
    publish_scores(tmp_path, [], np.zeros((0, 3)))
    assert broken(tmp_path) == {}


@pytest.mark.parametrize(
    ("probabilities", "settings"),
    [
        ([[0.3, 0.9], [0.0, 0.1]], {"activation": "sigmoid", "num_units": 2}),  # labels do not sum to 1
        ([[0.3, 0.7], [0.9, 0.1]], {"activation": "sigmoid", "num_units": 1, "threshold": 0.2}),  # one unit does
        ([[0.3, 0.3], [0.9, 0.9]], {"activation": "none", "returns": "probabilities"}),  # nobody says how they arose
        # A model that computes in float16 or bfloat16 has its own idea of 1; what it says is kept as it is.
        (np.float16([[0.3335, 0.3333, 0.3325]]), {"returns": "probabilities"}),
        ([[0.33203125, 0.33203125, 0.33203125]], {"returns": "probabilities"}),
        # Of one unit the second is the model's, here a bfloat16; the first is reckoned from it.
        (
            [[1.00390625, -0.00390625]],
            {"activation": "sigmoid", "num_units": 1, "returns": "probabilities"},
        ),
        # Of a group, each row may have its own: the second lies within float32's tolerance only.
        ([[0.33203125, 0.33203125, 0.33203125], [0.1, 0.2, 0.70005]], {"returns": "probabilities"}),
    ],
)
def test_runs_of_every_kind_keep_every_promise(tmp_path: Path, probabilities: Any, settings: dict[str, Any]) -> None:
    """What a run's output means decides what its rows promise."""
    publish_scores(tmp_path, PATHS[: len(probabilities)], probabilities, **settings)
    assert broken(tmp_path) == {}


@pytest.mark.parametrize(
    ("settings", "sum_"),
    [
        ({}, "0.996093750"),  # computed here
        (
            {"returns": "probabilities", "calibration": CalibrationSettings(temperature=2.0)},
            "0.996093750",
        ),  # computed anew
    ],
)
def test_what_is_computed_here_sums_to_one_whatever_the_model_computes_in(
    tmp_path: Path, settings: dict[str, Any], sum_: str
) -> None:
    """The allowance for half precision is for probabilities that are the model's own."""
    publish_scores(tmp_path, PATHS[:1], [[0.33203125, 0.33203125, 0.33203125]], **settings)
    assert broken(tmp_path) == {"sums": (1, f"/a.png in {SCORES}: they sum to {float(sum_):.9g}")}


def ranked(*entries: tuple[int, int, str, float]) -> list[dict[str, Any]]:
    """A value of the column top_k."""
    return [dict(zip(("rank", "index", "label", "probability"), entry, strict=True)) for entry in entries]


@pytest.mark.parametrize(
    ("column", "row", "value", "promise", "says"),
    [
        ("probabilities", 1, [0.25, float("nan"), 0.0], "finite", "class 1 is not a finite number"),
        ("probabilities", 1, [0.25, float("inf"), 0.0], "finite", "class 1 is not a finite number"),
        ("probabilities", 1, [-0.25, 1.25, 0.0], "range", "they run from -0.25 to 1.25"),
        ("probabilities", 1, [0.25, 0.5, 0.125], "sums", "they sum to 0.875"),
        ("probabilities", 1, [0.25, 0.750002, 0.0], "sums", "they sum to 1.00000203"),
        ("predicted_index", 0, 1, "predicted",
         "class 1 (ant, 0.5) is predicted, and class 0 (ant, 0.5) is the strongest"),
        ("predicted_label", 0, "cat", "predicted",
         "class 0 (cat, 0.5) is predicted, and class 0 (ant, 0.5) is the strongest"),
        ("predicted_probability", 0, 0.25, "predicted",
         "class 0 (ant, 0.25) is predicted, and class 0 (ant, 0.5) is the strongest"),
        # of equal probabilities the first
        ("top_k", 0, ranked((1, 0, "ant", 0.5), (2, 2, "cat", 0.25)), "top_k",
         "rank 2 is class 2 (cat, 0.25), and by the probabilities it is class 1 (bee, 0.25)"),
        ("top_k", 0, ranked((1, 0, "ant", 0.5), (2, 1, "cat", 0.25)), "top_k",
         "rank 2 is class 1 (cat, 0.25), and by the probabilities it is class 1 (bee, 0.25)"),
        ("top_k", 0, ranked((1, 0, "ant", 0.5), (2, 1, "bee", 0.5)), "top_k",
         "rank 2 is class 1 (bee, 0.5), and by the probabilities it is class 1 (bee, 0.25)"),
        ("top_k", 2, ranked((2, 2, "cat", 1.0), (1, 0, "ant", 0.0)), "top_k",
         "rank 1 is class 2 (cat, 1), and by the probabilities it is class 2 (cat, 1)"),
        ("top_k", 1, ranked((1, 1, "bee", 0.75)), "top_k", "it has 1 entries, not 2"),
        ("margin", 1, 0.25, "margin", "margin is 0.25, and 0.5 by the probabilities"),
        ("margin", 1, float("nan"), "margin", "margin is nan, and 0.5 by the probabilities"),
        ("entropy", 2, 0.01, "entropy", "entropy is 0.00999999978, and 0 by the probabilities"),
        ("positive_labels", 2, ["cat"], "positive", "they are ['cat'], and only sigmoid models have any"),
        ("model_id", 2, "other@2", "model", "it is other@2 there"),
        ("image_width", 1, 0, "sizes", "it is 0 x 1 pixels there"),
        ("image_height", 2, -3, "sizes", "it is 1 x -3 pixels there"),
    ],
)  # fmt: skip
def test_a_row_that_contradicts_itself_is_named(
    output: Path, column: str, row: int, value: Any, promise: str, says: str
) -> None:
    """The promise, the image, the file, and what is wrong with it."""
    rewrite(output, SCORES, **{column: put(row, value)})
    assert broken(output)[promise] == (1, f"{PATHS[row]} in {SCORES}: {says}")


def test_rows_that_were_swapped_in_one_column_are_found(output: Path) -> None:
    """Every file is whole, every vector is one, and they are other images' vectors."""
    rewrite(output, SCORES, probabilities=lambda values: values[::-1])
    found = broken(output)
    assert set(found) == {"predicted", "top_k", "margin", "entropy"}
    assert found["predicted"] == (
        2, f"/a.png in {SCORES}: class 0 (ant, 0.5) is predicted, and class 2 (cat, 1) is the strongest",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("units", "value", "says"),
    [
        (2, ["ant", "bee"], "they are ['ant', 'bee'], and ['bee'] by thresholds"),  # one too many
        (2, [], "they are [], and ['bee'] by thresholds"),
        (2, ["ant"], "they are ['ant'], and ['bee'] by thresholds"),
        (2, None, "they are None, and ['bee'] by thresholds"),
        (1, ["ant"], "they are ['ant'], and ['bee'] by thresholds"),
    ],
)
def test_positive_labels_are_those_over_their_threshold(
    tmp_path: Path, units: int, value: list[str] | None, says: str
) -> None:
    """At it counts as over it."""
    probabilities = [[0.375, 0.625], [0.75, 0.25]]
    publish_scores(tmp_path, PATHS[:2], probabilities, labels=LABELS[:2], activation="sigmoid", num_units=units,
                   threshold=0.625)  # fmt: skip
    rewrite(tmp_path, SCORES, positive_labels=put(0, value))
    assert broken(tmp_path) == {"positive": (1, f"/a.png in {SCORES}: {says}")}


def test_a_path_that_is_there_twice_is_named_with_both_places(output: Path) -> None:
    """In one table, and across both."""
    rewrite(output, SCORES, image_path=put(2, "/a.png"))
    assert broken(output) == {"paths": (1, f"/a.png is in {SCORES} and in {SCORES}")}
    rewrite(output, FAILURES, image_path=put(0, "/b.png"))
    assert broken(output) == {"paths": (2, f"/a.png is in {SCORES} and in {SCORES}")}
    rewrite(output, SCORES, image_path=put(2, "/c.png"))
    assert broken(output) == {"paths": (1, f"/b.png is in {SCORES} and in {FAILURES}")}


def test_two_paths_of_one_hash_are_no_path_twice(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes only find suspects; the letters decide."""
    monkeypatch.setattr(verify_paths, "_hashes", lambda paths: np.zeros(len(paths), np.int64))
    assert broken(output) == {}
    rewrite(output, FAILURES, image_path=put(0, "/b.png"))
    assert broken(output) == {"paths": (1, f"/b.png is in {SCORES} and in {FAILURES}")}


@pytest.mark.parametrize(
    ("column", "value", "says", "others"),
    [
        ("stage", "dream", "its stage is dream", set()),
        ("code", "lost_interest", "its code is lost_interest", {"failures"}),
    ],
)
def test_failures_of_unknown_stages_and_codes_are_named(
    output: Path, column: str, value: str, says: str, others: set[str]
) -> None:
    """Dashboards group by them: they are an API."""
    rewrite(output, FAILURES, **{column: put(0, value)})
    found = broken(output)
    assert found.pop("codes") == (1, f"/d.png in {FAILURES}: {says}")
    assert set(found) == others


def test_a_file_that_is_gone_is_named(output: Path) -> None:
    """And what it held is missing from the ledger."""
    (output / FAILURES).unlink()
    assert broken(output) == {
        "files": (1, f"{FAILURES} is not there"),
        "ledger": (1, "it says failed 1, and the files of failures have 0 rows"),
        "failures": (1, "it says 1 not_found, and the files have 0"),
    }


def test_a_flipped_byte_is_found_by_digest_and_page(output: Path) -> None:
    """Where the manifest was mended as well, the page's own checksum still tells."""
    file = output / SCORES
    column = pq.read_metadata(file).row_group(1).column(7)
    assert column.path_in_schema.startswith("probabilities")
    data = bytearray(file.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    file.write_bytes(data)
    found = broken(output)
    assert set(found) == {"files", "pages"}
    assert re.fullmatch(
        f"{SCORES} has SHA-256 [0-9a-f]{{64}}, the manifest says [0-9a-f]{{64}}", str(found["files"][1])
    )
    renew_entry(output, SCORES)
    found = broken(output)
    assert set(found) == {"pages"}
    assert str(found["pages"][1]).startswith(f"row group 1 of {SCORES}: ")


def test_a_flipped_byte_is_found_wherever_it_lies(output: Path) -> None:
    """In the footer, too, where names may be no text any more: a broken promise, and no other end."""
    file = output / SCORES
    data = file.read_bytes()
    for at in range(len(data) - 1, -1, -31):
        for bit in (1, 128):
            file.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
            assert "files" in broken(output)


def test_text_that_is_none_is_found(output: Path) -> None:
    """Whoever reads it would stop there."""
    table = pq.read_table(output / SCORES, partitioning=None)
    odd = pa.array([b"/a.png", b"/\xff.png", b"/c.png"]).view(pa.string())
    pq.write_table(table.set_column(0, table.schema.field(0), odd), output / SCORES, write_page_checksum=True)
    renew_entry(output, SCORES)
    found = broken(output)
    assert set(found) == {"pages"}
    assert str(found["pages"][1]).startswith(f"row group 0 of {SCORES}: ")


def test_a_file_that_is_no_parquet_is_named(output: Path) -> None:
    """Cut off by a copy that broke off."""
    file = output / SCORES
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-9])
    found = broken(output)
    assert set(found) == {"files", "pages", "ledger"}
    assert found["files"] == (1, f"{SCORES} has {size - 9:,} bytes, the manifest says {size:,}")
    assert str(found["pages"][1]).startswith(f"{SCORES} is no Parquet file: ")


@pytest.mark.parametrize("stray", [SCORES.replace("00000-of", "00001-of"), "failures/run_id=night/deep/x.parquet"])
def test_a_file_of_another_night_is_found(output: Path, stray: str) -> None:
    """Whoever reads the folder reads it, too."""
    (output / stray).parent.mkdir(exist_ok=True)
    shutil.copy(output / SCORES, output / stray)
    assert broken(output) == {"strays": (1, stray)}


def test_columns_that_are_not_those_of_the_table_are_named(output: Path) -> None:
    """Another type, and another set of columns."""
    file = output / SCORES
    table = pq.read_table(file, partitioning=None)
    at = table.schema.get_field_index("margin")
    pq.write_table(table.set_column(at, "margin", table["margin"].cast(pa.float64())), file)
    renew_entry(output, SCORES)
    assert broken(output) == {"schemas": (1, f"{SCORES}: margin is double; it should be float not null")}
    pq.write_table(table.drop_columns(["margin"]), file)
    renew_entry(output, SCORES)
    assert str(broken(output)["schemas"][1]).startswith(f"{SCORES}: its columns are image_path, image_version, ")


def test_columns_of_failures_are_checked_as_well(output: Path) -> None:
    """They are a table of their own."""
    table = pq.read_table(output / FAILURES, partitioning=None)
    pq.write_table(table.rename_columns(["path", *table.schema.names[1:]]), output / FAILURES)
    renew_entry(output, FAILURES)
    found = broken(output)
    assert str(found["schemas"][1]).startswith(f"{FAILURES}: its columns are path, image_version, ")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"score_images.labels": '["bee", "ant", "cat"]'}, "has another score_images.labels than the files before it"),
        ({"score_images.fingerprint.model": "1"},
         "has another score_images.fingerprint.model than the files before it"),
    ],
)  # fmt: skip
def test_files_that_say_different_things_of_themselves_are_named(
    output: Path, change: dict[str, str], says: str
) -> None:
    """A night of two models, or of two orders of labels."""
    second = SCORES.replace("00000-of", "00001-of")
    table = pq.read_table(output / SCORES, partitioning=None)
    said = {key.decode(): value for key, value in table.schema.metadata.items()}
    pq.write_table(table.slice(0, 0).replace_schema_metadata({**said, **change}), output / second)
    entry = {"table": "scores", "path": second, "rows": 0, "size_bytes": 0, "sha256": ""}
    change_manifest(output, lambda manifest: manifest["files"].append(entry))
    renew_entry(output, second)
    assert broken(output) == {"schemas": (1, f"{second} {says}")}


def test_files_that_do_not_say_what_they_hold_are_named(output: Path) -> None:
    """Another tool has rewritten them."""
    table = pq.read_table(output / SCORES, partitioning=None)
    pq.write_table(table.replace_schema_metadata(None), output / SCORES)
    renew_entry(output, SCORES)
    assert str(broken(output)["schemas"][1]).startswith(f"{SCORES}: run night: {SCORES} does not say its labels")


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("labels", b"[0, 1, 2]", "labels must be a list of str, got [0, 1, 2]"),
        ("labels", b"\xff", "'utf-8' codec can't decode byte 0xff"),
        ("model_id", b"\xff", "'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_files_whose_description_cannot_be_read_are_named(output: Path, key: str, value: bytes, says: str) -> None:
    """With what is wrong with it."""
    table = pq.read_table(output / SCORES, partitioning=None)
    said = {**table.schema.metadata, f"score_images.{key}".encode(): value}
    pq.write_table(table.replace_schema_metadata(said), output / SCORES)
    renew_entry(output, SCORES)
    assert f"what {SCORES} says of itself cannot be read: {says}" in str(broken(output)["schemas"][1])


@pytest.mark.parametrize(
    ("made_with", "says"),
    [
        ({"model": "1", "labels": "2"}, None),
        ({"model": "9", "labels": "2"}, "files say model 1, the manifest says 9"),
        ({"model": "1"}, "files say labels 2, the manifest says None"),
        (None, "files say labels 2, the manifest says None"),
        ({"model": "1", "labels": "2", "pixels": "3"}, "files say pixels None, the manifest says 3"),
    ],
)
def test_fingerprints_are_those_of_the_files(output: Path, made_with: dict[str, str] | None, says: str | None) -> None:
    """A delta relies on those of the manifest."""
    table = pq.read_table(output / SCORES, partitioning=None)
    said = {
        **table.schema.metadata,
        b"score_images.fingerprint.model": b"1",
        b"score_images.fingerprint.labels": b"2",
    }
    pq.write_table(table.replace_schema_metadata(said), output / SCORES, row_group_size=2)
    renew_entry(output, SCORES)
    if made_with is not None:
        change_manifest(output, lambda manifest: manifest.update(fingerprints=made_with))
    times = 2 if made_with is None else 1
    assert broken(output) == ({} if says is None else {"identity": (times, says)})


EIGHTHS = [[0.5, 0.125, 0.375], [0.25, 0.5, 0.25]]


@pytest.mark.parametrize(
    ("settings", "row", "says"),
    [
        ({}, None, None),
        ({}, [0.0, 0.0, 0.0], "class 0 is 0.5, and 0.333333343 by the logits"),
        ({}, [0.0, 0.0], "they are 2, and the model has 3 outputs"),
        ({}, [0.0, float("nan"), 0.0], "one of them is not a finite number"),
        ({"calibration": CalibrationSettings(temperature=2.0)}, None, None),
        ({"activation": "sigmoid"}, None, None),
        ({"activation": "sigmoid", "calibration": CalibrationSettings(platt_a=2.0, platt_b=0.5)}, None, None),
        ({"returns": "probabilities"}, None, None),
        ({"returns": "probabilities"}, [0.25, 0.5, 0.25], "class 0 is 0.5, and 0.25 by the logits"),
    ],
)
def test_probabilities_are_what_the_logits_give(
    tmp_path: Path, settings: dict[str, Any], row: list[float] | None, says: str | None
) -> None:
    """With the activation and the calibration that the files say; a row that has others is named."""
    p = np.array(EIGHTHS)
    logits = np.log(p) - (np.log1p(-p) if settings.get("activation") else 0)
    calibration = settings.get("calibration", CalibrationSettings())
    logits = (logits - (calibration.platt_b or 0)) / (calibration.platt_a or 1) * (calibration.temperature or 1)
    raw = p if "returns" in settings else logits
    publish_scores(tmp_path, PATHS[:2], p, raw=raw, **settings)
    if row is not None:
        rewrite(tmp_path, SCORES, logits=put(0, row))
    assert broken(tmp_path) == ({} if says is None else {"logits": (1, f"/a.png in {SCORES}: {says}")})


@pytest.mark.parametrize(("logit", "kept"), [(2.0, True), (1.9999, False)])
def test_the_one_logit_of_a_one_unit_head_gives_two_probabilities(tmp_path: Path, logit: float, kept: bool) -> None:
    """Its width is the model's own; what float32 does not tell apart is no breach, and the next digit is."""
    p = 1 / (1 + np.exp(-2.0))
    publish_scores(tmp_path, PATHS[:1], [[1 - p, p]], activation="sigmoid", num_units=1, raw=[[logit]], threshold=0.5)
    assert set(broken(tmp_path)) == (set() if kept else {"logits"})


def test_logits_that_cannot_be_what_they_are_called_break_their_promise(tmp_path: Path) -> None:
    """Softmax was applied already: whoever reads them as logits would apply it again."""
    rows = np.random.default_rng(0).dirichlet(np.ones(3), 8)
    publish_scores(tmp_path, [f"/{i}.png" for i in range(8)], rows, raw=rows, group_rows=8)
    count, example = broken(tmp_path)["logits"]
    assert count == 8
    assert "rows lie in [0, 1] and sum to 1, so the model has applied softmax itself" in str(example)


def test_thresholds_of_another_number_of_labels_are_named(tmp_path: Path) -> None:
    """They cannot be held against any row."""
    publish_scores(tmp_path, PATHS[:1], [[0.3, 0.6]], activation="sigmoid")
    table = pq.read_table(tmp_path / SCORES, partitioning=None)
    said = {**table.schema.metadata, b"score_images.thresholds": b"[0.5]"}
    pq.write_table(table.replace_schema_metadata(said), tmp_path / SCORES)
    renew_entry(tmp_path, SCORES)
    assert broken(tmp_path) == {"schemas": (1, f"{SCORES} has 1 thresholds for 2 labels")}


def test_thresholds_that_no_file_says_are_not_guessed(tmp_path: Path) -> None:
    """Runs of earlier versions: what cannot be checked is said."""
    publish_scores(tmp_path, PATHS[:1], [[0.3, 0.6]], activation="sigmoid")
    table = pq.read_table(tmp_path / SCORES, partitioning=None)
    kept = {key: value for key, value in table.schema.metadata.items() if b"thresholds" not in key}
    pq.write_table(table.replace_schema_metadata(kept), tmp_path / SCORES)
    renew_entry(tmp_path, SCORES)
    found = verify(str(tmp_path))
    assert found.broken == ()
    assert {promise.name: promise.skipped for promise in found.promises if promise.skipped} == {
        "sums": "activation sigmoid does not say so",
        "positive": "the files do not say their thresholds",
    }


@pytest.mark.parametrize(
    ("change", "promise", "says"),
    [
        (lambda m: m["ledger"].update(listed=9), "ledger", "listed 9 is not unique 4 + duplicates 0: +5"),
        (lambda m: m["ledger"].update(scored=4, failed=0), "ledger",
         "it says scored 4, and the files of scores have 3 rows"),
        (lambda m: m.update(failures_by_code={"not_found": 2}), "failures",
         "it says 2 not_found, and the files have 1"),
        (lambda m: m.update(failures_by_code={}), "failures", "it says 0 not_found, and the files have 1"),
        (lambda m: m["files"][0].update(rows=4), "pages", f"{SCORES} has 3 rows, the manifest says 4"),
        (lambda m: m["files"][0].update(sha256="0" * 64), "files", None),
        (lambda m: m.update(num_classes=2), "schemas", f"{SCORES} has 3 labels, the manifest says 2 classes"),
        (lambda m: m.update(model_id="other@2"), "model", "files say toy@1, the manifest says other@2"),
        (lambda m: m.update(run_id="noon"), "manifest", "it says run_id noon"),
        (lambda m: m["ledger"].update(listed=3, duplicates=-1), "ledger", "it says duplicates -1"),
        (lambda m: m.update(output="probabilities"), "schemas", "files say output logits, the manifest says "
         "probabilities"),
        (lambda m: m.update(activation="sigmoid"), "schemas", "files say activation softmax, the manifest says "
         "sigmoid"),
        (lambda m: m["files"].append(m["files"][0]), "manifest", f"it names {SCORES} twice"),
        (lambda m: m.update(fingerprints={"model": "1"}), "identity", "files say model None, the manifest says 1"),
        (lambda m: m.update(fingerprints=[]), "manifest", "fingerprints: Input should be a valid dictionary"),
        (lambda m: m.update(config=[]), "manifest",
         "config: Input should be a valid dictionary or instance of _Config"),
        (lambda m: m.update(config={"results": None}), "manifest",
         "config.results: Input should be a valid dictionary or instance of _Results"),
        (lambda m: m.update(config={"results": {"top_k": "2"}}), "manifest",
         "config.results.top_k: Input should be a valid integer"),
        (lambda m: m.update(config={"results": {"top_k": 0}}), "manifest",
         "config.results.top_k: Input should be greater than or equal to 1"),
        (lambda m: m.update(versions=[]), "manifest", "versions: Input should be a valid dictionary"),
        (lambda m: m["files"].pop(), "manifest", "it names no file of the table failures"),
        (lambda m: m["files"].append({**m["files"][0], "path": "../other/x.parquet"}), "manifest",
         "it names ../other/x.parquet, which is no file of its table scores"),
        (lambda m: m["files"][1].pop("sha256"), "manifest", "files.1.sha256: Field required"),
        (lambda m: m.pop("ledger"), "manifest", "ledger: Field required"),
    ],
)  # fmt: skip
def test_a_manifest_that_says_something_else_is_found(
    output: Path, change: Callable[[dict[str, Any]], object], promise: str, says: str | None
) -> None:
    """Each number of it is held against the files."""
    change_manifest(output, change)
    found = broken(output)
    assert promise in found
    if says is not None:
        assert found[promise][1] == says


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "manifest.json cannot be read: Expecting property name"),
        (json.dumps({"manifest_version": 2}), "its manifest is of version 2, this score-images reads version 1"),
    ],
)
def test_a_manifest_that_cannot_be_understood_leaves_nothing_to_check(output: Path, content: str, says: str) -> None:
    """What was not checked is said to be so."""
    (output / "runs" / "night" / "manifest.json").write_text(content)
    found = verify(f"{output}/runs/night")
    assert [promise.name for promise in found.broken] == ["manifest"]
    assert says in str(found.broken[0].example)
    assert {promise.skipped for promise in found.promises[1:]} == {"there is no whole manifest to hold it against"}


def test_a_run_that_is_not_published_is_no_broken_promise(output: Path) -> None:
    """It promises nothing yet: the sentence is that of every command that reads a run."""
    (output / "runs" / "night" / "_SUCCESS").unlink()
    with pytest.raises(InputError, match="is not published: it is under way, or it broke off"):
        verify(f"{output}/runs/night")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"run_id": "night", "manifest": "runs/night/manifest.json", "scores": "scores/run_id=noon",
          "failures": "failures/run_id=night"}, "its scores is scores/run_id=noon, which is not there"),
        ({"run_id": "night", "scores": "scores/run_id=night", "failures": "failures/run_id=night"},
         "its manifest is None, which is not there"),
        ({}, "latest.json is no pointer: KeyError: 'run_id'"),
        ([], "latest.json is no pointer: TypeError: list indices must be integers or slices, not str"),
        ({"run_id": "noon", "scores": "nowhere"}, None),  # another run's business
    ],
)  # fmt: skip
def test_a_pointer_to_this_run_points_to_what_is_there(output: Path, content: dict[str, str], says: str | None) -> None:
    """Whoever follows it finds the run."""
    (output / "latest.json").write_text(json.dumps(content))
    assert broken(output) == ({} if says is None else {"latest": (1, says)})
    (output / "latest.json").unlink()
    assert broken(output) == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda report: report["outcome"].update(published_at="2020-01-01T00:00:00+00:00"),
         'it says published_at "2020-01-01T00:00:00+00:00", the manifest "'),
        (lambda report: report["ledger"].update(scored=9), 'it says ledger {"listed": 4, "duplicates": 0, "unique": 4'),
        (lambda report: report.update(report_version=9), "it is no report of version 1"),
        (lambda report: report.clear(), "it is no report of version 1"),
    ],
)  # fmt: skip
def test_a_report_is_of_the_run_that_it_lies_beside(
    output: Path, content: Callable[[Any], Any], says: str | None
) -> None:
    """One of a run that was replaced, or of nothing, is named."""
    write_report(find_ended(str(output)), thumbnails=0)
    assert broken(output) == {}
    path = output / "runs" / "night" / "report.json"
    report = json.loads(path.read_text())
    content(report)
    path.write_text(json.dumps(report))
    found = broken(output)
    count, example = found.pop("report")
    assert (count, found) == (1, {})
    assert example.startswith(f"{path}: {says}")
    assert example.endswith("; score-images report makes it again")
    path.write_text("{")
    assert list(broken(output)) == ["report"]


def test_the_command_prints_one_line_a_promise(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And returns 0, or 6 where one is broken."""
    assert main(["verify", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"run night in {output}: 3 rows of scores, 1 rows of failures in 2 files"
    assert lines[1:-1] == [f"  ok           {name:<10} {says}" for name, says in PROMISES.items()]
    assert lines[-1] == "run night keeps what it promises"
    change_manifest(output, lambda manifest: manifest["ledger"].update(listed=9))
    rewrite(output, SCORES, image_path=put(0, "/x\x1b[2Jy.png"), margin=put(0, 2.0))
    assert main(["verify", str(output)]) == 6
    lines = capsys.readouterr().out.splitlines()
    assert (
        "  BROKEN       ledger     listed = unique + duplicates, unique = scored + failed + skipped, as the files hold "
        "them: 1 times, first: listed 9 is not unique 4 + duplicates 0: +5"
    ) in lines
    assert (
        f"  BROKEN       margin     margin is p1 - p2: 1 times, first: /x\\x1b[2Jy.png in {SCORES}: margin is 2, and "
        "0.25 by the probabilities"
    ) in lines
    assert lines[-1] == "run night breaks 2 of its 24 promises"


def test_the_command_prints_json(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For a program that watches."""
    (output / FAILURES).unlink()
    assert main(["verify", "--json", str(output)]) == 6
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == {"scores": 3, "failures": 0}
    assert found["promises"][1] == {
        "name": "files",
        "broken": 1,
        "example": f"{FAILURES} is not there",
        "skipped": None,
    }


def test_a_run_on_s3_is_verified_where_it_lies(bucket: str) -> None:
    """The same promises, asked of a store."""
    output = f"{bucket}/out"
    publish_scores(output, PATHS, THIRDS, failed=["/d.png"])
    assert broken(output) == {}
    assert find_run(output).layout.output == output
    stray = SCORES.replace("00000-of", "00001-of")
    storage.write_bytes(f"{output}/{stray}", b"stray")
    moving.delete_file(f"{output}/{FAILURES}")
    assert {name: found[1] for name, found in broken(output).items()} == {
        "files": f"{FAILURES} is not there",
        "strays": stray,
        "ledger": "it says failed 1, and the files of failures have 0 rows",
        "failures": "it says 1 not_found, and the files have 0",
    }
