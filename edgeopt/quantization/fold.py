"""A float graph made ready for quantization: constants are initializers, and normalization is in the weights.

Graphs come from any exporter, or from `simplify_onnx`; what that has done already is found done here.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper, version_converter

from edgeopt.errors import PassError
from edgeopt.onnx_graph import SUBGRAPHS, inline_identities
from edgeopt.quantization.wiring import Wiring, attribute, is_plain_gemm

#: the first opset in which DequantizeLinear takes a scale per channel
MINIMUM_OPSET = 13

DOMAINS = ("", "ai.onnx")

QUANTIZED_OPS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")


def fold(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A new graph that computes the same: nodes have unique names, constants are initializers, batch normalization
    after a convolution or Gemm is folded into it, and identities are gone.

    Raises:
        PassError: the graph is quantized already, has control flow, operators of another domain or weights that are
            not finite, or is of an old opset that cannot be converted.
    """
    _refuse_quantized(graph)
    _refuse_unknown(graph)
    _refuse_nonfinite(graph)
    folded = onnx.ModelProto()
    folded.CopyFrom(_at_least_minimum_opset(graph))
    name_nodes(folded.graph)
    constants_to_initializers(folded.graph)
    inline_identities(folded)
    _fold_batch_normalization(folded)
    remove_unused_initializers(folded.graph)
    del folded.graph.value_info[:]
    return folded


def remove_unused_initializers(graph: onnx.GraphProto) -> None:
    """Drop the initializers that nothing reads, and graph inputs that only repeat an initializer."""
    used = Wiring(onnx.helper.make_model(graph))
    kept = [tensor for tensor in graph.initializer if used.readers[tensor.name] or tensor.name in used.outputs]
    inputs = [value for value in graph.input if value.name in used.inputs]
    _replace(graph.initializer, kept)
    _replace(graph.input, inputs)


def _refuse_quantized(graph: onnx.ModelProto) -> None:
    found = [node for node in graph.graph.node if node.op_type in QUANTIZED_OPS or node.op_type.startswith("QLinear")]
    if found:
        raise PassError(
            f"the graph is quantized already: it has {len(found)} nodes such as {found[0].op_type} `{found[0].name}`",
            "start from the float graph, or leave `quantize_int8` out",
        )


def _refuse_unknown(graph: onnx.ModelProto) -> None:
    """What calibration cannot look into, or no other runtime has: the answer would depend on what is inside."""
    for node in graph.graph.node:
        named = f"{node.op_type} `{node.name or node.output[0]}`"
        if any(each.type in SUBGRAPHS for each in node.attribute):
            what = f"the graph has control flow, {named}, which cannot be quantized"
            raise PassError(what, "export the network without it, or leave `quantize_int8` out")
        if node.domain not in DOMAINS:
            what = f"{named} is of the domain `{node.domain}`, not one of ONNX's own operators"
            raise PassError(what, "export the network with ONNX's own operators, or leave `quantize_int8` out")


def _refuse_nonfinite(graph: onnx.ModelProto) -> None:
    for tensor in graph.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            count = int(np.count_nonzero(~np.isfinite(array)))
            what = f"the weight `{tensor.name}` has {count} values that are not finite"
            raise PassError(what, "look at the checkpoint: training has diverged, or the file is damaged")


def _at_least_minimum_opset(graph: onnx.ModelProto) -> onnx.ModelProto:
    opset = max((entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset >= MINIMUM_OPSET:
        return graph
    try:
        return version_converter.convert_version(graph, MINIMUM_OPSET)
    except RuntimeError as error:
        raise PassError(
            f"the graph is of opset {opset}, quantization takes {MINIMUM_OPSET} or later, and it cannot be converted",
            f"export it with opset {MINIMUM_OPSET} or later",
        ) from error


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give each node a name of its own; those that have one keep it."""
    taken = {node.name for node in graph.node}
    seen = {""}
    for index, node in enumerate(graph.node):
        if node.name in seen:
            name = f"{node.name or node.op_type}_{index}"
            while name in taken:
                name += "_"
            taken.add(name)
            node.name = name
        seen.add(node.name)


def constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Make initializers of the nodes that hold a constant, in place."""
    kept = []
    for node in graph.node:
        tensor = _constant_value(node) if node.op_type == "Constant" else None
        if tensor is None:
            kept.append(node)
        else:
            graph.initializer.append(tensor)
    _replace(graph.node, kept)


def _constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The value of a Constant as an initializer, or None where it is sparse or text."""
    (given,) = node.attribute
    tensor = onnx.TensorProto()
    if given.name == "value":
        tensor.CopyFrom(given.t)
        tensor.name = node.output[0]
    elif given.name in ("value_float", "value_floats", "value_int", "value_ints"):
        dtype = np.float32 if "float" in given.name else np.int64
        array = np.asarray(onnx.helper.get_attribute_value(given), dtype)
        tensor = numpy_helper.from_array(array, node.output[0])
    return tensor if tensor.name else None


def _fold_batch_normalization(graph: onnx.ModelProto) -> None:
    wiring = Wiring(graph)
    folded = set()
    for node in list(graph.graph.node):
        foldable = node.op_type == "Conv" or (node.op_type == "Gemm" and is_plain_gemm(node))
        reader = wiring.sole_reader(node.output[0]) if foldable else None
        if reader is not None and reader.op_type == "BatchNormalization" and _fold_into(node, reader, graph, wiring):
            folded.add(reader.name)
    _replace(graph.graph.node, [node for node in graph.graph.node if node.name not in folded])


def _fold_into(node: onnx.NodeProto, norm: onnx.NodeProto, graph: onnx.ModelProto, wiring: Wiring) -> bool:
    """Fold `norm` into `node`, unless some of their parameters are no constants; whether it was done."""
    names = [node.input[1], *norm.input[1:5], *node.input[2:3]]
    arrays = [wiring.array(name) for name in names]
    if any(array is None for array in arrays) or attribute(norm, "training_mode", 0):
        return False
    weight, gain, shift, mean, variance, *bias = (np.asarray(array, np.float64) for array in arrays)
    factor = gain / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    outputs = 1 if node.op_type == "Gemm" and not attribute(node, "transB", 0) else 0
    new_weight = weight * factor.reshape([-1 if axis == outputs else 1 for axis in range(weight.ndim)])
    new_bias = ((bias[0] if bias else 0.0) - mean) * factor + shift
    added = {f"{node.name}_folded_weight": new_weight, f"{node.name}_folded_bias": new_bias}
    for name, array in added.items():
        graph.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    _replace(node.input, [node.input[0], *added])
    node.output[0] = norm.output[0]
    return True


def _replace(field: object, content: list) -> None:  # type: ignore[type-arg]
    """Set a repeated protobuf field to `content`, which may be part of it."""
    copies = list(content)
    del field[:]  # type: ignore[attr-defined]
    field.extend(copies)  # type: ignore[attr-defined]
