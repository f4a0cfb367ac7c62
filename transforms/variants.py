"""Other ways to run a frozen model, half precision and XLA: made when they are asked for, and held to the plain one.

Neither is faster everywhere, and half precision changes the answers. So the plain model and the variant see the same
images when the model is loaded: a variant that differs by more than model.precision_tolerance is refused, one that is
slower is used, for it was asked for, with a warning. What was found stands in the log and in the manifest.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transforms.errors import ModelError
from transforms.freezing import CompiledModel, build_frozen
from transforms.precision import lower_precision
from transforms.settings import ModelSettings

_LOG = logging.getLogger(__name__)

_IMAGES = 16
_ROUNDS = 3

Predict = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]


def asked_variant(settings: ModelSettings) -> str | None:
    """Name the variant that is asked for; None for the plain model.

    >>> asked_variant(ModelSettings(path="m", precision="bfloat16", xla=True))
    'bfloat16 with XLA'
    """
    if settings.xla:
        return f"{settings.precision} with XLA"
    return None if settings.precision == "float32" else settings.precision


def compile_variant(compiled: CompiledModel, settings: ModelSettings, *, on_gpu: bool) -> CompiledModel:
    """Make the variant of a model that is asked for. The model itself stays as it is.

    Args:
        compiled: The plain model.
        settings: precision and xla are read.
        on_gpu: Whether it works on GPUs.

    Raises:
        ModelError: This model, or this device, has no such variant.
    """
    import tensorflow as tf

    name = asked_variant(settings)
    if settings.precision == "float16" and not on_gpu:
        raise ModelError(
            "model.precision float16 is for GPUs, and this model works on the CPU, where it would be slower than "
            "float32; use model.precision: bfloat16, or leave it out"
        )
    if compiled.frozen is None:
        raise ModelError(
            f"{name} needs a model that can be frozen, and this one cannot ({compiled.reason}); leave model.precision "
            "and model.xla out"
        )
    flat = compiled.frozen.flat
    (images,), (output,) = flat.inputs, flat.outputs
    if settings.xla and images.dtype == tf.string:
        raise ModelError("model.xla compiles no model that decodes images itself; leave model.xla out")
    if settings.precision == "float32":
        graph_def = flat.graph.as_graph_def()
    else:
        graph_def = lower_precision(flat.graph, output, tf.as_dtype(settings.precision))
    frozen = build_frozen(graph_def, images, output, xla=settings.xla)
    return replace(compiled, call=frozen.call, frozen=frozen)


class Comparison(NamedTuple):
    """A variant beside the plain model."""

    difference: float
    """Largest difference of a probability; infinite where only one of both is finite."""
    plain_ms: float
    """Of an image, best of a few calls."""
    variant_ms: float
    """As plain_ms."""
    size: int
    """Images a call."""


def compare(
    plain: Predict, variant: Predict, images: npt.NDArray[Any], size: int, clock: Callable[[], float]
) -> Comparison:
    """Let both score the same images.

    Args:
        plain: Images -> float32[N, C] probabilities.
        variant: As plain.
        images: As many as are to be compared, noise and soft shapes.
        size: Images a call, as in a run.
        clock: Seconds, monotonic.
    """
    parts = [images[i : i + size] for i in range(0, len(images), size)]
    wanted, got = (np.concatenate([predict(part) for part in parts]) for predict in (plain, variant))
    full = images[np.resize(np.arange(len(images)), size)]
    best: dict[Predict, float] = {}
    for predict in (plain, variant) * (_ROUNDS + 1):
        started = clock()
        predict(full)
        seconds = clock() - started
        # The first call of a shape also plans and compiles: it does not count.
        best[predict] = min(best[predict], seconds) if predict in best else float("inf")
    plain_ms, variant_ms = (best[predict] / size * 1e3 for predict in (plain, variant))
    return Comparison(_difference(wanted, got), plain_ms, variant_ms, size)


def judge(comparison: Comparison, settings: ModelSettings) -> str:
    """Decide on a variant.

    Returns:
        What was found, for the manifest.

    Raises:
        ModelError: It differs too much.
    """
    name = asked_variant(settings)
    difference, allowed = comparison.difference, settings.precision_tolerance
    if not difference <= allowed:
        said = f"by up to {difference:.4f}" if np.isfinite(difference) else "by NaN or infinite values"
        way_out = "raise it if you can bear that, or " if np.isfinite(difference) else ""
        raise ModelError(
            f"{name} changes the probabilities of this model {said}, and model.precision_tolerance allows {allowed:g}; "
            f"{way_out}leave model.precision and model.xla out"
        )
    slower = comparison.variant_ms > comparison.plain_ms
    text = (
        f"{name}: {comparison.variant_ms:.2f} ms an image, plain float32 {comparison.plain_ms:.2f}, "
        f"by {comparison.size} images a call; probabilities differ by at most {difference:.4f}"
    )
    if slower:
        _LOG.warning("%s: it is slower than what it replaces; leave it out", text)
        return f"{text}; slower"
    _LOG.info("%s", text)
    return text


def _difference(wanted: npt.NDArray[np.float32], got: npt.NDArray[np.float32]) -> float:
    finite = np.isfinite(wanted)
    if (finite != np.isfinite(got)).any():
        return float("inf")
    return float(np.abs(got[finite] - wanted[finite]).max(initial=0.0))


def comparison_images(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Make images that a variant is compared on: half of them noise, half soft shapes, as photos have both.

    Returns:
        uint8[16, height, width, 3], the two kinds alternating.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (_IMAGES, height, width, 3), np.uint8)
    rows, columns = (np.linspace(0, 1, length, dtype=np.float32) for length in (height, width))
    # A few waves in each direction and colour.
    waves = rng.uniform(0, 20, (2, _IMAGES // 2, 1, 1, 3)).astype(np.float32)
    phase = rows[:, None, None] * waves[0] + columns[None, :, None] * waves[1]
    images[1::2] = np.round((np.sin(phase) + 1) * 127.5)
    return images
