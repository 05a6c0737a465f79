"""How much is lost as one group after another loses channels: the curve of each group, by running the network.

The loss is how far the outputs move from those of the whole network (Kullback-Leibler divergence of its answers), which
needs no labels. Normalizations are taken to have found their statistics again, as they will have in what follows;
nothing else is repaired, so a curve shows more than fine-tuning will leave. Which group can spare channels, and which
cannot, it shows all the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from edgeopt.data import Samples
from edgeopt.pruning.divergence import Divergence
from edgeopt.pruning.groups import Choice, Group
from edgeopt.pruning.removal import make_edits, mask_channels
from edgeopt.pruning.selection import keep_best

#: shares of a group's channels that are taken away, one after the other
SHARES = (0.125, 0.25, 0.5, 0.75, 0.875)

#: the same of a branch, which stays or goes
WHOLE = (1.0,)


class Curve:
    """The loss of one group by the share of its channels that is gone; it never falls."""

    def __init__(self, group: str, shares: Sequence[float], losses: Sequence[float]) -> None:
        self.group = group
        self.shares = (0.0, *shares)
        self.losses = tuple(float(value) for value in np.maximum.accumulate([0.0, *losses]))

    def at(self, share: float) -> float:
        """The loss with that share gone, in a line between those that were tried, and on beyond the last."""
        if share <= self.shares[-1]:
            return float(np.interp(share, self.shares, self.losses))
        (x0, x1), (y0, y1) = self.shares[-2:], self.losses[-2:]
        return y1 + (y1 - y0) * (share - x1) / (x1 - x0)


def scan(
    network: nn.Module,
    groups: Sequence[Group],
    scores: Sequence[torch.Tensor],
    samples: Samples,
    macs: int,
    tell: Callable[[float], None],
) -> list[Curve]:
    """The curve of each group, on samples spread evenly over the split.

    Args:
        scores: the importance of each group's channels: the least important go first.
        macs: of one sample.
        tell: how far it is, from 0 to 1.
    """
    divergence = Divergence(network, samples, macs, len(groups) * len(SHARES), renewed=True)
    curves = []
    for number, (group, score) in enumerate(zip(groups, scores, strict=True)):
        losses, shares = [], WHOLE if group.silenced else SHARES
        for share in shares:
            least = 0 if group.silenced else group.blocks
            kept = max(least, round((1 - share) * group.size) // group.blocks * group.blocks)
            masked = copy.deepcopy(network)
            mask_channels(masked, make_edits(network, [Choice(group, keep_best(group, score, kept))]))
            losses.append(divergence.of(masked))
        curves.append(Curve(group.name, shares, losses))
        tell((number + 1) / len(groups))
    return curves
