"""How much each channel of a group matters: the sum of what its weights matter, over every member of the group.

A weight matters by its size (`l1`: |w|, `l2`: w², after Li et al., "Pruning Filters for Efficient ConvNets", 2017) or
by what the loss is expected to change without it (`taylor`: |w · ∂L/∂w|, after Molchanov et al., "Importance Estimation
for Neural Network Pruning", CVPR 2019).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from edgeopt.data import Samples
from edgeopt.edits.keep_channels import view_channels
from edgeopt.errors import PassError
from edgeopt.network import name_outputs
from edgeopt.pruning.groups import Group, Member

Magnitude = Literal["l1", "l2"]
Saliency = Mapping[str, torch.Tensor]

#: how many samples the gradients of `taylor` are taken on, and how many at a time
SAMPLES = 256
BATCH = 16


def weigh_magnitude(network: nn.Module, kind: Magnitude) -> Saliency:
    """Parameter name → |w| or w², in the parameter's shape."""
    power = {"l1": 1, "l2": 2}[kind]
    return {name: weight.detach().abs() ** power for name, weight in _weights(network).items()}


def weigh_taylor(network: nn.Module, samples: Samples) -> Saliency:
    """Parameter name → |w · ∂L/∂w| summed over batches of labelled samples; L is the cross-entropy.

    It is summed batch by batch because a trained network stands where the gradient over all samples is near zero. The
    samples are spread evenly over the split, which may be sorted by class.

    Raises:
        PassError: the gradients are not finite.
    """
    network = copy.deepcopy(network).eval().requires_grad_(True)
    weights = _weights(network)
    saliency = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for batch in samples.spread(SAMPLES).batches(BATCH):
        logits = network(*(torch.from_numpy(batch.inputs[name]) for name in samples.inputs))
        loss = functional.cross_entropy(next(iter(name_outputs(logits).values())), torch.from_numpy(batch.labels))
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            if gradient is not None:
                saliency[name] += (weight.detach() * gradient).abs()
    if not all(bool(values.isfinite().all()) for values in saliency.values()):
        raise PassError("the gradients for `taylor` importance are not finite", "set `importance: l2`")
    return saliency


def _weights(network: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters by all of their names: one that two modules share has two."""
    return dict(network.named_parameters(remove_duplicate=False))


def score_channels(network: nn.Module, group: Group, saliency: Saliency) -> torch.Tensor:
    """The importance of each channel of a group: float64 of shape (size,) and mean 1.

    Each member is brought to mean 1 before they are added, so that a member with many weights does not speak for all,
    and the channels of different groups can be ranked together.
    """
    return _to_mean_one(torch.stack([_score_member(network, member, saliency) for member in group.members]).sum(0))


def _score_member(network: nn.Module, member: Member, saliency: Saliency) -> torch.Tensor:
    module = network.get_submodule(member.module)
    scores = torch.zeros(len(member.channels), dtype=torch.float64)
    for name, _ in module.named_parameters(recurse=False):
        view = view_channels(module, member.axis, saliency[f"{member.module}.{name}"])
        if view is not None:
            per_channel = view.double().flatten(0, 1).flatten(1).sum(1) if view.dim() > 2 else view.double().flatten()
            scores += torch.stack([per_channel[list(channels)].sum() for channels in member.channels])
    return _to_mean_one(scores)


def _to_mean_one(scores: torch.Tensor) -> torch.Tensor:
    return scores / scores.mean() if scores.mean() > 0 else scores
