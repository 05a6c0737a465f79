"""By how sharply the loss bends around a channel's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from edgeopt.pruning.importance import Evidence, Importance

if TYPE_CHECKING:
    import torch


class Fisher(Importance):
    """w² · (∂L/∂w)², summed batch by batch: the second order of the loss in a minimum, where the gradient is no help.

    The saliency is that of LeCun et al., "Optimal Brain Damage" (NeurIPS 1989), ½ h w², with the diagonal of the
    Hessian taken to be that of the Fisher information, as in Theis et al., "Faster gaze prediction with dense networks
    and Fisher pruning" (2018). Sums of squares let single strong weights speak louder than `taylor` does.
    """

    needs: ClassVar[Literal["nothing", "samples", "labels"]] = "labels"

    def score(self, evidence: Evidence) -> list[torch.Tensor]:
        from edgeopt.pruning.saliency import score_weights, weigh_gradients

        assert evidence.samples is not None
        saliency = weigh_gradients(evidence.network, evidence.samples, power=2)
        return [score_weights(evidence.network, group, saliency) for group in evidence.groups]
