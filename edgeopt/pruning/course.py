"""A network on its way to what it is pruned for, in one round or in several.

Each round aims at a share that falls geometrically, and looks at the network as it then is: its groups are traced,
weighed and tried anew, since what a channel matters changes once others are gone and the rest was trained. What every
round is measured against is the network as given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import onnx
import torch
from torch import nn

from edgeopt.clock import make_clock
from edgeopt.context import Context, Memo
from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.exporting import export_graph
from edgeopt.model import Edit, Model, Value
from edgeopt.network import count_macs, make_network
from edgeopt.pruning.branches import find_branches
from edgeopt.pruning.costs import LayerCosts
from edgeopt.pruning.divergence import Divergence
from edgeopt.pruning.goal import Pruned, Pruning
from edgeopt.pruning.groups import Group, find_groups
from edgeopt.pruning.importance import KIND, Evidence, weigh_channels
from edgeopt.pruning.layers import Widths, find_layers
from edgeopt.pruning.limits import Limits
from edgeopt.pruning.options import weigh_counts
from edgeopt.pruning.removal import mask
from edgeopt.pruning.retraining import open_retraining
from edgeopt.pruning.selection import Scope, select_channels
from edgeopt.pruning.sensitivity import FEWER_SHARES, SHARES, Curve, scan
from edgeopt.pruning.soundness import keep_sound, make_inputs
from edgeopt.pruning.timing import TargetTime
from edgeopt.pruning.yardstick import FileSize, Operations, Parameters, Yardstick
from edgeopt.registry import resolve

#: what layers' times are kept under, whatever the data: another recipe may have the same layer
TIMES = "times of layers"

Tell = Callable[[float], None]


@dataclass(frozen=True)
class Aims:
    """What to prune for.

    Attributes:
        goal: the cost that is limited and to what, as `latency` and 0.5; None: `ratio` of the channels go.
        retrain: steps of training before a try is judged.
    """

    ratio: float | None
    goal: tuple[str, float] | None
    rounds: int
    importance: str
    scope: Scope
    drop_blocks: bool
    retrain: int
    ignore: tuple[str, ...]
    round_to: int
    min_channels: int
    max_ratio: float | Mapping[str, float]


class Round(Value):
    """What one round did, by names of groups: plain data, so that a round need not be repeated.

    Attributes:
        kept: how many channels stay.
        loss: by the curves; predicted, measured: the cost as a share of that of the network as given.
        curves: what is lost with ever more of a group's channels gone, at `shares`.
        by_l2: groups that the chosen importance had nothing to say of.
    """

    edits: tuple[Edit, ...]
    kept: dict[str, int]
    left_whole: dict[str, str]
    loss: float = 0.0
    predicted: float = 1.0
    measured: float | None = None
    curves: dict[str, tuple[float, ...]] = {}
    shares: tuple[float, ...] = ()
    by_l2: tuple[str, ...] = ()


class Course:
    """All rounds of one network.

    Raises:
        PassError: nothing of it can be pruned, or a name in the aims is none of its modules.
        BuildError: the network cannot be built or run on the target that the goal is of.
    """

    def __init__(self, aims: Aims, model: Model, context: Context) -> None:
        self.aims, self._model, self._context = aims, model, context
        self._whole = make_network(model)
        self._inputs = make_inputs(model.inputs, 2, context.seed)
        self._single = make_inputs(model.inputs, 1, context.seed)
        context.progress("finding groups of channels", 0.0)
        groups = find_groups(self._whole, self._inputs, aims.ignore)
        self.groups = [*(group for group in groups if not group.obstacle), *self._find_branches(self._whole)]
        if aims.goal is not None and not self.groups:
            reason = f"`{groups[0].name}`: {groups[0].obstacle}" if groups else "it has none that could go"
            hint = "take `prune_channels` out of `passes:`"
            raise PassError(f"no channels of the network can be pruned: {reason}", hint)
        given = {name: group.size for group in self.groups for name in (group.name, *group.layers)}
        self._limits = Limits(aims.round_to, aims.min_channels, aims.max_ratio, given)
        self._limits.check_names(name for name, _ in self._whole.named_modules())
        self._widths = Widths(find_layers(self._whole, self._single), self.groups)
        self.yardstick = self._make_yardstick(_part(context, "timing layers on the target", 0.0, 0.3))

    def prune(self, network: nn.Module, number: int, context: Context) -> Round:
        """Round `number`, from 1, on the network as the one before left it; nothing is changed.

        Raises:
            PassError: the goal cannot be met; says how far it gets.
            BuildError: the network cannot be built or run on the target.
        """
        groups = find_groups(network, self._inputs, self.aims.ignore)
        free = [group for group in groups if not group.obstacle]
        context.progress("weighing channels", 0.3)
        weighed = weigh_channels(self.aims.importance, self._evidence(network, free, context))
        if self.aims.goal is None:
            made = self._by_ratio(network, free, weighed.scores, number)
        else:
            branches = self._find_branches(network)
            scores = [*weighed.scores, *(torch.ones(1, dtype=torch.float64) for _ in branches)]
            made = self._by_goal(network, [*free, *branches], scores, number, context)
        obstacles = {group.name: group.obstacle for group in groups if group.obstacle}
        return made.model_copy(update={"left_whole": obstacles | made.left_whole, "by_l2": weighed.by_l2})

    def savings(self, kept: Mapping[str, int]) -> dict[str, float]:
        """What each group's loss of channels alone saves, as a share of the whole cost."""
        costs, full = self.yardstick.foresee(self._whole, self._widths), self._widths.full
        found = {}
        for at, group in enumerate(self.groups):
            alone = [*full[:at], kept.get(group.name, group.size), *full[at + 1 :]]
            found[group.name] = (costs.total(full) - costs.total(alone)) / self.yardstick.whole
        return found

    def _find_branches(self, network: nn.Module) -> list[Group]:
        if self.aims.goal is None or not self.aims.drop_blocks:
            return []
        return find_branches(network, self._inputs, self.aims.ignore)

    def _share(self) -> float:
        """The share of the whole cost, or of the channels, that all rounds together aim at."""
        if self.aims.goal is None:
            assert self.aims.ratio is not None
            return 1 - self.aims.ratio
        kind, value = self.aims.goal
        return value / self.yardstick.whole if kind == "latency_ms" else value

    def _share_after(self, number: int) -> float:
        share = self._share()
        return share if share >= 1 else share ** (number / self.aims.rounds)

    def _make_yardstick(self, tell: Tell) -> Yardstick:
        kind, context = self.aims.goal[0] if self.aims.goal else "macs", self._context
        if kind == "macs":
            return Operations(self._widths)
        if kind == "parameters":
            return Parameters(self._whole)
        if kind == "bytes":
            return FileSize(self._whole, self._export, context.profile, half=context.half)
        memo = None if context.memo is None else Memo(context.memo.folder, TIMES)
        clock = make_clock(context)
        return TargetTime(self._whole, self._widths, clock, self._export, memo, self.aims.round_to, tell)

    def _export(self, network: nn.Module) -> onnx.ModelProto:
        return export_graph(network, self._model, self._context.seed)

    def _evidence(self, network: nn.Module, groups: Sequence[Group], context: Context) -> Evidence:
        samples = samples_for(resolve(KIND, self.aims.importance).needs, self.aims.importance, context)
        return Evidence(network, groups, samples, context.seed)

    def _by_ratio(
        self, network: nn.Module, groups: Sequence[Group], scores: Sequence[torch.Tensor], number: int
    ) -> Round:
        share = self._share_after(number)
        choices = select_channels(groups, scores, share=share, scope=self.aims.scope, limits=self._limits)
        sound = keep_sound(network, choices, self._inputs, self._export)
        sizes = {choice.group.name: len(choice.kept) for choice in choices}
        kept = {group.name: group.size if group.name in sound.left_whole else sizes[group.name] for group in groups}
        return Round(edits=sound.edits, kept=kept, left_whole=sound.left_whole)

    def _by_goal(
        self, network: nn.Module, groups: Sequence[Group], scores: Sequence[torch.Tensor], number: int,
        context: Context,
    ) -> Round:  # fmt: skip
        """What meets the goal, or the part of it that falls to this round, at the least loss."""
        curves = self._scan(network, groups, scores, context)
        options = [
            weigh_counts(group, curve, self._limits.list_counts(group))
            for group, curve in zip(groups, curves, strict=True)
        ]
        costs = self._foresee(network, groups)
        pruning = Pruning(network, self._inputs, groups, scores, options, costs, self.yardstick, self._export)
        tell = _part(context, "measuring the pruned network", 0.7, 1.0)
        if number < self.aims.rounds:
            found = pruning.approach(self._share_after(number), self._share())
        else:
            found = pruning.meet(self._share_after(number), tell)
        return _make_round(groups, curves, self._shares, found)

    def _scan(
        self, network: nn.Module, groups: Sequence[Group], scores: Sequence[torch.Tensor], context: Context
    ) -> list[Curve]:
        tell, shares = _part(context, "trying each group with fewer channels", 0.3, 0.7), self._shares
        macs, looks = count_macs(network, self._single), len(groups) * len(shares)
        divergence = Divergence(network, _any_samples(context), macs, looks, renewed=True)
        if not self.aims.retrain:
            return scan(groups, scores, partial(mask, network), shares, divergence, tell)
        assert context.training is not None  # `prune_channels` requires it
        with open_retraining(network, self._inputs, context.training, self.aims.retrain, context) as retraining:
            return scan(groups, scores, retraining.without, shares, divergence, tell)

    @property
    def _shares(self) -> tuple[float, ...]:
        return FEWER_SHARES if self.aims.retrain else SHARES

    def _foresee(self, network: nn.Module, groups: Sequence[Group]) -> LayerCosts:
        return self.yardstick.foresee(network, Widths(find_layers(network, self._single), groups))


