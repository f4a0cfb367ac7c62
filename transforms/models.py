"""The model as the pipeline sees it: uint8 pixels in, float32 scores out.

load_model turns any supported model into a Classifier; describe_model says what a model is without preparing
it for work. Softmax, labels and the meaning of the scores live in probabilities.py.
"""

import copy
import hashlib
import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.devices import Devices, check_origin, claim_devices, prepare_devices
from transforms.errors import ExitCode, ModelError, RunError
from transforms.freezing import (
    CompiledModel,
    GraphFacts,
    InputLayout,
    alike,
    compile_model,
    probe_images,
    read_graph,
    read_layout,
)
from transforms.model_formats import open_model
from transforms.model_interface import OpenModel, TensorDescription, first_line
from transforms.model_sources import local_path
from transforms.redaction import redact
from transforms.saved_models import read_asset_labels
from transforms.settings import ModelSettings, PreprocessSettings
from transforms.variants import asked_variant, compile_variant

_log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]

_ALIGNMENT = 64


@dataclass(frozen=True)
class ModelDescription:
    """What is known of a model from its files."""

    format: str
    """savedmodel, keras or hdf5."""
    signatures: tuple[str, ...]
    """All signatures of a SavedModel."""
    signature: str | None
    """The one in use; None for a format without signatures."""
    input_name: str
    """Name of the one input."""
    input_dtype: str
    """float32, uint8, string, ..."""
    input_shape: tuple[int | None, ...]
    """None for an axis of any length; empty where the model does not say."""
    layout: str
    """NHWC, NCHW, or bytes for a model that decodes images itself."""
    outputs: tuple[TensorDescription, ...]
    """All outputs of the signature."""
    output_name: str
    """The one that is read."""
    num_classes: int | None
    """Width of that output; None where only a call can tell."""
    fixed_batch: int | None
    """Images a call, where the model insists; None for any number."""
    parameter_count: int
    """Numbers in its variables."""
    fingerprint: str
    """sha256 over its files, hex."""
    head: str | None
    """What computes the output: softmax, sigmoid or linear; None where the graph does not show it."""
    head_reason: str
    """Where that was seen."""
    labels: list[str] | None
    """Class names found in the SavedModel's assets."""
    frozen: bool | None = None
    """Whether the loaded graph runs on constants; None before loading."""
    frozen_reason: str = "not loaded"
    """Why it is frozen or not."""


