"""The counts of channels that each group may keep, and what is lost at each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgeopt.pruning.allocation import Option
from edgeopt.pruning.groups import Group
from edgeopt.pruning.sensitivity import Curve

#: counts of one group that are weighed against those of others; more would say little more
MOST_OPTIONS = 24


def list_counts(group: Group, round_to: int, min_channels: int, max_ratio: float) -> list[int]:
    """The counts that a group may keep, rising to all of its channels.

    Args:
        round_to: counts are multiples of it, and spread evenly over the group's blocks.
        max_ratio: of its channels no more than this share may go.
    """
    unit = math.lcm(round_to, group.blocks)
    least = max(min_channels, math.ceil((1 - max_ratio) * group.size), group.blocks)
    first = min(math.ceil(least / unit) * unit, group.size)
    step = max(1, math.ceil((group.size - first) / unit / (MOST_OPTIONS - 1))) * unit
    return sorted({*range(first, group.size, step), group.size})


def weigh_counts(group: Group, curve: Curve, counts: Sequence[int]) -> list[Option]:
    """The options of a group: each count with its loss by the group's curve."""
    return [Option(count, curve.at(1 - count / group.size)) for count in counts]
