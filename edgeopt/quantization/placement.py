"""Which tensors get a QDQ pair, and who reads it: decided by the graph and the profile of the target's backend.

Weighted operators (those of the profile that have a constant weight) are always worth it. Operators that join or pool
(Add, GlobalAveragePool …) compute in integers where they read something quantized and somebody needs integers of them;
what else they read is then quantized too, unless the profile wants one side of a sum only. Operators that just move
values (Reshape, MaxPool …) pass the quantization on, so that their tensors share one scale; a tensor with a prescribed
one that not all of these have is requantized for them by a second pair. A fused activation is no operator of its own:
the pair stands behind it, never before. All else stays in float, and is named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import onnx

from edgeopt.errors import PassError, did_you_mean
from edgeopt.model import QuantizationProfile
from edgeopt.quantization.wiring import Wiring, attribute, is_plain_gemm


@dataclass(frozen=True)
class Pair:
    """One QuantizeLinear/DequantizeLinear pair.

    Attributes:
        tensor: what it quantizes.
        root: the first tensor of those that share this scale; its own name where it shares none.
        readers: the nodes that read the dequantized tensor; integer moves read its integers, the others its floats.
        leaves: whether it is the dequantized tensor that leaves the graph.
    """

    tensor: str
    root: str
    readers: tuple[str, ...]
    leaves: bool = False


@dataclass(frozen=True)
class Weighted:
    """A node with a constant weight that computes in integers; along `axis`, if any, each channel has its own scale."""

    node: str
    activation: str
    weight: str
    bias: str | None
    axis: int | None


@dataclass(frozen=True)
class Placement:
    """What the inserter does.

    Attributes:
        pairs: in the order of the graph, one for each tensor.
        requantized: second pairs, each behind the one of its tensor, for readers that move its values at another scale.
        weighted: nodes whose weight and bias become integers.
        integer_moves: nodes that move the integers of a pair, unread in between.
        integer_nodes: all that compute in integers.
        float_nodes: those that compute in float.
    """

    pairs: tuple[Pair, ...]
    requantized: tuple[Pair, ...]
    weighted: tuple[Weighted, ...]
    integer_moves: tuple[str, ...]
    integer_nodes: tuple[str, ...]
    float_nodes: tuple[str, ...]


def make_placement(
    graph: onnx.ModelProto, profile: QuantizationProfile, keep_float: Collection[str] = (), per_channel: bool = True
) -> Placement:
    """Place pairs in a folded graph; `keep_float` names nodes or operators that stay in float.

    Raises:
        PassError: `keep_float` names something that is not in the graph.
    """
    wiring = Wiring(graph)
    known = {*wiring.nodes, *(node.op_type for node in wiring.nodes.values())}
    for name in keep_float:
        if name not in known:
            raise PassError(f"`keep_float` names `{name}`, no node or operator of the graph", did_you_mean(name, known))
    return _Placer(wiring, profile, frozenset(keep_float), per_channel).place()


class _Placer:
    """The state of one placement.

    `quantized`: tensors that have a pair. `closed`: those whose every reader sees the dequantized tensor, because the
    node that makes them is to be fused with the pair. `skips`: sum → the one input that it reads through a pair.
    """

    def __init__(
        self, wiring: Wiring, profile: QuantizationProfile, keep_float: frozenset[str], per_channel: bool
    ) -> None:
        self.wiring, self.profile, self.keep_float, self.per_channel = wiring, profile, keep_float, per_channel
        self.weighted: dict[str, Weighted] = {}
        self.joins: dict[str, onnx.NodeProto] = {}
        self.moves: dict[str, onnx.NodeProto] = {}
        self.skips: dict[str, str] = {}
        self.quantized: set[str] = set()
        self.closed: set[str] = set()
        self.order = (*wiring.inputs, *wiring.producers)

    def place(self) -> Placement:
        self._take_weighted()
        if self.profile.quantize_outputs:
            self._take_reached()
            self._drop_unneeded()
        else:
            self._take_skips()
        roots, others = self._roots()
        integer = (*self.weighted, *self.joins)
        return Placement(
            pairs=tuple(self._pair(tensor, roots[tensor], others) for tensor in self.order if tensor in roots),
            requantized=tuple(self._second_pair(tensor, others[tensor]) for tensor in self.order if tensor in others),
            weighted=tuple(self.weighted.values()),
            integer_moves=tuple(filter(self._moves_integers, self.moves)),
            integer_nodes=tuple(name for name in self.wiring.nodes if name in integer),
            float_nodes=tuple(self._float_nodes()),
        )

    def _take_weighted(self) -> None:
        for node in self._allowed(self.profile.weight_axes):
            weighted = self._weighted(node) if node.op_type in self.profile.quantized_ops else None
            if weighted is not None:
                self.weighted[node.name] = weighted
                self.quantized.add(weighted.activation)
        for node in map(self.wiring.nodes.__getitem__, self.weighted):
            if self.profile.quantize_outputs and node.op_type not in self.profile.float_output_ops:
                self._close(self._result(node))

    def _take_reached(self) -> None:
        """Follow quantized tensors through the operators that join and move them."""
        for node in self._allowed({*self.profile.quantized_ops, *self.profile.passthrough_ops}):
            read = self._activations(node)
            reached = [tensor in self.quantized for tensor in read]
            if node.name in self.weighted or not any(reached) or not self.wiring.is_float(node.output[0]):
                continue
            if node.op_type in self.profile.passthrough_ops:
                if all(reached) and _only_moves(node, self.wiring):
                    self.moves[node.name] = node
                    self._close(*self._moved(node))
            elif read == list(node.input):
                self.joins[node.name] = node
                self._close(self._result(node))

    def _take_skips(self) -> None:
        """Where only inputs get pairs, let each sum that follows a weighted operator read its skip branch as integers.

        The other branch has none in between, so that operator and sum are one kernel. Where both come from weighted
        operators, it is the longer one, as the shortcut of a stage has one operator and the branch beside it several.
        (As TensorRT's and ModelOpt's documentation of explicit quantization ask for.)
        """
        if "Add" not in self.profile.quantized_ops:
            return
        depths = self._depths()
        for node in self._allowed(("Add",)):
            read = self._activations(node)
            fusable = [name for name in read if self._is_weighted_result(name)]
            if len(set(read)) == 2 and read == list(node.input) and fusable:
                main = max(fusable, key=lambda name: depths.get(name, 0))
                self.skips[node.name] = next(name for name in read if name != main)
                self.joins[node.name] = node
                self.quantized.add(self.skips[node.name])

    def _is_weighted_result(self, tensor: str) -> bool:
        """Whether a weighted operator makes the tensor for one reader alone."""
        node = self.wiring.producers.get(tensor)
        return node is not None and node.name in self.weighted and self.wiring.sole_reader(tensor) is not None

    def _depths(self) -> dict[str, int]:
        """Tensor → the weighted operators on the longest way to it."""
        depths: dict[str, int] = {}
        for node in self.wiring.nodes.values():
            depth = max((depths.get(name, 0) for name in node.input), default=0) + (node.name in self.weighted)
            depths |= dict.fromkeys(node.output, depth)
        return depths

    def _drop_unneeded(self) -> None:
        """Leave in float the operators whose integers nobody reads, the last ones first."""
        for name in reversed([name for name in self.wiring.nodes if name in self.joins or name in self.moves]):
            node = self.wiring.nodes[name]
            results = [self._result(node)] if name in self.joins else self._moved(node)
            readers = [reader.name for each in results for reader in self.wiring.readers[each]]
            ends = self.profile.integer_outputs and not self.wiring.outputs.isdisjoint(results)
            if not ends and not any(map(self._reads_integers, readers)):
                self.joins.pop(name, None)
                self.moves.pop(name, None)
                self.quantized.difference_update(results)
                self.closed.difference_update(results)
        if self.profile.quantize_residual:
            self.quantized.update(tensor for node in self.joins.values() for tensor in self._activations(node))

    def _roots(self) -> tuple[dict[str, str], dict[str, str]]:
        """Tensor → root, of the pairs and of the second pairs: those of a prescribed range that is not that of all."""
        roots, others = dict[str, str](), dict[str, str]()
        made = {name for node in self.moves.values() for name in self._moved(node)}
        for first, group in self._groups().items():
            ranges = {name: self._prescribed(name) for name in group if name not in made}
            apart = [name for name, prescribed in ranges.items() if prescribed and len({*ranges.values()}) > 1]
            root = next(name for name in (first, *group) if name not in apart)
            roots |= {name: name if name in apart else root for name in group}
            others |= dict.fromkeys(apart, root)
        return roots, others

    def _prescribed(self, tensor: str) -> tuple[float, float] | None:
        node = self.wiring.producers.get(tensor)
        return None if node is None else self.profile.fixed_ranges.get(node.op_type)

    def _groups(self) -> dict[str, list[str]]:
        """The first of a few tensors → all of them: what operators that move values read and make."""
        roots = {tensor: tensor for tensor in self.order if tensor in self.quantized}

        def find(tensor: str) -> str:
            return tensor if roots[tensor] == tensor else find(roots[tensor])

        for node in self.moves.values():
            first, *others = [*self._activations(node), *self._moved(node)]
            for other in others:
                if find(other) != find(first):
                    roots[find(other)] = find(first)
        groups: dict[str, list[str]] = {}
        for tensor in roots:
            groups.setdefault(find(tensor), []).append(tensor)
        return groups

    def _pair(self, tensor: str, root: str, others: Collection[str]) -> Pair:
        closed = tensor in self.closed
        names = [
            node.name for node in self.wiring.readers[tensor]
            if (closed or self._reads_integers(node.name)) and self.skips.get(node.name, tensor) == tensor
        ]  # fmt: skip
        elsewhere = self.moves if tensor in others else ()
        readers = tuple(name for name in names if name not in elsewhere and not self._moves_integers(name))
        return Pair(tensor, root, readers, leaves=closed and tensor in self.wiring.outputs)

    def _second_pair(self, tensor: str, root: str) -> Pair:
        names = [node.name for node in self.wiring.readers[tensor] if node.name in self.moves]
        return Pair(tensor, root, tuple(name for name in names if not self._moves_integers(name)))

    def _float_nodes(self) -> Iterable[str]:
        integer = [self.wiring.nodes[name] for name in (*self.weighted, *self.joins)]
        fused = {each.name for node in integer if self._result(node) in self.quantized for each in self._fused(node)}
        for node in self.wiring.nodes.values():
            floats = any(self.wiring.is_float(name) for name in node.output)
            moves = node.op_type in self.profile.passthrough_ops
            if floats and not moves and not self._reads_integers(node.name) and node.name not in fused:
                yield node.name

    def _reads_integers(self, name: str) -> bool:
        return name in self.weighted or name in self.joins or name in self.moves

    def _moves_integers(self, name: str) -> bool:
        node = self.moves.get(name)
        return node is not None and node.op_type in self.profile.integer_moves and len(self._activations(node)) == 1

    def _allowed(self, operators: Collection[str]) -> Iterable[onnx.NodeProto]:
        for node in self.wiring.nodes.values():
            if node.op_type in operators and node.domain in ("", "ai.onnx") and not self._kept_float(node):
                yield node

    def _kept_float(self, node: onnx.NodeProto) -> bool:
        return node.name in self.keep_float or node.op_type in self.keep_float

    def _activations(self, node: onnx.NodeProto) -> list[str]:
        return [name for name in node.input if self.wiring.is_activation(name)]

    def _moved(self, node: onnx.NodeProto) -> list[str]:
        return [name for name in node.output if self.wiring.is_float(name)]

    def _close(self, *tensors: str) -> None:
        self.quantized.update(tensors)
        self.closed.update(tensors)

    def _fused(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto, ...]:
        """The nodes of the activation that is folded into `node`, if one is."""
        found = self.wiring.activation_of(node.output[0], self.profile.fused_activations)
        if any(map(self._kept_float, found)):
            return ()
        bounds_known = all(name in self.wiring.constants for each in found[:1] for name in each.input[1:] if name)
        return found if bounds_known else ()

    def _result(self, node: onnx.NodeProto) -> str:
        """The tensor that gets the pair of a node's output: behind the activation, if one is folded into it."""
        return str((node, *self._fused(node))[-1].output[0])

    def _weighted(self, node: onnx.NodeProto) -> Weighted | None:
        """How a node with a weight is quantized, or None where its integers would not mean the same."""
        activation, weight, bias = (*node.input, "")[:3]
        array, bias_array = self.wiring.array(weight), self.wiring.array(bias)
        if array is None or not self.wiring.is_float(weight) or not self.wiring.is_activation(activation):
            return None
        if (node.op_type == "Gemm" and not is_plain_gemm(node)) or (node.op_type == "MatMul" and array.ndim != 2):
            return None
        axis = self.profile.weight_axes[node.op_type]
        if node.op_type == "Gemm" and attribute(node, "transB", 0):
            axis = 1 - axis
        channels = array.shape[axis] * (attribute(node, "group", 1) if node.op_type == "ConvTranspose" else 1)
        if bias and (bias_array is None or bias_array.shape not in ((channels,), (1, channels))):
            return None
        if not self._is_worth_it(node, array.shape, channels):
            return None
        return Weighted(node.name, activation, weight, bias or None, axis if self.per_channel else None)

    def _is_worth_it(self, node: onnx.NodeProto, shape: tuple[int, ...], channels: int) -> bool:
        """Whether the target has an integer kernel for so few channels that is no slower than its float one."""
        least, multiple = self.profile.least_channels, self.profile.channel_multiple
        group = attribute(node, "group", 1)
        if group > 1:
            return not least or (channels % multiple == 0 and min(shape[2:], default=1) >= 3)
        fewest = min(shape[:2])
        return fewest >= least or all(size % multiple == 0 for size in shape[:2])


def _only_moves(node: onnx.NodeProto, wiring: Wiring) -> bool:
    """Whether the node makes no new values: padding is with zeros, which every scale holds; nothing overshoots."""
    if node.op_type == "Resize":
        return bool(attribute(node, "mode", b"nearest") != b"cubic")
    if node.op_type != "Pad" or attribute(node, "mode", b"constant") != b"constant":
        return True
    if len(node.input) < 3 or not node.input[2]:
        return True
    value = wiring.array(node.input[2])
    return value is not None and not bool(np.any(value))
