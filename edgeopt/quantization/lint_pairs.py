"""The rules of `lint` about the pairs of activations: what they say, and whether anything computes between them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from edgeopt.quantization.arithmetic import Range, activation_quantizer
from edgeopt.quantization.lint_subject import Finding, Subject
from edgeopt.quantization.parameters import Parameters

#: how far a scale that the profile prescribes may be off
SCALE_TOLERANCE = 1e-5

#: what reads a weight as its second input
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def activation_dtype(subject: Subject) -> Iterator[Finding]:
    """Kernels take one type of activation."""
    wanted = subject.profile.activation_dtype
    for node, pair in _pairs(subject):
        if pair.dtype != wanted:
            yield node.name, f"it makes `{node.input[0]}` {pair.dtype}; {subject.profile.name} takes {wanted}"


def activation_symmetric(subject: Subject) -> Iterator[Finding]:
    """Where kernels know no zero point."""
    for node, pair in _pairs(subject) if subject.profile.activation_symmetric else ():
        if (wrong := pair.off_centre()) is not None:
            yield node.name, f"its zero point for `{node.input[0]}` is {wrong}; it has to be {pair.middle}"


def activation_per_tensor(subject: Subject) -> Iterator[Finding]:
    """A scale per channel of an input cannot be taken out of a sum over channels."""
    for node, pair in _pairs(subject):
        if pair.scale is not None and pair.scale.size > 1:
            yield node.name, f"it has {pair.scale.size} scales for `{node.input[0]}`; an activation has one"


def scale_constant(subject: Subject) -> Iterator[Finding]:
    """Kernels are chosen, and biases made, with scales that are known beforehand."""
    for node in subject.graph.distinct():
        if subject.graph.parameters[node.name].varies:
            yield node.name, f"its scale or zero point for `{node.input[0]}` depends on the input; both are constant"


def scale_positive(subject: Subject) -> Iterator[Finding]:
    """Nothing can be divided by the others."""
    for node in subject.graph.distinct():
        scale = subject.graph.parameters[node.name].scale
        wrong = np.empty(0) if scale is None else scale[~(np.isfinite(scale) & (scale > 0))].ravel()
        if wrong.size:
            yield node.name, f"its scale for `{node.input[0]}` is {wrong[0]:g}; it has to be finite and above 0"


def fixed_range(subject: Subject) -> Iterator[Finding]:
    """Kernels of operators whose range is known have one scale for it built in."""
    profile, graph = subject.profile, subject.graph
    for node in graph.wiring.nodes.values():
        if node.op_type not in profile.fixed_ranges:
            continue
        fixed = Range(*profile.fixed_ranges[node.op_type])
        wanted = activation_quantizer(fixed, profile.activation_dtype, profile.activation_symmetric)
        for pair in (graph.parameters[each.name] for each in graph.quantizers(node.output[0])):
            right = f"{float(wanted.scale):.6g} around {int(wanted.zero_point)}"
            if not _is_near(pair, float(wanted.scale), int(wanted.zero_point)):
                yield node.name, f"its result has the scale {pair.text()}; {node.op_type} has {right}"


def pair_before_activation(subject: Subject) -> Iterator[Finding]:
    """An activation behind a pair is an operator of its own, and half of the integers before it are for nothing."""
    for node in subject.integer.values():
        moves = node.op_type in subject.profile.passthrough_ops
        readers = [] if moves else subject.graph.readers_behind_pairs(node.output[0])
        behind = subject.folds(readers)
        if behind and subject.graph.is_quantized(node.output[0]):
            named = " and ".join(f"{each.op_type} `{each.name}`" for each in behind)
            yield node.name, f"a pair stands between it and {named}, which it would be one with"


def wasted_pair(subject: Subject) -> Iterator[Finding]:
    """A pair between floats costs two conversions and precision."""
    graph, integer = subject.graph, subject.integer
    made = {name for node in integer.values() for name in (subject.result(node), *node.output)}
    for node in graph.quantizing():
        tensor = node.input[0]
        behind = subject.profile.quantize_outputs and tensor in made
        moved = len(graph.wiring.readers[node.output[0]]) > len(graph.dequantizers(node.output[0]))
        readers = graph.readers_behind(node)
        if not behind and not moved and not any(reader.name in integer for reader in readers):
            yield node.name, f"nothing on either side of the pair of `{tensor}` computes in integers"


def wasted_weight(subject: Subject) -> Iterator[Finding]:
    """A weight of integers before an operator that computes in float is only smaller."""
    profile, graph = subject.profile, subject.graph
    for node in graph.wiring.nodes.values():
        known = node.op_type in profile.quantized_ops or node.op_type not in WEIGHTED
        if not known and node.input[0] in graph.varying and graph.constant(node.input[1])[0] is not None:
            yield node.name, f"its weight is quantized, and {profile.name} computes {node.op_type} in float"


def _pairs(subject: Subject) -> Iterator[tuple[onnx.NodeProto, Parameters]]:
    for node in subject.graph.distinct():
        if node.input[0] in subject.graph.varying:
            yield node, subject.graph.parameters[node.name]


def _is_near(pair: Parameters, scale: float, zero_point: int) -> bool:
    if pair.scale is None or pair.zero_point is None:
        return True
    off = np.abs(pair.scale - scale) > SCALE_TOLERANCE * scale
    return not bool(off.any()) and not bool((pair.zero_point != zero_point).any())
