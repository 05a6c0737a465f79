"""Which single weights stay, where a share of them all is to become zero.

By magnitude after Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015.
Where all layers are ranked together, the square of a weight counts as a share of what would be left of its layer with
it (Lee et al., "Layer-Adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021): a normalization behind a layer
makes the scale of its weights mean nothing, and no layer loses all.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

Scores = Mapping[str, torch.Tensor]


def keep_largest(scores: Scores, sparsity: float, *, together: bool) -> dict[str, torch.Tensor]:
    """Layer → mask, of the scores' shape, that is false at `sparsity` of the weights: those with the lowest scores.

    Args:
        together: of all layers; else of each. Of equal ones the first go.
    """
    if not together:
        return {name: _keep(score, sparsity) for name, score in scores.items()}
    whole = _keep(torch.cat([score.flatten() for score in scores.values()]), sparsity)
    parts = torch.split(whole, [score.numel() for score in scores.values()])
    return {name: part.view_as(score) for (name, score), part in zip(scores.items(), parts, strict=True)}


def adapt_to_layer(squares: torch.Tensor) -> torch.Tensor:
    """Squared weights of one layer, each as a share of the sum of itself and all larger ones, in the same shape."""
    flat = squares.flatten().double()
    order = flat.argsort(descending=True, stable=True)
    shares = torch.empty_like(flat)
    shares[order] = flat[order] / flat[order].cumsum(0).clamp(min=torch.finfo(torch.float64).tiny)
    return shares.view_as(squares)


def _keep(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    going = scores.flatten().argsort(stable=True)[: round(sparsity * scores.numel())]
    mask = torch.ones(scores.numel(), dtype=torch.bool)
    mask[going] = False
    return mask.view_as(scores)
