"""Which nodes of a graph compute in float16, and why the others do not.

What ONNX defines in float16 is read from its own schemas, so that no list of operators has to be kept. A node stays in
float32 where a constant, a scale or a measured activation does not fit (see `half_values`), where it computes shapes,
or where the user says so. QuantizeLinear and DequantizeLinear are not chosen here: they follow what they stand beside.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeopt.errors import PassError, did_you_mean
from edgeopt.onnx_graph import SUBGRAPHS
from edgeopt.quantization.fold import DOMAINS
from edgeopt.quantization.half_values import LARGEST, largest, misfit, round_scale
from edgeopt.quantization.qdq import DEQUANTIZE, QUANTIZE
from edgeopt.quantization.wiring import Wiring, attribute

FLOAT, HALF = int(onnx.TensorProto.FLOAT), int(onnx.TensorProto.FLOAT16)

#: what may become far larger than what it reads: in float16 only where samples showed that it does not
UNBOUNDED = frozenset(
    ("CumSum", "Exp", "Pow", "Reciprocal", "ReduceL1", "ReduceLogSumExp", "ReduceProd", "ReduceSum")
)  # fmt: skip

#: what squares its first input on the way, so that the square has to fit as well
SQUARING = frozenset(
    ("GroupNormalization", "InstanceNormalization", "LRN", "LayerNormalization", "LpNormalization", "LpPool",
     "GlobalLpPool", "MeanVarianceNormalization", "RMSNormalization", "ReduceL2", "ReduceSumSquare")
)  # fmt: skip

#: what looks at no value of what it reads, which may be of any type
MEASURES = ("Shape", "Size")

#: inputs that stay float32 although ONNX would take float16: places in an image
PLACES = {"Resize": frozenset((1, 2))}

#: inputs that only limit, so that those beyond float16 may be cut off at its ends
LIMITS = {"Clip": frozenset((1, 2))}

#: the first opset in which scales of pairs, and with them what pairs read and make, may be float16
PAIRS_OPSET = 19

_HALF_TYPE = "tensor(float16)"


@dataclass(frozen=True)
class Slots:
    """The inputs and outputs of a node, by their places, that are float32 and may be float16."""

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Choice:
    """What becomes float16.

    Attributes:
        slots: node that computes in float16 → which of its inputs and outputs are.
        pairs: each QuantizeLinear and DequantizeLinear that may be in float16.
        scales: the scales of those, rounded to what float16 holds.
        reasons: node that stays in float32 → why.
    """

    slots: dict[str, Slots]
    pairs: frozenset[str]
    scales: dict[str, NDArray[np.float32]]
    reasons: dict[str, str]


def candidates(wiring: Wiring, opset: int) -> dict[str, Slots]:
    """Each node that computes with float32 tensors, with its slots; pairs and casts between floats do not."""
    others = (node for node in wiring.nodes.values() if not is_pair(node) and not only_retypes(node, wiring))
    return {
        node.name: _slots(node, wiring, opset)
        for node in others
        if node.op_type not in MEASURES and any(wiring.is_float(name) for name in (*node.input, *node.output))
    }


def activations(wiring: Wiring, found: Mapping[str, Slots]) -> list[str]:
    """The tensors whose values decide: those in a slot that are no constants, in the order of the graph."""
    tensors = dict.fromkeys(name for each in found for name in _in_slots(wiring.nodes[each], found[each]))
    return [name for name in tensors if name not in wiring.constants]


def choose(
    wiring: Wiring, opset: int, keep_float: Collection[str], peaks: Mapping[str, float] | None, headroom: float
) -> Choice:
    """What becomes float16.

    Args:
        wiring: of a graph whose nodes have unique names and whose constants are initializers.
        keep_float: names of nodes or operators.
        peaks: the largest magnitude of each of the `activations`; None where it was not measured.
        headroom: how many times larger the values may be that the samples did not show.

    Raises:
        PassError: `keep_float` names something that is not in the graph.
    """
    known = {*wiring.nodes, *(node.op_type for node in wiring.nodes.values())}
    for name in keep_float:
        if name not in known:
            raise PassError(f"`keep_float` names `{name}`, no node or operator of the graph", did_you_mean(name, known))
    return _Chooser(wiring, opset, frozenset(keep_float), peaks, headroom).choose()


def is_pair(node: onnx.NodeProto) -> bool:
    """Whether it is a QuantizeLinear or DequantizeLinear of ONNX's own."""
    return node.op_type in (QUANTIZE, DEQUANTIZE) and node.domain in DOMAINS


def only_retypes(node: onnx.NodeProto, wiring: Wiring) -> bool:
    """Whether it gives what it reads: as float32 that is float16, or the other way round, or as it is."""
    kinds = {wiring.element_type(name) for name in (*node.input, *node.output)}
    return node.op_type in ("Cast", "Identity") and node.domain in DOMAINS and kinds <= {FLOAT, HALF}


