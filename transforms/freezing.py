"""Wrap a model with its preprocessing and freeze the whole into one graph of constants.

The graph takes uint8[N, H, W, 3] RGB, so that a quarter of the bytes travels to the device and normalising
happens there. Freezing lets TensorFlow's graph optimiser fold batch norms into the convolutions before them
and the scaling of pixels into constants; the signature [None, H, W, 3] keeps ragged batches from retracing.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.errors import ModelError
from transforms.model_formats import OpenModel, first_line
from transforms.settings import PreprocessSettings

_log = logging.getLogger(__name__)

LUMA = (0.299, 0.587, 0.114)
"""Luminance of R, G and B by ITU-R BT.601, as Pillow's mode L and OpenCV's RGB2GRAY reckon it."""

_SCALED = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class InputLayout:
    """Where a model's input has its axes."""

    layout: str
    """NHWC, NCHW, or bytes."""
    batch: int | None
    """A fixed number of images a call; None for any."""
    height: int | None
    """None for any."""
    width: int | None
    """None for any."""
    channels: int
    """3, or 1 for a grey model; 0 for bytes."""


@dataclass(frozen=True, eq=False)
class CompiledModel:
    """One callable with the preprocessing inside."""

    call: Callable[[Any], Any]
    """uint8[N, H, W, 3] (or string[N]) tensor -> float32 tensor; never retraces."""
    frozen: bool
    """Whether variables became constants."""
    reason: str
    """Why it is frozen or not, in one sentence."""
    keep_alive: object
    """What has to live as long as call is used; None once frozen."""


def read_layout(model: OpenModel) -> InputLayout:
    """Tell the axes of a model's input from its shape.

    Raises:
        ModelError: The shape is not that of a batch of images.
    """
    shape, dtype = model.input.shape, model.input.dtype
    if dtype == "string":
        if shape is not None and len(shape) != 1:
            raise ModelError(
                f"input {model.input} takes encoded images one by one; "
                "export a signature with a string input of shape [?]"
            )
        return InputLayout("bytes", None if shape is None else shape[0], None, None, 0)
    if dtype not in _SCALED and not dtype.startswith(("uint", "int")):
        raise ModelError(
            f"input {model.input} is no image: its dtype is {dtype}, expected a float, an integer or string"
        )
    if shape is None:
        return InputLayout("NHWC", None, None, None, 3)
    if len(shape) != 4:
        raise ModelError(
            f"input {model.input} is no batch of images: expected [N, H, W, 3] or [N, 3, H, W], "
            f"got {len(shape)} axes; export a signature that takes a batch"
        )
    batch, first, second, last = shape
    if first in (1, 3) and last not in (1, 3):
        return InputLayout("NCHW", batch, second, last, first)
    if last not in (1, 3, None):
        raise ModelError(
            f"input {model.input} has {last} channels; models of 3 channels, or of 1 for grey, are supported"
        )
    return InputLayout("NHWC", batch, first, second, 3 if last is None else last)


