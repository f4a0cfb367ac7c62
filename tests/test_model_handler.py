"""ImageModelHandler inside Beam's RunInference: exact answers, in place, whatever an image is."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from apache_beam.testing.util import assert_that

from pipeline.config import RunConfig
from pipeline.in_memory import score_in_memory
from pipeline.model_handler import ImageModel, ImageModelHandler, ImagePrediction
from tests import model_zoo
from tests.hub_server import HubServer
from tests.model_zoo import expected_softmax, photos, pooled_model
from tests.runs import bytes_config, make_photos, small_config
from transforms.errors import FailureCode, ImageError, RunError
from transforms.interpretation import OutputContradiction
from transforms.memory import ByteBudget

LABELS = "ant\nbee\ncat\ndog\n"
_kept: list[Any] = []


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel of four classes."""
    return pooled_model(tmp_path_factory.mktemp("handler") / "pooled", asset=("labels.txt", LABELS))


@pytest.fixture(scope="module")
def model(directory: Path) -> ImageModel:
    """The same, loaded."""
    return ImageModelHandler(small_config(directory)).load_model()


def run_inference(handler: Any, examples: list[Any]) -> list[Any]:
    """Put examples through RunInference on the local runner."""
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        predictions = pipeline | beam.Create(examples, reshuffle=False) | RunInference(handler)
        assert_that(predictions, keep)
    return list(_kept)


def keep(answers: list[Any]) -> None:
    """A matcher that matches all: Beam pickles matchers, a function of this module by its name only."""
    _kept[:] = answers


def as_row(prediction: ImagePrediction) -> dict[str, Any]:
    """A prediction as the scores table writes it."""
    ranked = [
        {"rank": rank, "index": entry.index, "label": entry.label, "probability": entry.probability}
        for rank, entry in enumerate(prediction.top_k, start=1)
    ]
    positive = prediction.positive_labels
    return {
        **prediction._asdict(),
        "probabilities": prediction.probabilities.tolist(),
        "top_k": ranked,
        "positive_labels": None if positive is None else list(positive),
    }


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_predictions_are_the_rows_of_a_run(directory: Path, tmp_path: Path, activation: str) -> None:
    """Paths and bytes give, field by field, what score_in_memory writes into the table."""
    config = small_config(directory, model={"activation": activation})
    paths = make_photos(tmp_path, 6)
    expected = score_in_memory(map(str, paths), config).scores.to_pylist()
    for examples in (list(map(str, paths)), [path.read_bytes() for path in paths]):
        answers = run_inference(ImageModelHandler(config), examples)
        assert [as_row(answer) for answer in answers] == [
            {name: row[name] for name in ImagePrediction._fields} for row in expected
        ]


def test_quarantine_gives_the_same_answers(directory: Path, tmp_path: Path) -> None:
    """For paths and for bytes; an image that nothing reads has its own error there, too."""
    paths = [str(path) for path in make_photos(tmp_path, 3, ".jpg")]
    examples = [*paths, *(Path(path).read_bytes() for path in paths), b"no picture"]
    plain, quarantined = (
        ImageModelHandler(small_config(directory, decode={"quarantine": quarantine})).load_model().predict(examples)
        for quarantine in (False, True)
    )
    for one, other in zip(plain[:-1], quarantined[:-1], strict=True):
        assert isinstance(one, ImagePrediction)
        assert isinstance(other, ImagePrediction)
        assert as_row(one) == as_row(other)
    assert str(plain[-1]) == str(quarantined[-1])


def test_quarantine_that_once_did_not_start_spoils_no_later_image(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RunInference keeps the model and tries the bundle again: it finds workers that start, or the same error."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        f"if 'transforms.quarantined' in sys.orig_argv and os.path.exists({str(tmp_path / 'broken')!r}):\n"
        "    os._exit(7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken").touch()
    model = ImageModelHandler(small_config(directory, decode={"quarantine": True}, load={"threads": 1})).load_model()
    for _ in range(2):
        with pytest.raises(RunError, match="a worker process of decode.quarantine does not start: exit code 7; "):
            model.predict([model_zoo_png()] * 3)
    (tmp_path / "broken").unlink()
    assert [type(answer) for answer in model.predict([model_zoo_png()] * 3)] == [ImagePrediction] * 3


def test_arrays_are_fitted_to_the_model(model: ImageModel) -> None:
    """Pixels of the model's size go in as they are, others are resized as a run resizes them."""
    own = photos(2)
    twice = np.repeat(np.repeat(own, 2, axis=1), 2, axis=2)
    answers = model.predict([*own, *twice])
    expected = expected_softmax(own / 255.0)
    for answer, row in zip(answers, [*expected, *expected], strict=True):
        assert isinstance(answer, ImagePrediction)
        # bilinear halving of doubled pixels blurs them a little
        np.testing.assert_allclose(answer.probabilities, row, atol=2e-3)
    np.testing.assert_allclose(answers[0].probabilities, expected[0], atol=1e-6)


