"""SavedModel directories of TensorFlow 1 and 2 and TF Hub's modules: by signature, or by callable."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transforms.errors import ModelError
from transforms.model_interface import (
    OpenModel,
    choose_output,
    describe_spec,
    first_line,
    name_outputs,
    name_valid,
    only_input,
)
from transforms.settings import ModelSettings

DEFAULT_SIGNATURES = ("serving_default", "default", "image_classification")
"""Tried in this order: TensorFlow Serving's name, then the two that TF Hub's image modules use."""

SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")


def find_saved_model(folder: Path) -> Path:
    """Return the saved_model.pb (or .pbtxt) of a SavedModel directory.

    Args:
        folder: The directory.

    Raises:
        ModelError: It is empty, or holds no saved_model file.
    """
    for name in SAVED_MODEL_FILES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(entry.name for entry in folder.iterdir())
    inner = [name for name in found if any((folder / name / file).is_file() for file in SAVED_MODEL_FILES)]
    if inner:
        raise ModelError(
            f"model.path {folder} holds no saved_model.pb, but {len(inner)} of its subfolders "
            f"{'does' if len(inner) == 1 else 'do'}: give {folder / inner[-1]}"
        )
    what = f"holds no saved_model.pb, only {', '.join(found[:5])}" if found else "is an empty folder"
    raise ModelError(f"model.path {folder} {what}; a SavedModel directory has saved_model.pb and variables/ in it")


def open_saved_model(folder: Path, settings: ModelSettings) -> OpenModel:
    """Load a SavedModel and choose its graph, signature and output.

    Args:
        folder: The directory.
        settings: Signature, output_name and tags are read.

    Raises:
        ModelError: The model cannot be read, or the choice is not unique.
    """
    import tensorflow as tf

    tags = _choose_tags(_read_tag_sets(folder), settings.tags, folder)
    try:
        loaded = tf.saved_model.load(str(folder), tags=tags)
    except Exception as error:
        raise ModelError(
            f"the SavedModel {folder} cannot be loaded: {first_line(error)}; copy or export the model again"
        ) from error
    callables = _callables(loaded)
    wanted = settings.signature
    if wanted in callables and wanted not in loaded.signatures:
        return _by_callable(loaded, str(wanted), folder, settings)
    if wanted is None and not loaded.signatures and callables:
        name = "__call__" if "__call__" in callables else callables[0]
        if name != "__call__" and len(callables) > 1:
            raise ModelError(
                f"{folder} has no signature but several functions; choose one with model.signature: "
                f"{', '.join(callables)}"
            )
        return _by_callable(loaded, name, folder, settings)
    return _by_signature(loaded, folder, settings)


def _read_tag_sets(folder: Path) -> list[frozenset[str]]:
    from google.protobuf import message, text_format  # type: ignore[import-untyped]
    from tensorflow.core.protobuf import saved_model_pb2

    file = find_saved_model(folder)
    proto = saved_model_pb2.SavedModel()
    try:
        if file.suffix == ".pb":
            proto.ParseFromString(file.read_bytes())
        else:
            text_format.Parse(file.read_text(), proto)
    except (message.DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} is corrupted ({error}); copy or export the model again") from error
    if not proto.meta_graphs:
        raise ModelError(f"{file} is corrupted: it holds no graph; copy or export the model again")
    return [frozenset(graph.meta_info_def.tags) for graph in proto.meta_graphs]


def _choose_tags(available: Sequence[frozenset[str]], wanted: Sequence[str] | None, folder: Path) -> list[str] | None:
    listed = "; ".join("[" + ", ".join(sorted(tags)) + "]" for tags in available)
    if wanted is not None:
        if frozenset(wanted) not in available:
            raise ModelError(f"model.tags {list(wanted)} is not in {folder}; its graphs have the tags {listed}")
        return list(wanted)
    if len(available) == 1:
        return None
    # TF Hub's modules of TensorFlow 1 keep the graph for inference under no tag, beside [train].
    for usual in (frozenset({"serve"}), frozenset[str]()):
        if usual in available:
            return sorted(usual)
    raise ModelError(f"{folder} holds {len(available)} graphs; choose one with model.tags: {listed}")


def _by_signature(loaded: Any, folder: Path, settings: ModelSettings) -> OpenModel:
    names = tuple(loaded.signatures)
    signature = _choose_signature(names, settings.signature, folder)
    function = loaded.signatures[signature]
    where = f"signature {signature!r} of {folder}"
    inputs = [describe_spec(name, spec) for name, spec in sorted(function.structured_input_signature[1].items())]
    image = only_input(inputs, where)
    outputs = tuple(describe_spec(name, spec) for name, spec in sorted(function.structured_outputs.items()))
    output = choose_output(outputs, settings.output_name, where)
    return OpenModel(
        format="savedmodel",
        signatures=names,
        signature=signature,
        input=image,
        outputs=outputs,
        output=output,
        call=lambda tensor: function(**{image.name: tensor})[output.name],
        parameter_count=_count(function.variables, folder),
        keep_alive=loaded,
    )


def _choose_signature(names: Sequence[str], wanted: str | None, folder: Path) -> str:
    if wanted is None:
        for name in DEFAULT_SIGNATURES:
            if name in names:
                return name
        raise ModelError(
            f"{folder} has none of the signatures {', '.join(DEFAULT_SIGNATURES)}; "
            f"choose one with model.signature: {', '.join(names) or 'but it has none at all, and no function either'}"
        )
    if wanted not in names:
        raise ModelError(f"model.signature {wanted!r} is not in {folder}; {name_valid(wanted, names)}")
    return wanted


def _callables(loaded: Any) -> list[str]:
    """List the functions that an object brings along beside its signatures."""
    public = [name for name in dir(loaded) if not name.startswith("_")]
    return [name for name in ("__call__", *public) if getattr(getattr(loaded, name, None), "concrete_functions", None)]


def _by_callable(loaded: Any, name: str, folder: Path, settings: ModelSettings) -> OpenModel:
    import tensorflow as tf

    function = getattr(loaded, name)
    where = f"function {name!r} of {folder}"
    concrete = _choose_trace(function.concrete_functions, where)
    structure = concrete.structured_input_signature
    spec = next(_tensor_specs(structure))
    outputs = tuple(describe_spec(key, value) for key, value in name_outputs(concrete.structured_outputs))
    output = choose_output(outputs, settings.output_name, where)

    def call(tensor: Any) -> Any:
        args, kwargs = tf.nest.map_structure(lambda leaf: tensor if leaf is spec else leaf, structure)
        return dict(name_outputs(function(*args, **kwargs)))[output.name]

    return OpenModel(
        format="savedmodel",
        signatures=(*loaded.signatures, *_callables(loaded)),
        signature=name,
        input=describe_spec(spec.name or "input", spec),
        outputs=outputs,
        output=output,
        call=call,
        parameter_count=_count(concrete.variables, folder),
        keep_alive=loaded,
    )


def _choose_trace(traces: Sequence[Any], where: str) -> Any:
    """Choose among the traces of one function: not the training one, and the one with the freest input."""

    def training(trace: Any) -> bool:
        parameter = trace.function_type.parameters.get("training")
        return parameter is not None and getattr(parameter.type_constraint, "value", None) is True

    def freedom(trace: Any) -> int:
        shape = next(_tensor_specs(trace.structured_input_signature)).shape
        return 99 if shape.rank is None else sum(length is None for length in shape)

    fitting = [trace for trace in traces if len(list(_tensor_specs(trace.structured_input_signature))) == 1]
    if not fitting:
        specs = list(_tensor_specs(traces[0].structured_input_signature))
        only_input([describe_spec(spec.name or f"input_{i}", spec) for i, spec in enumerate(specs)], where)
    inference = [trace for trace in fitting if not training(trace)]
    if not inference:
        raise ModelError(f"{where} was only saved with training=True; export it with a signature for inference")
    return max(inference, key=freedom)


def _tensor_specs(structure: Any) -> Iterator[Any]:
    import tensorflow as tf

    return (leaf for leaf in tf.nest.flatten(structure) if isinstance(leaf, tf.TensorSpec))


def _count(variables: Sequence[Any], folder: Path) -> int | None:
    if variables:
        return sum(math.prod(variable.shape) for variable in variables)
    # Variables of TensorFlow 1 are no Python objects here: their shapes stand in the checkpoint.
    if not (folder / "variables" / "variables.index").is_file():
        return None
    import tensorflow as tf

    shapes = tf.train.load_checkpoint(str(folder / "variables" / "variables")).get_variable_to_shape_map()
    return sum(math.prod(shape) for name, shape in shapes.items() if name != "_CHECKPOINTABLE_OBJECT_GRAPH") or None


def read_asset_labels(path: Path, num_classes: int | None) -> list[str] | None:
    """Find class names among a SavedModel's assets.

    A text file counts if its name speaks of labels or classes, or if it is the only one and has a line a class.

    Args:
        path: A SavedModel directory; a Keras file has no assets.
        num_classes: Width of the model's output, if known.

    Returns:
        One name a line of the file, or None where no file counts, or several do.
    """
    files = sorted((path / "assets").glob("*.txt")) if path.is_dir() else []
    named = [file for file in files if any(word in file.name.lower() for word in ("label", "class"))]
    if len(named or files) != 1:
        return None
    file = (named or files)[0]
    try:
        labels = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ModelError(f"{file} is not text in UTF-8: {error}; mend the asset, or give labels.path") from error
    return labels if named or len(labels) == num_classes else None
