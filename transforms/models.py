"""The model as the pipeline sees it: uint8 pixels in, float32 scores out.

load_model turns any supported model into a Classifier. Softmax, labels and the meaning of the scores live in
probabilities.py.
"""

import copy
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.devices import Devices, check_origin, claim_devices
from transforms.errors import ModelError
from transforms.freezing import CompiledModel, alike, compile_model, probe_images
from transforms.model_calls import Scores, as_rows, call_on, call_rows, fill_up
from transforms.model_descriptions import ModelDescription, describe_open_model
from transforms.model_formats import open_model
from transforms.model_inputs import InputLayout, read_layout
from transforms.model_interface import first_line
from transforms.model_sources import local_path
from transforms.redaction import redact
from transforms.settings import ModelSettings, PreprocessSettings
from transforms.variants import asked_variant, compile_variant

_log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]


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
        describe_open_model(path, model),
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
