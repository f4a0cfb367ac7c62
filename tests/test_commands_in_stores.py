"""Nights whose images and runs lie in s3:// and gs://: every command that follows or precedes them, by its contents."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from pipeline.before.places import try_output
from pipeline.cli import main
from tests.model_zoo import expected_softmax, photos, pooled_model
from tests.runs import run_quietly, small_config, write_config
from transforms import storage
from transforms.layout import RunLayout

pytest_plugins = ["tests.s3_store", "tests.gcs_store"]

PIXELS = photos(6)
NAMES = ("a.png", "b [1]?#ü.png", "c.png", "d.png", "sub/e.png", "sub/f.png")
LABELS = ("cat", "dog", "fox", "owl")


class Nights(NamedTuple):
    """Two runs of the same images, of which the second was told another range of values."""

    bucket: str
    """Holds photos and runs."""
    config: Path
    """Of the first."""
    images: tuple[str, ...]
    """URLs of the scored images, sorted."""
    probabilities: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
    """float32[6, 4] of each run, reckoned by NumPy."""

    @property
    def output(self) -> str:
        """Of both runs."""
        return f"{self.bucket}/out"

    def objects(self) -> dict[str, Any]:
        """Every object of the bucket, by its URL."""
        return {file.path: file for file in storage.list_folder(self.bucket)}


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """An image file without a loss."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module", params=["s3", "gs"])
def nights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nights]:
    """The runs first and second, and an image without a byte."""
    from tests.gcs_store import make_gcs_bucket, use_gcs  # pytest has to import them first, as plugins
    from tests.s3_store import make_bucket, use_s3

    folder = tmp_path_factory.mktemp(request.param)
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "s3":
            endpoint = request.getfixturevalue("s3_endpoint")
            use_s3(patch, endpoint)
            bucket = make_bucket(endpoint)
        else:
            endpoint = request.getfixturevalue("gcs_endpoint")
            use_gcs(patch, endpoint)
            bucket = make_gcs_bucket(endpoint)
        for name, pixels in zip(NAMES, PIXELS, strict=True):
            storage.write_bytes(f"{bucket}/photos/{name}", png(pixels))
        storage.write_bytes(f"{bucket}/photos/empty.png", b"")
        config = small_config(
            pooled_model(folder / "model"),
            labels={"path": str(folder / "labels.txt")},
            limits={"max_failure_rate": 0.5},
        )
        other = config.preprocess.model_copy(update={"value_range": "-1_1"})
        for run_id, told in (("first", config), ("second", config.model_copy(update={"preprocess": other}))):
            run_quietly(told, [f"{bucket}/photos/"], f"{bucket}/out", run_id=run_id)
        values = PIXELS / np.float32(255)
        yield Nights(
            bucket,
            write_config(config, folder / "config.yaml"),
            tuple(f"{bucket}/photos/{name}" for name in NAMES),
            (expected_softmax(values), expected_softmax(values * 2 - 1)),
        )
    storage._remote_filesystem.cache_clear()


@pytest.fixture
def truth(nights: Nights) -> str:
    """A truth in the bucket, of three images in another order, and one that nobody has scored."""
    stream = io.StringIO(newline="")
    rows = [(nights.images[5], "owl"), (nights.images[1], "cat"), (nights.images[2], "dog"), ("s3://no/x.png", "cat")]
    csv.writer(stream).writerows([("image_path", "label"), *rows])
    path = f"{nights.bucket}/truth.csv"
    storage.write_bytes(path, stream.getvalue().encode())
    return path


def test_csv_has_the_rows_of_the_run(nights: Nights, truth: str, tmp_path: Path) -> None:
    """The run named by its folder, the truth in the same bucket."""
    run = f"{nights.output}/runs/first"
    arguments = ["--to", "csv", "--out", str(tmp_path / "x.csv"), "--probabilities", "--truth", truth]
    assert main(["export", run, *arguments]) == 0
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["image_path"])
    expected = nights.probabilities[0]
    assert [row["image_path"] for row in rows] == list(nights.images)
    assert [row["predicted_label"] for row in rows] == [LABELS[index] for index in expected.argmax(axis=1)]
    found = np.array([[float(row[f"p({label})"]) for label in LABELS] for row in rows])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert [row["true_label"] for row in rows] == ["", "cat", "dog", "", "", "owl"]
    assert {row["image_bytes"] for row in rows} == {str(len(png(pixels))) for pixels in PIXELS}
    assert all(row["image_version"] for row in rows)


