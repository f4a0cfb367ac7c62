"""Wrap a model with its preprocessing and freeze the whole into one graph of constants.

The graph takes uint8[N, H, W, 3] RGB, so that a quarter of the bytes travels to the device and normalising
happens there. Freezing lets TensorFlow's graph optimiser fold batch norms into the convolutions before them
and the scaling of pixels into constants; the signature [None, H, W, 3] keeps ragged batches from retracing.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transforms.errors import ModelError
from transforms.model_heads import Head, count_constants, read_head
from transforms.model_interface import FLOATS, OpenModel, first_line
from transforms.settings import PreprocessSettings

_log = logging.getLogger(__name__)

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


class GraphFacts(NamedTuple):
    """What a model's graph shows."""

    head: Head
    """What computes the output."""
    constants: int
    """Numbers in its floating-point constants: the parameters of a model that was saved frozen."""


@dataclass(frozen=True, eq=False)
class CompiledModel:
    """One callable with the preprocessing inside."""

    call: Callable[[Any], Any]
    """uint8[N, H, W, 3] (or string[N]) tensor -> float32 tensor; never retraces."""
    frozen: bool
    """Whether variables became constants."""
    reason: str
    """Why it is frozen or not, in one sentence."""
    probe: npt.NDArray[np.float32]
    """What the model returned for probe_images."""
    keep_alive: object
    """What has to live as long as call is used; None once frozen."""
    flat: Any = None
    """The frozen graph as one ConcreteFunction without calls of others; None where it is not frozen."""


class Frozen(NamedTuple):
    """A function whose variables are constants."""

    call: Callable[[Any], Any]
    """Takes and returns one tensor."""
    flat: Any
    """Its graph, as a ConcreteFunction."""


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


def compile_model(
    model: OpenModel,
    layout: InputLayout,
    preprocess: PreprocessSettings,
    size: tuple[int, int],
    device: str | None = None,
) -> CompiledModel:
    """Put the preprocessing before the model, try it on an image, and freeze both.

    Args:
        model: The loaded model.
        layout: The axes of its input.
        preprocess: The declared normalisation.
        size: Height and width in pixels; ignored for a model that takes bytes.
        device: TensorFlow's name of the device to try it on; None leaves it to TensorFlow.

    Returns:
        The frozen graph, or the unfrozen one with the reason. It runs on whatever device it is called on.

    Raises:
        ModelError: The model does not accept the images, or fails on one.
    """
    import tensorflow as tf

    normalise = build_normalise(model, layout, preprocess)
    shape = [layout.batch] if layout.layout == "bytes" else [layout.batch, *size, 3]
    spec = tf.TensorSpec(shape, tf.string if layout.layout == "bytes" else tf.uint8, name="images")
    what = "encoded images" if layout.layout == "bytes" else f"images of {size[0]} x {size[1]} pixels"

    def score(images: Any) -> Any:
        return tf.cast(model.call(normalise(images)), tf.float32)

    # Without autograph: the model is a graph already, and there is no control flow of ours.
    function = tf.function(score, input_signature=[spec], autograph=False)
    images = tf.constant(probe_images(layout, size))

    def ask(function: Callable[[Any], Any]) -> npt.NDArray[np.float32]:
        with tf.device(device):
            return function(images).numpy()

    try:
        concrete = function.get_concrete_function()
        with ThreadPoolExecutor(1, thread_name_prefix="probe") as pool:
            # Freezing is Python, the first call is TensorFlow's optimiser: beside each other they take as long as one.
            asked = pool.submit(ask, concrete)
            frozen, reason = freeze(concrete)
            answer = asked.result()
    except Exception as error:
        raise ModelError(f"the model fails on {what} given as {model.input}: {first_line(error)}") from error
    if frozen is not None:
        frozen, reason = _confirm(frozen, concrete, ask, answer)
    if frozen is None:
        _log.info("The model runs unfrozen: %s", reason)
    return CompiledModel(
        call=frozen.call if frozen else concrete,
        frozen=frozen is not None,
        reason=reason,
        probe=answer,
        keep_alive=None if frozen else (function, model),
        flat=frozen.flat if frozen else None,
    )


def read_graph(model: OpenModel) -> GraphFacts:
    """Read a model's graph without preparing it for work.

    Raises:
        ModelError: The model does not accept what its signature says.
    """
    import tensorflow as tf

    spec = tf.TensorSpec(model.input.shape, model.input.dtype, name="images")
    try:
        concrete = tf.function(model.call, input_signature=[spec], autograph=False).get_concrete_function()
    except Exception as error:
        raise ModelError(f"the model fails on its own input {model.input}: {first_line(error)}") from error
    graph_def = concrete.graph.as_graph_def()
    return GraphFacts(read_head(graph_def, concrete.outputs[0].name), count_constants(graph_def))


