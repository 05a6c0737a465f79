"""The weights of a torch network that may become zero: those of convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from edgeopt.errors import PassError, did_you_mean
from edgeopt.model import Edit


def find_layers(network: nn.Module, ignore: Sequence[str] = ()) -> dict[str, _ConvNd | nn.Linear]:
    """Module name → convolution or linear layer, but those in or below `ignore`; of a shared weight the first alone.

    Whoever shares a weight with what is ignored is left out as well.

    Raises:
        PassError: the network has no module of a name in `ignore`, or a layer computes its weight from other tensors.
    """
    names = [name for name, _ in network.named_modules()]
    unknown = next((name for name in ignore if name not in names), None)
    if unknown is not None:
        raise PassError(f"the network has no module `{unknown}` to ignore", did_you_mean(unknown, names))
    layers = {name: module for name, module in network.named_modules() if isinstance(module, (_ConvNd, nn.Linear))}
    ignored = [name for name in layers if any(f"{name}.".startswith(f"{each}.") for each in ignore)]
    seen = {id(layers[name].weight) for name in ignored}
    found: dict[str, _ConvNd | nn.Linear] = {}
    for name, layer in layers.items():
        if name in ignored or id(layer.weight) in seen:
            continue
        if "weight" not in dict(layer.named_parameters(recurse=False)):
            what = f"`{name}` computes its weight from other tensors, whose zeros would not be those of the weight"
            raise PassError(what, f"add it to `ignore`: [{name}]")
        seen.add(id(layer.weight))
        found[name] = layer
    return found


@torch.no_grad()
def set_zeros(network: nn.Module, masks: Mapping[str, torch.Tensor]) -> tuple[Edit, ...]:
    """Set the weights of layers to zero, in place, where their mask is false; the edits that hold them so."""
    for name, mask in masks.items():
        network.get_submodule(name).get_parameter("weight").masked_fill_(~mask, 0.0)
    return tuple(Edit(kind="hold_zeros", module=name, arguments={}) for name in masks)


def share_of_zeros(layers: Iterable[nn.Module]) -> float:
    """Of all weights of these layers."""
    weights = [layer.get_parameter("weight").detach() for layer in layers]
    total = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / total if total else 0.0
