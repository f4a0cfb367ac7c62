"""The model as the pipeline sees it: what predict returns, and what load_model refuses."""

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import model_zoo
from tests.model_zoo import expected_logits, photos, pooled_model
from transforms import models
from transforms.errors import ModelError, RunError
from transforms.model_descriptions import describe_model, fingerprint_model
from transforms.models import load_model
from transforms.settings import ModelSettings, PreprocessSettings

PLAIN = PreprocessSettings(value_range="0_255")


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 6 x 8 pixels and 4 classes that returns logits."""
    return pooled_model(tmp_path_factory.mktemp("models") / "pooled")


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes images of any size."""
    return pooled_model(tmp_path_factory.mktemp("models") / "free", shape=(None, None, None, 3))


def settings_of(path: Path, **settings: Any) -> ModelSettings:
    """Name a model."""
    return ModelSettings(path=str(path), **settings)


def test_model_says_what_it_is(pooled: Path) -> None:
    """A loaded model carries its size, its number of classes and an id made of name and fingerprint."""
    model = load_model(settings_of(pooled), PLAIN)
    assert (model.height, model.width, model.num_classes, model.fixed_batch) == (6, 8, 4, None)
    assert not model.takes_bytes
    assert model.fingerprint == model.description.fingerprint == fingerprint_model(pooled)
    assert model.model_id == f"pooled@{model.fingerprint[:12]}"
    assert load_model(settings_of(pooled, name="cats"), PLAIN).model_id == f"cats@{model.fingerprint[:12]}"


def test_model_takes_a_weak_reference(pooled: Path) -> None:
    """Beam's Shared keeps weak references to what it shares."""
    model = load_model(settings_of(pooled), PLAIN)
    assert weakref.ref(model)() is model


