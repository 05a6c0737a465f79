"""Unstructured pruning: single weights become zero, so that the network is smaller once it is compressed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.model import Facts, Form, Model
from edgeopt.passes import ClockedPass, PassResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

    from edgeopt.gain import Gain

#: what is known without a clock
DENSE = "no gain in time: dense kernels compute zeros like any weight"


class PruneWeights(ClockedPass):
    """Set the weights that matter least to zero, wherever they are, and hold them there through training.

    What it gains is the compressed download (`edgeopt bundle compress`), told for the float graph, and with `on` at
    that candidate's precision. No runtime computes faster by it; with `on` the clock is asked all the same. Let
    `fine_tune` follow.
    """

    accepts: ClassVar[Form] = "torch"
    produces: ClassVar[Form] = "torch"
    may_read: ClassVar[tuple[str, ...]] = ("training", "calibration")
    takes: ClassVar[str] = "weights of it may become zero"

    sparsity: float = Field(default=0.7, gt=0, lt=1, description="share of the weights that become zero")
    scope: Literal["local", "global"] = Field(
        default="global", description="rank the weights within each layer, or those of all layers together"
    )
    importance: Literal["magnitude", "taylor"] = Field(
        default="magnitude",
        description="what makes a weight matter: its size, or its effect on the loss (needs labels)",
    )
    ignore: tuple[str, ...] = Field(default=(), description="modules that keep their weights, with all below them")
    on: str | None = Field(
        default=None,
        description="the candidate on whose clock the time is told, and at whose precision the download, as "
        "onnxruntime_cpu/int8",
    )
    keep_without_gain: bool = Field(
        default=False, description="keep the zeros even where the compressed download is no smaller"
    )

    def lent(self) -> frozenset[str]:
        splits = frozenset(self.may_read) if self.importance == "taylor" else frozenset[str]()
        return (super().lent() - frozenset(self.may_read)) | splits

    def apply(self, model: Model, context: Context) -> PassResult:
        import copy

        from edgeopt.network import make_network
        from edgeopt.reshaping.verdict import conclude
        from edgeopt.sparsity.magnitude import keep_largest
        from edgeopt.sparsity.weights import find_layers, set_zeros, share_of_zeros

        network = make_network(model)
        made = copy.deepcopy(network)
        layers = find_layers(made, self.ignore)
        if not layers:
            raise PassError("no layer of the network has weights to prune", "take `prune_weights` out of `passes:`")
        context.progress("weighing weights", 0.1)
        masks = keep_largest(self._score(network, layers, context), self.sparsity, together=self.scope == "global")
        edits = set_zeros(made, masks)
        zeros = share_of_zeros(layers.values())
        context.progress("comparing downloads", 0.5)
        gain, gains = self._measure(network, made, model, context)
        told = f"{100 * zeros:.0f} % of {sum(mask.numel() for mask in masks.values()):,} weights are zero"
        result, changed, facts = conclude(
            made, edits, model, context.folder, gain, told, keep=self.keep_without_gain
        )  # fmt: skip
        shares = {f"zeros {name}": round(1 - float(mask.float().mean()), 4) for name, mask in masks.items()}
        return PassResult(result, changed, {**facts, **gains, "zeros": round(zeros, 4), **shares})

    def _score(self, network: nn.Module, layers: Mapping[str, nn.Module], context: Context) -> dict[str, torch.Tensor]:
        """Layer → how much each of its weights matters."""
        from edgeopt.sparsity.magnitude import adapt_to_layer

        if self.importance == "taylor":
            from edgeopt.pruning.saliency import weigh_gradients

            saliency = weigh_gradients(network, _labelled(context), power=1)
            return {name: saliency[f"{name}.weight"] for name in layers}
        squares = {name: layer.get_parameter("weight").detach() ** 2 for name, layer in layers.items()}
        if self.scope == "local":
            return squares
        return {name: adapt_to_layer(each) for name, each in squares.items()}

    def _measure(self, before: nn.Module, after: nn.Module, model: Model, context: Context) -> tuple[Gain, Facts]:
        """The gain in download of the float graph, and what there is to tell beside it."""
        from edgeopt.clock import make_clock
        from edgeopt.exporting import export_graph
        from edgeopt.gain import download_gain, time_gain
        from edgeopt.onnx_graph import serialize

        graphs = [export_graph(network, model, context.seed) for network in (before, after)]
        gain = download_gain(*map(serialize, graphs))
        if self.on is None:
            return gain, {"time": DENSE}
        clock = make_clock(context)
        shipped = download_gain(*(serialize(clock.finished(graph)) for graph in graphs))
        context.progress("timing on the target", 0.7)
        time = time_gain(clock, graphs[0], graphs[1], self.on)
        return shipped, {"download_float": gain.tell(), "time": time.tell(), "time_share": round(time.share, 4)}


def _labelled(context: Context) -> Samples:
    for samples in (context.training, context.calibration):
        if samples is not None and samples.labels() is not None:
            return samples
    raise PassError(
        "`taylor` importance needs labels, and neither the training nor the calibration split has any",
        "set `importance: magnitude`, or add labels",
    )
