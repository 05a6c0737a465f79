"""Low-rank factorization: a layer becomes two thinner ones, without the directions that matter little."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from edgeopt.context import Context
from edgeopt.errors import PassError
from edgeopt.model import Facts, Form, Model
from edgeopt.passes import ClockedPass, PassResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import nn

    from edgeopt.reshaping.factorizing import Factored, Ranks

#: samples that directions are weighed by
SAMPLES = 256

#: `energy` where nothing is said
ENERGY = 0.9


class Factorize(ClockedPass):
    """Replace convolutions and linear layers by two thinner ones each, which need fewer operations.

    A k×k convolution becomes a k×1 and a 1×k one, or a k×k one to few channels and a 1×1 one; a linear layer becomes
    two. As many channels stay between the two as keep `energy` of what the layer makes. With `on` a layer is replaced
    only if its two are faster there, timed at that candidate's precision, and the network stays as it was if the whole
    of it is not. With `latency` it is the other way round: each layer is tried at several ranks, and those are chosen
    that lose least at that time. Let `fine_tune` follow.
    """

    accepts: ClassVar[Form] = "torch"
    produces: ClassVar[Form] = "torch"
    may_read: ClassVar[tuple[str, ...]] = ("calibration", "training")
    takes: ClassVar[str] = "layers of it may become two thinner ones each"

    energy: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of what a layer makes that its two must keep; 0.9 unless said",
    )
    latency: float | None = Field(
        default=None, gt=0, lt=1, description="in place of `energy`: what may be left of the network's time on `on`"
    )
    weigh: Literal["responses", "weights"] = Field(
        default="responses",
        description="what `energy` is a share of: the variance of what layers make of samples, where the recipe has "
        "any, or their squared weights",
    )
    round_to: int = Field(default=8, ge=1, description="channels between the two are rounded up to a multiple of this")
    ignore: tuple[str, ...] = Field(default=(), description="modules that stay whole, with all below them")

    @model_validator(mode="after")
    def _check_latency(self) -> Factorize:
        if self.latency is not None and self.energy is not None:
            raise ValueError("should have one of `energy` and `latency`")
        if self.latency is not None and self.keep_without_gain:
            raise ValueError("should have no `keep_without_gain` beside `latency`: the goal is met, or the step fails")
        return self

    def clocked_by(self) -> str | None:
        return "" if self.on is None and self.latency is not None else self.on

    def apply(self, model: Model, context: Context) -> PassResult:
        from edgeopt.training.reproducible import reproducible

        with reproducible(context.seed, 0):  # sums hang on how many threads add them up
            return self._factor(model, context)

    def _factor(self, model: Model, context: Context) -> PassResult:
        from edgeopt.clock import make_clock
        from edgeopt.network import make_network
        from edgeopt.reshaping.factorizing import choose, choose_by_time, find_layers, keep_running, propose
        from edgeopt.reshaping.verdict import conclude, measure_gain, random_inputs

        network, inputs = make_network(model), random_inputs(model.inputs, context.seed)
        layers, left = find_layers(network, inputs, self.ignore)
        context.progress("weighing directions", 0.0)
        found = propose(network, layers, self._ranks(), self._batches(context))
        left |= {layer.name: "saves no operations" for layer in layers}
        if self.latency is not None:
            return self._meet(network, found, left, len(layers), model, context)
        if self.on is None or not found:
            chosen = choose(found)
        else:
            tell = partial(context.progress, "timing layers on the target")
            chosen, slower = choose_by_time(found, make_clock(context), tell)
            left |= slower
        made, kept, failed = keep_running(network, chosen, inputs)
        left = {name: why for name, why in (left | failed).items() if name not in {one.layer.name for one in kept}}
        gain = None
        if kept and self.on is not None:
            context.progress("timing the whole on the target", 0.9)
            gain = measure_gain(network, made, model, context, self.on)
        edits, told = [one.edit for one in kept], self._tell(len(kept), len(found), len(layers))
        result, changed, facts = conclude(made, edits, model, context.folder, gain, told, self.keep_without_gain)
        return PassResult(result, changed, {**_facts(kept, left), **facts})

    def _meet(
        self, network: nn.Module, found: Sequence[Factored], left: dict[str, str], layers: int, model: Model,
        context: Context,
    ) -> PassResult:  # fmt: skip
        """The network with the ways of its layers that lose least at `latency`."""
        from edgeopt.clock import make_clock
        from edgeopt.exporting import export_graph
        from edgeopt.gain import Gain, name_place
        from edgeopt.reshaping.factorizing import choose, factor, keep_running
        from edgeopt.reshaping.rank_search import RankSearch
        from edgeopt.reshaping.verdict import conclude, random_inputs

        samples = context.calibration if context.calibration is not None else context.training
        if samples is None:
            hint = "add `data.calibration`, or choose ranks by `energy`"
            raise PassError("`latency` tries layers on samples, and the recipe has none", hint)
        inputs, single = (random_inputs(model.inputs, context.seed, count) for count in (2, 1))
        _, _, failed = keep_running(network, choose(found), inputs)
        assert self.latency is not None
        running = [one for one in found if one.layer.name not in failed]
        if not running:
            reason = next((f"`{name}` {why}" for name, why in (left | failed).items()), "it has none that could")
            raise PassError(f"no layer of the network can become two: {reason}", "take `factorize` out of `passes:`")
        export, clock = partial(export_graph, model=model, seed=context.seed), make_clock(context)
        search = RankSearch(network, running, single, samples, clock, export, context.progress)
        met = search.meet(self.latency)
        made = factor(network, met.chosen, inputs)
        assert not isinstance(made, str)
        left = left | {one.layer.name: "the goal is met with it whole" for one in found} | failed
        left = {name: why for name, why in left.items() if name not in {one.layer.name for one in met.chosen}}
        gain = Gain("time", met.measured, name_place(clock, self.on or ""))
        edits, told = [one.edit for one in met.chosen], f"{len(met.chosen)} of {layers} layers factored"
        result, changed, facts = conclude(made, edits, model, context.folder, gain, told, keep=True)
        reached: Facts = {
            "goal": f"latency {self.latency:g}", "predicted": round(met.predicted, 4),
            "measured": round(met.measured, 4), "divergence": round(met.loss, 4),
        }  # fmt: skip
        return PassResult(result, changed, {**_facts(met.chosen, left), **reached, **facts})

    def _ranks(self) -> Ranks:
        from edgeopt.reshaping.factorizing import ranks_by_cost, ranks_by_energy
        from edgeopt.reshaping.rank_search import SHARES

        if self.latency is not None:
            return ranks_by_cost(SHARES, self.round_to)
        return ranks_by_energy(self.energy or ENERGY, self.round_to)

    def _batches(self, context: Context) -> Sequence[Sequence[torch.Tensor]] | None:
        """Samples to weigh directions by; None: by weights alone."""
        from edgeopt.reshaping.verdict import read_inputs

        samples = context.calibration if context.calibration is not None else context.training
        return None if samples is None or self.weigh == "weights" else list(read_inputs(samples, SAMPLES))

    def _tell(self, kept: int, found: int, layers: int) -> str:
        if not layers:
            return "no convolution or linear layer to factor"
        if not found:
            return f"no layer saves operations where {self.energy or ENERGY:g} of what it makes is kept"
        if not kept and self.on is not None:
            return f"no gain on {self.on}: no layer is faster as two"
        return f"{kept} of {layers} layers factored"


def _facts(kept: Sequence[Factored], left: dict[str, str]) -> Facts:
    facts: dict[str, str | int | float] = {f"layer {one.layer.name}": one.tell() for one in kept}
    return facts | {f"left {name}": why for name, why in left.items()} | {"layers_factored": len(kept)}
