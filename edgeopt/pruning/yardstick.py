"""What a goal of pruning is measured in: operations, which are arithmetic, and parameters and bytes, which are counted.

The target's time is in `timing`. A yardstick knows what the network as given costs, foresees what it costs with fewer
channels, and, where foreseeing is not knowing, measures what came out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import onnx
from torch import nn

from edgeopt import onnx_graph
from edgeopt.clock import finish_blindly
from edgeopt.model import QuantizationProfile
from edgeopt.pruning.costs import LayerCosts, count_macs
from edgeopt.pruning.layers import OPERATORS, Layer, Widths

#: gives the float graph of a network
Export = Callable[[nn.Module], onnx.ModelProto]

#: bytes of a float, of a float16, and of what an integer layer has for each output channel: bias, two scales and two
#: zero points
FLOAT_BYTES, HALF_BYTES, CHANNEL_BYTES = 4, 2, 4 + (4 + 4) + (1 + 4)


class Yardstick(ABC):
    """One cost, in a unit of its own.

    Attributes:
        whole: what the network as given costs.
        unit: of `whole`, and what one of it is.
        exact: whether what is foreseen is so, and nothing is left to measure.
        place: where it is measured, as ` on orin-7`; empty: here.
    """

    whole: float
    unit: tuple[str, float]
    exact = False
    place = ""

    @abstractmethod
    def foresee(self, network: nn.Module, widths: Widths) -> LayerCosts:
        """What a network, the one given or one that lost channels already, costs at any counts."""

    def measure(self, network: nn.Module) -> float:
        """The cost of a network as a share of that of the network as given.

        Raises:
            BuildError: it cannot be built or run on the target.
        """
        raise NotImplementedError

    def show(self, share: float) -> str:
        """A share of the whole cost, such as `0.42 ms`."""
        name, size = self.unit
        return f"{share * self.whole / size:.3g} {name}"

    def learn(self, costs: LayerCosts, kept: Sequence[int], share: float) -> LayerCosts:
        """The costs put right by what was measured at these counts."""
        found = share * self.whole
        return LayerCosts(costs.widths, costs.cost, costs.fixed + found - costs.total(kept))


class Operations(Yardstick):
    """Multiply-accumulates of one sample."""

    exact = True

    def __init__(self, widths: Widths) -> None:
        self.unit = ("MMACs", 1e6)
        self.whole = LayerCosts(widths, count_macs).total(widths.full)

    def foresee(self, network: nn.Module, widths: Widths) -> LayerCosts:
        return LayerCosts(widths, count_macs)


class Size(Yardstick):
    """How large something is that grows with the layers' weights, and with some that belongs to no layer."""

    def __init__(self, whole: nn.Module) -> None:
        self.whole = float(self._size(whole))

    def foresee(self, network: nn.Module, widths: Widths) -> LayerCosts:
        return self.learn(LayerCosts(widths, self._layer_size), widths.full, self.measure(network))

    def measure(self, network: nn.Module) -> float:
        return self._size(network) / self.whole

    @abstractmethod
    def _size(self, network: nn.Module) -> int: ...

    @abstractmethod
    def _layer_size(self, layer: Layer, inputs: int, outputs: int) -> float: ...


class Parameters(Size):
    """All that training could change, normalizations with it."""

    def __init__(self, whole: nn.Module) -> None:
        self.unit = ("M parameters", 1e6)
        super().__init__(whole)

    def _size(self, network: nn.Module) -> int:
        return sum(part.numel() for part in network.parameters())

    def _layer_size(self, layer: Layer, inputs: int, outputs: int) -> float:
        return float(layer.weights(inputs, outputs))


class FileSize(Size):
    """Bytes of the graph at the precision of the target.

    Args:
        profile: how the graph is quantized; None: it stays in float.
        half: whether floats are float16.
    """

    def __init__(
        self, whole: nn.Module, export: Export, profile: QuantizationProfile | None, *, half: bool = False
    ) -> None:
        self._export, self._profile, self._half, self.unit = export, profile, half, ("MB", 1e6)
        super().__init__(whole)

    def _size(self, network: nn.Module) -> int:
        return len(onnx_graph.serialize(finish_blindly(self._export(network), self._profile, half=self._half)))

    def _layer_size(self, layer: Layer, inputs: int, outputs: int) -> float:
        if self._profile is None or OPERATORS[layer.kind] not in self._profile.weight_axes:
            return float((HALF_BYTES if self._half else FLOAT_BYTES) * layer.weights(inputs, outputs))
        return float(layer.weights(inputs, outputs) - outputs + CHANNEL_BYTES * outputs)
