"""Structured pruning: whole channels go, so that the network is smaller and faster on any runtime."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.model import Facts, Form, Model
from edgeopt.passes import Pass, PassResult

#: names that the summary lists
LISTED = 3


class PruneChannels(Pass):
    """Remove the channels that matter least, in whole groups of coupled layers, and prove the result by running it."""

    accepts: ClassVar[Form] = "torch"
    produces: ClassVar[Form] = "torch"
    may_read: ClassVar[tuple[str, ...]] = ("training", "calibration")

    ratio: float = Field(gt=0, lt=1, description="share of the channels to remove", examples=[0.5])
    importance: Literal["l1", "l2", "taylor"] = Field(
        default="taylor",
        description="what makes a channel matter: the size of its weights, or their effect on the loss (needs labels)",
    )
    scope: Literal["local", "global"] = Field(
        default="local", description="rank the channels within each group, or those of all groups together"
    )
    round_to: int = Field(default=8, ge=1, description="numbers of channels are rounded up to a multiple of this")
    min_channels: int = Field(default=8, ge=1, description="no group gets narrower than this")
    ignore: tuple[str, ...] = Field(default=(), description="modules that keep their channels, with all below them")

    def apply(self, model: Model, context: Context) -> PassResult:
        from edgeopt.network import apply_edit, make_network, write_network
        from edgeopt.pruning.groups import find_groups
        from edgeopt.pruning.importance import score_channels, weigh_magnitude, weigh_taylor
        from edgeopt.pruning.selection import select_channels
        from edgeopt.pruning.soundness import keep_sound, make_inputs

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
        rule = self.model_dump(include={"ratio", "scope", "round_to", "min_channels"})
        choices = select_channels(free, scores, **rule)
        context.progress("checking the pruned network", 0.5)
        sound = keep_sound(network, choices, inputs)
        left_whole = {group.name: group.obstacle for group in groups if group.obstacle} | sound.left_whole
        for edit in sound.edits:
            apply_edit(network, edit)
        pruned = write_network(network, model, context.folder, sound.edits)
        return PassResult(pruned, bool(sound.edits), _make_facts(model, pruned, sound.pruned, left_whole))


def _labelled(context: Context) -> Samples:
    for samples in (context.training, context.calibration):
        if samples is not None and samples.labels() is not None:
            return samples
    raise PassError(
        "`taylor` importance needs labels, and neither the training nor the calibration split has any",
        "set `importance: l2`, or add labels",
    )


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
