"""Which layers to leave in float: those whose integers make most of the noise, for the time that float costs there.

Each layer in turn is left in float while all others compute in integers. What the outputs' noise falls by, and a
classifier's loss, is what the layer is to blame for; what the network takes longer, with the conversions at the layer's
borders, is what it costs on the target. A layer that float makes faster is given back for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx

from edgeopt.quantization.evaluation import Evaluation, Loss
from edgeopt.quantization.quantize import Quantizing
from edgeopt.quantization.technique import Technique

#: the share of the network's time below which two times are one
LEAST_COST = 0.005

#: how long networks take, in any unit: (graphs,)
Clock = Callable[[Sequence[onnx.ModelProto]], list[float]]


#: samples of the tuning split that layers are ranked on: neither figure counts answers, so a few hundred do
RANKED_SAMPLES = 500


@dataclass(frozen=True)
class Sensitivity:
    """One layer, as shares of what the whole network has in integers.

    Attributes:
        noise: of the outputs' noise power, what is gone with the layer's integers.
        loss: the same of a classifier's divergence from float; None of another network.
        cost: of the network's time, by what it takes longer.
    """

    node: str
    noise: float
    loss: float | None
    cost: float

    @property
    def gain(self) -> float:
        """What is gone: of the loss, which says what noise matters, where there is one."""
        return self.noise if self.loss is None else self.loss

    @property
    def worth(self) -> float:
        """Gain for time."""
        return self.gain / max(self.cost, LEAST_COST)

    def describe(self) -> str:
        """`-35 % noise, -50 % loss, +0.8 % time`."""
        loss = "" if self.loss is None else f"{-100 * self.loss:+.0f} % loss, "
        return f"{-100 * self.noise:+.0f} % noise, {loss}{100 * self.cost:+.1f} % time"


def rank_layers(
    quantizing: Quantizing, evaluation: Evaluation, technique: Technique, clock: Clock | None
) -> list[Sensitivity]:
    """The layers that are better in float, the most worthwhile first.

    Args:
        technique: tried without what takes minutes, which moves the noise of all layers alike.
        clock: of the target; None: float is taken to cost the same everywhere.
    """
    plain = technique.model_copy(update={"bias_correction": "none", "adaround": 0})
    few, whole = evaluation.with_fewer(quantizing.graph, RANKED_SAMPLES), quantizing.run(plain)
    nodes = [each.node for each in whole.placement.weighted]
    base = few.loss_of(whole.graph)
    graphs, losses = [whole.graph], []
    for done, node in enumerate(nodes):
        quantizing.tell("layer by layer", done / len(nodes))
        made = quantizing.run(plain.model_copy(update={"keep_float": (*plain.keep_float, node)}))
        graphs.append(made.graph)
        losses.append(few.loss_of(made.graph))
    times = clock(graphs) if clock is not None else [1.0, *(1.0 + LEAST_COST for _ in nodes)]
    found = [
        Sensitivity(
            node, _gone(_noise(loss), _noise(base)) or 0.0, _gone(loss.divergence, base.divergence),
            taken / times[0] - 1.0,
        )
        for node, loss, taken in zip(nodes, losses, times[1:], strict=True)
    ]  # fmt: skip
    return sorted((one for one in found if one.gain > 0), key=lambda one: (-one.worth, one.node))


def _gone(left: float | None, whole: float | None) -> float | None:
    """The share that is gone."""
    return None if left is None or not whole else 1.0 - left / whole


def _noise(loss: Loss) -> float:
    """The noise's power ÷ that of the signal."""
    return float(10 ** (-loss.sqnr_db / 10))
