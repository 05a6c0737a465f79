"""Training after pruning, so that the network finds back what it lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from edgeopt.context import Context
from edgeopt.errors import PassError
from edgeopt.model import Facts, Form, Model
from edgeopt.passes import Pass, PassResult
from edgeopt.training.options import TrainingOptions
from edgeopt.training.schedule import Device, Precision

if TYPE_CHECKING:
    from torch import nn

    from edgeopt.training.loop import Training
    from edgeopt.training.losses import DistillationLoss, Loss


class FineTune(TrainingOptions, Pass):
    """Train all weights for some epochs on the training split, guided by the network as given where `distill` is set.

    Normalizations find their statistics again on the way. The last weights are kept, or their average with `ema`; the
    best of several only with `stop_after`, which uses the tuning split for that choice. Killed, it goes on after the
    last epoch that ended, on a CPU to the very same weights.
    """

    accepts: ClassVar[Form] = "torch"
    produces: ClassVar[Form] = "torch"
    reads: ClassVar[tuple[str, ...]] = ("training",)
    may_read: ClassVar[tuple[str, ...]] = ("tuning", "original")
    wins_back: ClassVar[bool] = True

    weight_decay: float = Field(default=1e-2, ge=0, description="as in AdamW, on weights only")
    distill: bool = Field(default=True, description="learn what the original thinks of each sample, beside its label")
    temperature: float = Field(default=4.0, gt=0, description="how much the original's certainty is softened")
    distill_weight: float = Field(default=0.7, ge=0, le=1, description="the original's share of the loss")
    distill_features: float = Field(
        default=0.0, ge=0, description="how much it counts that the network looks where the original does"
    )
    features: tuple[str, ...] = Field(
        default=(), description="modules that are compared for that; empty: the last one of each resolution"
    )
    device: Device = Field(default="auto", description="where to train; `auto`: on CUDA if it is there")
    precision: Precision = Field(
        default="auto", description="of products in training; `auto`: bfloat16 or float16 where the device is faster so"
    )

    @model_validator(mode="after")
    def _check_teacher(self) -> FineTune:
        if self.distill_features and not self.distill:
            raise ValueError("should have `distill: true` beside `distill_features`")
        if self.features and not self.distill_features:
            raise ValueError("should have `distill_features` beside `features`")
        return self

    def apply(self, model: Model, context: Context) -> PassResult:
        from edgeopt.network import make_network, write_network
        from edgeopt.training.loop import Training
        from edgeopt.training.shuffling import open_shuffled

        assert context.training is not None  # `reads` says so
        network, teacher = make_network(model), self._make_teacher(context)
        loss = self._make_loss(network, teacher, model, context)
        before = _tuning_top1(network, context)
        if self.stop_after is not None and before is None:
            raise PassError("`stop_after` needs a tuning split with labels", "add `data.tuning`, or leave it out")
        schedule = self.make_schedule(context.seed)

        def rescue(epoch: int) -> Path | None:
            folder = context.checkpoints.folder
            return folder and write_network(network, model, folder / f"epoch_{epoch}").folder

        with open_shuffled(context.training, context.folder, context.progress) as samples:
            beside = [] if teacher is None else [teacher]
            judge = None if self.stop_after is None else lambda trained: _tuning_top1(trained, context) or 0.0
            training = Training(network, samples, loss, schedule, beside, judge, rescue)
            training.run(context.checkpoints, context.progress)
        facts = self._describe(training, before, _tuning_top1(network, context))
        return PassResult(write_network(network, model, context.folder), True, facts)

    def _describe(self, training: Training, before: float | None, after: float | None) -> Facts:
        losses = training.losses
        facts: dict[str, str | int | float] = {"epochs": len(losses), "loss_first": losses[0], "loss_last": losses[-1]}
        facts |= {"device": training.place.device.type, "precision": training.place.precision}
        summary = f"{len(losses)} epochs, loss {losses[0]:.3g} → {losses[-1]:.3g}"
        if before is not None and after is not None:
            facts |= {"tuning_top1_before": before, "tuning_top1_after": after}
            summary = f"{len(losses)} epochs, {before:.1f} % → {after:.1f} % on the tuning split"
        return {**facts, **training.choices(), "summary": summary + training.tell_choices()}

    def _make_teacher(self, context: Context) -> nn.Module | None:
        from edgeopt.network import make_network

        if not self.distill:
            return None
        if context.original is None:
            raise PassError("there is no original network to distill from", "set `distill: false`")
        return make_network(context.original).requires_grad_(False)

    def _make_loss(self, network: nn.Module, teacher: nn.Module | None, model: Model, context: Context) -> Loss:
        from edgeopt.training.losses import DistillationLoss, LabelLoss

        assert context.training is not None
        labels = LabelLoss(self.label_smoothing)
        if teacher is not None:
            answers = DistillationLoss(teacher, self.temperature, self.distill_weight, labels)
            return self._add_features(answers, network, model, context) if self.distill_features else answers
        if context.training.labels() is None:
            hint = "set `distill: true`, which needs none, or add labels"
            raise PassError("the training split has no labels to learn from", hint)
        return labels

    def _add_features(self, answers: DistillationLoss, network: nn.Module, model: Model, context: Context) -> Loss:
        from edgeopt.pruning.soundness import make_inputs
        from edgeopt.training.features import AttentionLoss, find_features

        names = find_features(network, answers.teacher, make_inputs(model.inputs, 2, context.seed), self.features)
        return AttentionLoss(answers, network, names, self.distill_features)


def _tuning_top1(network: nn.Module, context: Context) -> float | None:
    """Per cent of the tuning split; None where there is none, or it has no labels."""
    from edgeopt.training.accuracy import measure_top1

    share = None if context.tuning is None else measure_top1(network, context.tuning)
    return None if share is None else 100 * share