def _make_round(groups: Sequence[Group], curves: Sequence[Curve], shares: tuple[float, ...], found: Pruned) -> Round:
    kept = dict(zip((group.name for group in groups), found.kept, strict=True))
    whole = {
        group.name: found.failed.get(group.name) or group.tell("the goal is met with all of its channels")
        for group in groups
        if kept[group.name] == group.size and (not group.silenced or group.name in found.failed)
    }
    return Round(
        edits=found.sound.edits, kept=kept, left_whole=whole, loss=found.loss, predicted=found.predicted,
        measured=found.measured, curves={curve.group: curve.losses[1:] for curve in curves}, shares=shares,
    )  # fmt: skip


def samples_for(needs: str, importance: str, context: Context) -> Samples | None:
    """The samples that a kind of importance looks at.

    Raises:
        PassError: the recipe has none.
    """
    if needs == "nothing":
        return None
    if needs == "samples":
        return _any_samples(context)
    for samples in (context.training, context.calibration):
        if samples is not None and samples.labels() is not None:
            return samples
    raise PassError(
        f"`{importance}` importance needs labels, and neither the training nor the calibration split has any",
        "set `importance: l2`, or add labels",
    )


def _any_samples(context: Context) -> Samples:
    for samples in (context.calibration, context.training):
        if samples is not None:
            return samples
    raise PassError("channels are tried on samples, and the recipe has none", "add `data.calibration`")


def _part(context: Context, text: str, low: float, high: float) -> Tell:
    """Tells how far one part of the work is that takes the progress from `low` to `high`."""
    return lambda fraction: context.progress(text, low + fraction * (high - low))
