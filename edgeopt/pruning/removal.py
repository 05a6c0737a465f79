"""One choice of channels and branches, said twice: as structure edits, and as a mask on the network as it is."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn

from edgeopt.edits.keep_channels import view_channels
from edgeopt.model import Edit
from edgeopt.pruning.groups import Choice, count_channels


def make_edits(network: nn.Module, choices: Iterable[Choice]) -> tuple[Edit, ...]:
    """One `keep_channels` edit per module and axis, so that each group keeps just the chosen ones of its channels.

    All channel numbers are those of `network` as it is. Branches go last, by one `drop_branch` edit each: their layers
    may have lost channels, and are not there afterwards. One inside another goes with it.
    """
    choices = list(choices)
    gone: dict[tuple[str, str], set[int]] = defaultdict(set)
    for choice in choices:
        going = set(range(choice.group.size)) - set(choice.kept)
        for member in choice.group.members:
            gone[member.module, member.axis].update(channel for i in going for channel in member.channels[i])
    branches = [choice.group for choice in choices if choice.group.silenced and not choice.kept]
    dropped = [one for one in branches if not any(other.holds(one.name) for other in branches if other is not one)]
    kept = (
        Edit(
            kind="keep_channels",
            module=module,
            arguments={"axis": axis, "channels": _others(network, module, axis, channels)},
        )
        for (module, axis), channels in gone.items()
        if channels
    )
    drops = (Edit(kind="drop_branch", module=one.name, arguments={"silenced": one.silenced}) for one in dropped)
    return (*kept, *drops)


@torch.no_grad()
def mask_channels(network: nn.Module, edits: Iterable[Edit]) -> None:
    """Set every weight to zero, in place, that the edits would remove: those that make a channel, those that read it.

    With both gone the channel has no effect whatever happens to its zeros on the way, such as sigmoid(0) = 0.5.
    """
    for edit in edits:
        if edit.kind == "drop_branch":
            silence(network.get_submodule(edit.arguments["silenced"]))
            continue
        module, axis = network.get_submodule(edit.module), edit.arguments["axis"]
        out = torch.tensor(_others(network, edit.module, axis, edit.arguments["channels"]))
        for parameter in module.parameters(recurse=False):
            view = view_channels(module, axis, parameter)
            if view is not None:
                view[out // view.shape[1], out % view.shape[1]] = 0


def mask(network: nn.Module, choices: Iterable[Choice]) -> nn.Module:
    """A copy of the network with what the choices leave out set to zero."""
    masked = copy.deepcopy(network)
    mask_channels(masked, make_edits(network, choices))
    return masked


@torch.no_grad()
def silence(layer: nn.Module) -> None:
    """Let a layer give zeros, whatever it is given: its parameters are set to zero in place."""
    for parameter in layer.parameters(recurse=False):
        parameter.zero_()


def _others(network: nn.Module, module: str, axis: str, channels: Iterable[int]) -> list[int]:
    return sorted(set(range(count_channels(network.get_submodule(module), axis))) - set(channels))
