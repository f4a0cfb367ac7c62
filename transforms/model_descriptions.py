"""What a model is, said without preparing it for work: its interface, its head, and the fingerprint of its files."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

from transforms.devices import prepare_devices
from transforms.errors import ModelError
from transforms.freezing import read_graph
from transforms.model_calls import check_score_axes
from transforms.model_formats import open_model
from transforms.model_inputs import read_layout
from transforms.model_interface import OpenModel, TensorDescription
from transforms.model_sources import local_path
from transforms.saved_models import read_asset_labels
from transforms.settings import ModelSettings


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
    layout, graph = read_layout(model), read_graph(model)
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
