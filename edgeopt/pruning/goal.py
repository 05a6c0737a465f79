"""Prune to a goal: the counts of channels that meet it at the least loss, shown to meet it by running the result.

A goal in operations or weights is arithmetic. A goal in time is met by the target's clock and by nothing else: the
table says which counts should meet it, the network with those is timed beside the whole one, in turns, and what the
table had wrong in all is put right before the next try.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
import torch
from torch import nn

from edgeopt.clock import Clock
from edgeopt.edits import apply_edit
from edgeopt.errors import PassError
from edgeopt.pruning.allocation import Option, allocate
from edgeopt.pruning.costs import LayerCosts
from edgeopt.pruning.groups import Choice, Group
from edgeopt.pruning.selection import keep_best
from edgeopt.pruning.soundness import Sound, keep_sound

#: tries to meet a goal in time, and how far below it a result may lie and be close enough
TRIES, CLOSE = 5, 0.93


@dataclass(frozen=True)
class Pruned:
    """What was chosen.

    Attributes:
        sound: its edits, and what was left whole.
        kept: channels of each group.
        predicted, measured: its cost as a share of the whole network's; `measured` by the target's clock, if any.
    """

    sound: Sound
    kept: tuple[int, ...]
    predicted: float
    measured: float | None = None


@dataclass(frozen=True)
class Pruning:
    """A network and all that a choice of counts is made from."""

    network: nn.Module
    inputs: Sequence[torch.Tensor]
    groups: Sequence[Group]
    scores: Sequence[torch.Tensor]
    options: Sequence[Sequence[Option]]
    costs: LayerCosts

    def meet(self, share: float) -> Pruned:
        """The least loss at so large a share of the whole network's cost, or less.

        Raises:
            PassError: it cannot be met; says how far it gets.
        """
        whole = self.costs.total([group.size for group in self.groups])
        kept = allocate(self.options, self.costs, share * whole)
        if kept is None:
            raise self._unreachable(share)
        return self._prune(kept)

    def meet_in_time(
        self, share: float, clock: Clock, export: Callable[[nn.Module], onnx.ModelProto], tell: Callable[[float], None],
    ) -> Pruned:  # fmt: skip
        """As `meet`, for a share of the whole network's time by the target's clock.

        Args:
            export: gives the float graph of a network.

        Raises:
            PassError: it cannot be met; says how far it gets.
            BuildError: the network cannot be built or run on the target.
        """
        whole, asked, best = export(self.network), share, None
        for number in range(TRIES):
            try:
                found = self.meet(asked)
            except PassError:
                if best is None:
                    raise
                break
            pruned = copy.deepcopy(self.network)
            for edit in found.sound.edits:
                apply_edit(pruned, edit)
            found = dataclasses.replace(found, measured=clock.compare(whole, export(pruned)))
            assert found.measured is not None
            if found.measured <= share and (best is None or best.measured is None or found.measured > best.measured):
                best = found
            if best is not None and best.measured is not None and best.measured >= CLOSE * share:
                break
            asked *= share / found.measured * (0.99 if found.measured > share else 1.0)
            tell((number + 1) / TRIES)
        if best is None:
            raise self._unreachable(share)
        return best

    def _prune(self, kept: Sequence[int]) -> Pruned:
        """The choice itself, with groups that do not hold left whole; what it then costs."""
        choices = [
            Choice(group, keep_best(group, score, count))
            for group, score, count in zip(self.groups, self.scores, kept, strict=True)
        ]
        sound = keep_sound(self.network, choices, self.inputs)
        held = [
            group.size if group.name in sound.left_whole else count
            for group, count in zip(self.groups, kept, strict=True)
        ]
        whole = self.costs.total([group.size for group in self.groups])
        return Pruned(sound, tuple(held), self.costs.total(held) / whole)

    def _unreachable(self, share: float) -> PassError:
        least = self.costs.total([group[0].count for group in self.options])
        reached = least / self.costs.total([group.size for group in self.groups])
        what = f"the goal of {share:g} of what the network costs cannot be met: {reached:.2f} is the least"
        hint = "aim higher, or lower `min_channels`, raise `max_ratio`, take names out of `ignore`"
        return PassError(what, hint)
