"""From pixels to what a model's input wants: its axes, and the declared normalisation built of TensorFlow ops."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.errors import ModelError
from transforms.model_interface import FLOATS, OpenModel
from transforms.settings import PreprocessSettings

LUMA = (0.299, 0.587, 0.114)
"""Luminance of R, G and B by ITU-R BT.601, as Pillow's mode L and OpenCV's RGB2GRAY reckon it."""


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
    if dtype not in FLOATS and not dtype.startswith(("uint", "int")):
        raise ModelError(
            f"input {model.input} is no image: its dtype is {dtype}, expected a float, an integer or string"
        )
    if dtype == "int8":
        raise ModelError(
            f"input {model.input} cannot hold pixels of 0 to 255: its dtype is int8; export the model with a uint8 or "
            "float input"
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
    if model.input.dtype not in FLOATS and scaled:
        declared = f"value_range {preprocess.value_range}, mean {preprocess.mean}, std {preprocess.std}"
        raise ModelError(
            f"input {model.input} takes pixels as they are and scales them itself, but preprocess declares {declared}; "
            "use value_range: 0_255 without mean and std"
        )
    if layout.layout != "NHWC" and layout.layout != "NCHW":
        _check_bytes(model, preprocess)
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


def _check_bytes(model: OpenModel, preprocess: PreprocessSettings) -> None:
    fields = PreprocessSettings.model_fields
    unheeded = sorted(
        name
        for name in preprocess.model_fields_set - {"value_range"}
        if getattr(preprocess, name) != fields[name].get_default()
    )
    if unheeded:
        raise ModelError(
            f"input {model.input} takes encoded images, and the model decodes and prepares them itself: nothing would "
            f"heed preprocess.{', preprocess.'.join(unheeded)}; leave it out"
        )


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
