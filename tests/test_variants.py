"""Half precision and XLA: where they compute, what they may change, and that the plain model never notices."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.model_zoo import bytes_model, photos, pooled_model, table_model
from tests.runs import small_config
from tests.test_scoring import batch_of
from transforms.errors import ModelError
from transforms.models import Classifier, load_model
from transforms.precision import lower_precision
from transforms.scoring import Scorer
from transforms.settings import ModelSettings, PreprocessSettings
from transforms.variants import Comparison, asked_variant, compare, comparison_images, judge

PREPROCESS = PreprocessSettings(value_range="0_1", height=16, width=16)


def conv_model(path: Path) -> Path:
    """Save a small network of convolutions with a batch norm, a residual, a pooling and a dense head of logits."""
    import keras

    keras.utils.set_random_seed(5)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU(6.0)(x)
    x = keras.layers.Add()([x, keras.layers.DepthwiseConv2D(3, padding="same")(x)])
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(5)(x))
    # Logits of a few units: larger ones make probabilities of 0 and 1, in which no difference shows.
    model.layers[-1].set_weights([2 * model.layers[-1].get_weights()[0], np.zeros(5)])
    model.export(path, verbose=False)
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of those."""
    return conv_model(tmp_path_factory.mktemp("variants") / "network")


@pytest.fixture(scope="module")
def plain(network: Path) -> Classifier:
    """It, as it is."""
    return load_model(ModelSettings(path=str(network)), PREPROCESS)


def settings_of(path: Path, **settings: Any) -> ModelSettings:
    """Name a variant of a model."""
    return ModelSettings(path=str(path), **settings)


def types_of(graph_def: Any) -> Counter[tuple[str, str]]:
    """How often each operation computes in which type."""
    import tensorflow as tf

    return Counter((node.op, tf.as_dtype(node.attr["T"].type).name) for node in graph_def.node if "T" in node.attr)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_convolutions_are_lowered_and_the_last_layer_is_not(plain: Classifier, precision: str) -> None:
    """And what follows a convolution stays low; the mean over the picture and the head are float32."""
    import tensorflow as tf

    flat = plain.compiled.frozen.flat
    lowered = lower_precision(flat.graph, flat.outputs[0], tf.as_dtype(precision))
    types = types_of(lowered)
    for op in ("Conv2D", "DepthwiseConv2dNative", "Relu6"):
        assert (types[op, precision], types[op, "float32"]) == (1, 0), op
    assert (types["MatMul", "float32"], types["MatMul", precision]) == (1, 0)
    assert (types["Mean", "float32"], types["Mean", precision]) == (1, 0)


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"precision": "bfloat16"}, 0.2),
        ({"xla": True}, 1e-4),
        ({"precision": "bfloat16", "xla": True}, 0.2),
    ],
)
def test_variant_answers_nearly_as_the_model_and_leaves_it_as_it_is(
    plain: Classifier, network: Path, settings: dict[str, Any], most: float
) -> None:
    """Logits within the rounding of the type; the plain model in the same process gives the same bits as before."""
    pixels = photos(8, 16, 16)
    before = plain.predict(pixels)
    variant = plain.variant(settings_of(network, **settings))
    after = variant.predict(pixels)
    assert after.dtype == np.float32
    assert np.abs(after - before).max() < most
    assert settings.get("precision") is None or (after != before).any()
    np.testing.assert_array_equal(plain.predict(pixels), before)
    np.testing.assert_array_equal(load_model(settings_of(network), PREPROCESS).predict(pixels), before)


def test_variant_is_traced_once_for_all_batch_sizes(plain: Classifier, network: Path) -> None:
    """The graph is rewritten once, not for every size."""
    variant = plain.variant(settings_of(network, precision="bfloat16"))
    assert variant.compiled.call.structured_input_signature[0][0].shape[0] is None
    wanted = variant.predict(photos(7, 16, 16))
    for count in (1, 3, 7):
        got = variant.predict(photos(7, 16, 16)[:count])
        np.testing.assert_allclose(got, wanted[:count], atol=0.1)


