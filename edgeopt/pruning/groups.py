"""Groups of channels that can only be removed together, found by tracing a network.

A sum ties the channels of its terms together, a concatenation shifts them, a flatten multiplies them. Torch-Pruning's
dependency graph knows these rules (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023); this file turns
its groups into plain data, in channel numbers of the network as it is.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch_pruning import DependencyGraph
from torch_pruning.ops import OPTYPE

from edgeopt.edits.keep_channels import CHANNEL_COUNTS, SLICEABLE, is_depthwise
from edgeopt.errors import PassError, did_you_mean
from edgeopt.pruning.unseen import MAKERS, count_made, find_unseen

#: kinds of nodes that pass channels on and hold none
STRUCTURE = {
    OPTYPE.CONCAT, OPTYPE.SPLIT, OPTYPE.ELEMENTWISE, OPTYPE.RESHAPE, OPTYPE.UNBIND, OPTYPE.EXPAND, OPTYPE.SLICE,
    OPTYPE.OUTPUT,
}  # fmt: skip


#: kinds of modules that take all channels of a sample together: with fewer they compute something else than with zeros
JOINT = (nn.LayerNorm, nn.GroupNorm)

#: the obstacle of a group that the outputs consist of
OUTPUTS = "its channels are those of the outputs"


@dataclass(frozen=True)
class Member:
    """One axis of one module in a group: `channels[i]` are its channels that go when channel i of the group goes."""

    module: str
    axis: str
    channels: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Group:
    """Channels that go together.

    Attributes:
        name: the first layer that makes these channels.
        size: the number of channels.
        blocks: as many channels must stay in each of this many equal stretches (grouped convolutions).
        members: the axes that the group consists of.
        obstacle: why it cannot be pruned; empty where nothing is known to stand against it.
        layers: all layers that make these channels, its first among them.
        silenced: of a residual branch, which goes as a whole and so counts as one channel: the layer whose zeros take
            it out. Its name is that of the block; see `branches`.
    """

    name: str
    size: int
    blocks: int
    members: tuple[Member, ...]
    obstacle: str = ""
    layers: tuple[str, ...] = ()
    silenced: str = ""

    def holds(self, layer: str) -> bool:
        """Whether a layer goes when this residual branch does."""
        return bool(self.silenced) and layer.startswith(f"{self.name}.")

    def tell(self, reason: str) -> str:
        """A reason for leaving it whole, with the layers beside its first that are left with it."""
        others = ", ".join(f"`{layer}`" for layer in self.layers if layer != self.name)
        return f"{reason} (tied to it: {others})" if others else reason


@dataclass(frozen=True)
class Choice:
    """What shall become of a group: the numbers of its channels that stay, increasing."""

    group: Group
    kept: tuple[int, ...]


def find_groups(network: nn.Module, inputs: Sequence[torch.Tensor], ignore: Sequence[str] = ()) -> list[Group]:
    """All groups of `network` in the order of its modules, but layers that make nothing but its outputs.

    Groups with a module in or below `ignore` get an obstacle, and so do layers that a trace does not come to: each
    layer that makes channels is in some group, or its channels are the outputs. The network is left as it was.

    Raises:
        PassError: the network cannot be traced, has no groups, or has no module of a name in `ignore`.
    """
    traced = copy.deepcopy(network).eval().requires_grad_(True)  # autograd is what is traced: frozen is invisible to it
    names = _name_parts(traced)
    unknown = next((name for name in ignore if name not in dict(traced.named_modules())), None)
    if unknown is not None:
        known = dict(traced.named_modules())
        raise PassError(f"the network has no module `{unknown}` to ignore", did_you_mean(unknown, known))
    order = {name: number for number, name in enumerate(names.values())}
    found = [_make_group(items, order, ignore) for items in _trace(traced, names, inputs)]
    seen = {layer for group in found for layer in group.layers}
    unseen = find_unseen(traced, inputs, seen)
    found += [_make_unseen(traced.get_submodule(name), name, reason) for name, reason in unseen.items()]
    groups = [group for group in found if group.obstacle != OUTPUTS or len(group.layers) > 1]
    if not groups:
        raise PassError("no channels of the network can be pruned", "take `prune_channels` out of `passes:`")
    return sorted(groups, key=lambda group: order[group.name])


def count_channels(module: nn.Module, axis: str) -> int:
    """How many channels a sliceable module has along an axis."""
    return next(int(getattr(module, name)) for name in CHANNEL_COUNTS[axis] if hasattr(module, name))


def describe(error: Exception) -> str:
    """What a network raised, in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


