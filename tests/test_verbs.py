"""Each PTransform by its exact contents, on the local runner."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to

from pipeline.graph import ScoreImages
from tests.model_zoo import pooled_model
from tests.runs import SIZE, make_photo, make_photos, small_config
from transforms.earlier_runs import EarlierFile
from transforms.errors import ConfigError, FailureCode, Stage
from transforms.inputs import parse_input
from transforms.layout import RunLayout
from transforms.list_images import ListImages
from transforms.load_batches import LoadBatches
from transforms.records import Failure, ImageBatch, ImageRef, WrittenFile
from transforms.score_batches import ScoreBatches
from transforms.settings import InputSettings, WriteSettings
from transforms.skip_scored import SkipScored
from transforms.storage import stat
from transforms.worklist import Unasked
from transforms.write_tables import WriteTables


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel of four classes."""
    return pooled_model(tmp_path_factory.mktemp("model") / "pooled")


def local_pipeline() -> beam.Pipeline:
    """The runner of local runs."""
    return beam.Pipeline(runner="FnApiRunner")


def ref(path: str, version: str | None = None) -> ImageRef:
    """A ref as a listing (with a version) or a manifest (without one) gives it."""
    return ImageRef(path, 1 if version else None, version)


def described(path: Path) -> ImageRef:
    """What a listing says of a real file."""
    found = stat(str(path))
    assert found is not None
    return ImageRef(str(path), found.size_bytes, found.version)


def test_list_images_yields_every_entry_of_every_input(tmp_path: Path) -> None:
    """Duplicates included, an entry without a path as a failure of the list stage."""
    photos = make_photos(tmp_path / "photos", 2)
    manifest = tmp_path / "list.csv"
    manifest.write_text('image_path,id\nphotos/000.png,1\n"",2\n')

    def check(found: list[ImageRef | Failure]) -> None:
        refs = sorted(entry for entry in found if isinstance(entry, ImageRef) and entry.version)
        assert refs == [described(photo) for photo in photos]
        assert [entry for entry in found if isinstance(entry, ImageRef) and not entry.version] == [ref(str(photos[0]))]
        (failure,) = (entry for entry in found if isinstance(entry, Failure))
        assert (failure.ref.path, failure.stage, failure.code) == (f"{manifest}#2", Stage.LIST, FailureCode.NOT_FOUND)

    sources = tuple(parse_input(text) for text in (str(tmp_path / "photos"), f"@{manifest}"))
    with local_pipeline() as pipeline:
        assert_that(pipeline | ListImages(sources, InputSettings()), check)


def test_skip_scored_keeps_each_path_once_and_counts_the_rest() -> None:
    """Of equal paths the one that knows its version stays."""
    failure = Failure(ref("d"), Stage.LIST, FailureCode.NOT_FOUND, "", 0)
    listed = [ref("a"), ref("a", "v1"), ref("b"), ref("c", "v"), ref("a"), failure]
    with local_pipeline() as pipeline:
        out = pipeline | beam.Create(listed) | SkipScored()
        assert_that(out.todo, equal_to([ref("a", "v1"), ref("b"), ref("c", "v"), failure]), "todo")
        assert_that(out.duplicates, equal_to([2]), "duplicates")
        assert_that(out.unlisted, equal_to([]), "unlisted")
        assert_that(out.skipped, equal_to([]), "skipped")
        assert_that(out.unasked, equal_to([]), "unasked")


def test_skip_scored_drops_what_is_done(tmp_path: Path) -> None:
    """Rows of an earlier attempt are joined by path; one that is not listed any more is counted."""
    for name, paths in (("one", ["a", "gone"]), ("two", ["b"])):
        pq.write_table(pa.table({"image_path": paths, "other": [0] * len(paths)}), tmp_path / f"{name}.parquet")
    done = [str(tmp_path / "one.parquet"), str(tmp_path / "two.parquet")]
    with local_pipeline() as pipeline:
        out = pipeline | beam.Create([ref("a"), ref("a"), ref("b"), ref("c")]) | SkipScored(done)
        assert_that(out.todo, equal_to([ref("c")]), "todo")
        assert_that(out.duplicates, equal_to([1]), "duplicates")
        assert_that(out.unlisted, equal_to([1]), "unlisted")


