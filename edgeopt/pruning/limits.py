"""The counts of channels that each group may keep."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgeopt.errors import PassError, did_you_mean
from edgeopt.pruning.groups import Group

#: counts of one group that are weighed against those of others; more would say little more
MOST_OPTIONS = 24

#: the key of a mapping of ratios for all that it does not name
DEFAULT = "default"


@dataclass(frozen=True)
class Limits:
    """How many channels a group may keep.

    Attributes:
        round_to: counts are multiples of it, because kernels compute in such multiples: a channel beyond the last full
            one costs as much as a full one.
        min_channels: no group gets narrower.
        max_ratio: of its channels in the network as given, no group loses a larger share: one for all, or by the names
            of modules, with all below them, and `default`.
        given: the size of each group in the network as given, by the names of its layers, since a group is called after
            another one once its first went with a branch; of others it is the one that they have.
    """

    round_to: int
    min_channels: int
    max_ratio: float | Mapping[str, float] = 1.0
    given: Mapping[str, int] | None = None

    def size_given(self, group: Group) -> int:
        """The group's size in the network as given."""
        return (self.given or {}).get(group.name, group.size)

    def count(self, group: Group, wanted: float) -> int:
        """How many channels stay when so many should: rounded up, evenly over the group's blocks."""
        unit = math.lcm(self.round_to, group.blocks)
        most_lost = self._ratio(group) * self.size_given(group)
        least = max(self.min_channels, self.size_given(group) - math.floor(most_lost + 1e-9), group.blocks)
        # an error in the last digit adds no channel
        return min(math.ceil(max(math.ceil(wanted - 1e-9), least) / unit) * unit, group.size)

    def list_counts(self, group: Group) -> list[int]:
        """The counts that a group may keep, rising to all of its channels.

        A branch stays or goes; it stays where `max_ratio` names its block, a part of it or what is around it.
        """
        if group.silenced:
            return [1] if any(group.holds(f"{name}.") or _around(name, group.name) for name in self._named) else [0, 1]
        unit = math.lcm(self.round_to, group.blocks)
        first = self.count(group, 0)
        step = max(1, math.ceil((group.size - first) / unit / (MOST_OPTIONS - 1))) * unit
        return sorted({*range(first, group.size, step), group.size})

    def check_names(self, known: Iterable[str]) -> None:
        """See that `max_ratio` names modules that there are.

        Raises:
            PassError: one is not among `known`.
        """
        modules = [name for name in known if name]
        unknown = next((name for name in self._named if name not in modules), None)
        if unknown is not None:
            raise PassError(f"the network has no module `{unknown}` to limit", did_you_mean(unknown, modules))

    @property
    def _named(self) -> list[str]:
        """The modules that `max_ratio` names."""
        return [] if isinstance(self.max_ratio, float) else [name for name in self.max_ratio if name != DEFAULT]

    def _ratio(self, group: Group) -> float:
        """The least of those of the layers that make the group's channels."""
        if isinstance(self.max_ratio, float):
            return self.max_ratio
        makers = {member.module for member in group.members if member.axis == "out"} or {group.name}
        return min(_closest(self.max_ratio, name) for name in makers)


def _closest(ratios: Mapping[str, float], module: str) -> float:
    """The ratio that is given for a module, or for the closest one around it."""
    around = [name for name in ratios if _around(name, module)]
    return ratios[max(around, key=len)] if around else ratios.get(DEFAULT, 1.0)


def _around(name: str, module: str) -> bool:
    """Whether a module is that of this name, or below it."""
    return f"{module}.".startswith(f"{name}.")
