"""A float ONNX graph as a torch module that computes the same: what is tried out or trained on the way to integers.

The graph is one that `fold` made, its nodes run by the table of `operators`, in their order. Callers look at what a
tensor becomes and may put something else in its place, so that quantization can be simulated where `insert` will write
it: `adaround` chooses integers that way, and `edgeopt.training.fake_quantization` trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from edgeopt.errors import PassError
from edgeopt.quantization.operators import OPERATORS

Tensors = dict[str, Tensor]

#: (name, value) → what is seen in place of the value
Replace = Callable[[str, Tensor], Tensor]
#: (tensor, node) → whether this reader sees what is in place of the tensor; the node is empty where it leaves the graph
Sees = Callable[[str, str], bool]

#: operator → its inputs that training changes, where they are constant; those of others are arithmetic
TRAINED = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (0, 1), "PRelu": (1,),
    "BatchNormalization": (1, 2), "InstanceNormalization": (1, 2), "LayerNormalization": (1, 2),
}  # fmt: skip

#: of these, the operators whose second input is called their weight
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

WITHOUT = "leave the pass out, or let `simplify_onnx` run before it"


class Twin(nn.Module):
    """The network of a folded graph.

    Weights, biases and the like are parameters, all other initializers buffers; `tensor` finds them by their names.
    """

    def __init__(self, graph: onnx.ModelProto) -> None:
        super().__init__()
        self.nodes = {node.name: node for node in graph.graph.node}
        self.attributes = {name: _attributes(node) for name, node in self.nodes.items()}
        for node in self.nodes.values():
            if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
                raise PassError(f"the operator {node.op_type} of `{node.name}` is not known in torch", WITHOUT)
        self._registered = self._register(graph.graph.initializer)
        self.inputs = tuple(value.name for value in graph.graph.input if value.name not in self._registered)
        self.outputs = tuple(value.name for value in graph.graph.output)
        self._done = _last_uses(self.nodes.values(), self.outputs)

    def tensor(self, name: str) -> Tensor:
        """An initializer by its name."""
        found: Tensor = getattr(self, self._registered[name])
        return found

    def tensors(self) -> Tensors:
        """All initializers by name."""
        return {name: self.tensor(name) for name in self._registered}

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        *,
        on_activation: Replace | None = None,
        on_weight: Replace | None = None,
        on_bias: Replace | None = None,
        sees: Sees | None = None,
    ) -> Tensors:
        """The outputs of the graph.

        Args:
            inputs: by name.
            on_activation: called once for each tensor that gets a value; what it returns is seen by the readers.
            on_weight: called with the name of each node that has a constant weight, and that weight.
            on_bias: the same for its bias.
            sees: which readers see what `on_activation` returned; without it, all.
        """
        for _, outputs in self.run(
            inputs, on_activation=on_activation, on_weight=on_weight, on_bias=on_bias, sees=sees
        ):
            found = outputs
        return {name: found[name] for name in self.outputs}

    def run(
        self,
        inputs: Mapping[str, Tensor],
        *,
        on_activation: Replace | None = None,
        on_weight: Replace | None = None,
        on_bias: Replace | None = None,
        sees: Sees | None = None,
    ) -> Iterator[tuple[onnx.NodeProto, Tensors]]:
        """As `forward`, node by node: before each, the node and what it is going to read, and at the end the outputs.

        What nobody reads any more is freed on the way; a caller that has seen enough just stops.
        """
        exact, seen = self.tensors(), Tensors()

        def put(name: str, value: Tensor) -> None:
            exact[name] = value
            seen[name] = value if on_activation is None else on_activation(name, value)

        def read(name: str, node: str) -> Tensor:
            return seen[name] if name in seen and (sees is None or sees(name, node)) else exact[name]

        for name in self.inputs:
            put(name, inputs[name])
        for node in self.nodes.values():
            values = {name: read(name, node.name) for name in node.input if name}
            yield node, values
            for name, value in self.apply_node(node, values, on_weight, on_bias).items():
                put(name, value)
            for name in self._done.get(node.name, ()):
                exact.pop(name)
                seen.pop(name, None)
        yield onnx.NodeProto(), {name: read(name, "") for name in self.outputs}

    def apply_node(
        self,
        node: onnx.NodeProto,
        values: Mapping[str, Tensor],
        on_weight: Replace | None = None,
        on_bias: Replace | None = None,
    ) -> Tensors:
        """What one node makes of `values`, by name; initializers that they do not hold are the twin's own."""
        inputs = [self._input(name, values) for name in node.input]
        for index, replace in ((1, on_weight), (2, on_bias)):
            if replace is not None and self._has_constant(node, index):
                inputs[index] = replace(node.name, inputs[index])
        try:
            result = OPERATORS[node.op_type](self.attributes[node.name], *inputs)
        except NotImplementedError as error:
            raise PassError(f"{node.op_type} `{node.name}` cannot be computed in torch: {error}", WITHOUT) from error
        except (RuntimeError, TypeError, IndexError, ValueError) as error:
            raise PassError(f"{node.op_type} `{node.name}` does not run in torch: {error}") from error
        made = [result] if isinstance(result, Tensor) else list(result)
        if len(made) < len(node.output):
            raise PassError(f"{node.op_type} `{node.name}` has {len(node.output)} outputs, torch makes one", WITHOUT)
        return {name: value for name, value in zip(node.output, made, strict=False) if name}

    def _has_constant(self, node: onnx.NodeProto, index: int) -> bool:
        """Whether that input is an initializer of a node with a weight."""
        return node.op_type in WEIGHTED and len(node.input) > index and node.input[index] in self._registered

    def _input(self, name: str, values: Mapping[str, Tensor]) -> Any:
        if not name:
            return None
        return values[name] if name in values else self.tensor(name)

    def _register(self, initializers: Sequence[onnx.TensorProto]) -> dict[str, str]:
        """Make each initializer a parameter or a buffer; returns name → attribute, as torch takes no dots in names."""
        trained = {
            node.input[index]
            for node in self.nodes.values()
            for index in TRAINED.get(node.op_type, ())
            if index < len(node.input)
        }
        added = {name for node in self.nodes.values() if node.op_type == "Add" for name in node.input}
        registered = {}
        for index, tensor in enumerate(initializers):
            value, key = torch.from_numpy(numpy_helper.to_array(tensor).copy()), f"tensor_{index}"
            chosen = tensor.name in trained or (tensor.name in added and value.numel() > 1)  # a bias, behind a MatMul
            if chosen and value.is_floating_point():
                self.register_parameter(key, nn.Parameter(value))
            else:
                self.register_buffer(key, value)
            registered[tensor.name] = key
        return registered


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node; a Split is told of its outputs, whether or not its opset says how many they are."""
    given = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    return given | ({"num_outputs": len(node.output)} if node.op_type == "Split" else {})


def _last_uses(nodes: Iterable[onnx.NodeProto], kept: Sequence[str]) -> dict[str, list[str]]:
    """Node → the tensors that nobody reads after it."""
    last: dict[str, str] = {}
    for node in nodes:
        last |= dict.fromkeys(filter(None, [*node.input, *node.output]), node.name)
    done: dict[str, list[str]] = {name: [] for name in last.values()}
    for tensor, name in last.items():
        if tensor not in kept:
            done[name].append(tensor)
    return done
