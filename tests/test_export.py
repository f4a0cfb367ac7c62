"""score-images export: exact contents of each form, bounded memory, and one clear line for what cannot be."""

import csv
import gzip
import io
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.after import export_source
from pipeline.after.export import TARGETS, ExportOptions, export
from pipeline.after.export_fiftyone import Prefix, parse_prefix
from pipeline.after.export_source import ExportSource
from pipeline.after.published import find_run
from pipeline.after.truth import read_truth
from pipeline.cli import main
from tests.published_runs import publish_scores
from transforms.errors import ConfigError, InputError

LABELS = ("cat", 'a "dog", big', "=owl")
P = np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.25, 0.125, 0.625], [0.4, 0.3, 0.3], [0, 0, 1]], np.float32)
PATHS = ("/p/a.jpg", '/p/b "x", y.jpg', "/p/c\nd.jpg", "/p/ü.jpg", "/p/e.jpg")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five images in row groups of two."""
    folder = tmp_path_factory.mktemp("export") / "scores"
    publish_scores(
        folder,
        PATHS,
        P,
        labels=LABELS,
        top_k=2,
        failed=["/p/gone.jpg"],
        scored_at=datetime(2026, 11, 22, 3, tzinfo=UTC),
    )
    return folder


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Three images of the run, one that failed, one that it does not know."""
    path = tmp_path / "truth.csv"
    with path.open("w", newline="") as file:
        rows = [(PATHS[0], "cat"), (PATHS[1], "=owl"), (PATHS[4], "=owl"), ("/p/gone.jpg", "cat"), ("/p/no.jpg", "cat")]
        csv.writer(file).writerows([("image_path", "label"), *rows])
    return path


def call(output: Path, *arguments: object) -> int:
    """The command."""
    return main(["export", str(output), *map(str, arguments)])


