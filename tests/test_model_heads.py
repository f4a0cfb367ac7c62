"""What a graph ends in, told from the graph alone."""

from pathlib import Path
from typing import Any

import pytest

from tests import model_zoo
from transforms.model_descriptions import describe_model
from transforms.settings import ModelSettings


def softmax_by_hand(logits: Any) -> Any:
    """Exp by Sum, as Keras 2 wrote it."""
    import tensorflow as tf

    exponentials = tf.exp(logits - tf.reduce_max(logits, axis=1, keepdims=True))
    return exponentials / tf.reduce_sum(exponentials, axis=1, keepdims=True)


def tf_(name: str) -> Any:
    """Return a function of TensorFlow by name, without importing it before the test runs."""

    def call(logits: Any) -> Any:
        import tensorflow as tf

        function: Any = tf
        for part in name.split("."):
            function = getattr(function, part)
        return function(logits)

    return call


def inside_a_function(logits: Any) -> Any:
    """Softmax in a function of its own, the cast outside of it."""
    import tensorflow as tf

    return tf.cast(tf.function(tf.nn.softmax)(logits), tf.float16)


def outside_a_function(logits: Any) -> Any:
    """Softmax before a function that only passes its argument on."""
    import tensorflow as tf

    return tf.function(lambda first, _: tf.identity(first))(tf.nn.softmax(logits), logits)


@pytest.mark.parametrize(
    ("head", "activation", "reason"),
    [
        (lambda logits: logits, "linear", "computed by MatMul"),
        (lambda logits: logits + model_zoo.weights()[0], "linear", "of a product and its bias"),
        (tf_("nn.softmax"), "softmax", "computed by Softmax"),
        (tf_("nn.sigmoid"), "sigmoid", "computed by Sigmoid"),
        # Ops that change no value are looked through
        (lambda logits: tf_("squeeze")(tf_("nn.softmax")(logits)), "softmax", "computed by Softmax"),
        (inside_a_function, "softmax", "computed by Softmax"),
        (outside_a_function, "softmax", "computed by Softmax"),
        (softmax_by_hand, "softmax", "of Exp by Sum"),
        # Its softmax gives the probabilities back
        (tf_("nn.log_softmax"), "linear", "log-probabilities, whose softmax are the probabilities"),
        # A background class cut off: the rest no longer sums to 1
        (lambda logits: tf_("nn.softmax")(logits)[:, 1:], None, "computed by StridedSlice"),
        # What cannot be told is left to the probe
        (tf_("nn.relu"), None, "computed by Relu (Relu), which tells neither logits nor probabilities"),
        (lambda logits: tf_("nn.softmax")(logits) + tf_("nn.softmax")(-logits), None, "computed by AddV2"),
        (lambda logits: tf_("nn.softmax")(logits) * 100.0, "scaled softmax", "computed by Mul"),
    ],
)
def test_head_is_what_computes_the_output(tmp_path: Path, head: Any, activation: str | None, reason: str) -> None:
    """The op behind all casts, reshapes and function calls decides; a sum or product of heads is none."""
    path = model_zoo.pooled_model(tmp_path / "m", head=lambda logits: {"scores": head(logits)})
    description = describe_model(ModelSettings(path=str(path)))
    assert description.head == activation
    assert reason in description.head_reason


@pytest.mark.parametrize(("activation", "head"), [("softmax", "softmax"), ("sigmoid", "sigmoid"), (None, "linear")])
@pytest.mark.parametrize("form", ["keras", "h5", "export"])
def test_keras_head_survives_every_format(tmp_path: Path, activation: str | None, head: str, form: str) -> None:
    """The last layer's activation is seen in .keras, .h5 and an exported SavedModel."""
    model = model_zoo.keras_model(activation)
    if form == "export":
        model.export(tmp_path / "m", verbose=False)
    else:
        model_zoo.save_keras(model, tmp_path / f"m.{form}")
    path = tmp_path / ("m" if form == "export" else f"m.{form}")
    assert describe_model(ModelSettings(path=str(path))).head == head


def test_half_precision_keras_model_shows_its_head(tmp_path: Path) -> None:
    """A mixed_float16 model with a softmax in half precision is a softmax behind a cast."""
    path = model_zoo.save_keras(model_zoo.keras_model(dtype="mixed_float16"), tmp_path / "m.keras")
    description = describe_model(ModelSettings(path=str(path)))
    assert (description.head, description.outputs[0].dtype) == ("softmax", "float16")
