"""One layer as two thinner ones: which two come closest at a rank, and how much of the layer they keep.

A layer's weights are a matrix between what it reads and what it makes. Its best approximation of a lower rank keeps the
principal directions of what it makes, and which those are depends on what it reads. By weights alone all inputs count
alike (singular value decomposition: Denton et al. 2014, and Jaderberg et al. 2014 for a kernel's columns and rows). By
the moments of samples those count that samples hold, and the mean response is kept in the bias (Zhang et al. 2016).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeopt.edits.factor import make_factors
from edgeopt.errors import PassError
from edgeopt.reshaping.moments import Moments, Rows, columns, responses

#: what must be known of samples for each scheme
NEEDS: dict[str, Rows] = {"channel": responses, "linear": responses, "spatial": columns}

#: how much weights alone count beside samples: enough that what no sample has shown is kept last, but is kept
UNSEEN = 1e-6

#: smallest eigenvalue that is told from zero, as a share of the largest
LEAST = 1e-9


class Factoring:
    """A layer and all its approximations by one scheme.

    Args:
        moments: of samples, of what `NEEDS` says for the scheme; None: all inputs count alike.

    Raises:
        PassError: the scheme does not fit the layer.
    """

    def __init__(self, layer: nn.Module, scheme: str, moments: Moments | None = None) -> None:
        #: what is lost of the mean response goes into the bias, even if the layer has none
        self.bias = moments is not None or getattr(layer, "bias", None) is not None
        if make_factors(layer, scheme, 1, self.bias) is None:
            raise PassError(f"a {type(layer).__name__} has no factors by `{scheme}`")
        self.layer, self.scheme = layer, scheme
        self._matrix = _matrix(layer, scheme)
        spread, self._mean = _spread(self._matrix, scheme, moments)
        values, vectors = torch.linalg.eigh(spread)
        self._values, self._vectors = values.flip(0).clamp(min=0), vectors.flip(1)
        self.full_rank = min(self._matrix.shape)

    def energy(self, rank: int) -> float:
        """The share that is kept at a rank: of the variance of responses, or of the squared weights."""
        total = float(self._values.sum())
        return float(self._values[:rank].sum()) / total if total else 1.0

    def rank_for(self, energy: float, round_to: int = 1) -> int:
        """The least rank that keeps so much, rounded up to a multiple, and at most the full one."""
        rank = next((rank for rank in range(1, self.full_rank) if self.energy(rank) >= energy), self.full_rank)
        return min(self.full_rank, -(-rank // round_to) * round_to)

    @torch.no_grad()
    def make(self, rank: int) -> nn.Sequential:
        """The two layers with their weights: they compute what the layer does where the rank is full."""
        factors = make_factors(self.layer, self.scheme, rank, self.bias)
        assert factors is not None  # as `__init__` found out
        vectors, weights = self._vectors[:, :rank], [factor.get_parameter("weight") for factor in factors]
        # The root of each size on either side: channels of like ranges between the two suit integers and training.
        floor = LEAST * float(self._values[0]) or 1.0
        scale = self._values[:rank].clamp(min=floor) ** 0.25
        left, right = vectors * scale, vectors.T @ self._matrix / scale[:, None]
        if self.scheme == "spatial":
            left = left.unflatten(0, (len(weights[1]), -1)).transpose(1, 2)
        weights[0].copy_(right.reshape(weights[0].shape))
        weights[1].copy_(left.reshape(weights[1].shape))
        if self.bias:
            lost = self._mean - vectors @ (vectors.T @ self._mean)
            own = 0.0 if self.layer.bias is None else self.layer.get_parameter("bias")
            factors[1].get_parameter("bias").copy_(own + lost.unflatten(0, (len(weights[1]), -1)).sum(1))
        return factors.eval()


def _matrix(layer: nn.Module, scheme: str) -> Tensor:
    """(outputs, inputs · kernel), or for `spatial` (outputs · width, inputs · height)."""
    weight = layer.get_parameter("weight").detach().double()
    return weight.permute(0, 3, 1, 2).flatten(2).flatten(0, 1) if scheme == "spatial" else weight.flatten(1)


def _spread(matrix: Tensor, scheme: str, moments: Moments | None) -> tuple[Tensor, Tensor]:
    """(rows, rows) the covariance of what the rows of a matrix give, and (rows,) its mean."""
    blind = matrix @ matrix.T
    if moments is None:
        return blind, matrix.new_zeros(len(matrix))
    spread, mean = moments.covariance, moments.mean
    if scheme == "spatial":  # moments are of the inputs, and a kernel's columns are taken to see independent ones
        spread, mean = matrix @ spread @ matrix.T, matrix @ mean
    return spread + UNSEEN * float(spread.trace() / blind.trace().clamp(min=1e-30)) * blind, mean
