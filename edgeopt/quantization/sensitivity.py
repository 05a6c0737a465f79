"""Which layers to leave in float: those whose integers make most of the noise, for the time that float costs there.

Each layer in turn is left in float while all others compute in integers. What the outputs' noise falls by is what the
layer is to blame for; what the network takes longer, with the conversions at the layer's borders, is what it costs on
the target. A layer that float makes faster is given back for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx

from edgeopt.quantization.evaluation import Evaluation
from edgeopt.quantization.quantize import Quantizing
from edgeopt.quantization.technique import Technique

#: the share of the network's time below which two times are one
LEAST_COST = 0.005

#: how long networks take, in any unit: (graphs,)
Clock = Callable[[Sequence[onnx.ModelProto]], list[float]]


@dataclass(frozen=True)
class Sensitivity:
    """One layer: the share of the noise that is gone with its integers, and by what share the network takes longer."""

    node: str
    noise: float
    cost: float

    @property
    def worth(self) -> float:
        """Noise for time."""
        return self.noise / max(self.cost, LEAST_COST)


def rank_layers(
    quantizing: Quantizing, evaluation: Evaluation, technique: Technique, clock: Clock | None
) -> list[Sensitivity]:
    """The layers whose float takes noise away, the most worthwhile first.

    Args:
        technique: tried without what takes minutes, which moves the noise of all layers alike.
        clock: of the target; None: float is taken to cost the same everywhere.
    """
    plain = technique.model_copy(update={"bias_correction": "none", "adaround": 0})
    whole = quantizing.run(plain)
    nodes = [each.node for each in whole.placement.weighted]
    base = _noise(evaluation.loss_of(whole.graph).sqnr_db)
    graphs, noises = [whole.graph], []
    for done, node in enumerate(nodes):
        quantizing.tell("layer by layer", done / len(nodes))
        made = quantizing.run(plain.model_copy(update={"keep_float": (*plain.keep_float, node)}))
        graphs.append(made.graph)
        noises.append(_noise(evaluation.loss_of(made.graph).sqnr_db))
    times = clock(graphs) if clock is not None else [1.0, *(1.0 + LEAST_COST for _ in nodes)]
    found = [
        Sensitivity(node, 1.0 - noise / base if base else 0.0, taken / times[0] - 1.0)
        for node, noise, taken in zip(nodes, noises, times[1:], strict=True)
    ]
    return sorted((one for one in found if one.noise > 0), key=lambda one: (-one.worth, one.node))


def _noise(sqnr_db: float) -> float:
    """The noise's power ÷ that of the signal."""
    return float(10 ** (-sqnr_db / 10))