def bad_images(folder: Path) -> Iterator[tuple[Any, FailureCode]]:
    """Examples that nothing can score, with their codes."""
    whole = model_zoo_png()
    yield b"", FailureCode.EMPTY_FILE
    yield b"no picture", FailureCode.UNSUPPORTED_FORMAT
    yield whole[: len(whole) // 2], FailureCode.TRUNCATED_IMAGE
    yield whole + bytes(3000), FailureCode.TOO_LARGE_FILE
    yield str(folder / "missing.jpg"), FailureCode.NOT_FOUND
    yield "gcs://bucket/a.jpg", FailureCode.READ_ERROR  # a scheme that no storage has
    yield np.empty((0, 7, 3), np.uint8), FailureCode.CORRUPT_IMAGE


def model_zoo_png() -> bytes:
    """A whole PNG file of noise."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(photos(1, 20, 20)[0]).save(buffer, "PNG")
    return buffer.getvalue()


def test_bad_images_come_out_in_place_as_their_errors(directory: Path, tmp_path: Path) -> None:
    """Each has the code of the failures table, and its neighbours are scored."""
    good = model_zoo_png()
    bad = list(bad_images(tmp_path))
    examples = [example for pair in bad for example in (pair[0], good)]
    config = small_config(directory, decode={"max_file_bytes": 3000}, batch={"size": 16})
    answers = run_inference(ImageModelHandler(config), examples)
    assert [(type(answer), answer.code) for answer in answers[::2]] == [(ImageError, code) for _, code in bad]
    (probabilities,) = {tuple(answer.probabilities.tolist()) for answer in answers[1::2]}
    assert sum(probabilities) == pytest.approx(1, abs=1e-6)


def test_an_image_that_nothing_can_read_fails_alone(model: ImageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that no decoder announces costs its image, not the bundle."""

    def broken(*_: object) -> None:
        raise RuntimeError("a decoder's own bug")

    good = model.predict([model_zoo_png()])
    monkeypatch.setattr("transforms.loading.load_image", broken)
    (failed, scored) = model.predict([model_zoo_png(), photos(1)[0]])
    assert isinstance(good[0], ImagePrediction)
    assert isinstance(scored, ImagePrediction)
    assert isinstance(failed, ImageError)
    assert str(failed) == "corrupt_image: loading failed unexpectedly: RuntimeError: a decoder's own bug"


def poisoned_model(path: Path) -> Path:
    """Save a model that fails on a batch with a black image, and returns NaN for a white one."""
    import tensorflow as tf

    class Poisoned(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = tf.Variable(model_zoo.weights())

        @tf.function(input_signature=[tf.TensorSpec([None, 6, 8, 3], tf.float32, name="images")])
        def score(self, images: Any) -> Any:
            pooled = tf.reduce_mean(images, [1, 2])
            brightness = tf.reduce_max(pooled, axis=1)
            with tf.control_dependencies([tf.debugging.assert_positive(brightness, "a black image")]):
                white = tf.where(brightness >= 255.0, float("nan"), 0.0)
                return {"logits": (pooled / 255.0) @ self.matrix + white[:, None]}

    module = Poisoned()
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.score})
    return path


def test_a_poisoned_image_costs_only_itself(tmp_path: Path) -> None:
    """The batch is bisected: neighbours of an image that the model fails on, or answers NaN for, are scored."""
    config = small_config(poisoned_model(tmp_path / "poisoned"), preprocess={"value_range": "0_255"}, batch={"size": 8})
    pixels = photos(8)
    pixels[3], pixels[6] = 0, 255
    answers = run_inference(ImageModelHandler(config), list(pixels))
    errors = {i: answer.code for i, answer in enumerate(answers) if isinstance(answer, ImageError)}
    assert errors == {3: FailureCode.MODEL_ERROR, 6: FailureCode.NON_FINITE_OUTPUT}
    kept = [i for i in range(8) if i not in errors]
    scored = np.stack([answers[i].probabilities for i in kept])
    np.testing.assert_allclose(scored, expected_softmax(pixels[kept] / 255.0), atol=1e-6)