def freeze(concrete: Any) -> tuple[Frozen | None, str]:
    """Turn a function's variables into constants.

    Args:
        concrete: A ConcreteFunction of one tensor.

    Returns:
        The frozen function, or None; and the reason in one sentence.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    handles = {id(variable.handle) for variable in concrete.variables}
    resources = [tensor for tensor in concrete.captured_inputs if tensor.dtype == tf.resource]
    others = sum(id(tensor) not in handles for tensor in resources)
    if others:
        return None, f"it holds {others} lookup table{'s' if others > 1 else ''} or other resources"
    try:
        frozen = convert_variables_to_constants_v2(concrete)
    except Exception as error:  # noqa: BLE001 - whatever hinders freezing, the model still runs; the reason is recorded
        return None, f"TensorFlow cannot turn it into constants: {first_line(error)}"
    if len(frozen.inputs) != 1:
        return None, f"{len(frozen.inputs) - 1} of its inputs could not be turned into constants"
    if any(op.device for op in frozen.graph.get_operations()):
        # The machine that it was exported on has named its devices: they are not those of this one.
        frozen = _without_devices(frozen)
    # Called as it is, the frozen function first fails to bind its input by name, and prints the pixels into the
    # error that it throws away: 1.5 ms a call.
    return Frozen(one_tensor(lambda images: frozen(images)[0], frozen), frozen), "all variables are constants"


def one_tensor(call: Callable[[Any], Any], flat: Any, *, xla: bool = False) -> Callable[[Any], Any]:
    """Make a function of one tensor that is never traced again, whatever the number of images.

    Args:
        call: What it does.
        flat: A ConcreteFunction whose input it takes.
        xla: Compile it; it is then compiled once for each number of images.
    """
    import tensorflow as tf

    spec = tf.TensorSpec(flat.inputs[0].shape, flat.inputs[0].dtype, name="images")
    function = tf.function(call, input_signature=[spec], autograph=False, jit_compile=xla or None)
    return function.get_concrete_function()


def _without_devices(frozen: Any) -> Any:
    import tensorflow as tf

    graph_def = frozen.graph.as_graph_def()
    for node in [*graph_def.node, *(node for function in graph_def.library.function for node in function.node_def)]:
        node.device = ""
    wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph_def, name=""), [])
    return wrapped.prune(frozen.inputs[0].name, [frozen.outputs[0].name])


def _confirm(
    frozen: Frozen,
    concrete: Callable[[Any], Any],
    ask: Callable[[Callable[[Any], Any]], npt.NDArray[np.float32]],
    answer: npt.NDArray[np.float32],
) -> tuple[Frozen | None, str]:
    """Take the frozen graph only if it answers as the model does."""
    import tensorflow as tf

    try:
        got = ask(frozen.call)
    except tf.errors.OpError as error:
        return None, f"the frozen graph fails: {first_line(error)}"
    if alike(got, answer):
        return frozen, "all variables are constants"
    if not alike(ask(concrete), answer):
        raise ModelError(
            "the model answers differently each time it sees the same image: dropout or noise is left on, and no row "
            "could be trusted; export it for inference (training=False)"
        )
    return None, "the frozen graph answers differently than the model"


def alike(got: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> bool:
    """Tell whether two answers differ by rounding alone."""
    # Folding rounds differently: 1e-5 of the largest value in float32, 1e-2 in half precision or TF32.
    scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)
    return got.shape == wanted.shape and np.allclose(got, wanted, rtol=0.0, atol=0.02 * scale, equal_nan=True)


def probe_images(layout: InputLayout, size: tuple[int, int]) -> npt.NDArray[Any]:
    """Make a batch that a model can be tried on: one image of noise, or as many as its batch is fixed to.

    Args:
        layout: Of its input.
        size: Height and width in pixels; ignored for a model that takes bytes.

    Returns:
        uint8[N, H, W, 3], or an object array of N JPEG files.
    """
    import tensorflow as tf

    count = layout.batch or 1
    rng = np.random.default_rng(0)
    if layout.layout == "bytes":
        encoded = tf.io.encode_jpeg(rng.integers(0, 256, (64, 64, 3), np.uint8)).numpy()
        return np.array([encoded] * count, dtype=object)
    return rng.integers(0, 256, (count, *size, 3), np.uint8)
