"""What freezing has to keep, and what it has to bring."""

import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import model_zoo
from transforms.errors import ModelError
from transforms.freezing import Frozen, compile_model, freeze
from transforms.model_calls import to_tensor
from transforms.model_inputs import read_layout
from transforms.model_interface import OpenModel, TensorDescription
from transforms.models import load_model
from transforms.settings import ModelSettings, PreprocessSettings

PLAIN = PreprocessSettings(value_range="0_255")


def open_function(function: Any, shape: tuple[int | None, ...] = (None, 6, 8, 3)) -> OpenModel:
    """Pass a Python function off as a loaded model."""
    image, scores = TensorDescription("images", "float32", shape), TensorDescription("scores", "float32", None)
    return OpenModel("savedmodel", (), None, image, (scores,), scores, function, None, function)


def compile_function(function: Any, preprocess: PreprocessSettings = PLAIN) -> Any:
    """Compile a Python function of float32[N, 6, 8, 3]."""
    model = open_function(function)
    return compile_model(model, read_layout(model), preprocess, (6, 8))


def test_ragged_batches_do_not_retrace() -> None:
    """The model is traced once, whatever the sizes of its batches."""
    import tensorflow as tf

    traces = []

    def score(images: Any) -> Any:
        traces.append(images.shape)
        return tf.reduce_mean(images, [1, 2])

    compiled = compile_function(score)
    for count in (1, 7, 3, 64, 2, 7):
        pixels = model_zoo.photos(count)
        np.testing.assert_allclose(compiled.call(tf.constant(pixels)).numpy(), pixels.mean(axis=(1, 2)), rtol=1e-5)
    assert [tuple(shape) for shape in traces] == [(None, 6, 8, 3)]


def test_frozen_graph_holds_no_variables_and_lets_the_model_go() -> None:
    """Once frozen, nothing keeps the loaded model alive, and a changed variable changes nothing."""
    import tensorflow as tf

    matrix = tf.Variable(model_zoo.weights())
    compiled = compile_function(lambda images: tf.reduce_mean(images, [1, 2]) @ matrix)
    before = compiled.call(tf.constant(model_zoo.photos(2))).numpy()
    matrix.assign(tf.zeros_like(matrix))
    np.testing.assert_array_equal(compiled.call(tf.constant(model_zoo.photos(2))).numpy(), before)
    assert compiled.keep_alive is None


def test_pixels_travel_as_bytes() -> None:
    """The graph takes uint8: a quarter of what float32 would send to the device."""
    import tensorflow as tf

    compiled = compile_function(lambda images: tf.reduce_mean(images, [1, 2]))
    with pytest.raises((TypeError, tf.errors.InvalidArgumentError)):
        compiled.call(tf.zeros([2, 6, 8, 3], tf.float32))


def test_graph_that_cannot_be_frozen_keeps_its_model(caplog: pytest.LogCaptureFixture) -> None:
    """A graph with a resource runs as it is and holds on to what owns it."""
    import tensorflow as tf

    numbers = tf.lookup.KeyValueTensorInitializer([1], [2.0], tf.int64, tf.float32)
    table = tf.lookup.StaticHashTable(numbers, 0.0)
    with caplog.at_level(logging.INFO, logger="transforms"):
        compiled = compile_function(
            lambda images: tf.reduce_mean(images, [1, 2]) + table.lookup(tf.constant(1, tf.int64))
        )
    assert (compiled.frozen, compiled.reason) == (None, "it holds 1 lookup table or other resources")
    assert compiled.keep_alive is not None
    assert caplog.messages == ["The model runs unfrozen: it holds 1 lookup table or other resources"]


