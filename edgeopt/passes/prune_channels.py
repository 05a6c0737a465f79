"""Structured pruning: whole channels go, so that the network is smaller and faster on any runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from edgeopt.context import Context, Memo
from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.model import Facts, Form, Model, Value
from edgeopt.passes import Pass, PassResult

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgeopt.pruning.goal import Pruned, Pruning
    from edgeopt.pruning.groups import Group
    from edgeopt.pruning.soundness import Sound

#: names that the summary lists
LISTED = 3

#: what layers' times are kept under, whatever the data: another recipe may have the same layer
TIMES = "times of layers"

Share = Annotated[float, Field(gt=0, lt=1)]


class Goal(Value):
    """What is left of the network, as a share of what it costs: of one of its costs."""

    latency: Share | None = Field(default=None, description="time on the target that `on` names, at its precision")
    macs: Share | None = Field(default=None, description="multiply-accumulates")
    parameters: Share | None = Field(default=None, description="weights and biases, and with them the file's size")

    @model_validator(mode="after")
    def _check_one(self) -> Goal:
        if len(self.asked) != 1:
            raise ValueError("should be one of latency, macs and parameters, such as `{latency: 0.5}`")
        return self

    @property
    def asked(self) -> dict[str, float]:
        """The cost that is limited, and to what share."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class PruneChannels(Pass):
    """Remove the channels that matter least, in whole groups of coupled layers, and prove the result by running it.

    With `goal` the groups share out what may be lost: each is tried with ever fewer channels, which tells what it costs
    the answers, and the counts are chosen that lose least at the cost that is asked for. A goal of latency goes by the
    target's clock: layers are timed there at the counts that matter, and the pruned network beside the whole one.
    """

    accepts: ClassVar[Form] = "torch"
    produces: ClassVar[Form] = "torch"
    may_read: ClassVar[tuple[str, ...]] = ("training", "calibration")
    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["ratio"]}, {"required": ["goal"]}]})

    ratio: float | None = Field(default=None, gt=0, lt=1, description="share of the channels to remove", examples=[0.5])
    goal: Goal | None = Field(default=None, description="in place of `ratio`: what the network may cost afterwards")
    on: str | None = Field(
        default=None, description="the candidate whose clock a goal of latency goes by, as onnxruntime_cpu/int8"
    )
    importance: Literal["l1", "l2", "taylor"] = Field(
        default="taylor",
        description="what makes a channel matter: the size of its weights, or their effect on the loss (needs labels)",
    )
    scope: Literal["local", "global"] = Field(
        default="local", description="rank the channels within each group, or those of all groups together"
    )
    round_to: int = Field(default=8, ge=1, description="numbers of channels are rounded up to a multiple of this")
    min_channels: int = Field(default=8, ge=1, description="no group gets narrower than this")
    max_ratio: float = Field(default=0.9, gt=0, lt=1, description="with `goal`: no group loses more of its channels")
    ignore: tuple[str, ...] = Field(default=(), description="modules that keep their channels, with all below them")

    @model_validator(mode="after")
    def _check_aim(self) -> PruneChannels:
        if (self.ratio is None) == (self.goal is None):
            raise ValueError("should have one of `ratio` and `goal`")
        if self.on is not None and not self.clocked:
            raise ValueError("should have `on` beside a goal of latency alone")
        return self

    @property
    def clocked(self) -> bool:
        return self.goal is not None and self.goal.latency is not None

    def clocked_by(self) -> str | None:
        return (self.on or "") if self.clocked else None

    def lent(self) -> frozenset[str]:
        return super().lent() | (frozenset({"timer"}) if self.clocked else frozenset())

    def apply(self, model: Model, context: Context) -> PassResult:
        from edgeopt.edits import apply_edit
        from edgeopt.network import make_network, write_network
        from edgeopt.pruning.groups import find_groups
        from edgeopt.pruning.importance import score_channels, weigh_magnitude, weigh_taylor
        from edgeopt.pruning.soundness import make_inputs

        network = make_network(model)
        inputs = make_inputs(model.inputs, 2, context.seed)
        context.progress("finding groups of channels", 0.0)
        groups = find_groups(network, inputs, self.ignore)
        free = [group for group in groups if not group.obstacle]
        context.progress("weighing channels", 0.1)
        if self.importance == "taylor":
            saliency = weigh_taylor(network, _labelled(context))
        else:
            saliency = weigh_magnitude(network, self.importance)
        scores = [score_channels(network, group, saliency) for group in free]
        if self.goal is None:
            sound, told = self._by_ratio(network, free, scores, inputs), dict[str, str | int | float]()
        else:
            sound, told = self._by_goal(network, free, scores, inputs, model, context)
        left_whole = {group.name: group.obstacle for group in groups if group.obstacle} | sound.left_whole
        for edit in sound.edits:
            apply_edit(network, edit)
        pruned = write_network(network, model, context.folder, sound.edits)
        facts = _make_facts(model, pruned, sound.pruned, left_whole)
        if told:
            facts = {**facts, **told, "summary": f"{told['summary']}; {facts['summary']}"}
        return PassResult(pruned, bool(sound.edits), facts)

    def _by_ratio(
        self, network: nn.Module, free: Sequence[Group], scores: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]
    ) -> Sound:
        from edgeopt.pruning.selection import select_channels
        from edgeopt.pruning.soundness import keep_sound

        assert self.ratio is not None
        choices = select_channels(
            free, scores, ratio=self.ratio, scope=self.scope, round_to=self.round_to, min_channels=self.min_channels
        )
        return keep_sound(network, choices, inputs)

    def _by_goal(
        self, network: nn.Module, free: Sequence[Group], scores: Sequence[torch.Tensor],
        inputs: Sequence[torch.Tensor], model: Model, context: Context,
    ) -> tuple[Sound, dict[str, str | int | float]]:  # fmt: skip
        """What meets the goal at the least loss, and what there is to tell of it."""
        from edgeopt.clock import make_clock
        from edgeopt.exporting import export_graph
        from edgeopt.network import count_macs
        from edgeopt.pruning.costs import LayerCosts, count_parameters
        from edgeopt.pruning.costs import count_macs as macs_of
        from edgeopt.pruning.goal import Pruning
        from edgeopt.pruning.latency import make_table
        from edgeopt.pruning.layers import Widths, find_layers
        from edgeopt.pruning.options import list_counts, weigh_counts
        from edgeopt.pruning.sensitivity import scan
        from edgeopt.pruning.soundness import make_inputs

        assert self.goal is not None
        ((kind, share),) = self.goal.asked.items()
        single = make_inputs(model.inputs, 1, context.seed)
        widths = Widths(find_layers(network, single), free)
        tell = _part(context, "trying each group with fewer channels", 0.2, 0.5)
        curves = scan(network, free, scores, _samples(context), count_macs(network, single), tell)
        counts = [list_counts(group, self.round_to, self.min_channels, self.max_ratio) for group in free]
        options = [weigh_counts(*each) for each in zip(free, curves, counts, strict=True)]
        if kind == "latency":
            clock, export = make_clock(context), partial(export_graph, model=model, seed=context.seed)
            tell = _part(context, "timing layers on the target", 0.5, 0.8)
            memo = None if context.memo is None else Memo(context.memo.folder, TIMES)
            table = make_table(widths, export(network), clock, memo, self.round_to, tell)
            pruning = Pruning(network, inputs, free, scores, options, LayerCosts(widths, table.cost))
            tell = _part(context, "timing the pruned network", 0.8, 1.0)
            found = pruning.meet_in_time(share, clock, export, tell)
        else:
            cost = {"macs": macs_of, "parameters": count_parameters}[kind]
            pruning = Pruning(network, inputs, free, scores, options, LayerCosts(widths, cost))
            found = pruning.meet(share)
        return found.sound, _tell_goal(kind, share, found, pruning)