class Classifier:
    """A model ready for work; hold one a process.

    Args:
        description: What it is.
        compiled: The callable with preprocessing inside.
        size: Height and width of its input in pixels; 0, 0 for a model that takes bytes.
        num_classes: Width of its output.
        name: For model_id.
        devices: What it works on; the same graph has its constants on each.
    """

    def __init__(
        self,
        description: ModelDescription,
        compiled: CompiledModel,
        size: tuple[int, int],
        num_classes: int,
        name: str,
        devices: Devices,
    ) -> None:
        self.description = description
        self.height, self.width = size
        self.num_classes = num_classes
        self.fixed_batch = description.fixed_batch
        self.fingerprint = description.fingerprint
        self.model_id = f"{name}@{description.fingerprint[:12]}"
        self.takes_bytes = description.layout == "bytes"
        self.devices = devices
        self.compiled = compiled

    def variant(self, settings: ModelSettings) -> "Classifier":
        """Return the same model as precision and xla of the settings want it run; this one stays as it is.

        Raises:
            ModelError: It has no such variant.
        """
        import tensorflow as tf

        other = copy.copy(self)
        other.compiled = compile_variant(self.compiled, settings, on_gpu=self.devices.are_gpus)
        if not self.takes_bytes:
            try:
                other.predict(np.zeros((1, self.height, self.width, 3), np.uint8))
            except tf.errors.OpError as error:
                raise ModelError(
                    f"TensorFlow cannot run this model as {asked_variant(settings)} on this machine "
                    f"({first_line(error)}); leave model.precision and model.xla out"
                ) from error
        return other

    def predict(self, pixels: Pixels, device: str | None = None) -> Scores:
        """Run the model on a batch of images.

        Args:
            pixels: uint8[N, height, width, 3], RGB, N >= 0.
            device: One of devices.names; None takes the first.

        Returns:
            float32[N, C], what the model returns, neither softmaxed nor checked for NaN.

        Raises:
            ValueError: The pixels are not what this model expects.
            RunError: The model returned something else than one row an image.
        """
        if self.takes_bytes:
            raise ValueError(f"model {self.model_id} takes encoded images: call predict_bytes")
        expected = (self.height, self.width, 3)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != expected or pixels.ndim != 4:
            raise ValueError(
                f"expected pixels uint8[N, {self.height}, {self.width}, 3], got {pixels.dtype}{pixels.shape}"
            )
        return self._predict(pixels, device)

    def predict_bytes(self, encoded: Sequence[bytes], device: str | None = None) -> Scores:
        """Run a model that decodes in its graph on a batch of encoded images.

        Args:
            encoded: N files, JPEG or PNG, admitted by the header probe: TensorFlow's decoders are not safe otherwise.
            device: As predict.

        Returns:
            float32[N, C], as predict.

        Raises:
            ValueError: The model takes pixels.
            RunError: The model returned something else than one row an image.
        """
        if not self.takes_bytes:
            raise ValueError(f"model {self.model_id} takes pixels: call predict")
        array = np.empty(len(encoded), dtype=object)
        array[:] = list(encoded)
        return self._predict(array, device)

    def _predict(self, images: npt.NDArray[Any], device: str | None) -> Scores:
        if len(images) == 0:
            return np.empty((0, self.num_classes), np.float32)
        device = device or self.devices.names[0]
        if self.fixed_batch is None:
            return call_rows(self.compiled, images, device)
        size = self.fixed_batch
        parts = [images[i : i + size] for i in range(0, len(images), size)]
        return np.concatenate([call_rows(self.compiled, fill_up(part, size), device)[: len(part)] for part in parts])


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


def load_model(
    settings: ModelSettings, preprocess: PreprocessSettings, when_frozen: Callable[[], None] = lambda: None
) -> Classifier:
    """Load a model, put its preprocessing in front, freeze it and try it on one image.

    Args:
        settings: Which model, signature and output.
        preprocess: How pixels become its input.
        when_frozen: As compile_model.

    Returns:
        The model, ready for predict.

    Raises:
        ModelError: It cannot be loaded, or does not fit its configuration.
    """
    import tensorflow as tf

    devices = claim_devices(settings.device)
    path = local_path(settings)
    with tf.device(devices.names[0]):
        model = open_model(path, settings)
    layout = read_layout(model)
    size = _input_size(layout, preprocess)
    compiled = compile_model(model, layout, preprocess, size, devices.names[0], when_frozen)
    devices = _replicate(compiled, devices, layout, size)
    _log.info("the model works on %s", devices.reason)
    rows = as_rows(compiled.probe, layout.batch or 1)
    description = replace(
        _describe(path, model, layout, read_graph(model)),
        num_classes=rows.shape[1],
        frozen=compiled.frozen is not None,
        frozen_reason=compiled.reason,
    )
    name = settings.name or _name_of(settings.path)
    return Classifier(description, compiled, size, rows.shape[1], name, devices)


def _name_of(path: str) -> str:
    """Return a model's name: the last part of its path; a handle's query, which may hold a token, is no part of it."""
    if path.startswith(("https://", "http://")):
        path = re.split(r"[?#]", redact(path))[0]
    return path.rstrip("/").rsplit("/", 1)[-1]


