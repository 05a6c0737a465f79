"""Ranks by time: which layers become two, and how thin, so that least is lost at the time that is asked for.

Each layer may stay or take one of several ways to be two. A way's time is taken alone on the target; what it loses is
how far the network's answers move with it. Ways are chosen by the price of time, as counts of channels are in
`pruning.allocation`; then the whole is timed, and what was foreseen wrongly is put right by aiming elsewhere. The
network with the fastest way of every layer is timed first: it says how much of what layers save alone, they save
together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
import torch
from torch import nn

from edgeopt.clock import Clock
from edgeopt.data import Samples
from edgeopt.errors import PassError
from edgeopt.gain import time_gain
from edgeopt.network import count_macs
from edgeopt.pruning.allocation import Option, allocate
from edgeopt.pruning.divergence import Divergence
from edgeopt.reshaping.factorizing import Factored, factor, time_ways

#: of a layer's operations, what its ways take
SHARES = (0.06, 0.12, 0.18, 0.25, 0.32, 0.4, 0.5, 0.6, 0.7, 0.8)

#: tries to meet a goal by measuring, and how far below it a result may lie and be close enough
TRIES, CLOSE = 5, 0.95

#: what the fastest ways together save at least, as far as choosing goes: where they save nothing, all would cost alike
SAVED = 0.01


@dataclass(frozen=True)
class Way:
    """What a layer may be: two layers, or, where `factored` is None, itself."""

    factored: Factored | None
    ms: float
    loss: float = 0.0


@dataclass(frozen=True)
class Found:
    """Layers that are factored; what is foreseen and what was measured of the time, as shares of the network's."""

    chosen: list[Factored]
    loss: float
    predicted: float
    measured: float


