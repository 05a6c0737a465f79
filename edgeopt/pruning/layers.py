"""The layers that cost something, with their shapes, and what is left of each once groups have lost channels.

What a convolution takes depends on two groups, the one that it reads and the one that it makes, so no group has a cost
of its own: a `Widths` says for every layer what a choice of channel counts, one per group, makes of it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from edgeopt.edits.keep_channels import is_depthwise
from edgeopt.pruning.groups import Group

#: the operator that a kind of layer is in a graph
OPERATORS = {"conv": "Conv", "transposed": "ConvTranspose", "linear": "Gemm"}


@dataclass(frozen=True)
class Layer:
    """A convolution or a linear layer as a forward pass of one sample meets it.

    Attributes:
        kind: `conv`, `transposed` (convolution) or `linear`.
        inputs, outputs: channels.
        kernel, stride, padding, dilation: as in the module, one number per axis; none where it is linear.
        groups: of a convolution; as many as channels where it is depthwise.
        depthwise: whether each channel sees only itself: both counts are then the same.
        size: of one input channel, (height, width); none where it is linear.
        positions: elements of one output channel.
        uses: how often a forward pass runs it.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    depthwise: bool = False
    size: tuple[int, ...] = ()
    positions: int = 1
    uses: int = 1

    def macs(self, inputs: int, outputs: int) -> int:
        """Multiply-accumulates with so many channels."""
        # each weight is used once per element of what a layer makes, or of what it takes where it is transposed
        applied = math.prod(self.size) if self.kind == "transposed" else self.positions
        return self.uses * applied * self._products(inputs, outputs)

    def weights(self, inputs: int, outputs: int) -> int:
        """Weights and biases with so many channels."""
        return self._products(inputs, outputs) + outputs

    def _products(self, inputs: int, outputs: int) -> int:
        return outputs * (1 if self.depthwise else inputs // self.groups) * math.prod(self.kernel)

    @property
    def signature(self) -> tuple[object, ...]:
        """What its time depends on, beside the channels: layers with equal ones are timed once."""
        grouped, rows = 0 if self.depthwise else self.groups, self.positions if self.kind == "linear" else 0
        return (
            self.kind, self.kernel, self.stride, self.padding, self.dilation, grouped, self.size, rows,
        )  # fmt: skip


def find_layers(network: nn.Module, inputs: Sequence[torch.Tensor]) -> list[Layer]:
    """All convolutions and linear layers that a forward pass on `inputs` runs, in the order of its modules."""
    seen: dict[str, list[tuple[torch.Size, torch.Size]]] = defaultdict(list)
    names = {id(module): name for name, module in network.named_modules()}

    def note(module: nn.Module, arguments: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        seen[names[id(module)]].append((arguments[0].shape, result.shape))

    counted = [module for module in network.modules() if isinstance(module, (_ConvNd, nn.Linear))]
    with ExitStack() as hooks, torch.inference_mode():
        for module in counted:
            hooks.enter_context(module.register_forward_hook(note))
        network.eval()(*inputs)
    return [_make_layer(name, module, seen[name]) for name, module in network.named_modules() if name in seen]


def _make_layer(name: str, module: nn.Module, shapes: list[tuple[torch.Size, torch.Size]]) -> Layer:
    given, made = shapes[0]
    if isinstance(module, nn.Linear):
        positions = max(1, made[1:-1].numel())
        return Layer(name, "linear", module.in_features, module.out_features, positions=positions, uses=len(shapes))
    assert isinstance(module, _ConvNd)
    padding = module.padding if isinstance(module.padding, tuple) else _same(module)
    kind = "transposed" if module.transposed else "conv"
    return Layer(
        name, kind, module.in_channels, module.out_channels, tuple(module.kernel_size), tuple(module.stride),
        padding, tuple(module.dilation), module.groups, is_depthwise(module), tuple(given[2:]), made[2:].numel(),
        len(shapes),
    )  # fmt: skip


def _same(module: _ConvNd) -> tuple[int, ...]:
    """`padding="same"` or `"valid"` in numbers, as far as they are even."""
    if module.padding == "valid":
        return (0,) * len(module.kernel_size)
    return tuple(d * (k - 1) // 2 for k, d in zip(module.kernel_size, module.dilation, strict=True))


class Widths:
    """Channel counts of layers, as functions of how many channels each group keeps."""

    def __init__(self, layers: Sequence[Layer], groups: Sequence[Group]) -> None:
        self.layers, self.groups = tuple(layers), tuple(groups)
        self._lost: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
        for number, group in enumerate(groups):
            for member in group.members:
                self._lost[member.module, member.axis].append((number, len(member.channels[0])))

    @property
    def full(self) -> list[int]:
        """The counts of groups that lost nothing."""
        return [group.size for group in self.groups]

    @cached_property
    def _holders(self) -> list[list[int]]:
        """Of each layer the numbers of the branches that it goes with."""
        return [[at for at, group in enumerate(self.groups) if group.holds(layer.name)] for layer in self.layers]

    @cached_property
    def touched(self) -> list[list[int]]:
        """Of each group the numbers of the layers that it changes."""
        found: list[list[int]] = [[] for _ in self.groups]
        for at, layer in enumerate(self.layers):
            for axis in ("in", "out"):
                for number, _ in self._lost.get((layer.name, axis), ()):
                    if at not in found[number]:
                        found[number].append(at)
            for number in self._holders[at]:
                found[number].append(at)
        return found

    @cached_property
    def last_of_branches(self) -> frozenset[str]:
        """The layers that give what branches add."""
        inner = ([layer.name for layer in self.layers if group.holds(layer.name)] for group in self.groups)
        return frozenset(held[-1] for held in inner if held)

    def gone(self, at: int, kept: Sequence[int]) -> bool:
        """Whether layer number `at` is gone with a branch."""
        return any(kept[number] == 0 for number in self._holders[at])

    def counts(self, layer: Layer, kept: Sequence[int]) -> tuple[int, int]:
        """Input and output channels of a layer, unless it is gone, when each group keeps so many."""
        outputs = layer.outputs - self._missing(layer.name, "out", kept)
        return (outputs if layer.depthwise else layer.inputs - self._missing(layer.name, "in", kept)), outputs

    def _missing(self, module: str, axis: str, kept: Sequence[int]) -> int:
        return sum(
            (self.groups[number].size - kept[number]) * each for number, each in self._lost.get((module, axis), ())
        )