def test_cleanlab_gets_the_images_that_have_a_truth(nights: Nights, truth: str, tmp_path: Path) -> None:
    """The run named by the folder of its table."""
    run = f"{nights.output}/scores/run_id=first/"
    assert main(["export", run, "--to", "cleanlab", "--out", str(tmp_path / "x"), "--truth", truth]) == 0
    with (tmp_path / "x" / "images.csv").open(newline="", encoding="utf-8") as file:
        paths = [row["image_path"] for row in csv.DictReader(file)]
    order = np.argsort(paths)
    assert sorted(paths) == [nights.images[index] for index in (1, 2, 5)]
    found = np.load(tmp_path / "x" / "pred_probs.npy")[order]
    np.testing.assert_allclose(found, nights.probabilities[0][[1, 2, 5]], atol=1e-6)
    assert np.load(tmp_path / "x" / "labels.npy")[order].tolist() == [0, 1, 3]
    assert json.loads((tmp_path / "x" / "classes.json").read_text()) == list(LABELS)


def test_evidently_gets_the_newest_run(nights: Nights, tmp_path: Path) -> None:
    """The folder of all runs means the one that was published last."""
    place = tmp_path / "x.parquet"
    assert main(["export", nights.output, "--to", "evidently", "--out", str(place), "--probabilities"]) == 0
    table = pq.read_table(place).sort_by("image_path")
    assert table["image_path"].to_pylist() == list(nights.images)
    found = np.stack([table[label].to_numpy() for label in LABELS], axis=1)
    np.testing.assert_allclose(found, nights.probabilities[1], atol=1e-6)


