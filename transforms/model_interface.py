"""The one face that every model format gets: one tensor in, one tensor out, and what is known of both."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from transforms.errors import ModelError

FLOATS = ("float16", "bfloat16", "float32", "float64")


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
    parameter_count: int | None
    """Numbers that were trained; None where only the graph's constants can tell."""
    keep_alive: object
    """Owns the variables: has to live as long as call is used."""


def describe_spec(name: str, spec: Any) -> TensorDescription:
    """Describe a tensor, a TensorSpec or a KerasTensor.

    Args:
        name: Its name in the signature.
        spec: Anything with a TensorFlow dtype and shape.
    """
    import tensorflow as tf

    shape = tf.TensorShape(spec.shape)
    return TensorDescription(name, tf.as_dtype(spec.dtype).name, None if shape.rank is None else tuple(shape))


def name_outputs(structure: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the outputs of a function with a name each: the keys of a dict, output_0, output_1, ... of a list.

    >>> dict(name_outputs({"logits": 1, "aux": [2, 3]}))
    {'logits': 1, 'aux/output_0': 2, 'aux/output_1': 3}
    """
    if isinstance(structure, Mapping):
        for key, value in structure.items():
            yield from name_outputs(value, f"{prefix}/{key}" if prefix else str(key))
    elif isinstance(structure, list | tuple):
        for i, value in enumerate(structure):
            yield from name_outputs(value, f"{prefix}/output_{i}" if prefix else f"output_{i}")
    else:
        yield prefix or "output_0", structure


def only_input(inputs: Sequence[TensorDescription], where: str) -> TensorDescription:
    """Return the one input of a model.

    Args:
        inputs: All inputs.
        where: How the error names the model.

    Raises:
        ModelError: There are several, or none.
    """
    if len(inputs) != 1:
        raise ModelError(
            f"{where} takes {len(inputs)} inputs ({'; '.join(map(str, inputs)) or 'none'}), an image classifier takes "
            "one; export a signature that fixes the others"
        )
    return inputs[0]


def choose_output(outputs: Sequence[TensorDescription], wanted: str | None, where: str) -> TensorDescription:
    """Return the output that holds the scores.

    Args:
        outputs: All outputs.
        wanted: model.output_name.
        where: How the error names the model.

    Raises:
        ModelError: The name is unknown or missing, or the output holds no floating-point numbers.
    """
    names = [output.name for output in outputs]
    listed = "; ".join(map(str, outputs))
    if wanted is None and len(outputs) != 1:
        raise ModelError(f"{where} has {len(outputs)} outputs; choose one with model.output_name: {listed}")
    if wanted is not None and wanted not in names:
        raise ModelError(f"model.output_name {wanted!r} is not an output of {where}; {name_valid(wanted, names)}")
    output = outputs[0] if wanted is None else outputs[names.index(wanted)]
    if output.dtype not in FLOATS:
        raise ModelError(
            f"output {output} of {where} holds no scores: those are {', '.join(FLOATS)}; "
            f"choose another with model.output_name: {listed}"
        )
    return output


def name_valid(wanted: str, names: Sequence[str]) -> str:
    """Say which names are valid, the nearest one first.

    >>> name_valid("probs", ["logits", "prob"])
    "did you mean 'prob'? Valid: logits, prob"
    """
    near = get_close_matches(wanted, names, n=1, cutoff=0.5)
    return (f"did you mean {near[0]!r}? " if near else "") + f"Valid: {', '.join(names) or 'none'}"


def first_line(error: BaseException) -> str:
    """Return what an error says in one line: TensorFlow's texts run over pages, and begin with where, not what."""
    where = ("Graph execution error", "Detected at node", "<stack traces", "File ")
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(where)]
    return said[0][:300] if said else type(error).__name__
