"""Whole runs with a model that truly runs out of memory, and with one that one image makes fail."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.model_zoo import poisoned_by_white, pooled_model, short_of_memory
from tests.runs import make_photos, read_table, run_quietly, small_config
from transforms.scoring import Scorer


@pytest.fixture(scope="module")
def small_device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for which 9 images are too many."""
    return pooled_model(tmp_path_factory.mktemp("models") / "small", head=short_of_memory(8))


@pytest.mark.heavy
def test_frozen_model_raises_the_real_error(small_device: Path) -> None:
    """The stand-in is honest: TensorFlow's own allocator refuses, in the frozen graph as well."""
    import tensorflow as tf

    classifier = Scorer(small_config(small_device).scorer_plan()).classifier
    assert classifier.description.frozen
    assert classifier.predict(np.zeros((8, 6, 8, 3), np.uint8)).shape == (8, 4)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        classifier.predict(np.zeros((9, 6, 8, 3), np.uint8))


@pytest.mark.heavy
def test_measured_batch_size_is_one_that_fits(
    small_device: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Auto settles at 8, says that 16 ran out of memory, and every image has its row."""
    caplog.set_level(logging.INFO)
    photos = make_photos(tmp_path / "photos", 150)
    result = run_quietly(small_config(small_device, batch={"size": "auto"}), [tmp_path / "photos"], tmp_path / "out")
    assert read_table(result.layout, "scores")["image_path"].to_pylist() == [str(photo) for photo in photos]
    assert "batch size 8, because 16 images ran out of memory" in caplog.text
    assert result.counts.get("score_out_of_memory_calls", 0) == 0


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("count", "size"),
    [
        (150, 16),  # batches of 16 come out while the bundle runs: the first one is too many, then 8 a call
        (12, 16),  # fewer than a batch: all of them come when the bundle ends; 6 a call
    ],
    ids=["process", "finish_bundle"],
)
def test_batch_that_does_not_fit_is_halved_and_no_row_is_lost(
    small_device: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int, size: int
) -> None:
    """Whether a batch comes while the bundle runs or at its end: every image has the row that a roomy device gives."""
    photos = make_photos(tmp_path / "photos", count)
    config = small_config(small_device, batch={"size": size})
    result = run_quietly(config, [tmp_path / "photos"], tmp_path / "out")
    scores = read_table(result.layout, "scores")
    assert scores["image_path"].to_pylist() == [str(photo) for photo in photos]
    assert result.counts["score_out_of_memory_calls"] == 1
    assert "the device ran out of memory on" in caplog.text
    roomy = small_config(pooled_model(tmp_path / "roomy"), batch={"size": size})
    wanted = read_table(run_quietly(roomy, [tmp_path / "photos"], tmp_path / "wanted").layout, "scores")
    assert scores["probabilities"].to_pylist() == wanted["probabilities"].to_pylist()


def test_one_poisoned_image_of_a_thousand_is_one_failure(tmp_path: Path) -> None:
    """Its neighbours are scored once each, and it fails with what the model said."""
    make_photos(tmp_path / "photos", 999)
    Image.new("RGB", (8, 6), "white").save(tmp_path / "photos" / "poison.png")
    model = pooled_model(tmp_path / "model", head=poisoned_by_white)
    result = run_quietly(small_config(model, batch={"size": 64}), [tmp_path / "photos"], tmp_path / "out")
    scores, failures = read_table(result.layout, "scores"), read_table(result.layout, "failures")
    assert (scores.num_rows, len(set(scores["image_path"].to_pylist()))) == (999, 999)
    (failure,) = failures.to_pylist()
    assert failure["image_path"] == str(tmp_path / "photos" / "poison.png")
    assert (failure["stage"], failure["code"]) == ("score", "model_error")
    assert "poisoned" in failure["message"]
    assert result.counts["scored_images"] == 999
