"""Small real models made on the fly, each with the numbers it has to return reckoned by NumPy.

The models average an image over its area and multiply by a matrix: simple enough to be checked by hand,
real enough to go through every loader.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HEIGHT, WIDTH, CLASSES = 6, 8, 4


def weights(channels: int = 3, classes: int = CLASSES) -> npt.NDArray[np.float32]:
    """The matrix of every model here: float32[channels, classes], the same on every call."""
    return np.random.default_rng(7).normal(size=(channels, classes)).astype(np.float32)


def photos(count: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Random pixels, uint8[count, height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def expected_logits(values: npt.NDArray[Any], classes: int = CLASSES) -> npt.NDArray[np.float32]:
    """What the models return for normalised values[N, H, W, channels], reckoned in float64."""
    pooled = np.asarray(values, np.float64).mean(axis=(1, 2))
    return (pooled @ weights(values.shape[-1], classes)).astype(np.float32)


def pooled_model(
    path: Path,
    *,
    shape: tuple[int | None, ...] = (None, HEIGHT, WIDTH, 3),
    dtype: str = "float32",
    layout: str = "NHWC",
    classes: int = CLASSES,
    signature: str = "serving_default",
    head: Callable[[Any], Any] = lambda logits: {"logits": logits},
) -> Path:
    """Save a SavedModel that pools, multiplies, and passes the logits through head.

    Args:
        path: Where to save it.
        shape: Of its input, batch first, in its layout.
        dtype: Of its input.
        layout: NHWC or NCHW.
        classes: Width of the logits.
        signature: Name of its signature.
        head: float32[N, classes] logits -> the outputs by name.
    """
    import tensorflow as tf

    axis = 1 if layout == "NCHW" else 3
    area = [2, 3] if layout == "NCHW" else [1, 2]

    class Pooled(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = tf.Variable(weights(shape[axis] or 3, classes))

        @tf.function(input_signature=[tf.TensorSpec(shape, dtype, name="images")])
        def score(self, images: Any) -> Any:
            return head(tf.reduce_mean(tf.cast(images, tf.float32), area) @ self.matrix)

    module = Pooled()
    tf.saved_model.save(module, str(path), signatures={signature: module.score})
    return path
