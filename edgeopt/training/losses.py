"""What a network is trained towards: the labels, and what a teacher thinks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from edgeopt.network import name_outputs

#: (inputs, labels or None, logits) → a scalar; labels are class indices, or the probabilities of all classes
Loss = Callable[[Sequence[torch.Tensor], torch.Tensor | None, torch.Tensor], torch.Tensor]


def logits_of(network: nn.Module, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The first output of a network, shape (N, classes), in float32: auxiliary outputs come after it."""
    return next(iter(name_outputs(network(*inputs)).values())).float()


@dataclass(frozen=True)
class LabelLoss:
    """The cross-entropy of the labels, of which all classes get the share `smoothing` alike.

    After Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016.
    """

    smoothing: float = 0.0

    def __call__(
        self, inputs: Sequence[torch.Tensor], labels: torch.Tensor | None, logits: torch.Tensor
    ) -> torch.Tensor:
        assert labels is not None
        return functional.cross_entropy(logits, labels, label_smoothing=self.smoothing)


label_loss = LabelLoss()


@dataclass(frozen=True)
class DistillationLoss:
    """`weight` for what the teacher thinks, softened by `temperature`, and the rest for the labels if there are any.

    The teacher's part is multiplied by the temperature squared, so that its gradients keep their size. After Hinton et
    al., "Distilling the Knowledge in a Neural Network", 2015.
    """

    teacher: nn.Module
    temperature: float
    weight: float
    labels: LabelLoss = label_loss

    def __call__(
        self, inputs: Sequence[torch.Tensor], labels: torch.Tensor | None, logits: torch.Tensor
    ) -> torch.Tensor:
        with torch.no_grad():
            wanted = functional.log_softmax(logits_of(self.teacher, inputs) / self.temperature, dim=1)
        found = functional.log_softmax(logits / self.temperature, dim=1)
        taught = functional.kl_div(found, wanted, reduction="batchmean", log_target=True) * self.temperature**2
        if labels is None:
            return taught
        return self.weight * taught + (1 - self.weight) * self.labels(inputs, labels, logits)
