"""What a model's graph ends in: softmax, sigmoid, or a linear layer.

The graph is walked from its output backwards, through ops that change no value (Identity, Reshape, Cast, ...)
and into the functions that it calls, to the op that computed the numbers. What cannot be told from that op is
left open: a probe of the model's answers decides then, not a guess.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

_SAME_VALUES = {
    "Identity", "IdentityN", "Cast", "Reshape", "Squeeze", "ExpandDims", "Transpose", "StopGradient",
    "PreventGradient", "EnsureShape", "CheckNumerics", "Snapshot",
}  # fmt: skip
_MULTIPLY = {"MatMul", "Conv2D", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum"}
# Whatever a probe says, these are no head of a classifier: their values would be read wrongly.
_ODD = {"Tanh": "tanh", "Exp": "exp", "Softplus": "softplus"}
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}


class Head(NamedTuple):
    """What computes a model's output."""

    activation: str | None
    """softmax, sigmoid, linear; None where the graph does not show it."""
    reason: str
    """What was seen, in one sentence."""


@dataclass(frozen=True, eq=False)
class _Scope:
    """One graph or function body, and the call that led into it."""

    nodes: dict[str, Any]
    """NodeDef by name."""
    returns: dict[int, str]
    """Tensor of each return value; empty for the outermost graph."""
    arguments: dict[str, int]
    """Position of each argument; empty for the outermost graph."""
    caller: "tuple[_Scope, Any] | None"
    """The scope and node of the call."""


def read_head(graph_def: Any, output: str) -> Head:
    """Tell what computes an output.

    Args:
        graph_def: A GraphDef with the functions that it calls.
        output: Name of the output tensor, as in `Identity:0`.
    """
    library = {function.signature.name: function for function in graph_def.library.function}
    scope = _Scope({node.name: node for node in graph_def.node}, {}, {}, None)
    found = _producer(scope, output, library)
    if found is None:
        return Head(None, "the output is an input of the graph")
    scope, node = found
    seen = f"the output is computed by {node.op} ({node.name})"
    if node.op == "Softmax":
        return Head("softmax", seen)
    if node.op == "Sigmoid":
        return Head("sigmoid", seen)
    product = _product(scope, node, library)
    if product is not None:
        fed = {"Softmax", "Sigmoid"} & set(_input_ops(*product, library))
        if fed:
            # A mixture of probabilities, or a hidden layer of the old kind: the probe has to tell.
            return Head(None, f"{seen} of the {fed.pop()} of something, which may be probabilities or logits")
        return Head(
            "linear", seen if product[1] is node or node.op == "BiasAdd" else f"{seen} of a product and its bias"
        )
    if node.op == "LogSoftmax":
        return Head("linear", f"{seen}: log-probabilities, whose softmax are the probabilities")
    if node.op == "RealDiv" and _input_ops(scope, node, library) == ["Exp", "Sum"]:
        return Head("softmax", f"{seen} of Exp by Sum")
    odd = _odd_head(node.op, _input_ops(scope, node, library))
    if odd is not None:
        return Head(odd, f"{seen}: {odd}")
    return Head(None, f"{seen}, which tells neither logits nor probabilities")


def _product(scope: _Scope, node: Any, library: dict[str, Any]) -> "tuple[_Scope, Any] | None":
    """Return the product that a node is, or adds a bias to."""
    if node.op in _MULTIPLY:
        return scope, node
    if node.op not in ("BiasAdd", "Add", "AddV2"):
        return None
    for name in _data_inputs(node):
        found = _producer(scope, name, library)
        if found is not None and found[1].op in _MULTIPLY:
            return found
    return (scope, node) if node.op == "BiasAdd" else None


def _odd_head(op: str, inputs: list[str]) -> str | None:
    """Name a head that is surely neither logits nor probabilities; None where that cannot be said."""
    if op in _ODD:
        return _ODD[op]
    if op == "Neg" and inputs == ["Softplus"]:
        return "log_sigmoid"
    scaled = {"Softmax", "Sigmoid"} & set(inputs)
    if op in ("Mul", "RealDiv") and scaled:
        return f"scaled {scaled.pop().lower()}"
    if op == "Mul" and "Rsqrt" in inputs:
        return "l2_normalize"
    return None


def count_constants(graph_def: Any) -> int:
    """Count the numbers in the floating-point constants of a graph, scalars left out.

    Args:
        graph_def: A GraphDef with the functions that it calls.
    """
    import tensorflow as tf

    nodes = [*graph_def.node, *(node for function in graph_def.library.function for node in function.node_def)]
    tensors = [node.attr["value"].tensor for node in nodes if node.op == "Const"]
    shapes = [tf.TensorShape(t.tensor_shape) for t in tensors if tf.as_dtype(t.dtype).is_floating]
    return sum(shape.num_elements() for shape in shapes if shape.rank)


def _producer(scope: _Scope, tensor: str, library: dict[str, Any]) -> tuple[_Scope, Any] | None:
    """Follow a tensor back to the op that computed its values; None where it comes from outside."""
    while True:
        name, index = _split(tensor)
        if name in scope.arguments:
            if scope.caller is None:
                return None
            position = scope.arguments[name]
            scope, call = scope.caller
            tensor = _data_inputs(call)[position]
            continue
        node = scope.nodes[name]
        function = library.get(node.attr["f"].func.name if node.op in _CALLS else node.op)
        if function is not None:
            scope = _enter(function, scope, node)
            tensor = scope.returns[index]
        elif node.op in _SAME_VALUES:
            tensor = _data_inputs(node)[index if node.op == "IdentityN" else 0]
        else:
            return (scope, node) if node.op not in ("Placeholder", "PlaceholderWithDefault") else None


def _enter(function: Any, scope: _Scope, call: Any) -> _Scope:
    arguments = {argument.name: i for i, argument in enumerate(function.signature.input_arg)}
    returns = {i: function.ret[result.name] for i, result in enumerate(function.signature.output_arg)}
    return _Scope({node.name: node for node in function.node_def}, returns, arguments, (scope, call))


def _split(tensor: str) -> tuple[str, int]:
    """Split `name`, `name:1` (in a graph) and `name:output:1` (in a function) into name and position."""
    name, *rest = tensor.split(":")
    return name, int(rest[-1]) if rest else 0


def _data_inputs(node: Any) -> list[str]:
    return [name for name in node.input if not name.startswith("^")]


def _input_ops(scope: _Scope, node: Any, library: dict[str, Any]) -> list[str]:
    found = [_producer(scope, name, library) for name in _data_inputs(node)]
    return ["input" if producer is None else producer[1].op for producer in found]
