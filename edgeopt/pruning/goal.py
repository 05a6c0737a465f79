"""Prune to a goal: the counts of channels that meet it at the least loss, shown to meet it by running the result.

What can be counted is arithmetic. What must be measured, such as time, is met by measuring and by nothing else: the
costs that are foreseen say which counts should meet the goal, the network with those is measured, and what was foreseen
wrongly is put right before the next try.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from edgeopt.edits import apply_edit
from edgeopt.errors import PassError
from edgeopt.model import Edit
from edgeopt.pruning.allocation import Option, allocate
from edgeopt.pruning.costs import LayerCosts
from edgeopt.pruning.groups import Choice, Group
from edgeopt.pruning.selection import keep_best
from edgeopt.pruning.soundness import Export, Sound, keep_sound
from edgeopt.pruning.yardstick import Yardstick

#: tries to meet a goal by measuring, and how far below it a result may lie and be close enough
TRIES, CLOSE = 8, 0.975

#: shares of the channels with which a network is measured first, to learn from
LEARNED_FROM = (0.5, 0.25)


@dataclass(frozen=True)
class Pruned:
    """What was chosen.

    Attributes:
        sound: its edits.
        kept: channels of each group.
        failed: why groups could not lose the channels that they were to lose, by name.
        loss: by the curves of all groups together.
        predicted, measured: its cost as a share of that of the network as given; `measured` where it was.
    """

    sound: Sound
    kept: tuple[int, ...]
    loss: float
    predicted: float
    measured: float | None = None
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pruning:
    """A network and all that a choice of counts is made from; `costs` are in the unit of `yardstick`."""

    network: nn.Module
    inputs: Sequence[torch.Tensor]
    groups: Sequence[Group]
    scores: Sequence[torch.Tensor]
    options: Sequence[Sequence[Option]]
    costs: LayerCosts
    yardstick: Yardstick
    export: Export | None = None

    def meet(self, share: float, tell: Callable[[float], None]) -> Pruned:
        """The least loss at so large a share of what the network as given costs, or less.

        Raises:
            PassError: it cannot be met; says how far it gets, and at which loss.
            BuildError: the network cannot be built or run on the target.
        """
        if self.yardstick.exact or share >= 1:
            return self.choose(share)
        learned = self
        for each in LEARNED_FROM:
            counts = [
                1 if group.silenced else min(options, key=lambda option: abs(option.count - each * group.size)).count
                for group, options in zip(self.groups, self.options, strict=True)
            ]
            learned = learned._learn(learned._measure(learned._prune(counts)))
        return learned._search(share, tell)

    def approach(self, share: float, goal: float) -> Pruned:
        """A step on the way to a goal: what is foreseen to cost so much, or the fewest channels that there may be.

        Raises:
            PassError: the goal cannot be met, not by any further step either; says how far it gets, and at which loss.
            BuildError: the network cannot be built or run on the target.
        """
        pruning = self
        if self._share(self._fewest) > goal:  # so it is foreseen; where the least meets the goal, that was wrong
            pruning = self._learn(self._settle_for_least(goal))
        try:
            return pruning.choose(share)
        except PassError:
            return pruning._prune(self._fewest)

    def _search(self, share: float, tell: Callable[[float], None]) -> Pruned:
        pruning, asked, best = self, share, None
        for number in range(TRIES):
            try:
                chosen = pruning.choose(asked)
            except PassError:
                if best is not None:
                    break  # nothing closer to the goal is foreseen
                chosen = pruning._settle_for_least(share)  # what was foreseen is wrong where this meets the goal
            if best is not None and chosen.kept == best.kept:
                break  # nothing more is to be learned
            found = chosen if chosen.measured is not None else pruning._measure(chosen)
            measured = found.measured or 0.0
            if measured <= share and (best is None or measured > (best.measured or 0)):
                best = found
            if best is not None and (best.measured or 0) >= CLOSE * share:
                break
            pruning = pruning._learn(found)
            off = pruning._share(found.kept) / measured  # what learning leaves wrong
            asked = share * off * (0.99 if measured > share else 1.0)
            tell((number + 1) / TRIES)
        return best or pruning._settle_for_least(share)

    def _settle_for_least(self, share: float) -> Pruned:
        """The network with the fewest channels, where nothing else meets the goal."""
        found = self._prune(self._fewest)
        if not self.yardstick.exact:
            found = self._measure(found)
        cost = found.predicted if found.measured is None else found.measured
        if cost > share:
            raise self._unreachable(share, cost, found.loss)
        return found

    @property
    def _fewest(self) -> list[int]:
        return [group[0].count for group in self.options]

    def choose(self, share: float) -> Pruned:
        """The least loss at a share by what is foreseen.

        Groups that turn out not to hold keep all their channels, and the others make up for it.

        Raises:
            PassError: it cannot be met.
        """
        options, failed = [list(group) for group in self.options], dict[str, str]()
        while True:
            kept = allocate(options, self.costs, share * self.yardstick.whole)
            if kept is None:
                least = [group[0].count for group in options]
                raise self._unreachable(share, self._share(least), self._loss(least))
            found = self._prune(kept)
            fresh = [at for at, count in enumerate(kept) if count < found.kept[at]]
            if not fresh:
                return dataclasses.replace(found, failed=failed)
            for at in fresh:
                options[at] = options[at][-1:]
                failed[self.groups[at].name] = found.sound.left_whole[self.groups[at].name]

    def _prune(self, kept: Sequence[int]) -> Pruned:
        """The choice itself, with groups that do not hold left whole; what it then costs."""
        choices = [
            Choice(group, keep_best(group, score, count))
            for group, score, count in zip(self.groups, self.scores, kept, strict=True)
        ]
        sound = keep_sound(self.network, choices, self.inputs, self.export)
        held = tuple(
            group.size if group.name in sound.left_whole else count
            for group, count in zip(self.groups, kept, strict=True)
        )
        return Pruned(sound, held, self._loss(held), self._share(held))

    def _measure(self, found: Pruned) -> Pruned:
        measured = self.yardstick.measure(apply_edits(self.network, found.sound.edits))
        return dataclasses.replace(found, measured=measured)

    def _learn(self, found: Pruned) -> Pruning:
        assert found.measured is not None
        return dataclasses.replace(self, costs=self.yardstick.learn(self.costs, found.kept, found.measured))

    def _share(self, kept: Sequence[int]) -> float:
        return self.costs.total(kept) / self.yardstick.whole

    def _loss(self, kept: Sequence[int]) -> float:
        chosen = zip(self.options, kept, strict=True)
        return sum(next((each.loss for each in group if each.count == count), 0.0) for group, count in chosen)

    def _unreachable(self, share: float, reached: float, loss: float) -> PassError:
        stick = self.yardstick
        what = f"the goal of {share:.3g} of what the network costs ({stick.show(share)}) cannot be met: {reached:.2f} "
        what += f"({stick.show(reached)}) is the least, and loses {loss:.2g} nats of its answers"
        return PassError(what, "aim higher, or lower `min_channels`, raise `max_ratio`, take names out of `ignore`")


def apply_edits(network: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    """A copy of the network with the edits replayed on it."""
    edited = copy.deepcopy(network)
    for edit in edits:
        apply_edit(edited, edit)
    return edited
