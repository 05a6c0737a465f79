"""Cheaper activations: a network trained with smooth ones is often as good with piecewise-linear ones, once tuned."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from edgeopt.context import Context
from edgeopt.model import Facts, Form, Model
from edgeopt.passes import ClockedPass, PassResult

Costly = Literal["Hardswish", "SiLU", "GELU", "ELU", "Mish", "SELU", "CELU", "Softplus", "Sigmoid", "Tanh"]

#: option → the name in torch
PUT = {"relu": "ReLU", "relu6": "ReLU6", "leaky_relu": "LeakyReLU", "hardswish": "Hardswish"}


class ReplaceActivations(ClockedPass):
    """Put a Relu or its like in the place of activations that cost more: what they compute changes, so tune afterwards.

    Sigmoid and Tanh, which keep what they gate within bounds, become Hardsigmoid and Hardtanh, and stay where they make
    an output. Only modules can be replaced: activations that a network calls as functions are named and left. With `on`
    the network stays as it was unless it is faster there, at that candidate's precision: a runtime may well have a
    kernel for the costly one. Let `fine_tune` follow.
    """

    accepts: ClassVar[Form] = "torch"
    produces: ClassVar[Form] = "torch"
    takes: ClassVar[str] = "activations of it may be replaced"

    to: Literal["relu", "relu6", "leaky_relu", "hardswish"] = Field(default="relu", description="what is put in")
    which: tuple[Costly, ...] = Field(
        default=("Hardswish", "SiLU", "GELU", "ELU", "Mish", "SELU", "CELU", "Softplus", "Sigmoid", "Tanh"),
        min_length=1,
        description="kinds that are replaced, by their names in torch",
    )

    def apply(self, model: Model, context: Context) -> PassResult:
        from edgeopt.edits import apply_edit
        from edgeopt.network import make_network
        from edgeopt.reshaping.activations import find_replacements
        from edgeopt.reshaping.verdict import conclude, measure_gain, random_inputs

        network = make_network(model)
        inputs = random_inputs(model.inputs, context.seed)
        found = find_replacements(network, inputs, self.which, PUT[self.to])
        facts: Facts = {**found.counts, "left": "; ".join(found.left)}
        for edit in found.edits:
            apply_edit(network, edit)
        gain = None
        if self.on is not None and found.edits:
            context.progress("timing the whole on the target", 0.5)
            gain = measure_gain(make_network(model), network, model, context, self.on)
        told = ", ".join(f"{count} {kinds}" for kinds, count in found.counts.items()) or "no such activation to replace"
        told += f"; {len(found.left)} left" if found.left else ""
        result, changed, verdict = conclude(
            network, found.edits, model, context.folder, gain, told, self.keep_without_gain
        )
        return PassResult(result, changed, {**facts, **verdict})
