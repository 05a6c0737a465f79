"""Training after pruning, so that the network finds back what it lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from edgeopt.context import Context
from edgeopt.errors import PassError
from edgeopt.model import Form, Model
from edgeopt.passes import Pass, PassResult

if TYPE_CHECKING:
    from torch import nn

    from edgeopt.training.losses import Loss


class FineTune(Pass):
    """Train all weights for some epochs on the training split, guided by the network as given where `distill` is set.

    Normalizations find their statistics again on the way. The last weights are kept, not the best of several: no split
    is used up for choosing.
    """

    accepts: ClassVar[Form] = "torch"
    produces: ClassVar[Form] = "torch"
    reads: ClassVar[tuple[str, ...]] = ("training",)
    may_read: ClassVar[tuple[str, ...]] = ("tuning", "original")

    epochs: int = Field(default=6, ge=1, description="passes over the training split")
    learning_rate: float = Field(default=2e-3, gt=0, description="the peak of the cycle")
    batch: int = Field(default=32, ge=2, description="samples per step")
    weight_decay: float = Field(default=1e-2, ge=0, description="as in AdamW, on weights only")
    distill: bool = Field(default=True, description="learn what the original thinks of each sample, beside its label")
    temperature: float = Field(default=4.0, gt=0, description="how much the original's certainty is softened")
    distill_weight: float = Field(default=0.7, ge=0, le=1, description="the original's share of the loss")
    shift: int = Field(default=2, ge=0, description="images are moved at random by up to this many pixels")
    flip: bool = Field(default=False, description="images are mirrored left to right at random")

    def apply(self, model: Model, context: Context) -> PassResult:
        from edgeopt.network import make_network, write_network
        from edgeopt.training.loop import Schedule, Training
        from edgeopt.training.shuffling import open_shuffled

        assert context.training is not None  # `reads` says so
        network, loss = make_network(model), self._make_loss(context)
        before = _tuning_top1(network, context)
        schedule = Schedule(seed=context.seed, **self.model_dump(include=set(Schedule.__annotations__)))
        with open_shuffled(context.training, context.folder, context.progress) as samples:
            losses = Training(network, samples, loss, schedule).run(context.checkpoints, context.progress)
        after = _tuning_top1(network, context)
        facts: dict[str, str | int | float] = {"epochs": self.epochs, "loss_first": losses[0], "loss_last": losses[-1]}
        summary = f"{self.epochs} epochs, loss {losses[0]:.3g} → {losses[-1]:.3g}"
        if before is not None and after is not None:
            facts |= {"tuning_top1_before": before, "tuning_top1_after": after}
            summary = f"{self.epochs} epochs, {before:.1f} % → {after:.1f} % on the tuning split"
        return PassResult(write_network(network, model, context.folder), True, facts | {"summary": summary})

    def _make_loss(self, context: Context) -> Loss:
        from edgeopt.network import make_network
        from edgeopt.training.losses import DistillationLoss, label_loss

        assert context.training is not None
        if self.distill and context.original is None:
            raise PassError("there is no original network to distill from", "set `distill: false`")
        if self.distill and context.original is not None:
            return DistillationLoss(make_network(context.original), self.temperature, self.distill_weight)
        if context.training.labels() is None:
            hint = "set `distill: true`, which needs none, or add labels"
            raise PassError("the training split has no labels to learn from", hint)
        return label_loss


def _tuning_top1(network: nn.Module, context: Context) -> float | None:
    """Per cent of the tuning split; None where there is none, or it has no labels."""
    from edgeopt.training.accuracy import measure_top1

    share = None if context.tuning is None else measure_top1(network, context.tuning)
    return None if share is None else 100 * share
