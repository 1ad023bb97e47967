"""A folded Keras model as an ONNX graph.

Written node by node: pictures are turned to NCHW once, paddings go into the convolutions and
poolings, and grouped convolutions stay single nodes, which no general converter manages.
"""

from __future__ import annotations

import keras

from nf_zoo import functional
from nf_zoo.deploy.lowering import operation_of, takes_only_tensors
from nf_zoo.deploy.metadata import output_names
from nf_zoo.deploy.onnx_arithmetic import ARITHMETIC, MERGES, OPERATIONS
from nf_zoo.deploy.onnx_rules import LAYERS
from nf_zoo.deploy.onnx_shapes import SHAPES
from nf_zoo.deploy.onnx_writer import GraphWriter, Unsupported, Value

OPSET = 20
"""The first with Gelu and with dilated average pooling; ONNX Runtime 1.17 reads it."""
IR_VERSION = 9

RULES = {**LAYERS, **SHAPES, **MERGES}
"""Exact class of a layer -> (writer, layer, input values) -> its value."""


def to_onnx(onnx, model, metadata: dict[str, str]):
    """The ONNX model of a folded Keras model.

    Args:
        onnx: the module.
        model: a FoldedModel; float32 weights, whatever its policy.
        metadata: for ``metadata_props``.

    Returns:
        An ``onnx.ModelProto`` with one input for each of the model's and its outputs in order,
        all as Keras has them (NHWC), the batch and free sides dynamic.

    Raises:
        ValueError: naming every layer that ONNX export does not know.
    """
    writer = GraphWriter(onnx)
    values: dict[int, Value] = {}
    inputs, outputs = [], []
    for name, tensor in zip(output_names(model), model.outputs, strict=True):
        outputs.append(_value_info(onnx, writer.tensors.unique(name), tensor.shape))
    for tensor in model.inputs:
        name = writer.tensors.unique(operation_of(tensor).name)
        inputs.append(_value_info(onnx, name, tensor.shape))
        values[id(tensor)] = writer.from_keras(name, len(tensor.shape), name)
    _write(writer, functional.nodes_of(model), values)
    for entry, tensor in zip(outputs, model.outputs, strict=True):
        value, name = values[id(tensor)], f"{entry.name}_output"
        writer.add("Identity", [writer.to_keras(value, entry.name)], name, entry.name)
    graph = onnx.helper.make_graph(writer.nodes, model.name, inputs, outputs, writer.weights)
    opset = [onnx.helper.make_opsetid("", OPSET)]
    made = onnx.helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    made.producer_name = "nf_zoo"
    onnx.helper.set_model_props(made, metadata)
    return made


def _write(writer: GraphWriter, nodes: list, values: dict[int, Value]) -> None:
    """Write the nodes, completing ``values``; refuse those that cannot be, all at once."""
    refused = {}
    for node in nodes:
        operation = node.operation
        try:
            result = _written(writer, node, values)
        except Unsupported as reason:
            kind = " ".join(filter(None, (type(operation).__name__, str(reason))))
            refused[f"{operation.name!r} ({kind})"] = None
            result = Value("", len(node.outputs[0].shape))
        values.update((id(output), result) for output in node.outputs)
    if refused:
        raise ValueError(
            "ONNX export does not know these; model.export(folder) writes a SavedModel of every "
            f"layer that TensorFlow runs. Received: {', '.join(refused)}"
        )


def _written(writer: GraphWriter, node, values: dict[int, Value]) -> Value:
    operation = node.operation
    if len(node.outputs) != 1:
        raise Unsupported("of several outputs")
    if isinstance(operation, keras.layers.Layer):
        rule = RULES.get(type(operation))
        if rule is None:
            raise Unsupported
        if not takes_only_tensors(node):
            raise Unsupported("called with more than its inputs")
        if getattr(operation, "data_format", None) == "channels_first":
            raise Unsupported("with data_format='channels_first'")
        return rule(writer, operation, [values[id(x)] for x in node.input_tensors])
    # Layers of Keras and its operations share names, so each kind has a table of its own.
    module, name = type(operation).__module__, type(operation).__name__
    key = f"{module.rpartition('.')[2]}.{name}" if module.startswith("keras.src.ops.") else ""
    given = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    inputs = [values[id(x)] if isinstance(x, keras.KerasTensor) else x for x in given]
    if key in ARITHMETIC:
        return ARITHMETIC[key](writer, operation, inputs)
    if key not in OPERATIONS:
        raise Unsupported
    if not takes_only_tensors(node):
        raise Unsupported("called with more than its inputs")
    return OPERATIONS[key](writer, operation, inputs)


def _value_info(onnx, name: str, shape):
    # Free sides of the same name would have to be equal: each has its own.
    words = ["batch", "height", "width", "channels"] if len(shape) == 4 else ["batch"]
    words += [f"axis{axis}" for axis in range(len(words), len(shape))]
    sides = [
        (f"{name}_{words[axis]}" if axis else "batch") if side is None else side
        for axis, side in enumerate(shape)
    ]
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sides)
