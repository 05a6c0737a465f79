"""Structured sparsity: two of each four weights become zero, for kernels of TensorRT that pass over them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from edgeopt.context import Context
from edgeopt.errors import PassError
from edgeopt.model import Form, Model, write_model
from edgeopt.passes import ClockedPass, PassResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn


class Sparsify(ClockedPass):
    """Set two of each four weights along the input channels to zero, and hold them there through training.

    NVIDIA GPUs from Ampere on have kernels for such weights; they gain most in layers of hundreds of channels.
    TensorRT is let try them wherever a graph has such weights, and takes them where they are faster. Other runtimes
    compute zeros like any weight: with `on` the clock says so, and the network stays as it was. Let `fine_tune` follow.
    """

    accepts: ClassVar[Form] = "torch"
    produces: ClassVar[Form] = "torch"
    takes: ClassVar[str] = "two of each four weights of it may become zero"

    permute: bool = Field(
        default=True, description="first number channels anew, so that the weights that stay are larger; exact"
    )
    min_channels: int = Field(
        default=64, ge=4, description="layers with fewer input or output channels stay dense: nothing is gained there"
    )
    ignore: tuple[str, ...] = Field(default=(), description="modules that stay dense, with all below them")

    def apply(self, model: Model, context: Context) -> PassResult:
        from edgeopt.network import make_network
        from edgeopt.reshaping.verdict import conclude, measure_gain
        from edgeopt.sparsity.two_four import keep_two_of_four, misfit
        from edgeopt.sparsity.weights import find_layers, set_zeros

        network = make_network(model)
        made = copy.deepcopy(network)
        layers = find_layers(made, self.ignore)
        dense = {name: why for name, layer in layers.items() if (why := misfit(layer, self.min_channels))}
        sparse = {name: layer for name, layer in layers.items() if name not in dense}
        facts: dict[str, str | int | float] = {f"dense {name}": why for name, why in dense.items()}
        facts["layers_sparse"] = len(sparse)
        if not sparse:
            facts["summary"] = f"none of {len(layers)} layers can be 2:4"
            return PassResult(write_model(model, context.folder), False, facts)
        plain = _kept_share(sparse)
        if self.permute:
            context.progress("looking for an order of channels", 0.1)
            facts["permuted"] = self._permute(made, list(sparse), model, context)
        masks = {name: keep_two_of_four(layer.weight) for name, layer in sparse.items()}
        kept = _kept_share(sparse)
        facts |= {"magnitude_kept": round(kept, 4), "magnitude_kept_in_order": round(plain, 4)}
        edits = set_zeros(made, masks)
        gain = None
        if self.on is not None:
            context.progress("timing on the target", 0.6)
            gain = measure_gain(network, made, model, context, self.on)
        told = f"{len(sparse)} of {len(layers)} layers 2:4, {100 * kept:.0f} % of magnitude kept"
        result, changed, verdict = conclude(
            made, edits, model, context.folder, gain, told, keep=self.keep_without_gain
        )  # fmt: skip
        return PassResult(result, changed, {**facts, **verdict})

    def _permute(self, network: nn.Module, sparse: list[str], model: Model, context: Context) -> str:
        """Number channels anew, in place; tells of how many groups, or why of none."""
        from edgeopt.pruning.groups import find_groups
        from edgeopt.reshaping.verdict import random_inputs
        from edgeopt.sparsity.permutation import permute_groups

        inputs = random_inputs(model.inputs, context.seed)
        try:
            groups = find_groups(network, inputs)
        except PassError as error:  # what cannot be traced has an order that is good enough
            return f"no group: {error.message}"
        return f"{permute_groups(network, groups, sparse, inputs)} of {len(groups)} groups of channels"


def _kept_share(layers: Mapping[str, nn.Module]) -> float:
    """Of the magnitude of the layers' weights, what two of each four have."""
    from edgeopt.sparsity.two_four import keep_two_of_four

    weights = [layer.get_parameter("weight").detach() for layer in layers.values()]
    total = sum(float(weight.abs().sum()) for weight in weights)
    return sum(float(weight[keep_two_of_four(weight)].abs().sum()) for weight in weights) / total if total else 1.0
