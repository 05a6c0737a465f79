"""A graph written again with float16 where a `Choice` wants it.

Each float tensor has one version per type, made when somebody first asks for it: a constant is stored in that type,
integers are dequantized into it, and all else is cast, once: no cast stands beside a pair, and none behind another. A
tensor of which only the float16 version is left keeps its name; beside a float32 one it is `t_half`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.version_converter
from onnx import numpy_helper

from edgeopt.model import TensorSpec
from edgeopt.onnx_graph import inline_identities, make_session, max_difference, random_inputs, run_session
from edgeopt.quantization.fold import DOMAINS, constants_to_initializers, name_nodes, remove_unused_initializers
from edgeopt.quantization.half import FLOAT, HALF, MEASURES, PAIRS_OPSET, Choice, Slots, is_pair, only_retypes
from edgeopt.quantization.half_values import LARGEST
from edgeopt.quantization.qdq import DEQUANTIZE
from edgeopt.quantization.wiring import Wiring, attribute, captured_names, fresh_name, names_of

#: the first version of the format that may hold `PAIRS_OPSET`
PAIRS_IR_VERSION = 9

#: how far the outputs of one graph in two opsets may lie apart
TOLERANCE = 1e-5

SUFFIXES: dict[int, str] = {FLOAT: "float", HALF: "half"}


def prepare(given: onnx.ModelProto, inputs: Sequence[TensorSpec]) -> onnx.ModelProto:
    """A new graph with named nodes and constants as initializers; one with pairs is of an opset that has them in
    float16, if it can be converted to that and computes the same there."""
    graph = onnx.ModelProto()
    graph.CopyFrom(given)
    del graph.graph.value_info[:]
    name_nodes(graph.graph)
    constants_to_initializers(graph.graph)
    inline_identities(graph)
    if not any(map(is_pair, graph.graph.node)) or opset_of(graph) >= PAIRS_OPSET:
        return graph
    try:
        raised = _with_outputs_of(graph, onnx.version_converter.convert_version(graph, PAIRS_OPSET))
        raised.ir_version = max(raised.ir_version, PAIRS_IR_VERSION)
        onnx.checker.check_model(raised, full_check=True)
    except (RuntimeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return graph
    sample = random_inputs(inputs, 2, 0)
    before, after = (run_session(make_session(each, as_written=True), sample) for each in (graph, raised))
    return raised if max_difference(before, after) < TOLERANCE else graph


def opset_of(graph: onnx.ModelProto) -> int:
    """The version of ONNX's own operators."""
    return max(int(entry.version) for entry in graph.opset_import if entry.domain in DOMAINS)


def cast_graph(graph: onnx.ModelProto, choice: Choice) -> onnx.ModelProto:
    """A new graph by the choice; inputs and outputs keep their types."""
    cast = onnx.ModelProto()
    cast.CopyFrom(graph)
    del cast.graph.value_info[:]
    _Caster(cast, choice).cast()
    remove_unused_initializers(cast.graph)
    return _with_outputs_of(graph, onnx.shape_inference.infer_shapes(cast, data_prop=True))


def _with_outputs_of(given: onnx.ModelProto, made: onnx.ModelProto) -> onnx.ModelProto:
    """`made`, whose outputs were inferred anew, with what was promised of them."""
    del made.graph.output[:]
    made.graph.output.extend(given.graph.output)
    return made