@pytest.mark.parametrize(
    ("preprocess", "reference"),
    [
        ({"value_range": "0_1"}, lambda x: x / 255),
        ({"value_range": "-1_1"}, lambda x: x / 127.5 - 1),
        ({"value_range": "0_255"}, lambda x: x),
        # EfficientNet-Lite
        ({"value_range": "0_255", "mean": (127,) * 3, "std": (128,) * 3}, lambda x: (x - 127) / 128),
        # torchvision
        (
            {"value_range": "0_1", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
            lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
        ),
        # Caffe's ResNet: BGR, and the mean in that order
        (
            {"value_range": "0_255", "mean": (103.939, 116.779, 123.68), "channel_order": "bgr"},
            lambda x: x[..., ::-1] - [103.939, 116.779, 123.68],
        ),
    ],
)
def test_pixels_are_normalised_as_declared(pooled: Path, preprocess: dict[str, Any], reference: Any) -> None:
    """Range, mean, std and channel order reach the model exactly as NumPy applies them."""
    model = load_model(settings_of(pooled), PreprocessSettings(**preprocess))
    pixels = photos(5)
    expected = expected_logits(reference(pixels.astype(np.float64)))
    np.testing.assert_allclose(model.predict(pixels), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_input_is_cast_to_the_models_own_dtype(tmp_path: Path, dtype: str) -> None:
    """A model of half or double precision gets its own dtype, and its answer comes back as float32."""
    import tensorflow as tf

    path = pooled_model(tmp_path / "m", dtype=dtype, head=lambda logits: {"logits": tf.cast(logits, dtype)})
    scores = load_model(settings_of(path), PreprocessSettings(value_range="-1_1")).predict(photos(3))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected_logits(photos(3) / 127.5 - 1), atol=0.02)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_integer_model_gets_pixels_as_they_are(tmp_path: Path, dtype: str) -> None:
    """A model that takes whole numbers scales them itself: a declared scaling is refused."""
    path = pooled_model(tmp_path / "m", dtype=dtype)
    np.testing.assert_allclose(
        load_model(settings_of(path), PLAIN).predict(photos(3)), expected_logits(photos(3)), 1e-4
    )
    with pytest.raises(ModelError) as caught:
        load_model(settings_of(path), PreprocessSettings(value_range="0_1"))
    assert str(caught.value) == (
        f"input images {dtype}[?, 6, 8, 3] takes pixels as they are and scales them itself, but preprocess declares "
        "value_range 0_1, mean None, std None; use value_range: 0_255 without mean and std"
    )


@pytest.mark.parametrize("shape", [(None, 3, 6, 8), (None, 3, None, None)])
def test_channels_first_is_read_from_the_shape(tmp_path: Path, shape: Sequence[int | None]) -> None:
    """A model of [N, 3, H, W] gets its pixels transposed, and its height and width are found."""
    path = pooled_model(tmp_path / "m", shape=shape, layout="NCHW")
    model = load_model(settings_of(path), PreprocessSettings(value_range="0_1", height=6, width=8))
    assert (model.description.layout, model.height, model.width) == ("NCHW", 6, 8)
    np.testing.assert_allclose(model.predict(photos(3)), expected_logits(photos(3) / 255), atol=1e-5)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_grey_model_gets_the_luminance(tmp_path: Path, layout: str) -> None:
    """A model of one channel gets 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)."""
    shape = (None, 6, 8, 1) if layout == "NHWC" else (None, 1, 6, 8)
    path = pooled_model(tmp_path / "m", shape=shape, layout=layout, channels=1)
    model = load_model(settings_of(path), PreprocessSettings(value_range="0_1"))
    luminance = photos(3) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(model.predict(photos(3)), expected_logits(luminance[..., None] / 255), atol=1e-5)


def test_grey_integer_model_gets_rounded_luminance(tmp_path: Path) -> None:
    """Whole numbers of grey are the ones that Pillow's mode L holds, within one step of rounding."""
    from PIL import Image

    path = pooled_model(tmp_path / "m", shape=(None, 6, 8, 1), dtype="uint8", channels=1)
    grey = np.stack([np.asarray(Image.fromarray(photo).convert("L")) for photo in photos(3)])
    scores = load_model(settings_of(path), PLAIN).predict(photos(3))
    np.testing.assert_allclose(scores, expected_logits(grey[..., None]), atol=0.1)


@pytest.mark.parametrize(
    ("preprocess", "said"),
    [
        (
            {"channel_order": "bgr"},
            "channel_order: bgr has no meaning for a model of one grey channel; leave it out",
        ),
        (
            {"mean": (0.4, 0.5, 0.6)},
            "the model takes one grey channel, but mean (0.4, 0.5, 0.6) and std None differ between channels; "
            "give the same number three times",
        ),
    ],
)
def test_colours_of_a_grey_model_are_refused(tmp_path: Path, preprocess: dict[str, Any], said: str) -> None:
    """A declaration by colour has no meaning for one channel."""
    path = pooled_model(tmp_path / "m", shape=(None, 6, 8, 1), channels=1)
    with pytest.raises(ModelError) as caught:
        load_model(settings_of(path), PreprocessSettings(value_range="0_1", **preprocess))
    assert str(caught.value) == said


def test_size_comes_from_the_config_where_the_model_takes_any(free: Path) -> None:
    """A model of free height and width needs preprocess.height and width."""
    with pytest.raises(ModelError) as caught:
        load_model(settings_of(free), PLAIN)
    assert str(caught.value) == (
        "the model takes images of any height and preprocess.height is not set; give preprocess.height and "
        "preprocess.width, the size that the model was trained with"
    )
    model = load_model(settings_of(free), PreprocessSettings(value_range="0_255", height=5, width=7))
    assert (model.height, model.width) == (5, 7)
    np.testing.assert_allclose(model.predict(photos(2, 5, 7)), expected_logits(photos(2, 5, 7)), rtol=1e-5)


def test_model_of_unknown_rank_takes_rgb_images(tmp_path: Path) -> None:
    """A signature that says nothing of its input's shape gets [N, H, W, 3]."""
    path = pooled_model(tmp_path / "m", shape=None)
    model = load_model(settings_of(path), PreprocessSettings(value_range="0_255", height=5, width=7))
    assert model.description.input_shape == ()
    np.testing.assert_allclose(model.predict(photos(2, 5, 7)), expected_logits(photos(2, 5, 7)), rtol=1e-5)


def test_size_that_contradicts_the_signature_is_refused(pooled: Path) -> None:
    """A config of another size than the model's stops before the first image."""
    with pytest.raises(ModelError) as caught:
        load_model(settings_of(pooled), PreprocessSettings(value_range="0_255", height=6, width=9))
    assert str(caught.value) == (
        "preprocess.width is 9, but the model's signature takes 8; "
        "leave preprocess.height and preprocess.width out to take them from the model"
    )


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 9])
def test_fixed_batch_is_padded_and_cut(tmp_path: Path, count: int) -> None:
    """A model of 4 images a call, and of no other number, scores any number of images, each with its own row."""
    # Adds its place in the call to each row: of another number of images this has no meaning.
    places = np.arange(4, dtype=np.float32)[:, None]
    path = pooled_model(tmp_path / "m", shape=(4, 6, 8, 3), head=lambda logits: {"logits": logits + places})
    model = load_model(settings_of(path), PLAIN)
    assert model.fixed_batch == 4
    scores = model.predict(photos(count))
    assert scores.shape == (count, 4)
    expected = expected_logits(photos(count)) + np.resize(places, (count, 1))
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_empty_batch_gives_no_rows(pooled: Path) -> None:
    """No images, no rows, and still C columns."""
    assert load_model(settings_of(pooled), PLAIN).predict(photos(0)).shape == (0, 4)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (photos(2).astype(np.float32), "expected pixels uint8[N, 6, 8, 3], got float32(2, 6, 8, 3)"),
        (photos(2, 8, 6), "expected pixels uint8[N, 6, 8, 3], got uint8(2, 8, 6, 3)"),
        (photos(1)[0], "expected pixels uint8[N, 6, 8, 3], got uint8(6, 8, 3)"),
    ],
)
def test_pixels_of_another_kind_are_a_mistake_of_the_caller(pooled: Path, pixels: np.ndarray, said: str) -> None:
    """Predict does not convert: what it is given has to be what it expects."""
    model = load_model(settings_of(pooled), PLAIN)
    with pytest.raises(ValueError, match="expected pixels") as caught:
        model.predict(pixels)
    assert str(caught.value) == said
    with pytest.raises(ValueError, match="takes pixels: call predict"):
        model.predict_bytes([b"jpeg"])