def earlier_file(path: Path, *rows: tuple[str, str, int], reusable: bool = True) -> EarlierFile:
    """Write scores of an earlier run: path, version and time."""
    paths, versions, times = zip(*rows, strict=True)
    scored_at = pa.array(times, pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    table = pa.table({"image_path": paths, "image_version": versions, "scored_at": scored_at})
    pq.write_table(table, path)
    return EarlierFile(str(path), path.stat().st_size, path.stem, reusable, {})


def test_skip_scored_skips_what_an_earlier_run_has_scored_as_it_is(tmp_path: Path) -> None:
    """The newest row of a path decides, what this run has done counts once, and unknown versions come out apart."""
    earlier = [
        earlier_file(tmp_path / "n3", ("back", "v2", 3), ("line", "v1", 3)),
        earlier_file(tmp_path / "n2", ("other", "v1", 2), ("same", "v1", 1), reusable=False),
        earlier_file(
            tmp_path / "n1",
            ("same", "v1", 2), ("twice", "v1", 1), ("changed", "v1", 1), ("back", "v1", 1), ("other", "v1", 1),
            ("line", "v0", 1), ("done", "v1", 1), ("deleted", "v1", 1),
        ),
    ]  # fmt: skip
    pq.write_table(pa.table({"image_path": ["done", "gone"]}), tmp_path / "done.parquet")
    names = ("same", "twice", "twice", "back", "other", "done", "new")
    listed = [*[ref(name, "v1") for name in names], ref("changed", "v2"), ref("line"), ref("new line")]
    with local_pipeline() as pipeline:
        out = pipeline | beam.Create(listed) | SkipScored([str(tmp_path / "done.parquet")], earlier)
        todo = [ref("back", "v1"), ref("other", "v1"), ref("new", "v1"), ref("changed", "v2"), ref("new line")]
        assert_that(out.todo, equal_to(todo), "todo")
        assert_that(out.skipped, equal_to([1, 1]), "skipped")
        assert_that(out.unasked, equal_to([Unasked(ref("line"), "v1")]), "unasked")
        assert_that(out.duplicates, equal_to([1]), "duplicates")
        assert_that(out.unlisted, equal_to([1]), "unlisted")


def test_load_batches_fills_batches_and_reports_failures(model: Path, tmp_path: Path) -> None:
    """Seven photos in batches of three make two full batches and a tail; the bad file is one failure."""
    photos = make_photos(tmp_path, 7)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    plan = small_config(model, batch={"size": 3}).load_plan(**SIZE)

    def check(batches: list[ImageBatch]) -> None:
        assert sorted(len(batch) for batch in batches) == [1, 3, 3]
        assert all(batch.pixels.shape[1:] == (6, 8, 3) for batch in batches)
        assert sorted(image for batch in batches for image in batch.refs) == [described(photo) for photo in photos]
        assert {info[:3] for batch in batches for info in batch.infos} == {(12, 9, "png")}

    def check_failures(failures: list[Failure]) -> None:
        (failure,) = failures
        assert failure[1:3] == (Stage.DECODE, FailureCode.UNSUPPORTED_FORMAT)
        assert failure.ref == described(tmp_path / "bad.png")

    with local_pipeline() as pipeline:
        paths = [ref(str(path)) for path in [*photos, tmp_path / "bad.png"]]
        out = pipeline | beam.Create(paths) | LoadBatches(plan)
        assert_that(out.batches, check, "batches")
        assert_that(out.failures, check_failures, "failures")


def test_load_batches_refuses_windows(model: Path) -> None:
    """A batch must not mix windows."""
    plan = small_config(model).load_plan(**SIZE)
    pipeline = local_pipeline()
    windowed = pipeline | beam.Create([ref("a")]) | beam.WindowInto(beam.window.FixedWindows(60))
    with pytest.raises(ValueError, match="globally windowed"):
        windowed | LoadBatches(plan)


def test_score_batches_stops_at_another_model(model: Path, tmp_path: Path) -> None:
    """A worker that finds another model than the launcher did must not add rows."""
    config = small_config(model)
    photo = make_photo(tmp_path / "a.png", 0)
    with pytest.raises(Exception, match="is not the same everywhere"), local_pipeline() as pipeline:
        batches = pipeline | beam.Create([ref(str(photo))]) | LoadBatches(config.load_plan(**SIZE))
        _ = batches.batches | ScoreBatches(config.scorer_plan(), "another")


def test_write_tables_reports_closed_files(tmp_path: Path) -> None:
    """Five rows with two a file make files of 2, 2 and 1; what they hold is what came in."""
    schema = pa.schema([pa.field("image_path", pa.string(), nullable=False)])
    batches = [pa.record_batch({"image_path": [name]}, schema=schema) for name in "abcde"]

    def check(files: list[WrittenFile]) -> None:
        assert sorted(file.rows for file in files) == [1, 2, 2]
        assert {file.table for file in files} == {"scores"}
        rows = [row for file in files for row in pq.read_table(file.path)["image_path"].to_pylist()]
        assert sorted(rows) == list("abcde")
        assert all(Path(file.path).stat().st_size == file.size_bytes for file in files)

    with local_pipeline() as pipeline:
        files = pipeline | beam.Create(batches) | WriteTables(
            str(tmp_path), "scores", schema, WriteSettings(rows_per_file=2)
        )  # fmt: skip
        assert_that(files, check)
    assert all(path.suffix == ".parquet" for path in tmp_path.iterdir())


def test_write_tables_stops_where_the_run_was_not_begun(tmp_path: Path) -> None:
    """Before the first batch: the folder is a worker's own."""
    schema = pa.schema([pa.field("image_path", pa.string(), nullable=False)])
    write = WriteTables(str(tmp_path), "scores", schema, WriteSettings(), layout=RunLayout(str(tmp_path), "night"))
    with (
        pytest.raises(
            RuntimeError, match="RunError: worker .* does not find in .* what the launcher has begun run night with"
        ),
        local_pipeline() as pipeline,
    ):
        pipeline | beam.Create([pa.record_batch({"image_path": ["a"]}, schema=schema)]) | write
    assert not list(tmp_path.iterdir())


def test_score_images_stands_in_the_middle_of_a_pipeline(model: Path, tmp_path: Path) -> None:
    """A team's own paths in, rows and failures out, every path once."""
    photos = make_photos(tmp_path, 3)

    def check_rows(batches: list[pa.RecordBatch]) -> None:
        rows = pa.Table.from_batches(batches)
        assert sorted(rows["image_path"].to_pylist()) == [str(photo) for photo in photos]
        assert all(abs(sum(row) - 1) < 1e-6 for row in rows["probabilities"].to_pylist())

    def codes(failures: list[Failure]) -> None:
        assert sorted((failure.stage, failure.code) for failure in failures) == [
            (Stage.LIST, FailureCode.READ_ERROR),  # a scheme that nothing here reads
            (Stage.READ, FailureCode.NOT_FOUND),
        ]

    with local_pipeline() as pipeline:
        paths = [str(path) for path in [*photos, photos[0], tmp_path / "missing.png"]]
        paths.append("https://example.org/a.jpg")
        scored = pipeline | "Paths" >> beam.Create(paths) | ScoreImages(small_config(model))
        assert_that(scored.scores, check_rows, "scores")
        assert_that(scored.failures, codes, "failures")
        again = pipeline | "More" >> beam.Create(paths[:1]) | "Second" >> ScoreImages(small_config(model))
        assert_that(again.scores | beam.Map(lambda batch: batch.num_rows), equal_to([1]), "twice in one pipeline")


def test_score_images_refuses_what_does_not_fit_where_it_is_built(model: Path) -> None:
    """A team learns of a wrong model when the pipeline is built, not when workers fail."""
    with pytest.raises(ConfigError, match="results.top_k must be at most the number of classes, got 9"):
        ScoreImages(small_config(model, results={"top_k": 9}))


def test_score_images_can_be_pickled(model: Path) -> None:
    """Without its loaded model, which is loaded again."""
    earlier = [EarlierFile("b.parquet", 1, "n1", reusable=True, fingerprints={"model": "m"})]
    made = ScoreImages(small_config(model), done_files=["a.parquet"], earlier_files=earlier)
    again = pickle.loads(pickle.dumps(made))  # noqa: S301
    assert again.config == small_config(model)
    assert again.done_files == ["a.parquet"]
    assert again.earlier_files == earlier
    assert again._model.scorer.classifier.num_classes == 4


def test_a_matcher_can_fail() -> None:
    """A check inside assert_that that does not hold fails the pipeline, so the checks above mean something."""

    def wrong(found: list[int]) -> None:
        assert found == [2]

    def one() -> Iterator[int]:
        yield 1

    with pytest.raises(Exception, match="AssertionError|assert"), local_pipeline() as pipeline:
        assert_that(pipeline | beam.Create(list(one())), wrong)
