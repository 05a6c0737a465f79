"""Quantize with training: the network learns to do with 8 bits what it did in float.

It takes the place of `quantize_int8` where that loses too much and there are training samples. The result is written by
the same inserter, after the profile of the target's backend, so the pass runs once per candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from edgeopt import environment
from edgeopt.context import Context
from edgeopt.errors import PassError
from edgeopt.model import Facts, Form, Model, OnnxValue, write_model
from edgeopt.passes import Pass, PassResult
from edgeopt.training.options import TrainingOptions

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from edgeopt.data import Samples
    from edgeopt.training.fake_quantization import FakeQuantized
    from edgeopt.training.loop import Training
    from edgeopt.training.losses import Loss

#: how much the teacher's certainty is softened, and its share of the loss where there are labels too
TEMPERATURE, TAUGHT = 4.0, 0.7

#: samples on which the quantized graph is compared with the float one
COMPARED_SAMPLES = 32


class QuantizeAwareTrain(TrainingOptions, Pass):
    """Quantize to 8-bit integers and train the network with them, guided by a float one where `distill` is set.

    Batch normalization is folded before, and so stays as it is. The last weights are kept, or their average with `ema`;
    the best of several only with `stop_after`, which uses the tuning split for that choice.
    """

    accepts: ClassVar[Form] = "onnx"
    produces: ClassVar[Form] = "onnx"
    needs_profile: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("calibration", "training", "profile")
    may_read: ClassVar[tuple[str, ...]] = ("tuning", "original")
    wins_back: ClassVar[bool] = True

    epochs: int = Field(default=3, ge=1, description="passes over the training split")
    learning_rate: float | None = Field(
        default=2e-4, gt=0, description="the peak; `null`: a range test on the first batches finds it"
    )
    shift: int = Field(default=0, ge=0, description="images are moved at random by up to this many pixels")
    ranges: Literal["learned", "averaged"] = Field(
        default="learned",
        description="scales are trained like weights; or follow the activations for an epoch and the largest weights",
    )
    distill: bool = Field(default=True, description="learn what a float network thinks of each sample, too")
    teacher: Literal["float", "original"] = Field(
        default="float", description="which one: this network before it is quantized, or the network as given"
    )
    per_channel: bool = Field(default=True, description="a scale for each output channel of a weight, or one for all")
    keep_float: tuple[str, ...] = Field(default=(), description="names of nodes, or operators, that stay in float")

    def lent(self) -> frozenset[str]:
        return super().lent() - (frozenset() if self.distill and self.teacher == "original" else {"original"})

    def apply(self, model: Model, context: Context) -> PassResult:
        from edgeopt.onnx_graph import load_graph
        from edgeopt.quantization.fold import fold
        from edgeopt.training.fake_quantization import FloatNetwork

        assert context.training is not None  # `reads` says so
        _require_free_batch(model)
        graph = fold(load_graph(model.path))
        exact = FloatNetwork(graph, context.training.inputs)
        network = self._make_network(graph, model, context)
        tops = [_tuning_top1(each, context.tuning) for each in (exact, network)]
        if self.stop_after is not None and tops[0] is None:
            raise PassError("`stop_after` needs a tuning split with labels", "add `data.tuning`, or leave it out")
        training = self._train(network, self._make_teacher(exact, context), model, context)
        facts = self._describe(training, network, [*tops, _tuning_top1(network, context.tuning)])
        written, quantized = _write(network, model, context.folder)
        return PassResult(written, True, {**facts, "sqnr_db": _compare(graph, quantized, context)})

    def _make_teacher(self, exact: nn.Module, context: Context) -> nn.Module | None:
        from edgeopt.network import make_network
        from edgeopt.onnx_graph import load_graph
        from edgeopt.quantization.fold import fold
        from edgeopt.training.fake_quantization import FloatNetwork

        if not self.distill or self.teacher == "float":
            return exact if self.distill else None
        if context.original is None:
            raise PassError("there is no original network to distill from", "set `teacher: float`")
        if context.original.form == "torch":
            return make_network(context.original).requires_grad_(False)
        assert context.training is not None
        _require_free_batch(context.original)
        return FloatNetwork(fold(load_graph(context.original.path)), context.training.inputs)

    def _make_loss(self, teacher: nn.Module | None, samples: Samples) -> Loss:
        from edgeopt.training.losses import DistillationLoss, LabelLoss

        labels = LabelLoss(self.label_smoothing)
        if teacher is not None:
            return DistillationLoss(teacher, TEMPERATURE, TAUGHT, labels)
        if samples.labels() is None:
            hint = "set `distill: true`, which needs none, or add labels"
            raise PassError("the training split has no labels to learn from", hint)
        return labels

    def _make_network(self, graph: onnx.ModelProto, model: Model, context: Context) -> FakeQuantized:
        """The network as calibration leaves it."""
        from edgeopt.quantization.calibration import collect_minmax, stream_batches
        from edgeopt.quantization.placement import make_placement
        from edgeopt.training.fake_quantization import make_fake_quantized

        assert context.profile is not None
        assert context.calibration is not None
        assert context.training is not None
        placement = make_placement(graph, context.profile, self.keep_float, self.per_channel)
        if not placement.weighted:
            operators = ", ".join(context.profile.weight_axes)
            hint = "leave `quantize_aware_train` out, or take names out of `keep_float`"
            raise PassError(f"the graph has nothing to quantize: no {operators} with a constant float32 weight", hint)
        context.progress("calibrate", None)
        tensors = [pair.tensor for pair in placement.pairs]
        batches = stream_batches(context.calibration, model.inputs)
        observed = collect_minmax(graph, tensors, batches, environment.cpu_cores())
        return make_fake_quantized(graph, placement, observed, context.profile, self.ranges, context.training.inputs)

    def _train(
        self, network: FakeQuantized, teacher: nn.Module | None, model: Model, context: Context
    ) -> Training:  # fmt: skip
        """Train in place."""
        from edgeopt.training.loop import Training
        from edgeopt.training.shuffling import open_shuffled

        assert context.training is not None
        loss, beside = self._make_loss(teacher, context.training), [] if teacher is None else [teacher]
        judge = None if self.stop_after is None else lambda trained: _tuning_top1(trained, context.tuning) or 0.0

        def rescue(epoch: int) -> Path | None:
            folder = context.checkpoints.folder
            return folder and _write(network, model, folder / f"epoch_{epoch}")[0].folder

        with open_shuffled(context.training, context.folder, context.progress) as samples:
            training = Training(network, samples, loss, self.make_schedule(context.seed), beside, judge, rescue)
            network.scales.epoch_steps = training.steps
            training.run(context.checkpoints, context.progress)
        return training

    def _describe(self, training: Training, network: FakeQuantized, tops: Sequence[float | None]) -> Facts:
        """What came of it; `tops`: on the tuning split, of the float network, before and after."""
        losses, (exact, before, after) = training.losses, tops
        facts: dict[str, str | int | float] = {"epochs": len(losses), "loss_first": losses[0], "loss_last": losses[-1]}
        summary = f"{len(losses)} epochs, loss {losses[0]:.3g} → {losses[-1]:.3g}"
        if exact is not None and before is not None and after is not None:
            facts |= {"tuning_top1_float": exact, "tuning_top1_before": before, "tuning_top1_after": after}
            summary = f"{len(losses)} epochs, {before:.1f} % → {after:.1f} % on the tuning split, float {exact:.1f} %"
        facts |= training.choices()
        scheme = network.trained_scheme()
        placement = scheme.placement
        facts |= {"integer_nodes": len(placement.integer_nodes), "float_nodes": len(placement.float_nodes)}
        if placement.float_nodes:
            facts["left_in_float"] = ", ".join(f"`{name}`" for name in placement.float_nodes)
        return facts | {"summary": summary + training.tell_choices()}


def _write(network: FakeQuantized, model: Model, folder: Path) -> tuple[Model, onnx.ModelProto]:
    """Write the graph with the integers of the network as it is, as a successor of `model`; return both."""
    from edgeopt.onnx_graph import save_graph
    from edgeopt.quantization.insert import insert_pairs

    scheme, value = network.trained_scheme(), OnnxValue()
    quantized = insert_pairs(network.trained_graph(), scheme)
    save_graph(quantized, folder / value.file)
    known = {"value": value, "ranges": scheme.activation_ranges(), "folder": folder}
    return write_model(model.model_copy(update=known), folder), quantized


def _require_free_batch(model: Model) -> None:
    for spec in model.inputs:
        if spec.shape and isinstance(spec.shape[0], int):
            what = f"the input `{spec.name}` takes batches of {spec.shape[0]} only, and training needs any"
            raise PassError(what, "export the network with a batch that may vary")


def _tuning_top1(network: nn.Module, samples: Samples | None) -> float | None:
    """Per cent of the tuning split; None where there is none, or it has no class for each sample."""
    from edgeopt.training.accuracy import measure_top1

    labels = None if samples is None else samples.labels()
    if samples is None or labels is None or labels.ndim > 1:
        return None
    share = measure_top1(network, samples)
    return None if share is None else 100 * share


def _compare(graph: onnx.ModelProto, quantized: onnx.ModelProto, context: Context) -> float:
    """SQNR in dB of the worst output, on calibration samples.

    Raises:
        PassError: the quantized graph yields values that are not finite.
    """
    import numpy as np

    from edgeopt.onnx_graph import make_session, run_session
    from edgeopt.quantization.arithmetic import sqnr_db

    assert context.calibration is not None
    (batch,) = context.calibration.spread(COMPARED_SAMPLES).batches(COMPARED_SAMPLES)
    exact, coarse = (
        run_session(make_session(each, environment.cpu_cores()), batch.inputs) for each in (graph, quantized)
    )
    for name, values in coarse.items():
        if not np.isfinite(values).all():
            raise PassError(f"the quantized network yields values that are not finite in `{name}`")
    return round(sqnr_db(exact, coarse), 2)
