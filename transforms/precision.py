"""Let a frozen graph compute in half precision where that saves time, and in float32 where it would cost accuracy.

The graph itself is rewritten. TensorFlow's own pass (auto_mixed_precision) is an option of the whole process, so a
second model would be changed with the first, and it knows bfloat16 on CPUs only.

Convolutions and matrix products compute in half precision, and so does what follows them directly: biases,
activations, pooling. Everything else stays float32: normalising the pixels, sums over many numbers, softmax, and the
last layer, which costs little and whose logits bfloat16 would round to eight bits.
"""

from typing import Any

from transforms.errors import ModelError

_HEAVY = frozenset({"Conv2D", "DepthwiseConv2dNative", "Conv3D", "MatMul", "BatchMatMul", "BatchMatMulV2", "Einsum"})
_FOLLOWING = frozenset(
    {
        "Add", "AddV2", "AvgPool", "BatchToSpaceND", "BiasAdd", "ConcatV2", "DepthToSpace", "Elu", "ExpandDims",
        "FusedBatchNormV3", "Identity", "LeakyRelu", "MaxPool", "Maximum", "Minimum", "MirrorPad", "Mul", "Pad",
        "PadV2", "Relu", "Relu6", "Reshape", "Selu", "Sigmoid", "SpaceToBatchND", "SpaceToDepth", "Squeeze",
        "StopGradient", "Sub", "Tanh", "Transpose",
    }
)  # fmt: skip


def lower_precision(graph: Any, output: Any, dtype: Any) -> Any:
    """Rewrite a graph of constants so that its heavy operations compute in half precision.

    Args:
        graph: A tf.Graph without variables.
        output: Its output tensor.
        dtype: tf.bfloat16 or tf.float16.

    Returns:
        A GraphDef whose inputs and outputs have their names and types of before.

    Raises:
        ModelError: There is nothing to gain: no convolution or matrix product besides the last layer.
    """
    import tensorflow as tf

    constant = _constants(graph)
    low = _choose(graph, output, constant)
    if not low:
        raise ModelError(
            f"model.precision {dtype.name} would change nothing: the model has no convolution or matrix product "
            "besides its last layer, which stays float32; leave model.precision out"
        )
    graph_def = tf.compat.v1.GraphDef()
    graph_def.CopyFrom(graph.as_graph_def())
    nodes = {node.name: node for node in graph_def.node}
    casts: dict[tuple[str, Any], str] = {}

    def cast(tensor: Any, target: Any) -> str:
        key = (tensor.name, target)
        if key not in casts:
            source = tf.float32 if target == dtype else dtype
            node = graph_def.node.add(op="Cast", name=f"{tensor.op.name}/{target.name}_{tensor.value_index}")
            node.input.append(_edge(tensor))
            node.attr["SrcT"].type, node.attr["DstT"].type = source.as_datatype_enum, target.as_datatype_enum
            casts[key] = node.name
        return casts[key]

    for op in graph.get_operations():
        node = nodes[op.name]
        if op.name in low:
            node.attr["T"].type = dtype.as_datatype_enum
        for place, tensor in enumerate(op.inputs):
            if tensor.dtype != tf.float32:
                continue
            wanted = op.name in low and _is_data(op, place)
            given = tensor.op.name in low and tensor.value_index == 0
            if wanted != given:
                node.input[place] = cast(tensor, dtype if wanted else tf.float32)
    return graph_def


def _choose(graph: Any, output: Any, constant: set[str]) -> set[str]:
    import tensorflow as tf

    last = _last_layer(output)
    low: set[str] = set()
    for op in graph.get_operations():
        if not op.outputs or op.outputs[0].dtype != tf.float32 or op is output.op or op.name in constant:
            continue
        if op.type in _HEAVY:
            if op.name not in last:
                low.add(op.name)
        elif op.type in _FOLLOWING:
            data = [tensor for place, tensor in enumerate(op.inputs) if _is_data(op, place)]
            varying = [tensor for tensor in data if tensor.op.name not in constant]
            if varying and all(tensor.op.name in low and tensor.value_index == 0 for tensor in varying):
                low.add(op.name)
    return low


def _constants(graph: Any) -> set[str]:
    """Return the operations that give the same for every image: TensorFlow reckons them once."""
    known: set[str] = set()
    for op in graph.get_operations():
        varies = op.type == "Placeholder" or op.op_def.is_stateful
        if not varies and all(tensor.op.name in known for tensor in op.inputs):
            known.add(op.name)
    return known


def _last_layer(output: Any) -> set[str]:
    """Return the heavy operations that reach the output without passing another one."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [output.op]
    while waiting:
        op = waiting.pop()
        if op.name in seen:
            continue
        seen.add(op.name)
        if op.type in _HEAVY:
            found.add(op.name)
        else:
            waiting += [tensor.op for tensor in op.inputs]
    return found


def _is_data(op: Any, place: int) -> bool:
    """Tell whether an input has the operation's type T: statistics of a batch norm stay float32 always."""
    import tensorflow as tf

    return op.inputs[place].dtype == tf.float32 and (op.type != "FusedBatchNormV3" or place == 0)


def _edge(tensor: Any) -> str:
    return tensor.op.name if tensor.value_index == 0 else f"{tensor.op.name}:{tensor.value_index}"