def test_model_without_anything_to_lower_is_refused(tmp_path: Path) -> None:
    """One matrix is the last layer: nothing would compute in half precision."""
    model = load_model(settings_of(pooled_model(tmp_path / "m")), PreprocessSettings(value_range="0_1"))
    with pytest.raises(ModelError, match=r"precision bfloat16 would change nothing: .* leave model.precision out"):
        model.variant(settings_of(tmp_path, precision="bfloat16"))


def test_float16_on_the_cpu_is_refused(plain: Classifier, network: Path) -> None:
    """Its kernels there are slower than those of float32."""
    with pytest.raises(ModelError, match=r"float16 is for GPUs, and this model works on the CPU.*bfloat16, or leave"):
        plain.variant(settings_of(network, precision="float16"))


@pytest.mark.parametrize("settings", [{"precision": "bfloat16"}, {"xla": True}])
def test_model_that_cannot_be_frozen_has_no_variants(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Only constants can be rewritten."""
    model = load_model(settings_of(table_model(tmp_path / "m")), PreprocessSettings(value_range="0_1"))
    with pytest.raises(ModelError, match=r"needs a model that can be frozen, and this one cannot \(it holds 1 lookup"):
        model.variant(settings_of(tmp_path, **settings))


def test_xla_of_a_model_that_decodes_images_is_refused(tmp_path: Path) -> None:
    """XLA knows no texts."""
    model = load_model(settings_of(bytes_model(tmp_path / "m")), PreprocessSettings(value_range="0_255"))
    with pytest.raises(ModelError, match="model.xla compiles no model that decodes images itself; leave model.xla out"):
        model.variant(settings_of(tmp_path, xla=True))


class Clock:
    """Moves when a model is called."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def model(self, calls: list[float], shift: float) -> Any:
        """A model whose calls take these seconds in turn, and that answers with the first pixel and a shift."""

        def predict(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
            self.now += calls.pop(0) if len(calls) > 1 else calls[0]
            return images[:, 0, 0, :1].astype(np.float32) / 255 + np.float32(shift)

        return predict


def test_comparison_takes_the_largest_difference_and_the_best_time() -> None:
    """Calls that plan or compile do not count; the size is that of a run."""
    clock = Clock()
    images = comparison_images(4, 4)
    plain = clock.model([9.0, 9.0, 0.4, 0.2, 0.3], 0.0)
    variant = clock.model([9.0, 9.0, 0.3, 0.5, 0.1], 0.25)
    found = compare(plain, variant, images, 16, clock)
    assert found == Comparison(pytest.approx(0.25), pytest.approx(12.5), pytest.approx(6.25), 16)
    sizes: list[int] = []
    compare(lambda some: sizes.append(len(some)) or np.zeros((len(some), 1), np.float32), plain, images, 6, clock)  # type: ignore[func-returns-value]
    assert sizes == [6, 6, 4, 6, 6, 6, 6]


def test_value_that_is_not_finite_is_an_infinite_difference() -> None:
    """Also where the plain model has the NaN; where both have it, the rest is compared."""
    images = comparison_images(4, 4)

    def model(*holes: int) -> Any:
        def predict(some: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
            answer = np.zeros((len(some), 2), np.float32)
            answer[list(holes), 0] = np.nan
            return answer

        return predict

    differences = [compare(model(*a), model(*b), images, 16, Clock()).difference for a, b in (((), (3,)), ((3,), ()))]
    assert differences == [np.inf, np.inf]
    assert compare(model(3), model(3), images, 16, Clock()).difference == 0.0


def test_images_of_the_comparison_are_noise_and_soft_shapes() -> None:
    """Neighbouring pixels differ by a third of the range in one, and by little in the other."""
    images = comparison_images(64, 48).astype(np.float64)
    assert images.shape == (16, 64, 48, 3)
    steps = np.abs(np.diff(images, axis=1)).mean(axis=(1, 2, 3))
    assert (steps[0::2] > 80).all()
    assert (steps[1::2] < 40).all()


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        (
            0.03,
            "changes the probabilities of this model by up to 0.0300, and model.precision_tolerance allows 0.02; raise",
        ),
        (np.inf, "by NaN or infinite values, and model.precision_tolerance allows 0.02; leave model.precision and"),
        (np.nan, "by NaN or infinite values"),
    ],
)
def test_variant_that_differs_too_much_is_refused(difference: float, message: str) -> None:
    """With the numbers, and the way out."""
    with pytest.raises(ModelError, match=f"bfloat16 with XLA .*{message}"):
        judge(Comparison(difference, 1.0, 1.0, 8), ModelSettings(path="m", precision="bfloat16", xla=True))


def test_slower_variant_is_used_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """It was asked for; that it costs time is said once, and stands in the manifest."""
    caplog.set_level(logging.INFO)
    settings = ModelSettings(path="m", xla=True)
    faster = judge(Comparison(0.001, 2.0, 1.5, 16), settings)
    slower = judge(Comparison(0.001, 2.0, 2.5, 16), settings)
    assert faster == (
        "float32 with XLA: 1.50 ms an image, plain float32 2.00, by 16 images a call; probabilities differ by at most "
        "0.0010"
    )
    assert slower == faster.replace("1.50", "2.50") + "; slower"
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert "slower than what it replaces; leave it out" in caplog.text


def test_names_of_variants() -> None:
    """As they stand in messages, manifest and fingerprint."""
    assert [
        asked_variant(ModelSettings(path="m", precision=precision, xla=xla))
        for precision in ("float32", "bfloat16")
        for xla in (False, True)
    ] == [None, "float32 with XLA", "bfloat16", "bfloat16 with XLA"]


def scorer_of(path: Path, **model: Any) -> Scorer:
    """Load a network for work."""
    size = {"height": 16, "width": 16}
    return Scorer(small_config(path, model=model, preprocess=size, batch={"size": 8}).scorer_plan())


def test_scorer_scores_with_the_variant_and_says_so(network: Path) -> None:
    """Rows are the variant's; the fingerprint of scoring and the manifest name it; a plain run keeps its own."""
    batch = batch_of(photos(5, 16, 16))
    usual, half = scorer_of(network), scorer_of(network, precision="bfloat16", precision_tolerance=0.5)
    rows, lower = (np.array(one.score(batch).rows["probabilities"].to_pylist()) for one in (usual, half))
    assert (rows != lower).any()
    assert np.abs(rows - lower).max() < 0.1
    changed = {name for name, value in usual.fingerprints.items() if half.fingerprints[name] != value}
    assert changed == {"scoring"}
    assert usual.execution == {
        "devices": "the CPU: there is no GPU",
        "batch_size": "batch size 8, as declared",
        "variant": None,
    }
    assert str(half.execution["variant"]).startswith("bfloat16: ")


def test_run_does_not_start_with_a_variant_that_differs(network: Path) -> None:
    """The numbers of bfloat16 are not those of float32, however near."""
    with pytest.raises(ModelError, match="bfloat16 changes the probabilities of this model by up to 0.0"):
        scorer_of(network, precision="bfloat16", precision_tolerance=1e-7)


def test_xla_sees_few_sizes(network: Path) -> None:
    """Whatever comes, calls have 1, 2, 4 or 8 images: at most log2(8) + 1 compilations, and every image has its row."""
    scorer = scorer_of(network, xla=True)
    seen: set[int] = set()
    call = scorer.classifier.compiled.call

    def note(images: Any) -> Any:
        seen.add(images.shape[0])
        return call(images)

    object.__setattr__(scorer.classifier.compiled, "call", note)
    usual = scorer_of(network)
    for count in range(1, 20):
        batch = batch_of(photos(count, 16, 16, seed=count))
        got, wanted = (np.array(one.score(batch).rows["probabilities"].to_pylist()) for one in (scorer, usual))
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert seen == {1, 2, 4, 8}
