"""The two tables: exact contents of every column, and the same rows in every engine that reads the files."""

import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms import tables
from transforms.errors import FailureCode, Stage
from transforms.part_files import PartWriter
from transforms.probabilities import Summary, summarise
from transforms.records import Failure, ImageInfo, ImageRef
from transforms.settings import WriteSettings

LABELS = pa.array(["cat", "dog", "crane", "crane"])  # two classes with one label, as ImageNet has them
REFS = [ImageRef("/a/1 ñ.jpg", None, None), ImageRef("s3://b/2.png", 20, "7-20")]
INFOS = [ImageInfo(640, 480, "jpeg", 10, "simplejpeg"), ImageInfo(1, 2, "png", 20, "pillow")]
PROBABILITIES = np.array([[0.125, 0.5, 0.25, 0.125], [0.0, 0.0, 0.25, 0.75]], np.float32)
LOGITS = np.array([[1, 3, 2, 1], [-9, -9, 2, 3]], np.float32)
SCORED_AT = datetime(2026, 11, 22, 2, 30, 0, 123456, tzinfo=UTC)
SCORED_AT_US = 1_795_314_600_123_456


def scores(*, with_logits: bool = False, positive: Any = None, raw: Any = LOGITS) -> pa.RecordBatch:
    """Return the batch of the two images above."""
    return tables.scores_batch(
        tables.scores_schema(4, with_logits=with_logits),
        REFS,
        INFOS,
        PROBABILITIES,
        Summary(
            (np.array([[1, 2], [3, 2]], np.int32), np.array([[0.5, 0.25], [0.75, 0.25]], np.float32)),
            np.array([0.25, 0.5], np.float32),
            np.array([1.5, 0.5], np.float32),
        ),
        LABELS,
        "cats@abc",
        SCORED_AT_US,
        positive,
        raw,
    )


ROWS = [
    {
        "image_path": "/a/1 ñ.jpg",
        "image_version": None,
        "image_width": 640,
        "image_height": 480,
        "image_format": "jpeg",
        "image_bytes": 10,
        "image_decoder": "simplejpeg",
        "probabilities": [0.125, 0.5, 0.25, 0.125],
        "predicted_index": 1,
        "predicted_label": "dog",
        "predicted_probability": 0.5,
        "top_k": [
            {"rank": 1, "index": 1, "label": "dog", "probability": 0.5},
            {"rank": 2, "index": 2, "label": "crane", "probability": 0.25},
        ],
        "margin": 0.25,
        "entropy": 1.5,
        "positive_labels": ["dog", "crane"],
        "logits": [1.0, 3.0, 2.0, 1.0],
        "model_id": "cats@abc",
        "scored_at": SCORED_AT,
    },
    {
        "image_path": "s3://b/2.png",
        "image_version": "7-20",
        "image_width": 1,
        "image_height": 2,
        "image_format": "png",
        "image_bytes": 20,
        "image_decoder": "pillow",
        "probabilities": [0.0, 0.0, 0.25, 0.75],
        "predicted_index": 3,
        "predicted_label": "crane",
        "predicted_probability": 0.75,
        "top_k": [
            {"rank": 1, "index": 3, "label": "crane", "probability": 0.75},
            {"rank": 2, "index": 2, "label": "crane", "probability": 0.25},
        ],
        "margin": 0.5,
        "entropy": 0.5,
        "positive_labels": [],
        "logits": [-9.0, -9.0, 2.0, 3.0],
        "model_id": "cats@abc",
        "scored_at": SCORED_AT,
    },
]
POSITIVE = np.array([[False, True, True, False], [False, False, False, False]])


