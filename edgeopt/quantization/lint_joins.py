"""The rules of `lint` about nodes without a weight: those that join tensors, and those that only move values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from edgeopt.quantization.lint_subject import Finding, Subject
from edgeopt.quantization.parameters import Parameters
from edgeopt.quantization.qdq import QdqGraph
from edgeopt.quantization.wiring import attribute


@dataclass(frozen=True)
class Sum:
    """A sum of two tensors, where pairs stand before integer operators only.

    Attributes:
        paired: operators that compute in integers for it alone, and that it reads through a pair.
        direct: those that it reads without one, so that the two are one kernel.
        pairs: how many of its inputs it reads through a pair.
    """

    node: onnx.NodeProto
    paired: tuple[str, ...]
    direct: tuple[str, ...]
    pairs: int


def sum_fusion(subject: Subject) -> Iterator[Finding]:
    """The pair on the branch that would be one kernel with the sum."""
    for each in _sums(subject):
        if each.paired and not each.direct and each.pairs == 1:
            advice = "the pair belongs on the other branch"
            yield (
                each.paired[0],
                f"a pair stands between it and Add `{each.node.name}`, which it would be one with; {advice}",
            )


def sum_branches(subject: Subject) -> Iterator[Finding]:
    """Pairs on both branches."""
    for each in _sums(subject):
        if each.paired and each.pairs == 2:
            yield (
                each.node.name,
                f"both branches are quantized; `{each.paired[-1]}` would be one with it without a pair",
            )


def sum_skip(subject: Subject) -> Iterator[Finding]:
    """No pair on either branch."""
    for each in _sums(subject):
        if each.direct and each.pairs == 0:
            yield each.node.name, f"no branch is quantized; beside `{each.direct[-1]}`, the other one has to be"


def passthrough_scale(subject: Subject) -> Iterator[Finding]:
    """With two scales, what only moves values has to convert them."""
    for node in _moves(subject):
        given, made = _given(subject.graph, node), _made(subject.graph, node)
        others = [each for each in (*given, *made) if not each.same(given[0])] if made else []
        if others:
            yield node.name, f"it only moves values, and has the scales {given[0].text()} and {others[0].text()}"


def pair_around_move(subject: Subject) -> Iterator[Finding]:
    """Where a runtime does not take the pairs away around what moves values."""
    graph = subject.graph
    for node in _moves(subject):
        read = [graph.read(name) for name in graph.activations(node)]
        around = len(read) == 1 and read[0] is not None and graph.is_quantized(node.output[0])
        if around and node.op_type in subject.profile.integer_moves:
            yield node.name, "it stands between pairs, so it moves floats; here it has to move the integers themselves"


def left_float(subject: Subject) -> Iterator[Finding]:
    """Operators that join tensors, one of them quantized and the result too."""
    profile, graph = subject.profile, subject.graph
    if not (profile.quantize_outputs and profile.quantize_residual):
        return
    for node in graph.wiring.nodes.values():
        read = graph.activations(node)
        floats = [name for name in read if graph.read(name) is None]
        joins = node.op_type in profile.quantized_ops and read == list(node.input)
        if joins and 0 < len(floats) < len(read) and graph.is_quantized(subject.result(node)):
            yield node.name, f"it reads `{floats[0]}` in float, so it computes in float between quantized tensors"


def _sums(subject: Subject) -> Iterator[Sum]:
    if subject.profile.quantize_outputs or "Add" not in subject.profile.quantized_ops:
        return
    weighted = {each.node.name for each in subject.weighted if each.is_integer}
    for node in subject.graph.wiring.nodes.values():
        read = subject.graph.activations(node)
        if node.op_type == "Add" and len(set(read)) == 2:
            through = [subject.graph.read(name) is not None for name in read]
            makers = [_maker(subject.graph, name) for name in read]
            named = [maker if maker in weighted else "" for maker in makers]
            paired = tuple(name for name, pair in zip(named, through, strict=True) if name and pair)
            direct = tuple(name for name, pair in zip(named, through, strict=True) if name and not pair)
            yield Sum(node, paired, direct, sum(through))


def _maker(graph: QdqGraph, tensor: str) -> str:
    """The node that makes the tensor, through a pair or without, for one reader alone; the empty string otherwise."""
    node = graph.wiring.producers.get(tensor)
    while node is not None and graph.wiring.sole_reader(tensor) is not None:
        if node.name not in graph.parameters:
            return str(node.name)
        tensor = node.input[0]
        node = graph.wiring.producers.get(tensor)
    return ""


def _moves(subject: Subject) -> Iterator[onnx.NodeProto]:
    """The nodes that only move values, and that the profile lists as such."""
    for node in subject.graph.wiring.nodes.values():
        if node.op_type in subject.profile.passthrough_ops and not _makes_values(node, subject.graph):
            yield node


def _makes_values(node: onnx.NodeProto, graph: QdqGraph) -> bool:
    """Whether there is more in the result than in the input: a cubic overshoots, and padding may be with any value."""
    if node.op_type == "Resize":
        return bool(attribute(node, "mode", b"nearest") == b"cubic")
    if node.op_type != "Pad" or attribute(node, "mode", b"constant") != b"constant":
        return False
    value = graph.array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    return value is None or (bool(np.any(value)) and graph.is_float(node.output[0]))


def _given(graph: QdqGraph, node: onnx.NodeProto) -> list[Parameters]:
    """How each activation that the node moves is quantized; none where one is not."""
    found = []
    for name in node.input:
        origin = graph.origin(name)
        pair = graph.parameters[origin.name] if origin is not None else graph.read(name)
        if pair is None and graph.is_activation(name):
            return []
        found += [] if pair is None or name not in graph.varying else [pair]
    return found


def _made(graph: QdqGraph, node: onnx.NodeProto) -> list[Parameters]:
    """How what the node makes is quantized, or dequantized where it moves integers; none where it moves nothing."""
    if not _given(graph, node):
        return []
    readers = [each for name in node.output for each in (*graph.quantizers(name), *graph.dequantizers(name))]
    return [graph.parameters[each.name] for each in readers]