def test_graph_that_freezes_wrongly_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen graph that answers differently than the model is thrown away."""
    import tensorflow as tf

    def wrong(concrete: Any) -> tuple[Frozen, str]:
        return Frozen(lambda images: concrete(images) * 1.1, None), "wrong"

    monkeypatch.setattr("transforms.freezing.freeze", wrong)
    compiled = compile_function(lambda images: tf.reduce_mean(images, [1, 2]))
    assert (compiled.frozen, compiled.reason) == (None, "the frozen graph answers differently than the model")
    pixels = model_zoo.photos(2)
    np.testing.assert_allclose(compiled.call(tf.constant(pixels)).numpy(), pixels.mean(axis=(1, 2)), rtol=1e-5)


def test_random_model_is_refused() -> None:
    """A model that answers differently each time would publish numbers that nobody can trust."""
    import tensorflow as tf

    def clock(images: Any) -> Any:
        # Not tf.random: a seed that another test has set would make it answer the same.
        primes = tf.constant([7, 11, 13, 17, 19, 23, 29, 31], tf.int64)
        remainders = tf.math.floormod(tf.cast(tf.timestamp() * 1e6, tf.int64), primes)
        return tf.repeat(tf.cast(remainders[None], tf.float32), tf.shape(images)[0], axis=0)

    with pytest.raises(ModelError, match=r"answers differently each time .* export it for inference"):
        compile_function(clock)


def test_error_of_the_converter_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever hinders TensorFlow's converter is recorded with its first line."""
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    def fail(_: Any) -> None:
        raise ValueError("cannot parse\nGraphDef of over 2 GB")

    monkeypatch.setattr(convert_to_constants, "_replace_variables_by_constants", fail)
    concrete = tf.function(lambda x: x, input_signature=[tf.TensorSpec([None])]).get_concrete_function()
    assert freeze(concrete) == (None, "TensorFlow cannot turn it into constants: cannot parse")


def test_loops_and_branches_freeze() -> None:
    """Control flow with variables inside becomes a flat graph that answers as the model."""
    import tensorflow as tf

    weight = tf.Variable([1.0, 2.0, 3.0])

    def score(images: Any) -> Any:
        mean = tf.map_fn(lambda image: tf.reduce_mean(image, [0, 1]) * weight, images)
        doubled = tf.while_loop(lambda i, _: i < 2, lambda i, x: (i + 1, x * weight), (0, mean))[1]
        return tf.cond(tf.reduce_mean(images) > 0, lambda: doubled, lambda: mean)

    compiled = compile_function(score)
    assert compiled.frozen is not None
    pixels = model_zoo.photos(5)
    expected = pixels.mean(axis=(1, 2)) * np.array([1, 8, 27])
    np.testing.assert_allclose(compiled.call(tf.constant(pixels)).numpy(), expected, rtol=1e-5)


def test_non_finite_answers_freeze_too() -> None:
    """A model that returns NaN and infinity for the test image is frozen like any other."""
    import tensorflow as tf

    compiled = compile_function(lambda images: tf.reduce_mean(images, [1, 2]) * [1.0, np.nan, np.inf])
    assert compiled.frozen is not None


def test_batch_norms_are_folded_without_changing_the_answer(tmp_path: Path) -> None:
    """A convolution with batch norm answers as Keras does, from a frozen graph."""
    import keras

    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(8, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(6.0),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5),
        ]
    )
    norm = model.layers[1]
    rng = np.random.default_rng(1)
    norm.set_weights([rng.uniform(0.5, 2, 8), rng.normal(size=8), rng.normal(size=8), rng.uniform(0.1, 3, 8)])
    model.export(tmp_path / "m", verbose=False)
    pixels = model_zoo.photos(4, 16, 16)
    loaded = load_model(ModelSettings(path=str(tmp_path / "m")), PreprocessSettings(value_range="-1_1"))
    assert loaded.description.frozen
    expected = model(pixels.astype(np.float32) / 127.5 - 1, training=False).numpy()
    np.testing.assert_allclose(loaded.predict(pixels), expected, rtol=1e-4, atol=1e-5)


def test_threads_may_share_a_model() -> None:
    """Calls from several threads at once do not disturb each other."""
    import tensorflow as tf

    compiled = compile_function(lambda images: tf.reduce_mean(images, [1, 2]))
    wrong = []

    def work(seed: int) -> None:
        for count in (1, 5, 9):
            pixels = model_zoo.photos(count, seed=seed)
            got = compiled.call(tf.constant(pixels)).numpy()
            wrong.extend([] if np.allclose(got, pixels.mean(axis=(1, 2))) else [seed])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_frozen_model_never_prints_its_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that fails to bind its input by name writes the tensor into an error that it throws away."""
    model = load_model(ModelSettings(path=str(model_zoo.pooled_model(tmp_path / "m"))), PLAIN)
    assert model.description.frozen
    printed = []

    def note(tensor: Any) -> str:
        printed.append(tensor)
        return "tensor"

    monkeypatch.setattr(type(to_tensor(model_zoo.photos(1))), "__repr__", note)
    model.predict(model_zoo.photos(3))
    assert printed == []
