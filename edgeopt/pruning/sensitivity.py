"""How much is lost as one group after another loses channels: the curve of each group, by running the network.

The loss is how far the outputs move from those of the whole network (Kullback-Leibler divergence of its answers), which
needs no labels. Normalizations are taken to have found their statistics again, as they will have in what follows. No
more is repaired, unless each try is trained a little first (`retraining`): so a curve shows more than fine-tuning will
leave, and may put groups in a wrong order where much goes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from edgeopt.pruning.divergence import Divergence
from edgeopt.pruning.groups import Choice, Group
from edgeopt.pruning.selection import keep_best

#: shares of a group's channels that are taken away, one after the other
SHARES = (0.125, 0.25, 0.5, 0.75, 0.875)

#: the same where a try costs more; at the last ones losses rise steeply, and no line tells how far
FEWER_SHARES = (0.25, 0.5, 0.75, 0.875)

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


#: what the network is without the channels and branches that choices leave out
Remove = Callable[[Sequence[Choice]], nn.Module]


def scan(
    groups: Sequence[Group],
    scores: Sequence[torch.Tensor],
    remove: Remove,
    shares: Sequence[float],
    divergence: Divergence,
    tell: Callable[[float], None],
) -> list[Curve]:
    """The curve of each group.

    Args:
        scores: the importance of each group's channels: the least important go first.
        remove: what it makes of the network when nothing goes counts as no loss.
        shares: of a group's channels that are taken away, one after the other.
        tell: how far it is, from 0 to 1.
    """
    unavoidable = divergence.of(remove(()))
    curves = []
    for number, (group, score) in enumerate(zip(groups, scores, strict=True)):
        losses, tried = [], WHOLE if group.silenced else shares
        for at, share in enumerate(tried):
            least = 0 if group.silenced else group.blocks
            kept = max(least, round((1 - share) * group.size) // group.blocks * group.blocks)
            without = remove([Choice(group, keep_best(group, score, kept))])
            losses.append(max(0.0, divergence.of(without) - unavoidable))
            tell((number + (at + 1) / len(tried)) / len(groups))
        curves.append(Curve(group.name, tried, losses))
    return curves