def _labelled(context: Context) -> Samples:
    for samples in (context.training, context.calibration):
        if samples is not None and samples.labels() is not None:
            return samples
    raise PassError(
        "`taylor` importance needs labels, and neither the training nor the calibration split has any",
        "set `importance: l2`, or add labels",
    )


def _samples(context: Context) -> Samples:
    for samples in (context.calibration, context.training):
        if samples is not None:
            return samples
    raise PassError("a goal takes samples to try the groups on, and the recipe has none", "add `data.calibration`")


def _part(context: Context, text: str, low: float, high: float) -> Callable[[float], None]:
    """Tells how far one part of the work is that takes the progress from `low` to `high`."""
    return lambda fraction: context.progress(text, low + fraction * (high - low))


def _tell_goal(kind: str, share: float, found: Pruned, pruning: Pruning) -> dict[str, str | int | float]:
    """What was reached, and of each group how many channels stay and what their going bought."""
    full = [group.size for group in pruning.groups]
    whole = pruning.costs.total(full)
    bought = {}
    for number, (group, count) in enumerate(zip(pruning.groups, found.kept, strict=True)):
        alone = [*full[:number], count, *full[number + 1 :]]
        saved = 100 * (1 - pruning.costs.total(alone) / whole)
        bought[group.name] = f"{group.size} → {count} channels, {saved:.1f} % alone"
    measured = "" if found.measured is None else f", measured {found.measured:.2f}×"
    facts: dict[str, str | int | float] = {f"group {name}": text for name, text in bought.items()}
    facts |= {"goal": f"{kind} {share:g}", "predicted": round(found.predicted, 4)}
    if found.measured is not None:
        facts["measured"] = round(found.measured, 4)
    return facts | {"summary": f"{kind} {found.predicted:.2f}× of the whole by the table{measured}"}


def _make_facts(before: Model, after: Model, pruned: int, left_whole: dict[str, str]) -> Facts:
    """The sizes of both models, as they are read back from their files, and which groups were left whole and why."""
    (macs_before, parameters_before), (macs_after, parameters_after) = _size(before), _size(after)
    return {
        "macs_before": macs_before,
        "macs_after": macs_after,
        "parameters_before": parameters_before,
        "parameters_after": parameters_after,
        "groups_pruned": pruned,
        "groups_left_whole": len(left_whole),
        "left_whole": "; ".join(f"{name}: {reason}" for name, reason in left_whole.items()),
        "summary": f"{macs_before / 1e6:.3g} → {macs_after / 1e6:.3g} MMACs; {_tell_groups(pruned, list(left_whole))}",
    }


def _tell_groups(pruned: int, left_whole: list[str]) -> str:
    if not left_whole:
        return f"{pruned} group{'s' * (pruned != 1)}, none left whole"
    more = f" and {len(left_whole) - LISTED} more" if len(left_whole) > LISTED else ""
    count = f"{len(left_whole)} group{'s' * (len(left_whole) != 1)}"
    return f"{count} left whole: {', '.join(left_whole[:LISTED])}{more}"


def _size(model: Model) -> tuple[int, int]:
    """Multiply-accumulates of one sample, and parameters."""
    from edgeopt.network import count_macs, make_network
    from edgeopt.pruning.soundness import make_inputs

    network = make_network(model)
    return count_macs(network, make_inputs(model.inputs, 1)), sum(part.numel() for part in network.parameters())