class _Chooser:
    def __init__(
        self, wiring: Wiring, opset: int, keep: frozenset[str], peaks: Mapping[str, float] | None, headroom: float
    ) -> None:
        self.wiring, self.opset, self.keep, self.peaks, self.headroom = wiring, opset, keep, peaks, headroom
        self.shapes = _shapes(wiring)
        self.scales = self._round_scales() if opset >= PAIRS_OPSET else {}

    def choose(self) -> Choice:
        slots = candidates(self.wiring, self.opset)
        reasons = {name: self._reason(self.wiring.nodes[name], each) for name, each in slots.items()}
        half = {name: each for name, each in slots.items() if not reasons[name]}
        rounded = {name: scale for name, scale in self.scales.items() if scale is not None}
        pairs = frozenset(node.name for node in self._pairs() if node.input[1] in rounded and not self._is_kept(node))
        return Choice(half, pairs, rounded, {name: reason for name, reason in reasons.items() if reason})

    def _is_kept(self, node: onnx.NodeProto) -> bool:
        return node.name in self.keep or node.op_type in self.keep

    def _pairs(self) -> list[onnx.NodeProto]:
        """Each pair whose scale is a constant, and that is not of 32 bits, which are exact."""
        found = filter(is_pair, self.wiring.nodes.values())
        constant = (
            node for node in found if self.wiring.is_float(node.input[1]) and node.input[1] in self.wiring.constants
        )
        return [node for node in constant if self.wiring.element_type(node.input[0]) != onnx.TensorProto.INT32]

    def _round_scales(self) -> dict[str, NDArray[np.float32] | None]:
        """Scale → the same rounded, or None where float16 does not hold it."""
        unused: dict[str, NDArray[np.bool_]] = {}
        for node in self._pairs():
            free = self._unused(node)
            unused[node.input[1]] = free & unused.get(node.input[1], free)
        return {name: round_scale(_array(self.wiring, name), free) for name, free in unused.items()}

    def _unused(self, node: onnx.NodeProto) -> NDArray[np.bool_]:
        """Where the scale of a pair counts for nothing, for all integers are zero."""
        scale, integers = _array(self.wiring, node.input[1]), self.wiring.array(node.input[0])
        if node.op_type == QUANTIZE or integers is None or scale.ndim > 1:
            return np.zeros(scale.shape, np.bool_)
        zero_point = self.wiring.array(node.input[2]) if len(node.input) > 2 else None
        axis = int(attribute(node, "axis", 1)) if scale.size > 1 else 0
        rows = np.moveaxis(integers, axis, 0) if integers.ndim else integers
        zero = np.zeros(1) if zero_point is None else zero_point
        unused: NDArray[np.bool_] = (rows.reshape(scale.size, -1) == zero.reshape(-1, 1)).all(axis=1)
        return unused.reshape(scale.shape)

    def _reason(self, node: onnx.NodeProto, slots: Slots) -> str:
        """Why the node stays in float32; empty where it does not."""
        if self._is_kept(node):
            return "`keep_float` names it"
        if any(each.type in SUBGRAPHS for each in node.attribute):
            return "it is control flow"
        if not slots.inputs and not slots.outputs:
            return "ONNX does not define it in float16"
        if _names_type(node, self.opset) or not all(map(self.wiring.element_type, filter(None, node.output))):
            return "the type of its output is not free"
        if self.shapes.issuperset(filter(None, node.output)):
            return "it computes a shape"
        return self._constant_reason(node, slots) or self._peak_reason(node, slots)

    def _constant_reason(self, node: onnx.NodeProto, slots: Slots) -> str:
        for place in sorted(slots.inputs):
            name = node.input[place]
            constant, producer = self.wiring.array(name), self.wiring.producers.get(name)
            if constant is not None:
                most = LARGEST if place in LIMITS.get(node.op_type, ()) else np.inf
                if reason := misfit(min(largest(constant), most)):
                    return f"its constant `{name}` {reason}"
            elif producer is not None and is_pair(producer) and self.scales.get(producer.input[1], ()) is None:
                return f"float16 does not hold the scale `{producer.input[1]}` of `{name}`"
        return ""

    def _peak_reason(self, node: onnx.NodeProto, slots: Slots) -> str:
        if self.peaks is None:
            growing = node.op_type in UNBOUNDED or node.op_type in SQUARING
            return "it can overflow, and without calibration samples nobody knows" if growing else ""
        for name in _in_slots(node, slots):
            if reason := misfit(self.peaks.get(name, 0.0), self.headroom):
                return f"`{name}` {reason}"
        peak = self.peaks.get(node.input[0], 0.0) if node.op_type in SQUARING else 0.0
        return f"the square of `{node.input[0]}` {reason}" if (reason := misfit(peak**2, self.headroom)) else ""


def _slots(node: onnx.NodeProto, wiring: Wiring, opset: int) -> Slots:
    if node.domain not in DOMAINS or not onnx.defs.has(node.op_type, opset):
        return Slots()
    schema = onnx.defs.get_schema(node.op_type, opset)
    free = {each.type_param_str for each in schema.type_constraints if _HALF_TYPE in each.allowed_type_strs}

    def places(parameters: list[onnx.defs.OpSchema.FormalParameter], names: Collection[str]) -> frozenset[int]:
        """A parameter may stand for all that are left."""
        return frozenset(
            place
            for place, name in enumerate(names)
            if wiring.is_float(name) and parameters[min(place, len(parameters) - 1)].type_str in free
        )

    inputs = places(list(schema.inputs), node.input) - PLACES.get(node.op_type, frozenset())
    return Slots(inputs, places(list(schema.outputs), node.output))


def _names_type(node: onnx.NodeProto, opset: int) -> bool:
    """Whether an attribute says of which type the output is; that of a Cast is known."""
    return "dtype" in onnx.defs.get_schema(node.op_type, opset).attributes


def _in_slots(node: onnx.NodeProto, slots: Slots) -> list[str]:
    return [
        *(node.input[place] for place in sorted(slots.inputs)),
        *(node.output[place] for place in sorted(slots.outputs)),
    ]


def _shapes(wiring: Wiring) -> set[str]:
    """What follows from the shapes of tensors alone: float16 cannot count beyond 2048."""
    shapes: set[str] = set()
    for node in wiring.nodes.values():
        given = [name for name in node.input if name and name not in wiring.constants]
        if node.op_type in MEASURES or (given and shapes.issuperset(given)):
            shapes.update(filter(None, node.output))
    return shapes


def _array(wiring: Wiring, name: str) -> NDArray[np.float32]:
    array = wiring.array(name)
    assert array is not None
    return array