def scale_and_offset(preprocess: PreprocessSettings) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Fold value range, mean and std into one multiplication and one addition.

    Args:
        preprocess: The declared normalisation.

    Returns:
        scale and offset, float32[3] each: input = pixel * scale + offset, pixels 0 to 255.

    >>> scale_and_offset(PreprocessSettings(value_range="-1_1"))[1]
    array([-1., -1., -1.], dtype=float32)
    """
    factor, shift = {"0_1": (1 / 255, 0.0), "-1_1": (2 / 255, -1.0), "0_255": (1.0, 0.0)}[preprocess.value_range]
    mean = np.zeros(3) if preprocess.mean is None else np.array(preprocess.mean)
    std = np.ones(3) if preprocess.std is None else np.array(preprocess.std)
    return (factor / std).astype(np.float32), ((shift - mean) / std).astype(np.float32)


def build_normalise(model: OpenModel, layout: InputLayout, preprocess: PreprocessSettings) -> Callable[[Any], Any]:
    """Build the function that turns pixels into the model's input, out of TensorFlow ops.

    Args:
        model: Its input dtype is read.
        layout: The axes of its input.
        preprocess: The declared normalisation.

    Returns:
        uint8[N, H, W, 3] RGB tensor -> tensor of the model's dtype and layout; string tensors pass as they are.

    Raises:
        ModelError: The declaration cannot be applied to this input.
    """
    import tensorflow as tf

    scale, offset = scale_and_offset(preprocess)
    scaled = preprocess.value_range != "0_255" or preprocess.mean is not None or preprocess.std is not None
    if model.input.dtype not in _SCALED and scaled:
        declared = f"value_range {preprocess.value_range}, mean {preprocess.mean}, std {preprocess.std}"
        raise ModelError(
            f"input {model.input} takes pixels as they are and scales them itself, but preprocess declares {declared}; "
            "use value_range: 0_255 without mean and std"
        )
    if layout.layout != "NHWC" and layout.layout != "NCHW":
        return lambda encoded: encoded
    if layout.channels == 1:
        _check_grey(preprocess, scale, offset)
        scale, offset = scale[:1], offset[:1]
    dtype = tf.as_dtype(model.input.dtype)

    def normalise(pixels: Any) -> Any:
        values = pixels
        if layout.channels == 1:
            values = tf.reduce_sum(tf.cast(values, tf.float32) * tf.constant(LUMA, tf.float32), axis=-1, keepdims=True)
            # 0.299 + 0.587 + 0.114 is a little under 1 in float32: white must stay 255.
            values = tf.minimum(values, 255.0) if dtype.is_floating else tf.round(values)
        elif preprocess.channel_order == "bgr":
            values = tf.reverse(values, axis=[-1])
        if scaled:
            values = tf.cast(values, tf.float32) * scale + offset
        values = tf.cast(values, dtype)
        return tf.transpose(values, [0, 3, 1, 2]) if layout.layout == "NCHW" else values

    return normalise


def _check_grey(
    preprocess: PreprocessSettings, scale: npt.NDArray[np.float32], offset: npt.NDArray[np.float32]
) -> None:
    if preprocess.channel_order != "rgb":
        raise ModelError("channel_order: bgr has no meaning for a model of one grey channel; leave it out")
    if len(set(scale.tolist())) > 1 or len(set(offset.tolist())) > 1:
        raise ModelError(
            f"the model takes one grey channel, but mean {preprocess.mean} and std {preprocess.std} differ between "
            "channels; give the same number three times"
        )


def compile_model(
    model: OpenModel, layout: InputLayout, preprocess: PreprocessSettings, size: tuple[int, int]
) -> CompiledModel:
    """Put the preprocessing before the model and freeze both.

    Args:
        model: The loaded model.
        layout: The axes of its input.
        preprocess: The declared normalisation.
        size: Height and width in pixels; ignored for a model that takes bytes.

    Returns:
        The frozen graph, or the unfrozen one with the reason.
    """
    import tensorflow as tf

    normalise = build_normalise(model, layout, preprocess)
    if layout.layout == "bytes":
        spec = tf.TensorSpec([layout.batch], tf.string, name="encoded")
    else:
        spec = tf.TensorSpec([layout.batch, *size, 3], tf.uint8, name="pixels")

    def score(images: Any) -> Any:
        return tf.cast(model.call(normalise(images)), tf.float32)

    # Without autograph: the model is a graph already, and there is no control flow of ours.
    function = tf.function(score, input_signature=[spec], autograph=False)
    try:
        concrete = function.get_concrete_function()
    except Exception as error:
        raise ModelError(
            f"the model does not accept {tuple(spec.shape)} images as {model.input}: {first_line(error)}"
        ) from error
    return freeze(concrete, keep_alive=(function, model))


def freeze(concrete: Any, keep_alive: object) -> CompiledModel:
    """Turn a function's variables into constants, or say why that cannot be.

    Args:
        concrete: A ConcreteFunction of one tensor.
        keep_alive: What owns its variables.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    def unfrozen(reason: str) -> CompiledModel:
        _log.info("The model runs unfrozen: %s", reason)
        return CompiledModel(concrete, frozen=False, reason=reason, keep_alive=keep_alive)

    try:
        frozen = convert_variables_to_constants_v2(concrete)
    except Exception as error:  # noqa: BLE001 - whatever hinders freezing, the model still runs; the reason is recorded
        return unfrozen(f"TensorFlow cannot turn it into constants: {first_line(error)}")
    resources = len(frozen.inputs) - 1
    if resources:
        return unfrozen(
            f"it holds {resources} resource{'s' if resources > 1 else ''} other than variables (hash tables)"
        )
    return CompiledModel(
        lambda images: frozen(images)[0], frozen=True, reason="all variables are constants", keep_alive=None
    )
