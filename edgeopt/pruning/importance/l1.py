"""By the size of weights: the sum of their magnitudes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeopt.pruning.importance import Evidence, Importance

if TYPE_CHECKING:
    import torch


class L1(Importance):
    """|w| over all that makes or reads a channel (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017)."""

    def score(self, evidence: Evidence) -> list[torch.Tensor]:
        from edgeopt.pruning.saliency import score_weights, weigh_magnitude

        magnitude = weigh_magnitude(evidence.network, "l1")
        return [score_weights(evidence.network, group, magnitude) for group in evidence.groups]
