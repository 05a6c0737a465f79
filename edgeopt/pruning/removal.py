"""One choice of channels, said twice: as structure edits, and as a mask on the network as it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn

from edgeopt.edits.keep_channels import view_channels
from edgeopt.model import Edit
from edgeopt.pruning.groups import Choice, count_channels


def make_edits(network: nn.Module, choices: Iterable[Choice]) -> tuple[Edit, ...]:
    """One `keep_channels` edit per module and axis, so that each group keeps just the chosen ones of its channels.

    All channel numbers are those of `network` as it is: the order of the edits does not matter.
    """
    gone: dict[tuple[str, str], set[int]] = defaultdict(set)
    for choice in choices:
        going = set(range(choice.group.size)) - set(choice.kept)
        for member in choice.group.members:
            gone[member.module, member.axis].update(channel for i in going for channel in member.channels[i])
    return tuple(
        Edit(
            kind="keep_channels",
            module=module,
            arguments={"axis": axis, "channels": _others(network, module, axis, channels)},
        )
        for (module, axis), channels in gone.items()
        if channels
    )


@torch.no_grad()
def mask_channels(network: nn.Module, edits: Iterable[Edit]) -> None:
    """Set every weight to zero, in place, that the edits would remove: those that make a channel, those that read it.

    With both gone the channel has no effect whatever happens to its zeros on the way, such as sigmoid(0) = 0.5.
    """
    for edit in edits:
        module, axis = network.get_submodule(edit.module), edit.arguments["axis"]
        out = torch.tensor(_others(network, edit.module, axis, edit.arguments["channels"]))
        for parameter in module.parameters(recurse=False):
            view = view_channels(module, axis, parameter)
            if view is not None:
                view[out // view.shape[1], out % view.shape[1]] = 0


def _others(network: nn.Module, module: str, axis: str, channels: Iterable[int]) -> list[int]:
    return sorted(set(range(count_channels(network.get_submodule(module), axis))) - set(channels))
