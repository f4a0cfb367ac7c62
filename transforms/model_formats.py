"""How each model format becomes one callable with a description.

    SavedModel    a signature by name, or a callable where there is none; TensorFlow 1 and 2, Hub modules
    Keras         .keras (safe mode) and legacy .h5 / .hdf5

Whatever the format, the result is an OpenModel: one tensor in, one tensor out, and what is known of both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from transforms.errors import ModelError
from transforms.settings import ModelSettings

DEFAULT_SIGNATURES = ("serving_default", "default", "image_classification")
"""Tried in this order: TensorFlow Serving's name, then the two that TF Hub's image modules use."""

SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")


@dataclass(frozen=True)
class TensorDescription:
    """One input or output of a model."""

    name: str
    """Its name in the signature."""
    dtype: str
    """TensorFlow's name: float32, uint8, string, ..."""
    shape: tuple[int | None, ...] | None
    """None for an axis of any length; None as a whole where even the rank is unknown."""

    def __str__(self) -> str:
        shape = "[...]" if self.shape is None else f"[{', '.join('?' if n is None else str(n) for n in self.shape)}]"
        return f"{self.name} {self.dtype}{shape}"


@dataclass(frozen=True, eq=False)
class OpenModel:
    """A model that is loaded but not yet wrapped: its one input, its one output, and how to call it."""

    format: str
    """savedmodel, keras or hdf5."""
    signatures: tuple[str, ...]
    """All signatures or callables that could have been asked for."""
    signature: str | None
    """The one that was taken; None for a format without signatures."""
    input: TensorDescription
    """What call takes."""
    outputs: tuple[TensorDescription, ...]
    """All outputs of the signature."""
    output: TensorDescription
    """The one that call returns."""
    call: Callable[[Any], Any]
    """Tensor of input's dtype and shape -> tensor of output's."""
    variables: Sequence[Any]
    """What was trained, for counting."""
    keep_alive: object
    """Owns the variables: has to live as long as call is used."""


def find_saved_model(folder: Path) -> Path:
    """Return the saved_model.pb (or .pbtxt) of a SavedModel directory.

    Args:
        folder: The directory.

    Raises:
        ModelError: It is missing, not a directory, empty, or holds no saved_model file.
    """
    if not folder.exists():
        raise ModelError(f"model.path {folder} does not exist; give a SavedModel directory, a .keras or an .h5 file")
    if not folder.is_dir():
        raise ModelError(
            f"model.path {folder} is a file of a kind that is not known; "
            "give a SavedModel directory, a TF Hub handle, or a .keras, .h5 or .hdf5 file"
        )
    for name in SAVED_MODEL_FILES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(entry.name for entry in folder.iterdir())
    inner = [name for name in found if any((folder / name / file).is_file() for file in SAVED_MODEL_FILES)]
    if inner:
        raise ModelError(
            f"model.path {folder} holds no saved_model.pb, but its subfolder does: use {folder / inner[0]}"
        )
    what = "is an empty folder" if not found else f"holds no saved_model.pb, only {', '.join(found[:5])}"
    raise ModelError(f"model.path {folder} {what}; a SavedModel directory has saved_model.pb and variables/ in it")


def open_model(path: Path, settings: ModelSettings) -> OpenModel:
    """Load a model from the local disk and choose its signature and output.

    Args:
        path: A SavedModel directory or a Keras file.
        settings: Signature, output_name, tags and trust are read; path is only named in errors.

    Raises:
        ModelError: The model cannot be read, or the choice is not unique.
    """
    return _open_saved_model(path, settings)


def read_meta_graphs(folder: Path) -> list[Any]:
    """Parse a SavedModel's MetaGraphs without loading their variables.

    Raises:
        ModelError: The file is corrupted or holds no graph.
    """
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
    return list(proto.meta_graphs)


def _open_saved_model(folder: Path, settings: ModelSettings) -> OpenModel:
    import tensorflow as tf

    read_meta_graphs(folder)
    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:
        raise ModelError(f"the SavedModel {folder} cannot be loaded: {first_line(error)}") from error
    return _by_signature(loaded, folder, settings)


def _by_signature(loaded: Any, folder: Path, settings: ModelSettings) -> OpenModel:
    names = tuple(loaded.signatures)
    signature = _choose_signature(names, settings.signature, folder)
    function = loaded.signatures[signature]
    inputs = describe_tensors(function.structured_input_signature[1])
    where = f"signature {signature!r} of {folder}"
    only = only_input(inputs, where)
    outputs = describe_tensors(function.structured_outputs)
    output = choose_output(outputs, settings.output_name, where)
    return OpenModel(
        format="savedmodel",
        signatures=names,
        signature=signature,
        input=only,
        outputs=outputs,
        output=output,
        call=lambda tensor: function(**{only.name: tensor})[output.name],
        variables=function.variables,
        keep_alive=loaded,
    )


def _choose_signature(names: Sequence[str], wanted: str | None, where: object) -> str:
    if wanted is None:
        for name in DEFAULT_SIGNATURES:
            if name in names:
                return name
        raise ModelError(
            f"{where} has none of the signatures {', '.join(DEFAULT_SIGNATURES)}; "
            f"choose one with model.signature: {', '.join(names)}"
        )
    if wanted not in names:
        raise ModelError(f"model.signature {wanted!r} is not in {where}; {valid(wanted, names)}")
    return wanted


def describe_tensors(specs: Mapping[str, Any]) -> tuple[TensorDescription, ...]:
    """Describe the named tensors of a signature, in the order of their names."""
    return tuple(
        TensorDescription(name, spec.dtype.name, None if spec.shape.rank is None else tuple(spec.shape))
        for name, spec in sorted(specs.items())
    )


def only_input(inputs: Sequence[TensorDescription], where: str) -> TensorDescription:
    """Return the one input of a model.

    Raises:
        ModelError: There are several, or none.
    """
    if len(inputs) != 1:
        raise ModelError(
            f"{where} takes {len(inputs)} inputs ({'; '.join(map(str, inputs)) or 'none'}); an image classifier here "
            "takes one: export a signature that fixes the others"
        )
    return inputs[0]


def choose_output(outputs: Sequence[TensorDescription], wanted: str | None, where: str) -> TensorDescription:
    """Return the output that holds the scores.

    Args:
        outputs: All outputs of the signature.
        wanted: model.output_name.
        where: How the error names the signature.

    Raises:
        ModelError: The name is unknown or missing, or the output holds no floating-point numbers.
    """
    names = [output.name for output in outputs]
    listed = "; ".join(map(str, outputs))
    if wanted is None and len(outputs) != 1:
        raise ModelError(f"{where} has {len(outputs)} outputs; choose one with model.output_name: {listed}")
    if wanted is not None and wanted not in names:
        raise ModelError(f"model.output_name {wanted!r} is not an output of {where}; {valid(wanted, names)}")
    output = outputs[0] if wanted is None else outputs[names.index(wanted)]
    if output.dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise ModelError(
            f"output {output} of {where} holds no scores: they are float16, bfloat16, float32 or float64; "
            f"choose another with model.output_name: {listed}"
        )
    return output


def valid(wanted: str, names: Sequence[str]) -> str:
    """Say which names are valid, the nearest one first.

    >>> valid("probs", ["logits", "prob"])
    "did you mean 'prob'? Valid: logits, prob"
    """
    near = get_close_matches(wanted, names, n=1, cutoff=0.5)
    return (f"did you mean {near[0]!r}? " if near else "") + f"Valid: {', '.join(names)}"


def first_line(error: BaseException) -> str:
    """Return what an error says first: TensorFlow's texts run over pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
