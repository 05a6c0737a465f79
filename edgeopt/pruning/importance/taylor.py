"""By what the loss is expected to change without a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from edgeopt.pruning.importance import Evidence, Importance

if TYPE_CHECKING:
    import torch


class Taylor(Importance):
    """|w · ∂L/∂w|, the first order of the loss (Molchanov et al., "Importance Estimation for Neural Network Pruning",
    CVPR 2019). It is summed batch by batch, because a trained network stands where the gradient over all samples is
    near zero."""

    needs: ClassVar[Literal["nothing", "samples", "labels"]] = "labels"

    def score(self, evidence: Evidence) -> list[torch.Tensor]:
        from edgeopt.pruning.saliency import score_weights, weigh_gradients

        assert evidence.samples is not None
        saliency = weigh_gradients(evidence.network, evidence.samples, power=1)
        return [score_weights(evidence.network, group, saliency) for group in evidence.groups]
