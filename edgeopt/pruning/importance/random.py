"""By the throw of a die: the control that every other kind has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeopt.pruning.importance import Evidence, Importance

if TYPE_CHECKING:
    import torch


class Random(Importance):
    """Uniform numbers that follow from the seed."""

    def score(self, evidence: Evidence) -> list[torch.Tensor]:
        import torch

        generator = torch.Generator().manual_seed(evidence.seed)
        return [torch.rand(group.size, generator=generator, dtype=torch.float64) for group in evidence.groups]