def read_csv(path: Path) -> list[dict[str, str]]:
    """With Python's own reader."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class TestCsv:
    def test_a_line_an_image_with_everything_flat(self, output: Path, tmp_path: Path) -> None:
        """Quotes, commas, line ends and umlauts come back as they were; numbers as the shortest text of float32."""
        assert call(output, "--to", "csv", "--out", tmp_path / "x.csv", "--probabilities") == 0
        rows = read_csv(tmp_path / "x.csv")
        assert [row["image_path"] for row in rows] == list(PATHS)
        assert rows[1] == {
            "image_path": PATHS[1], "predicted_label": LABELS[1], "predicted_index": "1",
            "predicted_probability": "0.75", "label_1": LABELS[1], "probability_1": "0.75", "label_2": "cat",
            "probability_2": "0.125", "margin": "0.625", "entropy": rows[1]["entropy"], "image_version": "v",
            "image_width": "1", "image_height": "1", "image_format": "png", "image_bytes": "1",
            "image_decoder": "pillow", "model_id": "toy@1", "scored_at": "2026-11-22 03:00:00.000000Z",
            "p(cat)": "0.125", f"p({LABELS[1]})": "0.75", "p(=owl)": "0.125",
        }  # fmt: skip
        assert float(rows[1]["entropy"]) == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.125)), abs=1e-6)
        assert [float(rows[3][f"p({label})"]) for label in LABELS] == [0.4, 0.3, 0.3]

    def test_gz_compresses_the_same_text(self, output: Path, tmp_path: Path) -> None:
        """By the end of the name."""
        assert call(output, "--to", "csv", "--out", tmp_path / "x.csv") == 0
        assert call(output, "--to", "csv", "--out", tmp_path / "x.csv.gz") == 0
        assert gzip.decompress((tmp_path / "x.csv.gz").read_bytes()) == (tmp_path / "x.csv").read_bytes()

    def test_truth_stands_beside_the_images_that_have_one(
        self, output: Path, truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """No image is left out; what run and truth do not share is counted."""
        assert call(output, "--to", "csv", "--out", tmp_path / "x.csv", "--truth", truth) == 0
        assert [row["true_label"] for row in read_csv(tmp_path / "x.csv")] == ["cat", "=owl", "", "", "=owl"]
        assert capsys.readouterr().out.splitlines() == [
            f"run night: 5 images for csv in {tmp_path}/x.csv",
            "  truth     3 images matched by path, read as label texts; 2 scored images without truth",
            "            2 images of the truth without scores, 1 of them failed; first: /p/gone.jpg",
        ]

    def test_texts_like_formulas_are_marked_when_asked_for(self, output: Path, truth: Path, tmp_path: Path) -> None:
        """An apostrophe before = in each cell; numbers and other texts stay."""
        options = ("--for-spreadsheets", "--truth", truth)
        assert call(output, "--to", "csv", "--out", tmp_path / "x.csv", *options) == 0
        row = read_csv(tmp_path / "x.csv")[4]
        assert (row["predicted_label"], row["label_1"], row["true_label"]) == ("'=owl", "'=owl", "'=owl")
        assert (row["label_2"], row["image_path"], row["margin"]) == ("cat", "/p/e.jpg", "1")

    def test_labels_of_independent_classes_are_parted_by_semicolons(self, tmp_path: Path) -> None:
        """As `evaluate` reads them in a truth; an image without a label has an empty cell."""
        publish_scores(tmp_path / "s", ["/a", "/b"], [[0.9, 0.7], [0.1, 0.2]], labels=["x", "y"], activation="sigmoid")
        assert call(tmp_path / "s", "--to", "csv", "--out", tmp_path / "x.csv") == 0
        assert [row["positive_labels"] for row in read_csv(tmp_path / "x.csv")] == ["x;y", ""]
        (tmp_path / "truth.csv").write_text("image_path,label\n/a,x;y\n/b,\n")
        assert call(tmp_path / "s", "--to", "csv", "--out", tmp_path / "y.csv", "--truth", tmp_path / "truth.csv") == 0
        assert [row["true_label"] for row in read_csv(tmp_path / "y.csv")] == ["x;y", ""]

    def test_classes_of_one_name_have_columns_of_their_own(self, tmp_path: Path) -> None:
        """ImageNet has two cranes."""
        publish_scores(tmp_path / "s", ["/a"], [[0.2, 0.7, 0.1]], labels=["crane", "cat", "crane"])
        assert call(tmp_path / "s", "--to", "csv", "--out", tmp_path / "x.csv", "--probabilities") == 0
        (row,) = read_csv(tmp_path / "x.csv")
        assert [row["p(crane (0))"], row["p(cat)"], row["p(crane (2))"]] == ["0.2", "0.7", "0.1"]


_TEXTS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    labels=st.lists(_TEXTS, min_size=2, max_size=4, unique=True),
    names=st.lists(_TEXTS, min_size=1, max_size=5, unique=True),
    seed=st.integers(0, 99),
)
def test_csv_says_what_the_table_says(
    labels: list[str], names: list[str], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any labels and paths, read back with Python's own reader: bit for bit the float32 of the table."""
    folder = tmp_path_factory.mktemp("any")
    p = np.random.default_rng(seed).dirichlet(np.ones(len(labels)), len(names)).astype(np.float32)
    paths = [f"/{name}" for name in names]
    publish_scores(folder / "s", paths, p, labels=labels)
    export(find_run(str(folder / "s")), "csv", str(folder / "x.csv"), options=ExportOptions(probabilities=True))
    rows = read_csv(folder / "x.csv")
    assert [row["image_path"] for row in rows] == paths
    assert [row["predicted_label"] for row in rows] == [labels[c] for c in p.argmax(axis=1)]
    back = np.array([[row[f"p({label})"] for label in labels] for row in rows], np.float32)
    assert back.tobytes() == p.tobytes()