class TestScores:
    def test_every_column_holds_what_was_given(self) -> None:
        """All columns of two rows, sigmoid with logits."""
        assert scores(with_logits=True, positive=POSITIVE).to_pylist() == ROWS

    def test_columns_that_do_not_apply_are_empty_or_absent(self) -> None:
        """Softmax has no positive labels, and logits come only when asked for."""
        expected = [{**row, "positive_labels": None} for row in ROWS]
        for row in expected:
            del row["logits"]
        assert scores().to_pylist() == expected

    def test_no_label_over_its_threshold_is_an_empty_list_not_a_null(self) -> None:
        """Null says: not asked. Empty says: none."""
        none = scores(positive=np.zeros((2, 4), bool)).column("positive_labels")
        assert none.to_pylist() == [[], []]
        assert none.null_count == 0

    def test_logits_have_the_models_own_width(self) -> None:
        """A one-unit head: one logit, two probabilities."""
        batch = scores(with_logits=True, raw=np.array([[0.5], [-2]], np.float32))
        assert batch.column("logits").to_pylist() == [[0.5], [-2.0]]

    def test_arrays_of_any_layout_are_understood(self) -> None:
        """Transposed, sliced, double: the values count."""
        plain = scores(with_logits=True)
        raw = np.repeat(LOGITS.T.astype(np.float64), 2, axis=1)[:, ::2].T
        assert not raw.flags.c_contiguous
        assert scores(with_logits=True, raw=raw) == plain

    def test_batch_without_rows_has_the_schema(self) -> None:
        """When every image of a batch fails."""
        schema = tables.scores_schema(4, with_logits=True)
        empty = np.empty((0, 4), np.float32)
        summary = Summary(
            (np.empty((0, 2), np.int32), np.empty((0, 2), np.float32)), np.empty(0, np.float32), np.empty(0, np.float32)
        )
        positive = np.empty((0, 4), bool)
        batch = tables.scores_batch(schema, [], [], empty, summary, LABELS, "m", 0, positive, empty)
        assert batch.num_rows == 0
        assert batch.schema == schema

    def test_probabilities_are_wrapped_not_copied(self) -> None:
        """A batch of N images costs no object a value and no second copy of the vectors."""
        values = np.random.default_rng(0).random((64, 1000), np.float32)
        labels = pa.array([str(i) for i in range(1000)])
        batch = tables.scores_batch(
            tables.scores_schema(1000, with_logits=False),
            [ImageRef(str(i), None, None) for i in range(64)],
            [INFOS[0]] * 64,
            values,
            summarise(values, 5, independent=True),
            labels,
            "m",
            0,
            None,
            values,
        )
        assert batch.column("probabilities").flatten().buffers()[1].address == values.ctypes.data

    def test_batches_can_be_put_together_and_go_to_pandas(self) -> None:
        """One dictionary for all batches, each label in it once."""
        merged = pa.concat_batches([scores(), scores()])
        frame = merged.to_pandas()
        assert frame["predicted_label"].tolist() == ["dog", "crane"] * 2
        assert frame["image_format"].tolist() == ["jpeg", "png"] * 2
        assert frame["model_id"].tolist() == ["cats@abc"] * 4

    def test_unknown_decoder_is_an_error(self) -> None:
        """A dictionary that is too short must not write nulls."""
        infos = [ImageInfo(1, 1, "jpeg", 1, "magic")]
        with pytest.raises(ValueError, match=r"one of \['magic'\] is not among \[.*\]: add it to records.py"):
            tables._encode([info.decoder for info in infos], tables._DECODERS)


