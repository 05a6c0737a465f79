"""The time of a network on the target as a yardstick: foreseen by a table of its layers, measured by its clock.

A network is not the sum of its layers: sums, pools and what a runtime does between layers take time, too, some of it
for each element that layers make and some whatever their width, and fused layers take less than apart. A layer that is
timed alone finds its weights in the cache, where many networks have more than it holds. A branch that goes takes its
sum with it. So the time of a network is taken to be a share of what its layers take alone, with so much for each
element, for each one that a branch adds, and for each weight, and so much in any case. These five are fitted to whole
networks that were timed: the one given, and every one tried with fewer channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgeopt.clock import Clock
from edgeopt.context import Memo
from edgeopt.pruning.costs import LayerCosts
from edgeopt.pruning.latency import LatencyTable, make_table
from edgeopt.pruning.layers import Layer, Widths
from edgeopt.pruning.yardstick import Export, Yardstick

#: what stands in for a measurement, with so little weight, that layers take as long together as alone and nothing else
PRIOR_WEIGHT = 0.03


@dataclass(frozen=True)
class Seen:
    """A whole network that was timed: what its layers take alone, what they make and read, and what it took.

    Attributes:
        added: the part of `elements` that branches add to their shortcuts.
    """

    alone_ms: float
    elements: float
    added: float
    weights: float
    ms: float


@dataclass(frozen=True)
class Fit:
    """What makes a network's time of its layers': a share of theirs, time for each of what they make, add and read,
    and time in any case.
    """

    share: float
    element_ms: float
    added_ms: float
    weight_ms: float
    fixed_ms: float


class TargetTime(Yardstick):
    """Milliseconds by the target's clock, at the precision that ships."""

    def __init__(
        self, whole: nn.Module, widths: Widths, clock: Clock, export: Export, memo: Memo | None, round_to: int,
        tell: Callable[[float], None],
    ) -> None:  # fmt: skip
        """Time the layers and the whole; `make_table` says what the arguments are.

        Raises:
            BuildError: a layer cannot be built or run on the target.
        """
        self._clock, self._export, self.unit = clock, export, ("ms", 1.0)
        self._given = export(whole)
        self.place = f" on {clock.timer.device}" if clock.timer.device else ""
        self._table: LatencyTable = make_table(widths, self._given, clock, memo, round_to, tell)
        self.whole = self._table.whole_ms
        self._seen = [self._note(LayerCosts(widths, self._table.layer_ms), widths.full, self.whole)]

    def foresee(self, network: nn.Module, widths: Widths) -> LayerCosts:
        return self._fitted(widths)

    def measure(self, network: nn.Module) -> float:
        return self._clock.compare(self._given, self._export(network))

    def learn(self, costs: LayerCosts, kept: Sequence[int], share: float) -> LayerCosts:
        alone = LayerCosts(costs.widths, self._table.layer_ms)
        self._seen.append(self._note(alone, kept, share * self.whole))
        return self._fitted(costs.widths)

    def _note(self, alone: LayerCosts, kept: Sequence[int], ms: float) -> Seen:
        counts = (_elements, partial(_added, alone.widths), _weights)
        elements, added, weights = (LayerCosts(alone.widths, count).total(kept) for count in counts)
        return Seen(alone.total(kept), elements, added, weights, ms)

    def _fitted(self, widths: Widths) -> LayerCosts:
        fit = fit_times(self._seen)

        def cost(layer: Layer, inputs: int, outputs: int) -> float:
            alone, weights = self._table.layer_ms(layer, inputs, outputs), _weights(layer, inputs, outputs)
            elements, added = _elements(layer, inputs, outputs), _added(widths, layer, inputs, outputs)
            return fit.share * alone + fit.element_ms * elements + fit.added_ms * added + fit.weight_ms * weights

        return LayerCosts(widths, cost, fit.fixed_ms)


def _elements(layer: Layer, inputs: int, outputs: int) -> float:
    """What a layer makes in one forward pass."""
    return float(layer.positions * outputs * layer.uses)


def _added(widths: Widths, layer: Layer, inputs: int, outputs: int) -> float:
    """The same of a layer that ends a branch; the others add nothing."""
    return _elements(layer, inputs, outputs) if layer.name in widths.last_of_branches else 0.0


def _weights(layer: Layer, inputs: int, outputs: int) -> float:
    """What a layer reads in one forward pass, beside its inputs."""
    return float(layer.weights(inputs, outputs))


def fit_times(seen: Sequence[Seen]) -> Fit:
    """The fit whose relative errors are least, with nothing negative in it; the first one seen is the whole network.

    With so few unknowns all of their subsets are solved, and the best of those without a negative one is taken.
    """
    first = seen[0]
    sizes = np.array([first.elements, first.added or 1.0, first.weights, 1.0])  # a network may have no branch
    units = np.array([1.0, *(first.ms / sizes)])
    parts = np.array([[one.alone_ms, one.elements, one.added, one.weights, 1.0] for one in seen]) * units
    matrix = np.vstack([parts / [[one.ms] for one in seen], PRIOR_WEIGHT * np.eye(len(units))])
    wanted = np.array([*(1.0 for _ in seen), PRIOR_WEIGHT, 0.0, 0.0, 0.0, 0.0])
    subsets = [list(each) for size in range(1, 6) for each in itertools.combinations(range(5), size)]
    solved = [_solve(matrix, wanted, subset) for subset in subsets]
    best = min((each for each in solved if (each >= 0).all()), key=lambda each: _error(matrix, wanted, each))
    return Fit(*map(float, best * units))


def _solve(matrix: NDArray[np.float64], wanted: NDArray[np.float64], subset: list[int]) -> NDArray[np.float64]:
    """(parts,) the least squares with all but the columns of `subset` at 0."""
    found = np.zeros(matrix.shape[1])
    found[subset] = np.linalg.lstsq(matrix[:, subset], wanted, rcond=None)[0]
    return found


def _error(matrix: NDArray[np.float64], wanted: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    return float(np.square(matrix @ found - wanted).sum())
