"""What a group loses at each count of channels that it may keep: what `allocation` chooses among."""

from __future__ import annotations

from collections.abc import Sequence

from edgeopt.pruning.allocation import Option
from edgeopt.pruning.groups import Group
from edgeopt.pruning.sensitivity import Curve


def weigh_counts(group: Group, curve: Curve, counts: Sequence[int]) -> list[Option]:
    """The options of a group: each count with its loss by the group's curve."""
    return [Option(count, curve.at(1 - count / group.size)) for count in counts]