class TestSchemas:
    @pytest.mark.parametrize(
        "schema",
        [
            tables.FAILURES_SCHEMA,
            tables.scores_schema(2, with_logits=False),
            tables.scores_schema(1000, with_logits=True),
        ],
    )
    def test_schemas_survive_the_way_to_a_worker(self, schema: pa.Schema) -> None:
        """Unpickled they equal themselves; pyarrow forgets names and nullability of fixed-size lists' items."""
        assert pickle.loads(pickle.dumps(schema)).equals(schema, check_metadata=True)  # noqa: S301  our own
        unpickled = pickle.loads(pickle.dumps(schema))  # noqa: S301
        assert [(field.name, field.nullable, str(field.type)) for field in unpickled] == [
            (field.name, field.nullable, str(field.type)) for field in schema
        ]

    def test_batches_survive_the_way_to_a_worker(self) -> None:
        """As runners pickle what flows between steps."""
        batch = scores(with_logits=True, positive=POSITIVE)
        assert pickle.loads(pickle.dumps(batch)).equals(batch)  # noqa: S301

    def test_scores_columns_are_as_documented(self) -> None:
        """Names, order, types and which may be null."""
        dictionary = "dictionary<values=string, indices=int32, ordered=0>"
        top_k = (
            "list<element: struct<rank: int32 not null, index: int32 not null, label: string not null, "
            "probability: float not null> not null>"
        )
        found = [(field.name, str(field.type), field.nullable) for field in tables.scores_schema(4, with_logits=True)]
        assert found == [
            ("image_path", "string", False),
            ("image_version", "string", True),
            ("image_width", "int32", False),
            ("image_height", "int32", False),
            ("image_format", dictionary, False),
            ("image_bytes", "int64", False),
            ("image_decoder", dictionary, False),
            ("probabilities", "fixed_size_list<item: float>[4]", False),
            ("predicted_index", "int32", False),
            ("predicted_label", dictionary, False),
            ("predicted_probability", "float", False),
            ("top_k", top_k, False),
            ("margin", "float", False),
            ("entropy", "float", False),
            ("positive_labels", "list<element: string not null>", True),
            ("logits", "list<element: float not null>", False),
            ("model_id", dictionary, False),
            ("scored_at", "timestamp[us, tz=UTC]", False),
        ]

    def test_metadata_keys_carry_a_prefix(self) -> None:
        """So that they meet no other tool's."""
        assert tables.file_metadata({"labels": "[]"}) == {"score_images.labels": "[]"}


FAILURES = [
    Failure(ImageRef("/a/1 ñ.jpg", None, None), Stage.READ, FailureCode.NOT_FOUND, "there is no such file", 0),
    Failure(ImageRef("b", 5, "1-5"), Stage.DECODE, FailureCode.CORRUPT_IMAGE, "odd \udcff name", SCORED_AT_US),
]
FAILURE_ROWS = [
    {
        "image_path": "/a/1 ñ.jpg",
        "image_version": None,
        "stage": "read",
        "code": "not_found",
        "message": "there is no such file",
        "image_bytes": None,
        "failed_at": datetime(1970, 1, 1, tzinfo=UTC),
    },
    {
        "image_path": "b",
        "image_version": "1-5",
        "stage": "decode",
        "code": "corrupt_image",
        "message": "odd \\udcff name",  # half a character fits no table: it is shown
        "image_bytes": 5,
        "failed_at": SCORED_AT,
    },
]


def test_every_column_of_a_failure_holds_what_was_given() -> None:
    """All columns of two rows, with the schema; no failures make no rows."""
    batch = tables.failures_batch(FAILURES)
    assert batch.to_pylist() == FAILURE_ROWS
    assert batch.schema == tables.FAILURES_SCHEMA
    assert tables.failures_batch([]).schema == tables.FAILURES_SCHEMA
    assert tables.failures_batch([]).num_rows == 0


def write(folder: Path, batch: pa.RecordBatch) -> str:
    """Write a batch as the pipeline does."""
    writer = PartWriter(str(folder), "scores", batch.schema, {}, WriteSettings())
    writer.write(batch)
    (written,) = writer.close()
    return written.path


def plain(value: Any) -> Any:
    """Return a value of any engine as plain Python, times in UTC."""
    if isinstance(value, np.ndarray):
        return [plain(inner) for inner in value]
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | pl.Series):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime().astimezone(UTC)
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return None if value is pd.NA or (isinstance(value, float) and np.isnan(value)) else value


def time_column(path: str) -> str:
    """Return the name of the file's column of times."""
    return "failed_at" if "failed_at" in pq.read_schema(path).names else "scored_at"


def read_with_pyarrow(path: str) -> list[dict[str, Any]]:
    """Read with pyarrow."""
    return pq.read_table(path).to_pylist()


def read_with_duckdb(path: str) -> list[dict[str, Any]]:
    """Read with DuckDB; times as microseconds, for its own way to Python needs pytz."""
    name = time_column(path)
    with duckdb.connect() as connection:
        relation = connection.sql(f"SELECT * REPLACE (epoch_us({name}) AS {name}) FROM '{path}'")
        rows = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return [{**row, name: epoch + timedelta(microseconds=row[name])} for row in rows]


