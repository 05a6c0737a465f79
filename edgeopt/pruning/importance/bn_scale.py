"""By the factor that the normalization behind a channel gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeopt.pruning.importance import Evidence, Importance

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgeopt.pruning.groups import Group, Member


class BnScale(Importance):
    """|γ| of batch normalizations (Liu et al., "Learning Efficient Convolutional Networks through Network Slimming",
    ICCV 2017). It says nothing of a group without one; it says most where training pulled the factors towards 0."""

    def score(self, evidence: Evidence) -> list[torch.Tensor | None]:
        return [_score(evidence.network, group) for group in evidence.groups]


def _score(network: nn.Module, group: Group) -> torch.Tensor | None:
    import torch

    from edgeopt.pruning.saliency import to_mean_one

    found = [scale for member in group.members if (scale := _scale(network, member)) is not None]
    return torch.stack([to_mean_one(scale) for scale in found]).sum(0) if found else None


def _scale(network: nn.Module, member: Member) -> torch.Tensor | None:
    from torch.nn.modules.batchnorm import _BatchNorm

    from edgeopt.pruning.saliency import gather

    module = network.get_submodule(member.module)
    if not isinstance(module, _BatchNorm) or module.weight is None:
        return None
    return gather(module.weight.detach().abs(), member)