def test_model_with_a_map_of_scores_is_refused_at_load(tmp_path: Path) -> None:
    """A segmentation model is refused before the first image, by description and by load."""
    path = pooled_model(tmp_path / "m", head=lambda logits: {"map": logits[:, None, None, :] + [[[[0.0]]] * 2]})
    for open_ in (describe_model, lambda settings: load_model(settings, PLAIN)):
        with pytest.raises(ModelError, match=r"the model returns \[N, 2, 1, 4\]"):
            open_(settings_of(path))


def test_model_that_drops_images_stops_at_once(tmp_path: Path) -> None:
    """A model that answers for half of the images is caught at the first batch of two."""
    path = pooled_model(tmp_path / "m", head=lambda logits: {"logits": logits[::2]})
    model = load_model(settings_of(path), PLAIN)
    with pytest.raises(RunError, match="the model returned 2 rows for 4 images"):
        model.predict(photos(4))


def test_model_that_fails_on_every_image_is_refused_at_load(tmp_path: Path) -> None:
    """A model that cannot answer for a test image stops the run at its start, with TensorFlow's first line."""
    import tensorflow as tf

    def fail(logits: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_less(logits, -1e9, message="never true")]):
            return {"logits": tf.identity(logits)}

    path = pooled_model(tmp_path / "m", head=fail)
    with pytest.raises(ModelError) as caught:
        load_model(settings_of(path), PLAIN)
    text = str(caught.value)
    assert text.startswith("the model fails on images of 6 x 8 pixels given as images float32[?, 6, 8, 3]: ")
    assert "never true" in text
    assert "\n" not in text


def test_images_of_bytes_are_decoded_by_the_model(tmp_path: Path) -> None:
    """A model that takes encoded images gets them as they are, and says so."""
    import tensorflow as tf

    model = load_model(settings_of(model_zoo.bytes_model(tmp_path / "m")), PLAIN)
    encoded = [tf.io.encode_png(photo).numpy() for photo in photos(3)]
    np.testing.assert_allclose(model.predict_bytes(encoded), expected_logits(photos(3) / 255), atol=1e-5)
    assert (model.takes_bytes, model.description.layout, model.height, model.width) == (True, "bytes", 0, 0)
    assert model.predict_bytes([]).shape == (0, 4)
    with pytest.raises(ValueError, match="takes encoded images: call predict_bytes"):
        model.predict(photos(1))


def test_fixed_batch_of_bytes_is_padded(tmp_path: Path) -> None:
    """A model of 2 files a call scores 3."""
    import tensorflow as tf

    model = load_model(settings_of(model_zoo.bytes_model(tmp_path / "m", shape=(2,))), PLAIN)
    encoded = [tf.io.encode_png(photo).numpy() for photo in photos(3)]
    np.testing.assert_allclose(model.predict_bytes(encoded), expected_logits(photos(3) / 255), atol=1e-5)


def test_scaling_of_a_bytes_model_is_refused(tmp_path: Path) -> None:
    """A model that decodes scales too: a declared range would be passed over in silence."""
    path = model_zoo.bytes_model(tmp_path / "m")
    with pytest.raises(ModelError, match=r"takes pixels as they are and scales them itself.*value_range 0_1"):
        load_model(settings_of(path), PreprocessSettings(value_range="0_1"))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/models/cats/", "cats"),
        ("/models/cats?v=1", "cats?v=1"),  # a folder may be called so
        ("s3://models/cats#2", "cats#2"),
        ("https://hub/google/cats/1", "1"),
        ("https://hub/google/cats/1/?token=a/b#c", "1"),
        ("https://me:pw@hub", "***@hub"),
    ],
)
def test_models_are_named_without_secrets(path: str, name: str) -> None:
    """The name is in every row: a handle's query is no part of it."""
    assert models._name_of(path) == name