def test_fiftyone_needs_to_know_where_the_bucket_is_mounted(
    nights: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It opens local files only; nothing is left of what was refused."""
    arguments = ["export", nights.output, "--to", "fiftyone", "--out", str(tmp_path / "x.json")]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert " lies in a store, and FiftyOne opens local files: " in said
    assert list(tmp_path.iterdir()) == []
    assert main([*arguments, "--replace-prefix", f"{nights.bucket}/=/mnt/"]) == 0
    samples = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["samples"]
    assert sorted(sample["filepath"] for sample in samples) == [f"/mnt/photos/{name}" for name in NAMES]


def test_the_report_is_made_beside_the_manifest(nights: Nights, capsys: pytest.CaptureFixture[str]) -> None:
    """Ledger, least certain and failure as they are, and a picture of every image that is read from the bucket."""
    assert main(["report", nights.output, "--run-id", "first", "--thumbnails", "20"]) == 0
    place = f"{nights.output}/runs/first/report.html"
    assert capsys.readouterr().out.strip() == place
    said = json.loads(storage.read_bytes(f"{nights.output}/runs/first/report.json"))
    assert (said["run_id"], said["output"]) == ("first", nights.output)
    assert said["ledger"] == {"listed": 7, "duplicates": 0, "unique": 7, "scored": 6, "failed": 1, "skipped": 0}
    assert said["failures"]["by_code"] == {"empty_file": 1}
    sorted_p = np.sort(nights.probabilities[0], axis=1)
    order = np.argsort(sorted_p[:, -1] - sorted_p[:, -2])
    assert [row["image_path"] for row in said["least_certain"]["images"]] == [nights.images[i] for i in order]
    assert storage.read_bytes(place).count(b"data:image/jpeg;base64,") == len(NAMES)


def test_two_runs_are_compared_into_the_bucket(nights: Nights, capsys: pytest.CaptureFixture[str]) -> None:
    """Each image that changed its answer, and how far each has moved; page and figures lie where they were told to."""
    runs = [f"{nights.output}/runs/{run_id}" for run_id in ("first", "second")]
    places = [f"{nights.bucket}/compared/{name}" for name in ("page.html", "all.json")]
    assert main(["compare", *runs, "--html", places[0], "--json", places[1]]) == 0
    before, now = nights.probabilities
    told = json.loads(storage.read_bytes(places[1]))
    assert [side["run_id"] for side in told["runs"]] == ["first", "second"]
    assert (told["images"]["shared"], told["images"]["shared_new_version"]) == (len(NAMES), 0)
    flips = Counter(
        (LABELS[old], LABELS[new])
        for old, new in zip(before.argmax(axis=1), now.argmax(axis=1), strict=True)
        if old != new
    )
    assert {(flip["before"], flip["now"]): flip["images"] for flip in told["flips"]} == flips
    assert sum(flips.values()) > 1
    change = dict(zip(nights.images, np.abs(before - now).sum(axis=1) / 2, strict=True))
    assert {row["image_path"]: row["change"] for row in told["movements"]} == pytest.approx(change, abs=1e-6)
    assert storage.read_bytes(places[0]).count(b"data:image/jpeg;base64,") == len(NAMES)
    assert capsys.readouterr().out.startswith("run second compared with run first\n")


def test_preflight_tries_images_and_output_and_leaves_nothing(nights: Nights, tmp_path: Path) -> None:
    """Every image is listed, read and scored; no object is there more than before, and none is another."""
    before = nights.objects()
    arguments = ["--config", nights.config, "--input", f"{nights.bucket}/photos/", "--output", nights.output]
    told = ["--run-id", "first", "--seconds", 0.1, "--json", tmp_path / "x.json", "--html", tmp_path / "x.html"]
    assert main(["preflight", *map(str, [*arguments, *told])]) == 0
    assert nights.objects() == before
    found = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    checks = {check["name"]: (check["state"], check["text"]) for check in found["checks"]}
    assert checks["output"] == ("ok", f"{nights.output}: a file was written, read again and deleted")
    assert checks["run id"][1].startswith("run first is already published")
    assert checks["input"] == ("ok", "7 images, counted; 7 sampled")
    assert found["failures"]["by_code"]["empty_file"]["sampled"] == 1
    top = {row["path"]: (row["top"][0]["label"], row["top"][0]["probability"]) for row in found["sample"]}
    p = nights.probabilities[0]
    assert {path: label for path, (label, _) in top.items()} == {
        path: LABELS[index] for path, index in zip(nights.images, p.argmax(axis=1), strict=True)
    }
    assert [top[path][1] for path in nights.images] == pytest.approx(p.max(axis=1).tolist(), abs=1e-6)
    assert (tmp_path / "x.html").read_bytes().count(b"data:image/jpeg;base64,") >= len(NAMES)


def test_an_output_without_runs_has_none_after_a_preflight(nights: Nights) -> None:
    """In s3:// the folder stays, which Arrow makes when it deletes: an object without a byte, and no run."""
    output, before = f"{nights.bucket}/new", nights.objects()
    assert try_output(RunLayout(output, "night")) == f"{output}: a file was written, read again and deleted"
    assert nights.objects() == before
    assert storage.is_folder(f"{output}/runs") is nights.bucket.startswith("s3:")


def test_a_bucket_that_is_not_there_is_named_by_every_command(
    nights: Nights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line, at once: such an answer is final."""
    gone = f"{nights.bucket}-gone"
    export = ["export", f"{gone}/out", "--to", "csv", "--out", str(tmp_path / "x.csv")]
    compare = ["compare", nights.output, f"{gone}/out"]
    for arguments in (export, compare, ["report", f"{gone}/out"], ["verify", f"{gone}/out"]):
        assert main(arguments) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(f"score-images: run {gone}/out: there is no run at {gone}/out; give the --output folder")
    places = ["--input", f"{gone}/photos/", "--output", f"{gone}/out"]
    assert main(["preflight", "--config", str(nights.config), *places]) == 2
    failures = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  FAIL")]
    assert len(failures) == 2
    assert failures[0].startswith(f"  FAIL  output         output {gone}/out cannot be written: ")
    assert failures[0].endswith("; give a folder or bucket that this process may write")
    assert failures[1].startswith(f"  FAIL  input          input {gone}/photos/ matches nothing: ")
