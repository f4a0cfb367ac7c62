"""Scoring one batch: rows, failures, non-finite output, promises that a model breaks."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.model_zoo import bytes_model, expected_softmax, photos, pooled_model
from tests.runs import small_config
from transforms.errors import ConfigError, ModelError, RunError
from transforms.records import ImageBatch, ImageInfo, ImageRef
from transforms.scoring import Scorer


def test_a_model_that_loses_rows_of_large_batches_stops_the_run(tmp_path: Path) -> None:
    """It is not bisected down to batches that come out right: whose rows the others were, nobody knows."""
    directory = pooled_model(tmp_path / "m", head=lambda logits: {"logits": logits[:5]})
    scorer = Scorer(small_config(directory, batch={"size": 8}).scorer_plan())
    assert scorer.score(batch_of(photos(5))).rows.num_rows == 5
    with pytest.raises(RunError, match="the model returned 5 rows for 8 images"):
        scorer.score(batch_of(photos(8)))


def batch_of(pixels: npt.NDArray[np.uint8]) -> ImageBatch:
    """A batch with made-up names."""
    refs = tuple(ImageRef(f"/{i}.png", 10, "v") for i in range(len(pixels)))
    return ImageBatch(refs, pixels, tuple(ImageInfo(8, 6, "png", 10, "pillow") for _ in refs))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose labels come in its assets."""
    folder = tmp_path_factory.mktemp("scorer") / "pooled"
    return pooled_model(folder, asset=("labels.txt", "ant\nbee\ncat\ndog\n"))


def test_rows_hold_what_the_model_means(directory: Path) -> None:
    """Probabilities are the softmax of the logits; labels come from the model's assets."""
    scorer = Scorer(small_config(directory, results={"top_k": 4}).scorer_plan())
    pixels = photos(3)
    rows = scorer.score(batch_of(pixels)).rows
    expected = expected_softmax(pixels / 255.0)
    actual = np.array(rows["probabilities"].to_pylist(), np.float32)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert scorer.labels == ("ant", "bee", "cat", "dog")
    for row, entries in zip(actual, rows["top_k"].to_pylist(), strict=True):
        order = np.argsort(-row, kind="stable")
        assert [entry["index"] for entry in entries] == order.tolist()
        assert [entry["label"] for entry in entries] == [scorer.labels[i] for i in order]
    assert rows["model_id"].to_pylist() == [scorer.classifier.model_id] * 3


def test_fingerprints_change_with_what_they_stand_for(directory: Path) -> None:
    """Each of the three follows its own settings and no other's; reading limits follow none."""

    def prints(**sections: dict) -> dict[str, str]:
        return Scorer(small_config(directory, **sections).scorer_plan()).fingerprints

    base = prints()
    assert prints() == base
    assert prints(decode={"max_file_bytes": 1000}) == base
    changed = prints(preprocess={"value_range": "-1_1"})
    assert {name for name in base if base[name] != changed[name]} == {"preprocessing"}
    changed = prints(calibration={"temperature": 2.0})
    assert {name for name in base if base[name] != changed[name]} == {"scoring"}


def test_calibration_of_the_wrong_kind_is_refused_at_start(directory: Path) -> None:
    """A temperature belongs to softmax."""
    config = small_config(directory, model={"activation": "sigmoid"}, calibration={"temperature": 2.0})
    with pytest.raises(ConfigError, match="temperature"):
        Scorer(config.scorer_plan())


def test_one_unit_speaks_for_two_classes(tmp_path: Path) -> None:
    """A one-unit sigmoid head gives [1-p, p], and its positive label by the threshold."""
    model = pooled_model(tmp_path / "unit", classes=1)
    config = small_config(model, model={"activation": "sigmoid"}, labels={"thresholds": 0.5})
    rows = Scorer(config.scorer_plan()).score(batch_of(photos(5))).rows
    vectors = np.array(rows["probabilities"].to_pylist())
    assert vectors.shape == (5, 2)
    np.testing.assert_allclose(vectors.sum(axis=1), 1, atol=1e-6)
    positive = ["positive" if p >= 0.5 else "negative" for p in vectors[:, 1]]
    assert [labels for (labels,) in rows["positive_labels"].to_pylist()] == positive
    assert rows["predicted_label"].to_pylist() == positive


def test_thresholds_of_a_file_decide_what_is_positive(tmp_path: Path) -> None:
    """One threshold a label, read from the file that the configuration names."""
    model = pooled_model(tmp_path / "labels")
    (tmp_path / "thresholds.txt").write_text("0.0\n1.0\n0.5\n0.6\n")
    config = small_config(
        model, model={"activation": "sigmoid"}, labels={"thresholds": str(tmp_path / "thresholds.txt")}
    )
    rows = Scorer(config.scorer_plan()).score(batch_of(photos(6))).rows
    vectors = np.array(rows["probabilities"].to_pylist(), np.float32)
    over = vectors >= np.array([0.0, 1.0, 0.5, 0.6], np.float32)
    assert rows["positive_labels"].to_pylist() == [[str(i) for i in np.flatnonzero(row)] for row in over]
    assert over[:, 0].all()
    assert not over[:, 1].any()


def test_settings_that_a_model_of_bytes_cannot_heed_are_refused(tmp_path: Path) -> None:
    """It prepares images itself: another channel order would be ignored in silence."""
    model = bytes_model(tmp_path / "bytes")
    config = small_config(model, preprocess={"value_range": "0_255", "channel_order": "bgr"})
    with pytest.raises(ModelError, match=r"heed preprocess.channel_order, preprocess.height, .*; leave it out"):
        Scorer(config.scorer_plan())


def test_eight_bit_integers_with_a_sign_are_refused(tmp_path: Path) -> None:
    """A pixel of 200 would become -56."""
    model = pooled_model(tmp_path / "int8", dtype="int8")
    with pytest.raises(ModelError, match="cannot hold pixels of 0 to 255: its dtype is int8"):
        Scorer(small_config(model, preprocess={"value_range": "0_255"}).scorer_plan())


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("percent", "scaled softmax"),
        ("log_sigmoid", "log_sigmoid"),
        ("tanh", "tanh"),
        ("l2", "l2_normalize"),
        ("mixture", "Two readings fit"),  # a linear layer over sigmoids: values within [0, 1]
    ],
)
def test_heads_that_are_no_classifiers_are_not_guessed(tmp_path: Path, name: str, seen: str) -> None:
    """Values outside [0, 1] do not make logits of everything."""
    import tensorflow as tf

    heads: dict[str, Any] = {
        "percent": lambda z: {"x": 100.0 * tf.nn.softmax(z)},
        "log_sigmoid": lambda z: {"x": tf.math.log_sigmoid(z)},
        "tanh": lambda z: {"x": tf.tanh(z)},
        "l2": lambda z: {"x": tf.math.l2_normalize(z, axis=1)},
        "mixture": lambda z: {"x": tf.sigmoid(z) @ tf.constant(np.full((4, 3), 0.25, np.float32))},
    }
    model = pooled_model(tmp_path / name, head=heads[name])
    config = small_config(model, model={"output": "auto", "activation": "auto"})
    with pytest.raises(ConfigError, match=seen):
        Scorer(config.scorer_plan())