class _Caster:
    """Rewrites one graph in place.

    Attributes:
        versions: float tensor → type → the name of its version in that type; the one that was there first comes first.
        dequantizers: tensor → the DequantizeLinear that makes a version of it.
        same: result of a cast between floats → what was cast.
    """

    def __init__(self, graph: onnx.ModelProto, choice: Choice) -> None:
        self.graph, self.choice, self.wiring = graph.graph, choice, Wiring(graph)
        self.taken = names_of(graph.graph)
        self.nodes: list[onnx.NodeProto] = []
        self.dequantizers: dict[str, onnx.NodeProto] = {}
        self.same: dict[str, str] = {}
        _round_scales(graph.graph, choice)
        given = [*(value.name for value in graph.graph.input), *(tensor.name for tensor in graph.graph.initializer)]
        self.versions: dict[str, dict[int, str]] = {
            name: {self._type(name): name} for name in given if self._type(name)
        }

    def cast(self) -> None:
        for node in list(self.graph.node):
            self._rewrite(node)
        for value in self.graph.output:
            self._require(value.name)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        self._rename()

    def _rewrite(self, node: onnx.NodeProto) -> None:
        if only_retypes(node, self.wiring):
            self._retype(node)
        elif is_pair(node) and node.op_type == DEQUANTIZE and self._type(node.output[0]):
            self.dequantizers[node.output[0]] = node
        elif is_pair(node) and node.name in self.choice.pairs and self._home(node.input[0]) == HALF:
            self._emit(node, Slots(frozenset((0, 1))))
        else:
            self._emit(node, self.choice.slots.get(node.name, Slots()))

    def _emit(self, node: onnx.NodeProto, slots: Slots) -> None:
        """Add the node with its slots in float16, behind what makes the versions that it reads."""
        new = onnx.NodeProto()
        new.CopyFrom(node)
        for name in sorted(captured_names(node)):
            self._require(name)
        for place, name in enumerate(node.input):
            if self._type(name):
                kind = self._home(name) if node.op_type in MEASURES else self._type(name)
                new.input[place] = self._version(name, HALF if place in slots.inputs else kind)
        for place, name in enumerate(node.output):
            kind = HALF if place in slots.outputs else self._type(name)
            if kind:
                new.output[place] = self._new_version(name, kind)
        if slots.outputs:
            _make_half(new)
        self.nodes.append(new)

    def _retype(self, node: onnx.NodeProto) -> None:
        """Take what only retypes for another version of what it reads; it stays a node where its name has to stay."""
        given, made = node.input[0], node.output[0]
        if made not in self.wiring.outputs:
            self.same[made] = self.same.get(given, given)
            self.taken -= {made, node.name}
            return
        home = self._home(given)
        operator = "Identity" if home == self._type(made) else "Cast"
        self._add_node(operator, made, [self._version(given, home)], self._type(made))
        self.nodes[-1].name = node.name

    def _type(self, tensor: str) -> int:
        """FLOAT or HALF, as the tensor was given; 0 for others."""
        kind = self.wiring.element_type(tensor)
        return kind if kind in (FLOAT, HALF) else 0

    def _home(self, tensor: str) -> int:
        """The type in which the tensor is there without a cast."""
        tensor = self.same.get(tensor, tensor)
        if tensor in self.dequantizers and tensor not in self.versions:
            return HALF if self._may_be(self.dequantizers[tensor], HALF) else self._type(tensor)
        return next(iter(self.versions[tensor]))

    def _require(self, name: str) -> None:
        """See to it that there is a tensor of this name, as it was given: something outside of our reach reads it."""
        if self._type(name):
            self._version(name, self._type(name))

    def _version(self, tensor: str, kind: int) -> str:
        """The name of the tensor in this type, which is made if it is not there yet."""
        tensor = self.same.get(tensor, tensor)
        if kind in self.versions.get(tensor, {}):
            return self.versions[tensor][kind]
        if tensor in self.wiring.constants:
            return self._store(tensor, kind)
        if tensor in self.dequantizers and self._may_be(self.dequantizers[tensor], kind):
            return self._dequantize(tensor, kind)
        source = self._version(tensor, self._home(tensor))
        return self._add_node("Cast", tensor, [source], kind)

    def _may_be(self, node: onnx.NodeProto, kind: int) -> bool:
        return kind == self._type(node.output[0]) or (kind == HALF and node.name in self.choice.pairs)

    def _dequantize(self, tensor: str, kind: int) -> str:
        node = self.dequantizers[tensor]
        inputs = list(node.input)
        inputs[1] = self._version(inputs[1], kind)
        made = self._add_node(DEQUANTIZE, tensor, inputs, kind)
        self.nodes[-1].attribute.extend(node.attribute)
        if len(self.versions[tensor]) == 1:
            self.nodes[-1].name = node.name
        return made

    def _add_node(self, operator: str, tensor: str, inputs: list[str], kind: int) -> str:
        """Add a node that makes a version of the tensor, whose name is returned."""
        made = self._new_version(tensor, kind)
        node = onnx.helper.make_node(operator, inputs, [made], name=fresh_name(f"{tensor}_{operator}", self.taken))
        if operator == "Cast":
            node.attribute.append(onnx.helper.make_attribute("to", kind))
        self.nodes.append(node)
        return made

    def _store(self, tensor: str, kind: int) -> str:
        array = numpy_helper.to_array(self.wiring.constants[tensor])
        finite = np.clip(array, -LARGEST, LARGEST, where=np.isfinite(array), out=array.copy())
        stored = finite.astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
        name = self._new_version(tensor, kind)
        self.graph.initializer.append(numpy_helper.from_array(stored, name))
        return name

    def _new_version(self, tensor: str, kind: int) -> str:
        name = tensor if kind == self._type(tensor) else fresh_name(f"{tensor}_{SUFFIXES[kind]}", self.taken)
        self.versions.setdefault(tensor, {})[kind] = name
        return name

    def _rename(self) -> None:
        """Give the names of tensors that are only there in float16 back to them."""
        used = {name for node in self.nodes for name in (*node.input, *node.output)}
        used |= {value.name for value in (*self.graph.input, *self.graph.output)}
        halves = {kinds[HALF]: name for name, kinds in self.versions.items() if HALF in kinds and name not in used}
        for node in self.graph.node:
            node.input[:] = [halves.get(name, name) for name in node.input]
            node.output[:] = [halves.get(name, name) for name in node.output]
        kept = [tensor for tensor in self.graph.initializer if tensor.name not in halves.values()]
        for tensor in kept:
            tensor.name = halves.get(tensor.name, tensor.name)
        copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del self.graph.initializer[:]
        self.graph.initializer.extend(copies)


def _make_half(node: onnx.NodeProto) -> None:
    """Let what a node says of its output be true of float16."""
    for each in node.attribute:
        if node.op_type == "Cast" and each.name == "to":
            each.i = HALF
    if node.op_type == "ConstantOfShape":
        given = attribute(node, "value", None)
        value = np.zeros(1) if given is None else numpy_helper.to_array(given)
        del node.attribute[:]
        tensor = numpy_helper.from_array(value.astype(np.float16), "value")
        node.attribute.append(onnx.helper.make_attribute("value", tensor))


def _round_scales(graph: onnx.GraphProto, choice: Choice) -> None:
    """Let float32 and float16 say the same of the integers between them."""
    for tensor in graph.initializer:
        if tensor.name in choice.scales:
            tensor.CopyFrom(numpy_helper.from_array(choice.scales[tensor.name], tensor.name))
