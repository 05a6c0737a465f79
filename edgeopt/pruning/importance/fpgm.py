"""By how far a filter lies from what the others could stand in for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeopt.pruning.importance import Evidence, Importance

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgeopt.pruning.groups import Group, Member


class Fpgm(Importance):
    """The sum of a filter's distances from all others of its layer, small near their geometric median (He et al.,
    "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration", CVPR 2019).

    Only what makes the channels is looked at. A filter of zeros makes nothing, and is the least wherever others lie.
    """

    def score(self, evidence: Evidence) -> list[torch.Tensor | None]:
        return [_score(evidence.network, group) for group in evidence.groups]


def _score(network: nn.Module, group: Group) -> torch.Tensor | None:
    import torch

    from edgeopt.pruning.saliency import to_mean_one

    found = [each for member in group.members if (each := _distances(network, member)) is not None]
    return torch.stack([to_mean_one(each) for each in found]).sum(0) if found else None


def _distances(network: nn.Module, member: Member) -> torch.Tensor | None:
    """(size,) of one layer; None where the member makes no channels of its own."""
    import torch

    from edgeopt.edits.keep_channels import view_channels
    from edgeopt.pruning.saliency import gather

    module = network.get_submodule(member.module)
    weight = getattr(module, "weight", None)
    if member.axis != "out" or weight is None or weight.dim() < 2:
        return None
    view = view_channels(module, "out", weight.detach().double())
    assert view is not None
    filters = view.flatten(0, 1).flatten(1)
    return gather(torch.cdist(filters, filters).sum(1) * filters.any(1), member)
