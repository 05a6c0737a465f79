"""What a network costs at given channel counts: operations, weights, or milliseconds of the target's clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgeopt.pruning.layers import Layer, Widths

#: (layer, input channels, output channels) → its cost
LayerCost = Callable[[Layer, int, int], float]


def count_macs(layer: Layer, inputs: int, outputs: int) -> float:
    return float(layer.macs(inputs, outputs))


def count_parameters(layer: Layer, inputs: int, outputs: int) -> float:
    return float(layer.weights(inputs, outputs))


class LayerCosts:
    """The sum over layers, each looked up once for each pair of counts."""

    def __init__(self, widths: Widths, cost: LayerCost) -> None:
        self._widths, self._cost = widths, cost
        self._known: dict[tuple[int, int, int], float] = {}

    def total(self, kept: Sequence[int]) -> float:
        return sum(self._of(at, kept) for at in range(len(self._widths.layers)))

    def share(self, group: int, kept: Sequence[int]) -> float:
        return sum(self._of(at, kept) for at in self._widths.touched[group])

    def _of(self, at: int, kept: Sequence[int]) -> float:
        layer = self._widths.layers[at]
        inputs, outputs = self._widths.counts(layer, kept)
        key = (at, inputs, outputs)
        if key not in self._known:
            self._known[key] = self._cost(layer, inputs, outputs)
        return self._known[key]