class TestCleanlab:
    def test_without_a_truth_all_images(self, output: Path, tmp_path: Path) -> None:
        """The matrix is the table's, bit for bit; there are no labels."""
        assert call(output, "--to", "cleanlab", "--out", tmp_path / "x") == 0
        assert sorted(os.listdir(tmp_path / "x")) == ["classes.json", "images.csv", "pred_probs.npy"]
        matrix = np.load(tmp_path / "x" / "pred_probs.npy", mmap_mode="r")
        assert (matrix.dtype, matrix.shape) == (np.float32, (5, 3))
        assert matrix.tobytes() == P.tobytes()
        assert json.loads((tmp_path / "x" / "classes.json").read_text()) == list(LABELS)
        images = read_csv(tmp_path / "x" / "images.csv")
        assert [row["image_path"] for row in images] == list(PATHS)
        assert {row["true_label"] for row in images} == {""}

    def test_with_a_truth_the_images_that_have_one(self, output: Path, truth: Path, tmp_path: Path) -> None:
        """Matrix, labels and paths in one order."""
        assert call(output, "--to", "cleanlab", "--out", tmp_path / "x", "--truth", truth) == 0
        assert np.load(tmp_path / "x" / "pred_probs.npy").tobytes() == P[[0, 1, 4]].tobytes()
        assert np.load(tmp_path / "x" / "labels.npy").tolist() == [0, 2, 2]
        images = read_csv(tmp_path / "x" / "images.csv")
        assert [tuple(row.values()) for row in images] == [
            (PATHS[0], "cat", "cat"),
            (PATHS[1], LABELS[1], "=owl"),
            (PATHS[4], "=owl", "=owl"),
        ]

    def test_independent_labels_are_lists(self, tmp_path: Path) -> None:
        """What find_label_issues takes with multi_label=True."""
        publish_scores(tmp_path / "s", ["/a", "/b"], [[0.9, 0.7], [0.1, 0.2]], labels=["x", "y"], activation="sigmoid")
        (tmp_path / "truth.csv").write_text("image_path,label\n/a,y\n/a,x\n/b,\n")
        assert call(tmp_path / "s", "--to", "cleanlab", "--out", tmp_path / "x", "--truth", tmp_path / "truth.csv") == 0
        assert json.loads((tmp_path / "x" / "labels.json").read_text()) == [[0, 1], []]
        assert not (tmp_path / "x" / "labels.npy").exists()