def read_with_polars(path: str) -> list[dict[str, Any]]:
    """Read with Polars."""
    return pl.read_parquet(path).to_dicts()


def read_with_pandas(path: str) -> list[dict[str, Any]]:
    """Read with pandas."""
    return pd.read_parquet(path).to_dict("records")


@pytest.mark.parametrize("read", [read_with_pyarrow, read_with_duckdb, read_with_polars, read_with_pandas])
class TestEngines:
    def test_scores_read_the_same(self, tmp_path: Path, read: Any) -> None:
        """Vectors, structs in lists, empty lists, dictionaries and times, value for value."""
        path = write(tmp_path, scores(with_logits=True, positive=POSITIVE))
        assert [plain(row) for row in read(path)] == ROWS

    def test_softmax_scores_read_the_same(self, tmp_path: Path, read: Any) -> None:
        """A column of nulls only."""
        path = write(tmp_path, scores())
        assert [plain(row)["positive_labels"] for row in read(path)] == [None, None]

    def test_failures_read_the_same(self, tmp_path: Path, read: Any) -> None:
        """Nulls among values."""
        path = write(tmp_path, tables.failures_batch(FAILURES))
        assert [plain(row) for row in read(path)] == FAILURE_ROWS

    def test_empty_table_reads_as_no_rows(self, tmp_path: Path, read: Any) -> None:
        """With all its columns."""
        path = tmp_path / "empty.parquet"
        pq.write_table(scores().schema.empty_table(), path)
        assert read(str(path)) == []


class TestPhysicalLayout:
    """What Spark, BigQuery and the disk care about."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> pq.ParquetFile:
        """One file with every column."""
        return pq.ParquetFile(write(tmp_path, scores(with_logits=True, positive=POSITIVE)))

    def columns(self, file: pq.ParquetFile) -> dict[str, Any]:
        """Return the column chunks of the first row group by their path."""
        group = file.metadata.row_group(0)
        return {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}

    def test_lists_have_the_standard_shape(self, file: pq.ParquetFile) -> None:
        """list.element, or engines by the book see a struct of a struct."""
        nested = [path for path in self.columns(file) if "." in path]
        assert nested == [
            "probabilities.list.element",
            "top_k.list.element.rank",
            "top_k.list.element.index",
            "top_k.list.element.label",
            "top_k.list.element.probability",
            "positive_labels.list.element",
            "logits.list.element",
        ]
        assert str(file.schema).count("(List)") == 4

    def test_vectors_are_split_by_byte_and_never_dictionaries(self, file: pq.ParquetFile) -> None:
        """A dictionary of floats costs time and gains nothing."""
        for name in ("probabilities", "logits"):
            column = self.columns(file)[f"{name}.list.element"]
            assert "BYTE_STREAM_SPLIT" in column.encodings
            assert not column.has_dictionary_page

    def test_repeated_texts_are_dictionaries(self, file: pq.ParquetFile) -> None:
        """Labels, formats and the model: a few bytes a row."""
        with_dictionary = {path for path, column in self.columns(file).items() if column.has_dictionary_page}
        texts = {"image_format", "image_decoder", "predicted_label", "model_id"}
        assert texts | {"top_k.list.element.label", "positive_labels.list.element"} <= with_dictionary
        assert not with_dictionary & {"image_path", "image_version", "scored_at", "margin", "entropy"}

    def test_everything_is_zstd(self, file: pq.ParquetFile) -> None:
        """Every column."""
        assert {column.compression for column in self.columns(file).values()} == {"ZSTD"}

    def test_statistics_let_engines_skip(self, file: pq.ParquetFile) -> None:
        """On what queries filter by, and not on vectors."""
        found = {path for path, column in self.columns(file).items() if column.is_stats_set}
        assert {"image_path", "predicted_index", "predicted_label", "predicted_probability", "margin"} <= found
        assert not [path for path in found if "." in path]