class _Item:
    """One entry of a group of torch-pruning, read out: `pairs` are (channel of the group, channel of the module)."""

    def __init__(self, graph: Any, names: dict[int, str], entry: Any) -> None:
        node = entry.dep.target
        self.module, self.name = node.module, names.get(id(node.module), "")
        self.is_structure = node.type in STRUCTURE or _is_shared(node.module)
        makes = is_depthwise(node.module) or graph.is_out_channel_pruning_fn(entry.dep.handler)
        self.axis = "out" if makes else "in"
        self.pairs = list(zip(entry.root_idxs, entry.idxs, strict=True))
        self.is_last = makes and not self.is_structure and not node.outputs
        self.output = tuple(node.module.shape) if node.type == OPTYPE.OUTPUT else ()
        self.is_layer = makes and isinstance(node.module, MAKERS)

    def member(self, size: int) -> Member:
        channels = defaultdict(list)
        for root, channel in self.pairs:
            channels[root].append(channel)
        return Member(self.name, self.axis, tuple(tuple(sorted(channels[root])) for root in range(size)))

    def obstacle(self, ignore: Sequence[str]) -> str:
        kind = type(self.module).__name__
        if isinstance(self.module, nn.Parameter):
            return f"`{self.name}` is a parameter outside of the layers that can be narrowed"
        if isinstance(self.module, JOINT):
            return f"`{self.name}`, a {kind}, takes all channels together"
        if not isinstance(self.module, SLICEABLE):
            return f"`{self.name}` ({kind}) cannot be narrowed"
        if any(f"{self.name}.".startswith(f"{ignored}.") for ignored in ignore) and self.axis == "out":
            return f"`{self.name}` is ignored"
        lost = not {channel for _, channel in self.pairs} <= set(range(count_channels(self.module, self.axis)))
        return f"its channels cannot be followed to `{self.name}`" if lost else ""


def _is_shared(module: nn.Module) -> bool:
    """Whether all channels share one slope, so that there is nothing to cut."""
    return isinstance(module, nn.PReLU) and module.num_parameters == 1


def _name_parts(network: nn.Module) -> dict[int, str]:
    """The names of all modules and parameters, by their ids, in the order of the modules."""
    names = {id(module): name for name, module in network.named_modules()}
    return names | {id(parameter): name for name, parameter in network.named_parameters()}


def _trace(network: nn.Module, names: dict[int, str], inputs: Sequence[torch.Tensor]) -> list[list[_Item]]:
    try:
        with torch.enable_grad():
            graph = DependencyGraph().build_dependency(network, inputs, forward_fn=_forward, verbose=False)
            return [[_Item(graph, names, entry) for entry in group] for group in graph.get_all_groups()]
    except Exception as error:  # a foreign network may raise anything here; it is told, not swallowed
        message = f"the network cannot be traced for pruning: {describe(error)}"
        raise PassError(message, "take `prune_channels` out of `passes:`") from error


def _forward(network: nn.Module, inputs: Sequence[torch.Tensor]) -> Any:
    return network(*inputs)


def _make_group(items: list[_Item], order: dict[str, int], ignore: Sequence[str]) -> Group:
    size = len(items[0].pairs)
    holding = [item for item in items if not item.is_structure]
    layers = tuple(sorted({item.name for item in items if item.is_layer}, key=order.__getitem__))
    group = Group(layers[0], size, blocks=1, members=(), layers=layers)
    obstacle = next((found for item in holding if (found := item.obstacle(ignore))), "")
    if any(_is_output(item, items[0]) for item in items):
        return dataclasses.replace(group, obstacle=group.tell(OUTPUTS))
    if obstacle:
        return dataclasses.replace(group, obstacle=group.tell(obstacle))
    blocks = math.lcm(*(getattr(item.module, "groups", 1) for item in holding if not is_depthwise(item.module)))
    if size % blocks:
        obstacle = f"its {size} channels cannot be spread evenly over {blocks} groups of a convolution"
        return dataclasses.replace(group, obstacle=group.tell(obstacle))
    return dataclasses.replace(group, blocks=blocks, members=tuple(item.member(size) for item in holding))


def _is_output(item: _Item, root: _Item) -> bool:
    """Whether the channels of a group come out here: as the first layer made them, or averaged to (N, channels)."""
    if not item.output:
        return item.is_last
    return item.output[1:2] == (len(item.pairs),) and len(item.output) in (2, root.module.weight.dim())


def _make_unseen(module: nn.Module, name: str, reason: str) -> Group:
    return Group(name, count_made(module), blocks=1, members=(), obstacle=reason, layers=(name,))
