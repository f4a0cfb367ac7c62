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
from transforms.model_inputs import InputLayout, build_normalise
from transforms.model_interface import OpenModel, first_line
from transforms.settings import PreprocessSettings

_log = logging.getLogger(__name__)


class GraphFacts(NamedTuple):
    """What a model's graph shows."""

    head: Head
    """What computes the output."""
    constants: int
    """Numbers in its floating-point constants: the parameters of a model that was saved frozen."""


class Frozen(NamedTuple):
    """A function whose variables are constants."""

    call: Callable[[Any], Any]
    """Takes and returns one tensor; never traced again."""
    flat: Any
    """Its graph as a ConcreteFunction without calls of others."""


@dataclass(frozen=True, eq=False)
class CompiledModel:
    """One callable with the preprocessing inside."""

    call: Callable[[Any], Any]
    """uint8[N, H, W, 3] (or string[N]) tensor -> float32 tensor; never retraces."""
    frozen: Frozen | None
    """call and its graph, where the variables became constants."""
    reason: str
    """Why it is frozen or not, in one sentence."""
    probe: npt.NDArray[np.float32]
    """What the model returned for probe_images."""
    keep_alive: object
    """What has to live as long as call is used; None once frozen."""


def compile_model(
    model: OpenModel,
    layout: InputLayout,
    preprocess: PreprocessSettings,
    size: tuple[int, int],
    device: str | None = None,
    when_frozen: Callable[[], None] = lambda: None,
) -> CompiledModel:
    """Put the preprocessing before the model, try it on an image, and freeze both.

    Args:
        model: The loaded model.
        layout: The axes of its input.
        preprocess: The declared normalisation.
        size: Height and width in pixels; ignored for a model that takes bytes.
        device: TensorFlow's name of the device to try it on; None leaves it to TensorFlow.
        when_frozen: Called when TensorFlow is left to work without the interpreter's lock: others may have it.

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
            # Freezing is Python, the first calls are TensorFlow's optimiser: they run beside each other.
            asked = pool.submit(ask, concrete)
            frozen, reason = freeze(concrete)
            when_frozen()
            got = None
            if frozen is not None:
                got, reason = _try(ask, frozen.call)
            answer = asked.result()
    except Exception as error:
        raise ModelError(f"the model fails on {what} given as {model.input}: {first_line(error)}") from error
    if got is not None and not alike(got, answer):
        if not alike(ask(concrete), answer):
            raise ModelError(
                "the model answers differently each time it sees the same image: dropout or noise is left on, and no "
                "row could be trusted; export it for inference (training=False)"
            )
        got, reason = None, "the frozen graph answers differently than the model"
    if frozen is not None and got is not None:
        return CompiledModel(call=frozen.call, frozen=frozen, reason=reason, probe=answer, keep_alive=None)
    _log.info("The model runs unfrozen: %s", reason)
    return CompiledModel(call=concrete, frozen=None, reason=reason, probe=answer, keep_alive=(function, model))


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

    handles = {id(variable.handle) for variable in concrete.variables}
    resources = [tensor for tensor in concrete.captured_inputs if tensor.dtype == tf.resource]
    others = sum(id(tensor) not in handles for tensor in resources)
    if others:
        return None, f"it holds {others} lookup table{'s' if others > 1 else ''} or other resources"
    try:
        graph_def, inputs = _to_constants(concrete)
    except Exception as error:  # noqa: BLE001 - whatever hinders freezing, the model still runs; the reason is recorded
        return None, f"TensorFlow cannot turn it into constants: {first_line(error)}"
    if len(inputs) != 1:
        return None, f"{len(inputs) - 1} of its inputs could not be turned into constants"
    # The machine that it was exported on may have named its devices: they are not those of this one.
    for node in [*graph_def.node, *(node for function in graph_def.library.function for node in function.node_def)]:
        node.device = ""
    return build_frozen(graph_def, inputs[0], concrete.outputs[0]), "all variables are constants"


def _to_constants(concrete: Any) -> tuple[Any, list[Any]]:
    """Return the GraphDef of a function without its variables, and the inputs that are left."""
    from tensorflow.python.framework import convert_to_constants

    # The first two steps of convert_variables_to_constants_v2: in a third one it copies the graph node by node in
    # Python, for half a second.
    data = convert_to_constants._FunctionConverterDataInEager(
        concrete, lower_control_flow=True, aggressive_inlining=False
    )
    graph_def, converted = convert_to_constants._replace_variables_by_constants(data)
    if graph_def.library.function:
        # Functions that are left have the names of others that still live: that one knows how to take their place.
        frozen = convert_to_constants.convert_variables_to_constants_v2(concrete)
        return frozen.graph.as_graph_def(), list(frozen.inputs)
    captured = concrete.graph.internal_captures
    gone = {captured[index].name for index in converted}
    return graph_def, [tensor for tensor in concrete.inputs if tensor.name not in gone]


def build_frozen(graph_def: Any, images: Any, output: Any, *, xla: bool = False) -> Frozen:
    """Make a function of a graph of constants; it is never traced again, whatever the number of images.

    Args:
        graph_def: The graph; its placeholder is taken out.
        images: Its input tensor: name, shape and dtype are read.
        output: Its output tensor: the name is read.
        xla: Compile it; it is then compiled once for each number of images.
    """
    import tensorflow as tf

    # Its place is taken by the argument; XLA compiles no placeholder.
    graph_def.node.remove(next(node for node in graph_def.node if node.name == images.op.name))
    spec = tf.TensorSpec(images.shape, images.dtype, name="images")

    def flat(argument: Any) -> Any:
        return tf.graph_util.import_graph_def(graph_def, {images.name: argument}, [output.name], name="")

    # Not tf.function: it would tie the output to each step of a loop. But called as it is, it first fails to bind its
    # input by name, and prints the pixels into the error that it throws away: 1.5 ms a call.
    wrapped = tf.compat.v1.wrap_function(flat, [spec])
    function = tf.function(
        lambda argument: wrapped(argument)[0], input_signature=[spec], autograph=False, jit_compile=xla or None
    )
    return Frozen(function.get_concrete_function(), wrapped)


def _try(
    ask: Callable[[Callable[[Any], Any]], npt.NDArray[np.float32]], call: Callable[[Any], Any]
) -> tuple[npt.NDArray[np.float32] | None, str]:
    import tensorflow as tf

    try:
        return ask(call), "all variables are constants"
    except tf.errors.OpError as error:
        return None, f"the frozen graph fails: {first_line(error)}"


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
