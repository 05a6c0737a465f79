"""Groups of channels that can only be removed together, found by tracing a network.

A sum ties the channels of its terms together, a concatenation shifts them, a flatten multiplies them. Torch-Pruning's
dependency graph knows these rules (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023); this file turns
its groups into plain data, in channel numbers of the network as it is.
"""

from __future__ import annotations

import copy
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

#: kinds of nodes that pass channels on and hold none
STRUCTURE = {
    OPTYPE.CONCAT, OPTYPE.SPLIT, OPTYPE.ELEMENTWISE, OPTYPE.RESHAPE, OPTYPE.UNBIND, OPTYPE.EXPAND, OPTYPE.SLICE,
    OPTYPE.OUTPUT,
}  # fmt: skip


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
        name: the first module that makes these channels.
        size: the number of channels.
        blocks: as many channels must stay in each of this many equal stretches (grouped convolutions).
        members: the axes that the group consists of.
        obstacle: why it cannot be pruned; empty where nothing is known to stand against it.
    """

    name: str
    size: int
    blocks: int
    members: tuple[Member, ...]
    obstacle: str = ""


@dataclass(frozen=True)
class Choice:
    """What shall become of a group: the numbers of its channels that stay, increasing."""

    group: Group
    kept: tuple[int, ...]


def find_groups(network: nn.Module, inputs: Sequence[torch.Tensor], ignore: Sequence[str] = ()) -> list[Group]:
    """All groups of `network` in the order of its modules, but those that its outputs consist of.

    Groups with a module in or below `ignore` get an obstacle. The network is left as it was.

    Raises:
        PassError: the network cannot be traced, has no groups, or has no module of a name in `ignore`.
    """
    traced = copy.deepcopy(network).eval().requires_grad_(True)  # autograd is what is traced: frozen is invisible to it
    names = {id(module): name for name, module in traced.named_modules()}
    unknown = next((name for name in ignore if name not in names.values()), None)
    if unknown is not None:
        raise PassError(f"the network has no module `{unknown}` to ignore", did_you_mean(unknown, names.values()))
    found = [group for group in _trace(traced, names, inputs) if not any(item.is_output for item in group)]
    if not found:
        raise PassError("no channels of the network can be pruned", "take `prune_channels` out of `passes:`")
    order = {name: number for number, name in enumerate(names.values())}
    return sorted((_make_group(items, order, ignore) for items in found), key=lambda group: order[group.name])


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
        self.is_structure = node.type in STRUCTURE
        makes = is_depthwise(node.module) or graph.is_out_channel_pruning_fn(entry.dep.handler)
        self.axis = "out" if makes else "in"
        self.pairs = list(zip(entry.root_idxs, entry.idxs, strict=True))
        whole_output = node.type == OPTYPE.OUTPUT and node.module.shape[1:2] == [len(self.pairs)]
        self.is_output = whole_output or (makes and not self.is_structure and not node.outputs)

    def member(self, size: int) -> Member:
        channels = defaultdict(list)
        for root, channel in self.pairs:
            channels[root].append(channel)
        return Member(self.name, self.axis, tuple(tuple(sorted(channels[root])) for root in range(size)))

    def obstacle(self, ignore: Sequence[str]) -> str:
        if not isinstance(self.module, SLICEABLE):
            return f"`{self.name}` is a {type(self.module).__name__}" if self.name else "it holds a bare parameter"
        if any(f"{self.name}.".startswith(f"{ignored}.") for ignored in ignore) and self.axis == "out":
            return f"`{self.name}` is ignored"
        lost = not {channel for _, channel in self.pairs} <= set(range(count_channels(self.module, self.axis)))
        return f"its channels cannot be followed to `{self.name}`" if lost else ""


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
    obstacle = next((found for item in holding if (found := item.obstacle(ignore))), "")
    grouped = [getattr(item.module, "groups", 1) for item in holding if not is_depthwise(item.module)]
    blocks = 1 if obstacle else math.lcm(*grouped)
    if size % blocks:
        obstacle = f"its {size} channels cannot be spread evenly over {blocks} groups of a convolution"
    makers = [item.name for item in items if item.axis == "out" and item.name]
    return Group(
        name=min(makers, key=order.__getitem__),
        size=size,
        blocks=blocks,
        members=() if obstacle else tuple(item.member(size) for item in holding),
        obstacle=obstacle,
    )
