"""By how strongly a channel answers to samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from edgeopt.pruning.importance import Evidence, Importance

if TYPE_CHECKING:
    import torch

    from edgeopt.pruning.groups import Group
    from edgeopt.pruning.saliency import Activations


class Activation(Importance):
    """The mean magnitude of what the layers behind a channel read of it, which needs no labels.

    After Hu et al., "Network Trimming" (2016), who count how often an activation is zero: a mean tells a channel that
    seldom answers from one that answers often, and also one that always answers faintly.
    """

    needs: ClassVar[Literal["nothing", "samples", "labels"]] = "samples"

    def score(self, evidence: Evidence) -> list[torch.Tensor | None]:
        from edgeopt.pruning.saliency import measure_activations

        assert evidence.samples is not None
        readers = {member.module for group in evidence.groups for member in group.members if member.axis == "in"}
        activations = measure_activations(evidence.network, readers, evidence.samples)
        return [_score(group, activations) for group in evidence.groups]


def _score(group: Group, activations: Activations) -> torch.Tensor | None:
    import torch

    from edgeopt.pruning.saliency import gather, to_mean_one

    readers = [member for member in group.members if member.axis == "in" and member.module in activations]
    if not readers:
        return None
    return torch.stack([to_mean_one(gather(activations[member.module], member)) for member in readers]).sum(0)
