"""Which channels stay, given their importance.

Numbers of channels are rounded up to a multiple, because kernels compute in such multiples: a channel beyond the last
full one costs as much as a full one, so nothing is lost that would not make the network faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch

from edgeopt.pruning.groups import Choice, Group

Scope = Literal["local", "global"]


def select_channels(
    groups: Sequence[Group],
    scores: Sequence[torch.Tensor],
    *,
    ratio: float,
    scope: Scope,
    round_to: int,
    min_channels: int,
) -> list[Choice]:
    """The channels of each group that stay: its best, as many as `scope`, rounding and `min_channels` let it keep.

    `local` takes the same ratio from each group; `global` ranks the channels of all groups together, so that a group
    may lose nearly all or none. `scores` have shape (group.size,) each.
    """
    shares = [1 - ratio] * len(groups) if scope == "local" else share_globally(scores, ratio)
    return [
        Choice(group, keep_best(group, score, count_kept(group, share, round_to, min_channels)))
        for group, score, share in zip(groups, scores, shares, strict=True)
    ]


def share_globally(scores: Sequence[torch.Tensor], ratio: float) -> list[float]:
    """The share of each group that stays when the ratio holds for the channels of all groups, ranked together."""
    if not scores:
        return []
    ranked = torch.cat(list(scores)).sort().values
    least = ranked[min(round(ratio * len(ranked)), len(ranked) - 1)]
    return [float((score >= least).double().mean()) for score in scores]


def count_kept(group: Group, share: float, round_to: int, min_channels: int) -> int:
    """How many channels of a group stay when `share` of them should: rounded up, evenly over its blocks."""
    unit = math.lcm(round_to, group.blocks)
    wanted = max(math.ceil(share * group.size - 1e-9), min_channels)  # an error in the last digit adds no channel
    return min(math.ceil(wanted / unit) * unit, group.size)


def keep_best(group: Group, scores: torch.Tensor, count: int) -> tuple[int, ...]:
    """The `count` best channels, increasing, as many from each block; the earlier of two equal ones."""
    width = group.size // group.blocks
    order = scores.view(group.blocks, width).argsort(dim=1, descending=True, stable=True)
    best = order[:, : count // group.blocks] + width * torch.arange(group.blocks)[:, None]
    return tuple(sorted(int(channel) for channel in best.flatten()))
