"""The real model on real photos: agreement with its reference, and the probabilities that analysts read."""

import csv
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import RunConfig, load_config
from pipeline.in_memory import score_in_memory
from pipeline.run_records import RunResult
from tests.runs import read_table, run_quietly
from transforms.ledger import Ledger
from transforms.models import load_model
from transforms.settings import LimitSettings

CONFIG = Path(__file__).parent.parent / "configs" / "demo.yaml"


@pytest.fixture(scope="module")
def config(lite0_directory: Path) -> Iterator[RunConfig]:
    """The demo's configuration, with the logits beside the probabilities."""
    before = os.environ.get("DEMO_MODEL")
    os.environ["DEMO_MODEL"] = str(lite0_directory)
    yield load_config(CONFIG, ["results.logits=true"])
    if before is None:
        del os.environ["DEMO_MODEL"]
    else:
        os.environ["DEMO_MODEL"] = before


@pytest.fixture(scope="module")
def night(config: RunConfig, image_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """All 200 photos, with a zero-byte file, a false one, a cut one, a missing one and a duplicate."""
    folder = tmp_path_factory.mktemp("bad")
    photos = sorted((image_data_dir / "photos").iterdir())
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture at all\n" * 20)
    whole = photos[0].read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    manifest = folder / "more.txt"
    manifest.write_text(f"missing.jpg\n{photos[0]}\n")
    return run_quietly(
        config, [image_data_dir / "photos", folder, f"@{manifest}"], tmp_path_factory.mktemp("out"), run_id="night"
    )


@pytest.fixture(scope="module")
def scores(night: RunResult) -> pa.Table:
    """The scores table of that run."""
    return read_table(night.layout, "scores")


def test_the_rebuilt_model_agrees_with_its_reference(config: RunConfig, image_data_dir: Path) -> None:
    """Logits of exactly the reference's pixels differ by less than 1e-4."""
    reference = np.load(image_data_dir / "efficientnet_lite0_reference.npz")
    model = load_model(config.model, config.preprocess)
    logits = model.predict(reference["pixels_first40"])
    assert np.abs(logits - reference["logits"][:40]).max() < 1e-4


def test_every_image_is_accounted_for(night: RunResult) -> None:
    """200 rows, 4 failures with 4 codes, 1 duplicate, published."""
    assert night.outcome.exit_code == 0
    assert night.outcome.ledger == Ledger(listed=205, duplicates=1, unique=204, scored=200, failed=4, skipped=0)
    assert night.outcome.failures_by_code == dict.fromkeys(
        ["empty_file", "unsupported_format", "truncated_image", "not_found"], 1
    )


def test_the_pipeline_scores_as_well_as_the_reference(scores: pa.Table, image_data_dir: Path) -> None:
    """Decode, crop, resize and model together: logits within 1e-4 of the reference, top-1 of at least 86.5%."""
    reference = np.load(image_data_dir / "efficientnet_lite0_reference.npz")
    order = {name: row for row, name in enumerate(reference["files"].tolist())}
    rows = [order[Path(path).name] for path in scores["image_path"].to_pylist()]
    logits = np.array(scores["logits"].to_pylist(), np.float32)
    assert np.abs(logits - reference["logits"][rows]).max() < 1e-4
    with (image_data_dir / "photos.csv").open() as file:
        truth = {row["file"]: int(row["class_index"]) for row in csv.DictReader(file)}
    right = [
        truth[Path(path).name] == index
        for path, index in zip(scores["image_path"].to_pylist(), scores["predicted_index"].to_pylist(), strict=True)
    ]
    assert np.mean(right) >= 0.865


def test_rows_are_probabilities(scores: pa.Table) -> None:
    """Each row sums to 1 within 1e-6, and top_k, margin and entropy follow from it."""
    vectors = scores["probabilities"].combine_chunks().flatten().to_numpy().reshape(200, 1000)
    assert vectors.dtype == np.float32
    assert np.abs(vectors.astype(np.float64).sum(axis=1) - 1).max() < 1e-6
    best = np.sort(vectors, axis=1)[:, ::-1]
    np.testing.assert_array_equal(scores["predicted_probability"].to_numpy(), best[:, 0])
    np.testing.assert_array_equal(scores["predicted_index"].to_numpy(), vectors.argmax(axis=1))
    np.testing.assert_allclose(scores["margin"].to_numpy(), best[:, 0] - best[:, 1], atol=1e-6)
    for row, entries in zip(best, scores["top_k"].to_pylist(), strict=True):
        assert [entry["rank"] for entry in entries] == [1, 2, 3, 4, 5]
        assert [entry["probability"] for entry in entries] == row[:5].tolist()


def test_both_roads_agree_on_the_photos(scores: pa.Table, config: RunConfig) -> None:
    """The plain loop gives the same rows; floats may differ by what the order of a batch changes."""
    plain = score_in_memory(scores["image_path"].to_pylist(), config).scores.sort_by("image_path")
    exact = [name for name in scores.column_names if name not in EXCEPT]
    assert scores.select(exact).to_pylist() == plain.select(exact).to_pylist()
    for name in ("probabilities", "logits"):
        ours, theirs = (np.array(table[name].to_pylist(), np.float32) for table in (scores, plain))
        np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=0)