class TestFiftyone:
    def test_a_sample_an_image(self, output: Path, truth: Path, tmp_path: Path) -> None:
        """Whole document, first sample and last."""
        assert call(output, "--to", "fiftyone", "--out", tmp_path / "x.json", "--truth", truth) == 0
        document = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
        samples = document.pop("samples")
        label = "fiftyone.core.fields.EmbeddedDocumentField(fiftyone.core.labels.{})"
        assert document == {
            "name": "score-images night",
            "media_type": "image",
            "sample_fields": {
                "prediction": label.format("Classification"),
                "top_k": label.format("Classifications"),
                "margin": "fiftyone.core.fields.FloatField",
                "entropy": "fiftyone.core.fields.FloatField",
                "model_id": "fiftyone.core.fields.StringField",
                "scored_at": "fiftyone.core.fields.StringField",
                "ground_truth": label.format("Classification"),
            },
            "info": {"run_id": "night", "output": str(output)},
            "default_classes": list(LABELS),
        }
        assert [sample["filepath"] for sample in samples] == list(PATHS)
        assert [sample.get("ground_truth", {}).get("label") for sample in samples] == [
            "cat",
            "=owl",
            None,
            None,
            "=owl",
        ]
        assert samples[0] == {
            "filepath": "/p/a.jpg",
            "metadata": {
                "_cls": "ImageMetadata", "size_bytes": 1, "mime_type": "image/png", "width": 1, "height": 1,
            },
            "prediction": {"_cls": "Classification", "label": "cat", "confidence": 0.5},
            "top_k": {
                "_cls": "Classifications",
                "classifications": [
                    {"_cls": "Classification", "label": "cat", "confidence": 0.5},
                    {"_cls": "Classification", "label": LABELS[1], "confidence": 0.25},
                ],
            },
            "margin": 0.25,
            "entropy": pytest.approx(1.0397207, abs=1e-6),
            "model_id": "toy@1",
            "scored_at": "2026-11-22T03:00:00+00:00",
            "ground_truth": {"_cls": "Classification", "label": "cat"},
        }  # fmt: skip

    def test_independent_labels_are_classifications(self, tmp_path: Path) -> None:
        """The positive ones, and the true ones."""
        publish_scores(tmp_path / "s", ["/a", "/b"], [[0.9, 0.7], [0.1, 0.2]], labels=["x", "y"], activation="sigmoid")
        (tmp_path / "truth.csv").write_text("image_path,label\n/a,y\n")
        options = ("--truth", tmp_path / "truth.csv")
        assert call(tmp_path / "s", "--to", "fiftyone", "--out", tmp_path / "x.json", *options) == 0
        first, second = json.loads((tmp_path / "x.json").read_text())["samples"]
        assert [c["label"] for c in first["positive"]["classifications"]] == ["x", "y"]
        assert [c["label"] for c in first["ground_truth"]["classifications"]] == ["y"]
        assert second["positive"] == {"_cls": "Classifications", "classifications": []}
        assert "ground_truth" not in second

    def test_paths_of_a_store_need_a_place(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Without one it says so and writes nothing; with one the beginning is replaced."""
        publish_scores(tmp_path / "s", ["s3://b/x/1.jpg"], [[1, 0]])
        arguments = ("--to", "fiftyone", "--out", tmp_path / "x.json")
        assert call(tmp_path / "s", *arguments) == 2
        assert "image s3://b/x/1.jpg lies in a store, and FiftyOne opens local files" in capsys.readouterr().err
        assert os.listdir(tmp_path) == ["s"]
        assert call(tmp_path / "s", *arguments, "--replace-prefix", "s3://b/=/mnt/b/") == 0
        (sample,) = json.loads((tmp_path / "x.json").read_text())["samples"]
        assert sample["filepath"] == "/mnt/b/x/1.jpg"

    @pytest.mark.parametrize("text", ["s3://b", "=/mnt", "s3://b=mnt", "s3://b="])
    def test_a_prefix_is_from_and_to(self, text: str) -> None:
        """TO is a local folder."""
        with pytest.raises(ConfigError, match="must be FROM=TO with a local folder as TO, got "):
            parse_prefix(text)
        assert Prefix("/a/", "/b/").applied("/c/a/x") == "/c/a/x"


class TestEvidently:
    def test_flat_columns(self, output: Path, truth: Path, tmp_path: Path) -> None:
        """Plain types only, the target where it is known, a column a class."""
        options = ("--probabilities", "--truth", truth)
        assert call(output, "--to", "evidently", "--out", tmp_path / "x.parquet", *options) == 0
        table = pq.read_table(tmp_path / "x.parquet")
        assert table.column_names == [
            "image_path", "prediction", "prediction_probability", "target", "margin", "entropy", "image_width",
            "image_height", "image_bytes", "image_format", "scored_at", *LABELS,
        ]  # fmt: skip
        assert not any(pa.types.is_nested(field.type) or pa.types.is_dictionary(field.type) for field in table.schema)
        assert table["image_path"].to_pylist() == list(PATHS)
        assert table["prediction"].to_pylist() == ["cat", LABELS[1], "=owl", "cat", "=owl"]
        assert table["target"].to_pylist() == ["cat", "=owl", None, None, "=owl"]
        assert np.stack([table[label].to_numpy() for label in LABELS], axis=1).tobytes() == P.tobytes()

    def test_classes_of_one_name_stay_apart(self, tmp_path: Path) -> None:
        """In predictions and targets alike."""
        publish_scores(tmp_path / "s", ["/a", "/b"], [[0.2, 0.1, 0.7], [0, 1, 0]], labels=["crane", "cat", "crane"])
        assert call(tmp_path / "s", "--to", "evidently", "--out", tmp_path / "x.parquet") == 0
        assert pq.read_table(tmp_path / "x.parquet")["prediction"].to_pylist() == ["crane (2)", "cat"]

    def test_what_evidently_has_no_place_for_is_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Several targets an image; a class with the name of a column."""
        publish_scores(tmp_path / "s", ["/a"], [[0.9, 0.7]], labels=["margin", "y"], activation="sigmoid")
        (tmp_path / "truth.csv").write_text("image_path,label\n/a,y\n")
        arguments = ("--to", "evidently", "--out", tmp_path / "x.parquet")
        assert call(tmp_path / "s", *arguments, "--truth", tmp_path / "truth.csv") == 2
        assert "Evidently takes one target an image; leave out --truth" in capsys.readouterr().err
        assert call(tmp_path / "s", *arguments, "--probabilities") == 2
        assert "class margin has the name of a column of the export" in capsys.readouterr().err


@pytest.mark.parametrize("target", TARGETS)
class TestEveryTarget:
    def test_a_run_without_rows_is_a_valid_file(self, target: str, tmp_path: Path) -> None:
        """A delta in which nothing was new."""
        publish_scores(tmp_path / "s", [], np.zeros((0, 3)), labels=LABELS)
        assert call(tmp_path / "s", "--to", target, "--out", tmp_path / "x") == 0
        if target == "csv":
            with (tmp_path / "x").open(newline="") as file:
                assert next(csv.reader(file))[:2] == ["image_path", "predicted_label"]
                assert file.read() == ""
        elif target == "cleanlab":
            assert np.load(tmp_path / "x" / "pred_probs.npy").shape == (0, 3)
        elif target == "fiftyone":
            assert json.loads((tmp_path / "x").read_text())["samples"] == []
        else:
            assert pq.read_table(tmp_path / "x").num_rows == 0

    def test_nothing_is_replaced_without_a_word(
        self, target: str, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Exit 2 and what there was; --overwrite replaces an export, and no folder or file of another kind."""
        out = tmp_path / "x"
        assert call(output, "--to", target, "--out", out) == 0
        before = sorted(path.stat().st_ino for path in [out, *out.rglob("*")])
        assert call(output, "--to", target, "--out", out) == 2
        assert capsys.readouterr().err.endswith("x exists; give another path, or --overwrite to replace it\n")
        assert sorted(path.stat().st_ino for path in [out, *out.rglob("*")]) == before
        assert call(output, "--to", target, "--out", out, "--overwrite") == 0
        other = "csv" if target == "cleanlab" else "cleanlab"
        assert call(output, "--to", other, "--out", out, "--overwrite") == 2
        assert "to be written; give another path" in capsys.readouterr().err
        assert os.listdir(tmp_path) == ["x"]

    def test_a_damaged_run_leaves_nothing_behind(
        self, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The second row group cannot be read: one line, exit 2, no half file."""
        publish_scores(tmp_path / "s", PATHS, P, labels=LABELS)
        (part,) = (tmp_path / "s" / "scores").rglob("*.parquet")
        metadata = pq.ParquetFile(part).metadata.row_group(1)
        data = bytearray(part.read_bytes())
        for leaf in range(metadata.num_columns):
            start = metadata.column(leaf).data_page_offset
            data[start : start + metadata.column(leaf).total_compressed_size] = b"\xff" * 4
        part.write_bytes(data[: part.stat().st_size])
        assert call(tmp_path / "s", "--to", target, "--out", tmp_path / "x") == 2
        error = capsys.readouterr().err
        assert error.startswith("score-images: run night")
        assert error.count("\n") == 1
        assert os.listdir(tmp_path) == ["s"]

    def test_options_of_another_target_are_refused(self, target: str, output: Path, tmp_path: Path) -> None:
        """Silence would look like obedience."""
        fitting: dict[str, Sequence[str]] = {
            "csv": ("probabilities", "for_spreadsheets"), "evidently": ("probabilities",), "fiftyone": ("prefix",),
        }  # fmt: skip
        values: dict[str, Any] = {"probabilities": True, "for_spreadsheets": True, "prefix": Prefix("/a", "/b")}
        for name in set(values) - set(fitting.get(target, ())):
            with pytest.raises(ConfigError, match=rf"is for --to .*, got --to {target}; leave it out"):
                export(
                    find_run(str(output)), target, str(tmp_path / "x"), options=ExportOptions(**{name: values[name]})
                )

    def test_progress_tells_every_row(self, target: str, output: Path, tmp_path: Path) -> None:
        """A row group at a time."""
        told: list[int] = []
        export(find_run(str(output)), target, str(tmp_path / "x"), progress=told.append)
        assert told == [2, 2, 1]


def test_wrong_places_are_refused(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A store, the run's own folders, a folder with files of the user, a place that cannot be written to."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.doc").touch()
    (tmp_path / "file").touch()
    for target, out, reason in (
        ("csv", "s3://b/x.csv", "--out must be a local path, got s3://b/x.csv; write it locally and copy it"),
        ("csv", f"{output}/scores/x.csv", "lies among the files of the runs"),
        ("csv", f"{output}/scores_challenger/run_id=night/x.csv", "lies among the files of the runs"),
        ("csv", f"{output}/latest.json", "lies among the files of the runs"),
        ("cleanlab", f"{output}/scores/../runs", "lies among the files of the runs"),
        ("cleanlab", tmp_path / "mine", "holds thesis.doc, which no export of this kind writes"),
        ("csv", tmp_path / "file" / "x.csv", f"cannot be written: [Errno 17] File exists: '{tmp_path}/file'"),
    ):
        assert call(output, "--to", target, "--out", out, "--overwrite") == 2
        assert reason in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["file", "mine"]
    assert os.listdir(tmp_path / "mine") == ["thesis.doc"]


def test_a_run_that_is_not_published_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As every command that reads runs does."""
    publish_scores(tmp_path / "s", ["/a"], [[1, 0]])
    (tmp_path / "s" / "runs" / "night" / "_SUCCESS").unlink()
    assert call(tmp_path / "s", "--to", "csv", "--out", tmp_path / "x.csv") == 2
    assert "is not published" in capsys.readouterr().err


def test_lists_of_unequal_length_are_no_columns() -> None:
    """A run gives each image equally many; a table that does not was not written by one."""
    item = [{"label": "a", "probability": 0.5}]
    with pytest.raises(InputError, match="the lists of top_k hold 1 and 2 entries"):
        export_source.top_k_columns(pa.chunked_array([pa.array([item, item * 2])]))


def test_rows_with_a_truth_need_a_truth(output: Path) -> None:
    """A mistake of the caller, not of the user."""
    with pytest.raises(ValueError, match="there is no truth"):
        ExportSource(find_run(str(output)), None, None).count(matched=True)


def test_the_truth_may_name_files_only(output: Path, tmp_path: Path) -> None:
    """As evaluate takes it: matched by file name."""
    (tmp_path / "truth.csv").write_text("image_path,label\ne.jpg,2\na.jpg,0\n")
    run = find_run(str(output))
    truth = read_truth(str(tmp_path / "truth.csv"), run.labels, independent=False)
    done = export(run, "cleanlab", str(tmp_path / "x"), truth)
    assert done.counts is not None
    assert (done.rows, done.counts.matched_by) == (2, "file name")
    assert np.load(tmp_path / "x" / "labels.npy").tolist() == [0, 2]


def test_csv_reads_the_same_in_other_readers(output: Path, tmp_path: Path) -> None:
    """pandas, Polars and DuckDB agree with the table on paths, labels and numbers."""
    import duckdb
    import pandas as pd
    import polars as pl

    export(find_run(str(output)), "csv", str(tmp_path / "x.csv"))
    text = (tmp_path / "x.csv").read_text(encoding="utf-8")
    expected = list(zip(PATHS, [LABELS[c] for c in P.argmax(axis=1)], P.max(axis=1).tolist(), strict=True))
    columns = ["image_path", "predicted_label", "predicted_probability"]
    for rows in (
        pd.read_csv(io.StringIO(text))[columns].itertuples(index=False),
        pl.read_csv(io.StringIO(text)).select(columns).rows(),
        duckdb.sql(f"SELECT {', '.join(columns)} FROM read_csv('{tmp_path}/x.csv')").fetchall(),
    ):
        found = [tuple(row) for row in rows]
        assert [row[:2] for row in found] == [row[:2] for row in expected]
        assert [row[2] for row in found] == pytest.approx([row[2] for row in expected], abs=1e-6)
