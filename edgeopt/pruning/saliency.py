"""What weights and activations matter, and how that adds up to a number for each channel of a group.

What the kinds of `importance` share. A channel's number is a sum over every member of its group.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
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

#: parameter name → what each weight matters, in the parameter's shape
Saliency = Mapping[str, torch.Tensor]

#: module name → (channels,) the mean magnitude of what it reads
Activations = Mapping[str, torch.Tensor]

#: how many samples are looked at, and how many at a time
SAMPLES = 256
BATCH = 16


def weigh_magnitude(network: nn.Module, kind: Magnitude) -> Saliency:
    """Parameter name → |w| or w², in the parameter's shape."""
    power = {"l1": 1, "l2": 2}[kind]
    return {name: weight.detach().abs() ** power for name, weight in _weights(network).items()}


def weigh_gradients(network: nn.Module, samples: Samples, power: int) -> Saliency:
    """Parameter name → |w · ∂L/∂w| to the given power, summed over batches of labelled samples.

    L is the cross-entropy. The samples are spread evenly over the split, which may be sorted by class.

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
                saliency[name] += (weight.detach() * gradient).abs() ** power
    if not all(bool(values.isfinite().all()) for values in saliency.values()):
        raise PassError("the gradients that channels are weighed by are not finite", "set `importance: l2`")
    return saliency


@torch.inference_mode()
def measure_activations(network: nn.Module, modules: Collection[str], samples: Samples) -> Activations:
    """The mean magnitude, over samples and positions, of each channel that a module reads; none of one never run."""
    network = copy.deepcopy(network).eval()
    totals, counts = dict[str, torch.Tensor](), dict[str, int]()

    def watch(name: str) -> None:
        def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            channels = -1 if isinstance(module, nn.Linear) else 1
            rows = inputs[0].abs().double().movedim(channels, 0).flatten(1)
            totals[name] = totals.get(name, torch.zeros(len(rows), dtype=torch.float64)) + rows.sum(1)
            counts[name] = counts.get(name, 0) + rows.shape[1]

        network.get_submodule(name).register_forward_pre_hook(note)

    for name in modules:
        watch(name)
    for batch in samples.spread(SAMPLES).batches(BATCH):
        network(*(torch.from_numpy(batch.inputs[name]) for name in samples.inputs))
    return {name: total / counts[name] for name, total in totals.items()}


def score_weights(network: nn.Module, group: Group, saliency: Saliency) -> torch.Tensor:
    """The importance of each channel of a group by its weights: float64 of shape (size,) and mean 1.

    Each member is brought to mean 1 before they are added, so that a member with many weights does not speak for all,
    and the channels of different groups can be ranked together.
    """
    return to_mean_one(torch.stack([_score_member(network, member, saliency) for member in group.members]).sum(0))


def gather(per_channel: torch.Tensor, member: Member) -> torch.Tensor:
    """(size,) float64: of each channel of the group, the sum over those channels of the module that go with it."""
    values = per_channel.double()
    return torch.stack([values[list(channels)].sum() for channels in member.channels])


def to_mean_one(scores: torch.Tensor) -> torch.Tensor:
    """The scores divided by their mean, unless that is 0."""
    return scores / scores.mean() if scores.mean() > 0 else scores


def _score_member(network: nn.Module, member: Member, saliency: Saliency) -> torch.Tensor:
    module = network.get_submodule(member.module)
    scores = torch.zeros(len(member.channels), dtype=torch.float64)
    for name, _ in module.named_parameters(recurse=False):
        view = view_channels(module, member.axis, saliency[f"{member.module}.{name}"])
        if view is not None:
            rows = view.double().flatten(0, 1).flatten(1).sum(1) if view.dim() > 2 else view.double().flatten()
            scores += gather(rows, member)
    return to_mean_one(scores)


def _weights(network: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters by all of their names: one that two modules share has two."""
    return dict(network.named_parameters(remove_duplicate=False))
