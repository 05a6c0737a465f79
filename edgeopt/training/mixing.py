"""Pairs of samples mixed with their labels, so that a network is taught to be in between where a sample is.

Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018: of each batch and the same batch in another order, in
one proportion that is drawn anew for each batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional


@dataclass(frozen=True)
class Mixing:
    """Each sample of a batch keeps `share` of itself; the rest is that of the sample that stands there in `order`."""

    order: torch.Tensor
    share: float

    def inputs(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Inputs (N, …), each mixed with its partner."""
        return [torch.lerp(each[self.order.to(each.device)], each, self.share) for each in inputs]

    def labels(self, labels: torch.Tensor, classes: int) -> torch.Tensor:
        """Class indices (N, …) as the probabilities (N, classes, …) of the mixture; those of a sample sum to 1."""
        exact = functional.one_hot(labels, classes).float().movedim(-1, 1)
        return torch.lerp(exact[self.order.to(exact.device)], exact, self.share)


def draw_mixing(count: int, alpha: float, generator: torch.Generator) -> Mixing:
    """An order and a share, from the beta distribution with both parameters `alpha`."""
    order = torch.randperm(count, generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    return Mixing(order, float(np.random.default_rng(seed).beta(alpha, alpha)))
