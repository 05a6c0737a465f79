"""Which channels stay, given their importance, where all groups shall lose the same or are ranked together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from edgeopt.pruning.groups import Choice, Group
from edgeopt.pruning.limits import Limits

Scope = Literal["local", "global"]


def select_channels(
    groups: Sequence[Group], scores: Sequence[torch.Tensor], *, share: float, scope: Scope, limits: Limits
) -> list[Choice]:
    """The channels of each group that stay: its best, as many as `scope` and `limits` let it keep.

    `local` takes the same share from each group; `global` ranks the channels of all groups together, so that a group
    may lose nearly all or none. `scores` have shape (group.size,) each.

    Args:
        share: of the channels of the network as given, how many stay.
    """
    given = [limits.size_given(group) for group in groups]
    if scope == "local":
        wanted = [share * size for size in given]
    else:
        ratio = 1 - min(1.0, share * sum(given) / max(1, sum(group.size for group in groups)))
        wanted = [kept * group.size for kept, group in zip(share_globally(scores, ratio), groups, strict=True)]
    return [
        Choice(group, keep_best(group, score, limits.count(group, count)))
        for group, score, count in zip(groups, scores, wanted, strict=True)
    ]


def share_globally(scores: Sequence[torch.Tensor], ratio: float) -> list[float]:
    """The share of each group that stays when the ratio holds for the channels of all groups, ranked together."""
    if not scores:
        return []
    ranked = torch.cat(list(scores)).sort().values
    least = ranked[min(round(ratio * len(ranked)), len(ranked) - 1)]
    return [float((score >= least).double().mean()) for score in scores]


def keep_best(group: Group, scores: torch.Tensor, count: int) -> tuple[int, ...]:
    """The `count` best channels, increasing, as many from each block; the earlier of two equal ones."""
    width = group.size // group.blocks
    order = scores.view(group.blocks, width).argsort(dim=1, descending=True, stable=True)
    best = order[:, : count // group.blocks] + width * torch.arange(group.blocks)[:, None]
    return tuple(sorted(int(channel) for channel in best.flatten()))
