"""Keras files: .keras, and the .h5 / .hdf5 of older versions."""

import json
import zipfile
from pathlib import Path
from typing import Any

from transforms.errors import ModelError
from transforms.model_interface import OpenModel, choose_output, describe_spec, first_line, name_outputs, only_input
from transforms.settings import ModelSettings

KERAS_SUFFIXES = {".keras": "keras", ".h5": "hdf5", ".hdf5": "hdf5"}


def open_keras_file(path: Path, settings: ModelSettings) -> OpenModel:
    """Load a Keras file for inference, its training state left aside.

    Args:
        path: A .keras, .h5 or .hdf5 file.
        settings: output_name and trust are read; signature and tags have no meaning here.

    Raises:
        ModelError: The file cannot be read, carries Python code that is not trusted, or needs classes that
            are not in it.
    """
    if settings.signature is not None or settings.tags is not None:
        raise ModelError(
            f"model.signature and model.tags belong to SavedModels, {path} is a Keras file; leave them out"
        )
    kind = KERAS_SUFFIXES[path.suffix.lower()]
    config = _read_config(path, kind)
    if not settings.trust and (lambdas := _count_lambdas(config)):
        raise ModelError(
            f"{path} carries Python code in {lambdas} Lambda layer{'s' if lambdas > 1 else ''}, which loading it would "
            "run; set model.trust: true if the file is of your own making, or export it as a SavedModel"
        )
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ModelError(f"Keras runs on {keras.backend.backend()} here; set KERAS_BACKEND=tensorflow to load {path}")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=not settings.trust)
    except Exception as error:
        raise ModelError(
            f"the Keras file {path} cannot be loaded: {_reason(error)}; a model with classes of its own, or of "
            "another Keras version, loads once exported there with model.export(folder)"
        ) from error
    return _describe(model, kind, path, settings)


def _describe(model: Any, kind: str, path: Path, settings: ModelSettings) -> OpenModel:
    import keras

    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise ModelError(f"{path} does not say what it takes; export it with model.export(folder) and load that")
    where = f"Keras file {path}"
    image = only_input([describe_spec(tensor.name, tensor) for tensor in model.inputs], where)
    # A Sequential model that came from a file has no attribute output.
    structure = model.outputs[0] if isinstance(model, keras.Sequential) else model.output
    outputs = tuple(describe_spec(name, tensor) for name, tensor in _named_outputs(model, structure))
    output = choose_output(outputs, settings.output_name, where)

    def call(tensor: Any) -> Any:
        return dict(_named_outputs(model, model(tensor, training=False)))[output.name]

    return OpenModel(
        format=kind,
        signatures=(),
        signature=None,
        input=image,
        outputs=outputs,
        output=output,
        call=call,
        parameter_count=model.count_params(),
        keep_alive=(keras, model),
    )


def _named_outputs(model: Any, structure: Any) -> list[tuple[str, Any]]:
    """Name a Keras model's outputs by the keys of its dict, else by the layers that make them."""
    named = list(name_outputs(structure))
    if isinstance(structure, dict):
        return named
    layers = getattr(model, "output_names", None) or [model.layers[-1].name]
    return [(layer, tensor) for layer, (_, tensor) in zip(layers, named, strict=True)]


def _read_config(path: Path, kind: str) -> Any:
    """Read the description of the layers, and nothing that could run."""
    try:
        if kind == "keras":
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("config.json"))
        import h5py  # type: ignore[import-untyped]

        with h5py.File(path) as file:
            if "model_config" not in file.attrs:
                raise ModelError(
                    f"{path} holds weights without a model; save the whole model with model.save, or export it as a "
                    "SavedModel"
                )
            return json.loads(file.attrs["model_config"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is no Keras file, or is corrupted: {first_line(error)}") from error


def _count_lambdas(config: Any) -> int:
    if isinstance(config, dict):
        return int(config.get("class_name") == "Lambda") + sum(map(_count_lambdas, config.values()))
    return sum(map(_count_lambdas, config)) if isinstance(config, list) else 0


def _reason(error: Exception) -> str:
    """Cut Keras's text down to its innermost sentence: around it stands the whole configuration, layer by layer."""
    innermost = str(error).rpartition("Exception encountered: ")[2]
    return first_line(ValueError(innermost.partition(" Full object config")[0]))
