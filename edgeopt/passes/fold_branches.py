"""Structural re-parameterization: what a network was trained with as several branches, it computes as one layer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from edgeopt.context import Context
from edgeopt.model import Facts, Form, Model
from edgeopt.passes import ClockedPass, PassResult

if TYPE_CHECKING:
    from torch import nn

    from edgeopt.clock import Clock
    from edgeopt.reshaping.folding import Folding

#: names that the summary lists
LISTED = 3


class FoldBranches(ClockedPass):
    """Make one convolution of branches that are summed, and of convolutions behind one another, where that is exact.

    As in RepVGG, whose 3×3 and 1×1 convolutions and the input itself, each normalized, are one 3×3 convolution once
    trained. Nothing is lost but float error, which is tried out; a fold is made where it needs no more operations, or,
    with `on`, where it is faster there although it needs more: as two narrow layers are that meet where a block was
    dropped. The normalizations of what is folded are folded with it: train before, not after.
    """

    accepts: ClassVar[Form] = "torch"
    produces: ClassVar[Form] = "torch"

    keep_without_gain: bool = Field(
        default=True, description="keep the folds even where they gain nothing, since they lose nothing either"
    )

    def apply(self, model: Model, context: Context) -> PassResult:
        from edgeopt.clock import make_clock
        from edgeopt.network import count_macs, make_network
        from edgeopt.reshaping.folding import Folding
        from edgeopt.reshaping.verdict import conclude, measure_gain, random_inputs

        network, inputs = make_network(model), random_inputs(model.inputs, context.seed)
        folding = Folding(network, inputs, None if self.on is None else partial(_compare, make_clock(context)))
        folding.run()
        facts = _facts(folding)
        gain = None
        if self.on is not None and folding.edits:
            context.progress("timing the whole on the target", 0.5)
            gain = measure_gain(network, folding.network, model, context, self.on)
        single = random_inputs(model.inputs, context.seed, 1)
        before, after = (count_macs(each, single) for each in (network, folding.network))
        told = _tell(folding, f"{before / 1e6:.3g} → {after / 1e6:.3g} MMACs")
        result, changed, verdict = conclude(
            folding.network, folding.edits, model, context.folder, gain, told, self.keep_without_gain
        )
        return PassResult(result, changed, {**facts, "macs_before": before, "macs_after": after, **verdict})


def _compare(clock: Clock, layers: nn.Module, conv: nn.Module, shape: tuple[int, ...]) -> float:
    from edgeopt.reshaping.timing import export_alone

    return clock.compare(export_alone(layers, shape), export_alone(conv, shape))


def _facts(folding: Folding) -> Facts:
    facts: dict[str, str | int | float] = {f"fold {what}": became for what, became in folding.folded.items()}
    facts |= {f"left {what}": why for what, why in folding.left.items()}
    return facts | {f"not traced {name or 'the network'}": why for name, why in folding.untraced.items()}


def _tell(folding: Folding, macs: str) -> str:
    names = [name or "the network itself" for name in folding.untraced]
    told = f"{len(folding.edits)} folded, {macs}" if folding.edits else "nothing to fold"
    return told + (f"; cannot be traced: {', '.join(names[:LISTED])}" if names else "")
