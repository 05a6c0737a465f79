"""What a network costs at given channel counts, as a sum over layers: operations, weights, bytes or milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgeopt.pruning.layers import Layer, Widths

#: (layer, input channels, output channels) → its cost
LayerCost = Callable[[Layer, int, int], float]


def count_macs(layer: Layer, inputs: int, outputs: int) -> float:
    return float(layer.macs(inputs, outputs))


class LayerCosts:
    """The sum over layers, each looked up once for each pair of counts, and what stays whatever goes."""

    def __init__(self, widths: Widths, cost: LayerCost, fixed: float = 0.0) -> None:
        self.widths, self.cost, self.fixed = widths, cost, fixed
        self._known: dict[tuple[int, int, int], float] = {}

    def total(self, kept: Sequence[int]) -> float:
        return self.fixed + sum(self._of(at, kept) for at in range(len(self.widths.layers)))

    def share(self, group: int, kept: Sequence[int]) -> float:
        return sum(self._of(at, kept) for at in self.widths.touched[group])

    def _of(self, at: int, kept: Sequence[int]) -> float:
        if self.widths.gone(at, kept):
            return 0.0
        layer = self.widths.layers[at]
        inputs, outputs = self.widths.counts(layer, kept)
        key = (at, inputs, outputs)
        if key not in self._known:
            self._known[key] = self.cost(layer, inputs, outputs)
        return self._known[key]
