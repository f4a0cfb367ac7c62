"""One call of a model: images to a tensor, the tensor to a device, the answer to one row of scores an image."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.errors import ExitCode, ModelError, RunError
from transforms.freezing import CompiledModel

Scores = npt.NDArray[np.float32]

_ALIGNMENT = 64


def call_rows(compiled: CompiledModel, images: npt.NDArray[Any], device: str | None = None) -> Scores:
    """Call a model once, copy its answer to the host once, and hold it to one row an image.

    Args:
        compiled: The model.
        images: N images, or N byte strings.
        device: TensorFlow's name of the device to work on; None leaves it to TensorFlow.

    Returns:
        float32[N, C].

    Raises:
        RunError: Another number of rows, or a shape that is no vector an image: nobody knows whose rows they are, and
            a smaller batch that happens to come out right would prove nothing.
    """
    try:
        return as_rows(call_on(compiled, images, device).numpy(), len(images))
    except ModelError as error:
        raise RunError(ExitCode.WRONG_INPUT, str(error)) from error


def call_on(compiled: CompiledModel, images: npt.NDArray[Any], device: str | None) -> Any:
    """Call a model on a device; return the tensor as it lies there."""
    import tensorflow as tf

    # Made outside: texts have no place on a GPU.
    tensor = to_tensor(images)
    with tf.device(device):
        return compiled.call(tensor)


def to_tensor(images: npt.NDArray[Any]) -> Any:
    """Give pixels to TensorFlow without copying them, where they lie as its kernels demand.

    Args:
        images: uint8[N, H, W, 3], or object[N] of bytes. Not to be written to while the tensor lives.

    Returns:
        A tensor; it holds the array whose memory it shares.
    """
    import tensorflow as tf

    shareable = images.dtype == np.uint8 and images.flags.c_contiguous and images.flags.writeable and images.size > 0
    # TensorFlow ends the process over memory that does not begin at a multiple of 64 bytes.
    if shareable and images.ctypes.data % _ALIGNMENT == 0:
        return tf.experimental.dlpack.from_dlpack(images.__dlpack__())
    return tf.convert_to_tensor(images)


def as_rows(raw: npt.NDArray[np.float32], images: int) -> Scores:
    """Bring a model's output to one row of scores an image.

    Args:
        raw: [N, C], [N, 1, 1, C], [N, C, 1, 1], or [N] for a one-unit head.
        images: N, the number of images that were given.

    Returns:
        float32[N, C].

    Raises:
        ModelError: Another number of rows, or more than one axis of scores.

    >>> as_rows(np.zeros((2, 1, 1, 5), np.float32), 2).shape
    (2, 5)
    """
    if raw.ndim == 0 or len(raw) != images:
        rows = "a single number" if raw.ndim == 0 else f"{len(raw)} rows"
        raise ModelError(
            f"the model returned {rows} for {images} images (shape {raw.shape}); it has to return one row an image"
        )
    check_score_axes(raw.shape)
    return raw.reshape(images, math.prod(raw.shape[1:]))


def check_score_axes(shape: Sequence[int | None]) -> None:
    """Refuse an output that is not one vector an image.

    Args:
        shape: With the batch first; None for an unknown length.

    Raises:
        ModelError: More than one axis is longer than 1.
    """
    if len(shape) > 2 and sum(length != 1 for length in shape[1:]) > 1:
        dims = ", ".join("?" if length is None else str(length) for length in shape[1:])
        raise ModelError(
            f"the model returns [N, {dims}]: a map or a sequence, not one score a class; choose another "
            "output with model.output_name, or export the model with global pooling before its head"
        )


def fill_up(images: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Make a batch as large as a model wants it.

    Args:
        images: N images, or N byte strings.
        size: At least N.

    Returns:
        size images: those given, and the last one again in every place that is left. Zeros could be what the model
        fails on.
    """
    missing = size - len(images)
    return np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images