def test_a_hub_module_scores_with_its_keys(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KeyedModelHandler keeps the keys; a handle is downloaded and is the same model as its directory."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = HubServer()
    try:
        handle = server.serve("/pooled/1", model_zoo.pack(directory))
        config = small_config(directory, model={"path": handle, "hub_cache": str(tmp_path)})
        pixels = photos(5)
        keyed = [(f"k{i}", image) for i, image in enumerate(pixels)]
        answers = run_inference(KeyedModelHandler(ImageModelHandler(config)), keyed)
    finally:
        server.close()
    assert [key for key, _ in answers] == [f"k{i}" for i in range(5)]
    scored = np.stack([answer.probabilities for _, answer in answers])
    np.testing.assert_allclose(scored, expected_softmax(pixels / 255.0), atol=1e-6)
    assert {answer.predicted_label for _, answer in answers} <= set(LABELS.split())
    assert len(server.asked) == 1


def test_a_model_that_takes_bytes_scores_every_kind_of_example(tmp_path: Path) -> None:
    """Files go to its own decoder, arrays reach it as PNG: both with the same answer."""
    config = bytes_config(model_zoo.bytes_model(tmp_path / "bytes"))
    (path,) = make_photos(tmp_path, 1)
    from PIL import Image

    answers = ImageModel(config).predict([str(path), path.read_bytes(), np.asarray(Image.open(path)), b"no picture"])
    first = answers[0]
    assert isinstance(first, ImagePrediction)
    for answer in answers[1:3]:
        assert isinstance(answer, ImagePrediction)
        np.testing.assert_array_equal(answer.probabilities, first.probabilities)
    assert isinstance(answers[3], ImageError)


def test_an_output_that_is_not_what_it_was_taken_for_stops_the_pipeline(tmp_path: Path) -> None:
    """No answer of such a model can be trusted: it is no bad image."""
    import tensorflow as tf

    # Linear for images of noise, softmax for grey ones: the probe at the start sees logits.
    def head(logits: Any) -> Any:
        flat = tf.reduce_max(tf.abs(logits), axis=1, keepdims=True) > 0.7
        return {"scores": tf.where(flat, tf.nn.softmax(logits), logits * 10.0)}

    directory = pooled_model(tmp_path / "turncoat", head=head)
    config = small_config(directory, model={"output": "auto", "activation": "auto"})
    model = ImageModel(config)
    bright = np.stack([np.full((6, 8, 3), 255 - i, np.uint8) for i in range(12)])
    with pytest.raises(OutputContradiction, match="sum to 1, so the model has applied softmax itself"):
        model.predict(list(bright))


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (3, r"\(bytes\), a path \(str\) or an array uint8\[H, W, 3\], got int"),
        (np.zeros((4, 4, 3), np.float32), r"RGB from 0 to 255, got float32\[4, 4, 3\]"),  # scaled already
        (np.zeros((4, 4), np.uint8), r"got uint8\[4, 4\]"),  # grey
        (np.zeros((4, 4, 4), np.uint8), r"got uint8\[4, 4, 4\]"),  # with transparency
    ],
)
def test_an_example_of_another_kind_is_the_callers_mistake(model: ImageModel, example: Any, said: str) -> None:
    """It stops the pipeline, for no example would be right."""
    with pytest.raises(TypeError, match=said):
        model.predict([photos(1)[0], example])


def test_what_beam_asks_of_a_handler(directory: Path) -> None:
    """It travels to workers; batches have one size, bytes are those of the examples, counters have their namespace."""
    handler = ImageModelHandler(small_config(directory, batch={"size": 5}))
    assert pickle.loads(pickle.dumps(handler)).__dict__ == handler.__dict__  # noqa: S301 - our own
    assert handler.batch_elements_kwargs() == {"min_batch_size": 5, "max_batch_size": 5}
    measured = ImageModelHandler(small_config(directory, batch={"size": "auto"}))
    assert measured.batch_elements_kwargs() == {"min_batch_size": 32, "max_batch_size": 32}
    assert len(run_inference(measured, list(photos(40)))) == 40
    assert handler.get_num_bytes([b"12345", "a/b.jpg", photos(1)[0]]) == 5 + 7 + 6 * 8 * 3
    assert handler.get_metrics_namespace() == "score_images"
    assert handler.share_model_across_processes() is False
    with pytest.raises(ValueError, match="takes no inference_args, got temperature"):
        handler.validate_inference_args({"temperature": 2.0})
    with pytest.raises(TypeError, match=r"got 'config.yaml'; load_config\(path\) reads one"):
        ImageModelHandler("config.yaml")  # type: ignore[arg-type]


def test_a_new_model_is_taken_when_beam_finds_one(directory: Path, tmp_path: Path) -> None:
    """RunInference's refresh names another path; no path keeps the model."""
    other = pooled_model(tmp_path / "other", asset=("labels.txt", "1\n2\n3\n4\n"))
    handler = ImageModelHandler(small_config(directory))
    handler.update_model_path("")
    assert handler.load_model().scorer.labels == ("ant", "bee", "cat", "dog")
    handler.update_model_path(str(other))
    assert handler.load_model().scorer.labels == ("1", "2", "3", "4")


def test_the_model_is_loaded_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many batches and many bundles share it."""
    loads: list[RunConfig] = []
    load = ImageModelHandler.load_model

    def counted(self: ImageModelHandler) -> ImageModel:
        loads.append(self._config)
        return load(self)

    monkeypatch.setattr(ImageModelHandler, "load_model", counted)
    config = small_config(directory)
    assert len(run_inference(ImageModelHandler(config), list(photos(50)))) == 50
    assert len(loads) == 1


def test_decoding_stays_within_its_memory(model: ImageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte that was taken from the budget is given back, after failures too."""
    budget = ByteBudget(10**9)
    monkeypatch.setattr(model, "_budget", budget)
    whole = model_zoo_png()
    model.predict([whole, whole[:-20], b"no picture", whole])
    assert budget._held == 0