class RankSearch:
    """A network, and the ways of its layers, timed and weighed."""

    def __init__(
        self, network: nn.Module, found: Sequence[Factored], inputs: Sequence[torch.Tensor], samples: Samples,
        clock: Clock, export: Callable[[nn.Module], onnx.ModelProto], tell: Callable[[str, float], None],
    ) -> None:  # fmt: skip
        """Time and weigh.

        Args:
            found: ways to factor layers, with each of which the network runs.
            inputs: one sample.
            samples: that losses are taken on.
            export: gives the float graph of a network.

        Raises:
            BuildError: a layer or the network cannot be built or run on the target.
        """
        self._network, self._inputs, self._clock = network, inputs, clock
        self._export, self._tell, self._given = export, tell, export(network)
        self._ways = self._weigh(self._time(found), samples)
        self._tell("timing the whole on the target", 0.7)
        self._least = self._time_whole([0] * len(self._ways))
        self._times = Times([[way.ms for way in each] for each in self._ways], min(self._least, 1 - SAVED))

    def meet(self, share: float) -> Found:
        """The ways that lose least at so large a share of the network's time.

        Raises:
            PassError: they cannot bring it there; says how far they get.
            BuildError: the network cannot be built or run on the target.
        """
        best, asked, tried = None, share, set[tuple[int, ...]]()
        for number in range(TRIES):
            kept = tuple(self._choose(asked))
            if kept in tried:
                break
            tried.add(kept)
            self._tell("timing the whole on the target", 0.7 + 0.3 * number / TRIES)
            one = self._measure(kept)
            if one.measured <= share and (best is None or one.loss < best.loss):
                best = one
            if best is not None and best.measured >= CLOSE * share:
                break
            asked = _aim(share, one)
        return best or self._settle_for_least(share)

    def _time(self, found: Sequence[Factored]) -> list[list[Way]]:
        """The ways of each layer that are faster than it is, the fastest first, and the layer itself."""
        timed, layer_ms = time_ways(
            found, self._clock, lambda done: self._tell("timing layers on the target", done / 3)
        )
        ways = []
        for name, ms in layer_ms.items():
            own = [Way(one, one.share * ms) for one in timed if one.layer.name == name and one.share < 1]
            ways.append([*sorted(own, key=lambda way: way.ms), Way(None, ms)])
        return ways

    def _weigh(self, ways: Sequence[list[Way]], samples: Samples) -> list[list[Way]]:
        """The same with their losses, without those that lose no less than a faster one; the layer itself stays."""
        looks = sum(len(each) - 1 for each in ways)
        divergence = Divergence(self._network, samples, count_macs(self._network, self._inputs), max(1, looks))
        weighed, looked = list[list[Way]](), 0
        for each in ways:
            kept, least = list[Way](), float("inf")
            for way in each:
                loss = 0.0
                if way.factored is not None:
                    made = factor(self._network, [way.factored], self._inputs)
                    assert isinstance(made, nn.Module)  # the caller has left out what does not run
                    loss, looked = divergence.of(made), looked + 1
                    self._tell("trying each layer as two", 1 / 3 + looked / looks / 3)
                if loss < least or way.factored is None:
                    kept.append(dataclasses.replace(way, loss=loss))
                    least = loss
            weighed.append(kept)
        return weighed

    def _choose(self, share: float) -> list[int]:
        """The place of each layer's way, by what is foreseen; the fastest ways where even these would take longer."""
        options = [[Option(place, way.loss) for place, way in enumerate(each)] for each in self._ways]
        return allocate(options, self._times, share) or [0] * len(options)

    def _measure(self, kept: Sequence[int]) -> Found:
        measured = self._time_whole(kept) if any(kept) else self._least
        return Found(self._chosen(kept), self._loss(kept), self._times.total(kept), measured)

    def _settle_for_least(self, share: float) -> Found:
        """The fastest way of every layer, where nothing else meets the goal."""
        found = self._measure([0] * len(self._ways))
        if found.measured > share:
            what = f"the goal of {share:g} of the network's time cannot be met by factoring its layers: "
            what += f"{found.measured:.2f} is the least, and loses {found.loss:.2g} nats of its answers"
            raise PassError(what, "aim higher, or let `prune_channels` go there")
        return found

    def _time_whole(self, kept: Sequence[int]) -> float:
        """Its time as a share of the given network's."""
        made = factor(self._network, self._chosen(kept), self._inputs)
        assert isinstance(made, nn.Module)
        return time_gain(self._clock, self._given, self._export(made)).share

    def _chosen(self, kept: Sequence[int]) -> list[Factored]:
        ways = [each[place].factored for each, place in zip(self._ways, kept, strict=True)]
        return [way for way in ways if way is not None]

    def _loss(self, kept: Sequence[int]) -> float:
        return sum(each[place].loss for each, place in zip(self._ways, kept, strict=True))


def _aim(share: float, last: Found) -> float:
    """What to ask for next, if what is saved is foreseen as wrongly as it was; a bit less where too much was left."""
    wanted = share if last.measured <= share else 0.99 * share
    if last.measured >= 1 or last.predicted >= 1:
        return wanted * wanted / max(last.measured, wanted)
    return 1 - (1 - wanted) * (1 - last.predicted) / (1 - last.measured)


class Times:
    """The share of its time that a network takes with its layers each in one of its ways, see `allocation.Costs`.

    Layers may save more alone than they do together, or less where what they read does not fit into a cache with all of
    the others: each saves as many times what it does alone as all of them do.

    Args:
        ms: of each layer's ways alone, the fastest first and the layer itself last.
        least: the share of the network's time with the fastest way of each.
    """

    def __init__(self, ms: Sequence[Sequence[float]], least: float) -> None:
        saved = sum(each[-1] - each[0] for each in ms)
        scale = (1 - least) / saved if saved else 0.0
        self._shares = [[scale * one for one in each] for each in ms]
        self._fixed = 1 - sum(each[-1] for each in self._shares)

    def total(self, kept: Sequence[int]) -> float:
        return self._fixed + sum(each[place] for each, place in zip(self._shares, kept, strict=True))

    def share(self, group: int, kept: Sequence[int]) -> float:
        return self._shares[group][kept[group]]
