"""Scoring one batch: out of memory, poisoned images, non-finite rows."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model_zoo import bytes_model, expected_softmax, photos, pooled_model
from tests.runs import small_config
from transforms.errors import ConfigError, ExitCode, ModelError, RunError
from transforms.records import ImageBatch, ImageInfo, ImageRef
from transforms.scoring import BatchPredictor, Scorer


class Device:
    """A stand-in for a model: refuses large batches like a full device, and any batch with a poisoned image."""

    def __init__(self, room: int, poison: set[int]) -> None:
        self.room = room
        self.poison = poison
        self.calls: list[int] = []
        self.answered: list[int] = []

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        import tensorflow as tf

        self.calls.append(len(pixels))
        if len(pixels) > self.room:
            raise tf.errors.ResourceExhaustedError(None, None, "out of memory")
        ids = pixels[:, 0, 0, 0].tolist()
        if self.poison & set(ids):
            raise tf.errors.InvalidArgumentError(None, None, "poisoned")
        self.answered += ids
        return pixels[:, 0, 0, :1].astype(np.float32)


def numbered(count: int) -> npt.NDArray[np.uint8]:
    """Pixels whose first value is the image's number: uint8[count, 1, 1, 3]."""
    return np.repeat(np.arange(count, dtype=np.uint8)[:, None, None, None], 3, axis=3)


def test_size_that_ran_out_of_memory_is_never_tried_again() -> None:
    """TensorFlow waits ten seconds for memory before it gives up: 40 images cost three such waits, not seven."""
    device = Device(8, set())
    predictor = BatchPredictor(device, 64)
    assert len(list(predictor.predict(numbered(40)))) == 8
    assert device.calls == [40, 20, 10, *[5] * 8]
    assert predictor.out_of_memory == 3


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 20), st.integers(1, 40), st.integers(0, 40), st.sets(st.integers(0, 39)))
def test_every_image_is_answered_once_or_fails(room: int, cap: int, count: int, poison: set[int]) -> None:
    """Whatever the room and the poison: neighbours are scored exactly once, the poisoned ones fail, order is kept."""
    device = Device(room, poison)
    answers = list(BatchPredictor(device, cap).predict(numbered(count)))
    stops = [a.stop for a in answers]
    assert [a.start for a in answers] == [0, *stops][: len(stops)]
    scored = [int(value) for a in answers if a.raw is not None for value in a.raw[:, 0]]
    failed = [a.start for a in answers if a.error is not None]
    assert sorted(scored + failed) == list(range(count))
    assert set(failed) == poison & set(range(count))
    assert sorted(device.answered) == sorted(set(range(count)) - poison)


def test_out_of_memory_lowers_the_cap_for_good() -> None:
    """After one refusal the device is not asked for as much again."""
    device = Device(room=8, poison=set())
    predictor = BatchPredictor(device, 32)
    assert sum(a.stop - a.start for a in predictor.predict(numbered(32))) == 32
    assert predictor.cap == 8
    device.calls.clear()
    list(predictor.predict(numbered(32)))
    assert device.calls == [8, 8, 8, 8]


def test_a_poisoned_image_does_not_lower_the_cap() -> None:
    """Only memory does."""
    predictor = BatchPredictor(Device(room=32, poison={3}), 32)
    list(predictor.predict(numbered(32)))
    assert predictor.cap == 32


def test_an_image_that_alone_is_too_much_fails() -> None:
    """There is nothing left to halve."""
    (answer,) = BatchPredictor(Device(room=0, poison=set()), 4).predict(numbered(1))
    assert answer.raw is None
    assert "out of memory" in str(answer.error)


def test_a_broken_promise_of_the_model_stops_the_run() -> None:
    """RunError is no fact about one batch and is never bisected."""

    def lies(_: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        raise RunError(ExitCode.WRONG_INPUT, "the model returned 2 rows for 4 images")

    with pytest.raises(RunError, match="2 rows for 4 images"):
        list(BatchPredictor(lies, 4).predict(numbered(4)))


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