EXCEPT = {"scored_at", "probabilities", "logits", "top_k", "margin", "entropy", "predicted_probability"}


def test_all_readers_read_the_same(night: RunResult, scores: pa.Table) -> None:
    """DuckDB, Polars and pandas see what pyarrow sees."""
    import duckdb
    import pandas as pd
    import polars as pl

    pattern = f"{night.layout.published_table('scores')}/*.parquet"
    columns = ["image_path", "predicted_label", "predicted_probability", "probabilities", "top_k", "model_id"]
    expected = scores.select(columns).to_pylist()
    query = f"SELECT {', '.join(columns)} FROM read_parquet('{pattern}', hive_partitioning=false) ORDER BY image_path"
    by_duckdb = duckdb.sql(query).to_arrow_table().to_pylist()
    assert [{**row, "probabilities": list(row["probabilities"])} for row in by_duckdb] == expected
    frame = pl.read_parquet(pattern, hive_partitioning=False).sort("image_path").select(columns)
    assert frame.with_columns(pl.col("probabilities").cast(pl.List(pl.Float32))).to_dicts() == expected
    by_pandas = pd.read_parquet(night.layout.published_table("scores"), columns=columns).sort_values("image_path")
    assert by_pandas["predicted_label"].tolist() == scores["predicted_label"].to_pylist()
    np.testing.assert_array_equal(
        np.stack(by_pandas["probabilities"].to_numpy()), np.array(scores["probabilities"].to_pylist(), np.float32)
    )
    top = by_pandas["top_k"].iloc[0]
    assert [dict(entry) for entry in top] == expected[0]["top_k"]


def test_the_hostile_corpus_costs_only_its_own_images(config: RunConfig, image_data_dir: Path, tmp_path: Path) -> None:
    """A whole run over every odd and hostile file: each is one row or one failure, and good photos are not touched."""
    folder = image_data_dir / "hostile"
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        rows = {str(folder / row["path"]): row["expected"] for row in csv.DictReader(file)}
    manifest = tmp_path / "all.txt"
    manifest.write_text("".join(f"{path}\n" for path in rows), encoding="utf-8")
    tolerant = config.model_copy(update={"limits": LimitSettings(max_failure_rate=1.0)})
    result = run_quietly(tolerant, [f"@{manifest}"], tmp_path / "out")
    assert result.outcome.exit_code == 0
    scored = set(read_table(result.layout, "scores")["image_path"].to_pylist())
    failed = set(read_table(result.layout, "failures")["image_path"].to_pylist())
    assert scored | failed == set(rows)
    assert not scored & failed
    heic = {str(path) for path in (folder / "heic").iterdir()} if find_spec("pillow_heif") is None else set()
    assert {path for path, expected in rows.items() if expected == "yes"} - heic <= scored
    assert {path for path, expected in rows.items() if expected == "no"} <= failed