def _replicate(compiled: CompiledModel, devices: Devices, layout: InputLayout, size: tuple[int, int]) -> Devices:
    """Have every device answer, each with constants of its own, and see that it was that device."""
    if compiled.frozen is None and len(devices.names) > 1:
        # Its variables lie on one device, and every other would fetch them from there in each call.
        reason = f"the first of {devices.reason}: the model runs unfrozen ({compiled.reason})"
        devices = Devices(devices.names[:1], reason)
    for device in devices.names:
        answer = call_on(compiled, probe_images(layout, size), device)
        check_origin(answer, device)
        if len(devices.names) > 1 and not alike(answer.numpy(), compiled.probe):
            raise ModelError(f"the model answers differently on {device}; leave that one out with model.device")
    return devices


def describe_model(settings: ModelSettings) -> ModelDescription:
    """Say what a model is, without preparing it for work.

    Raises:
        ModelError: It cannot be loaded.
    """
    prepare_devices()
    path = local_path(settings)
    return describe_open_model(path, open_model(path, settings))


def describe_open_model(path: Path, model: OpenModel) -> ModelDescription:
    """Say what a model is that is open already.

    Args:
        path: Where it lies on the local disk.
        model: It.

    Raises:
        ModelError: It is no model of images, or does not accept what its signature says.
    """
    return _describe(path, model, read_layout(model), read_graph(model))


def fingerprint_model(path: str | Path) -> str:
    """Return the sha256 of a model's files, in hex.

    The names inside the model count, its own path does not: a copy of the directory has the same fingerprint.
    What lies beside saved_model.pb, variables and assets (a readme, a label file) does not belong to the model.

    Args:
        path: Whatever ModelSettings.path may be.

    Raises:
        ModelError: There is nothing at path.
    """
    path = local_path(ModelSettings(path=str(path)))
    digest = hashlib.sha256()
    if path.is_file():
        files = {"": path}
    elif not path.exists():
        raise ModelError(f"model.path {path} does not exist")
    else:
        tops = ("saved_model.pb", "saved_model.pbtxt", "variables", "assets")
        files = {
            file.relative_to(path).as_posix(): file
            for top in tops
            for file in ([path / top] if (path / top).is_file() else (path / top).rglob("*"))
            if file.is_file()
        }
    for name, file in sorted(files.items()):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


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


def _input_size(layout: InputLayout, preprocess: PreprocessSettings) -> tuple[int, int]:
    if layout.layout == "bytes":
        return 0, 0
    height = _agree("height", preprocess.height, layout.height)
    width = _agree("width", preprocess.width, layout.width)
    return height, width


def _agree(side: str, declared: int | None, signature: int | None) -> int:
    if declared is None and signature is None:
        raise ModelError(
            f"the model takes images of any {side} and preprocess.{side} is not set; give preprocess.height and "
            "preprocess.width, the size that the model was trained with"
        )
    if declared is not None and signature is not None and declared != signature:
        raise ModelError(
            f"preprocess.{side} is {declared}, but the model's signature takes {signature}; "
            "leave preprocess.height and preprocess.width out to take them from the model"
        )
    size = declared if declared is not None else signature
    assert size is not None  # noqa: S101 - for the type checker
    return size


def _describe(path: Path, model: OpenModel, layout: InputLayout, graph: GraphFacts) -> ModelDescription:
    num_classes = None
    if model.output.shape is not None:
        check_score_axes(model.output.shape)
        axes = model.output.shape[1:]
        num_classes = None if None in axes else math.prod(length for length in axes if length is not None)
    return ModelDescription(
        format=model.format,
        signatures=model.signatures,
        signature=model.signature,
        input_name=model.input.name,
        input_dtype=model.input.dtype,
        input_shape=model.input.shape or (),
        layout=layout.layout,
        outputs=model.outputs,
        output_name=model.output.name,
        num_classes=num_classes,
        fixed_batch=layout.batch,
        parameter_count=graph.constants if model.parameter_count is None else model.parameter_count,
        fingerprint=fingerprint_model(path),
        head=graph.head.activation,
        head_reason=graph.head.reason,
        labels=read_asset_labels(path, num_classes),
    )
