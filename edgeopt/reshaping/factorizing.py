"""Which layers of a network are factored, by which scheme, at which rank: as many as keep enough and save something.

What two layers save is counted in operations, or, with a clock, timed: a thinner layer is often no faster, since it
fills no vectors, and the second one has its own costs.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from edgeopt.clock import Clock
from edgeopt.edits.factor import make_factors
from edgeopt.edits.hold_zeros import HELD, holds
from edgeopt.errors import PassError, did_you_mean
from edgeopt.gain import WORTH
from edgeopt.model import Edit
from edgeopt.network import count_macs
from edgeopt.reshaping.factors import NEEDS, Factoring
from edgeopt.reshaping.moments import gather
from edgeopt.reshaping.timing import time_modules


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer that a forward pass runs; `shape` is that of its input, without the batch."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Factored:
    """One way to factor a layer: the two layers, what they keep, and what they take as a share of what the layer does.

    Attributes:
        share: of `cost`: of its operations, or, where a clock was asked, of its time.
    """

    layer: Layer
    scheme: str
    rank: int
    full_rank: int
    energy: float
    factors: nn.Sequential
    share: float
    cost: Literal["operations", "time"] = "operations"

    @property
    def edit(self) -> Edit:
        owner, _, child = self.layer.name.rpartition(".")
        bias = self.factors[1].bias is not None
        arguments = {"child": child, "scheme": self.scheme, "rank": self.rank, "bias": bias}
        return Edit(kind="factor", module=owner, arguments=arguments)

    def tell(self) -> str:
        took = f"{self.share:.2f}× the {self.cost}"
        return f"{self.scheme}, rank {self.rank} of {self.full_rank}, keeps {100 * self.energy:.1f} %, {took}"


#: the ranks at which a layer is factored by a scheme
Ranks = Callable[[Layer, Factoring], Sequence[int]]


def find_layers(
    network: nn.Module, inputs: Sequence[torch.Tensor], ignore: Sequence[str]
) -> tuple[list[Layer], dict[str, str]]:
    """The convolutions and linear layers that run and may be factored, and why each other one may not, by name.

    Raises:
        PassError: the network has no module of a name in `ignore`.
    """
    known = dict(network.named_modules())
    unknown = next((name for name in ignore if name not in known), None)
    if unknown is not None:
        raise PassError(f"the network has no module `{unknown}` to ignore", did_you_mean(unknown, known))
    found, left, obstacles = list[Layer](), dict[str, str](), _find_obstacles(network)

    def note(module: nn.Module, given: tuple[torch.Tensor, ...], _made: torch.Tensor) -> None:
        name = names[id(module)]
        if name not in left and all(layer.name != name for layer in found):
            why = "is ignored" if _is_below(name, ignore) else obstacles.get(id(module), "")
            if why:
                left[name] = why
            else:
                found.append(Layer(name, module, tuple(given[0].shape[1:])))

    names = {id(module): name for name, module in network.named_modules()}
    watched = [module for module in network.modules() if isinstance(module, (_ConvNd, nn.Linear))]
    with ExitStack() as hooks, torch.no_grad():
        for module in watched:
            hooks.enter_context(module.register_forward_hook(note))
        network.eval()(*inputs)
    return found, left


def _find_obstacles(network: nn.Module) -> dict[int, str]:
    """Id of a module → why it cannot become two, where it cannot."""
    places = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    tensors = [part for module in network.modules() for part in module.parameters(recurse=False)]
    holders, obstacles = Counter(id(tensor) for tensor in tensors), dict[int, str]()
    for name, module in network.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if not any(_fits(module, scheme) for scheme in NEEDS):
            grouped = getattr(module, "groups", 1) > 1
            obstacles[id(module)] = "is in groups" if grouped else f"is a {type(module).__name__}"
        elif places[id(module)] > 1 or not name:
            obstacles[id(module)] = "stands at several places" if name else "is the whole network"
        elif holds(module):
            obstacles[id(module)] = HELD
        elif "weight" not in own or holders[id(own["weight"])] > 1:
            obstacles[id(module)] = "shares its weight, or has it from elsewhere"
    return obstacles


def _is_below(name: str, above: Sequence[str]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in above)


def ranks_by_energy(energy: float, round_to: int) -> Ranks:
    """The one rank that keeps so much."""
    return lambda _layer, factoring: [factoring.rank_for(energy, round_to)]


def ranks_by_cost(shares: Sequence[float], round_to: int) -> Ranks:
    """The ranks at which the two layers take about these shares of the operations that the one does."""

    def ranks(layer: Layer, factoring: Factoring) -> list[int]:
        even = _macs(layer.module, layer.shape) / _macs(factoring.make(1), layer.shape)
        wanted = (max(round_to, round(share * even / round_to) * round_to) for share in shares)
        return list(dict.fromkeys(rank for rank in wanted if rank <= factoring.full_rank))

    return ranks


def propose(
    network: nn.Module, layers: Sequence[Layer], ranks: Ranks,
    batches: Sequence[Sequence[torch.Tensor]] | None,
) -> list[Factored]:  # fmt: skip
    """All ways to factor layers that keep so much, and take fewer operations than the layers do.

    Args:
        ranks: says of each layer and scheme which are tried.
        batches: samples to weigh directions by; None: by weights alone.
    """
    pairs = [(layer, scheme) for layer in layers for scheme in NEEDS if _fits(layer.module, scheme)]
    wanted = {(layer.name, NEEDS[scheme]): layer.module for layer, scheme in pairs}
    moments = None if batches is None else gather(network, wanted, batches)
    found = []
    for layer, scheme in pairs:
        known = None if moments is None else moments[layer.name, NEEDS[scheme]]
        factoring = Factoring(layer.module, scheme, known)
        for rank in ranks(layer, factoring):
            factors = factoring.make(rank)
            share = _macs(factors, layer.shape) / _macs(layer.module, layer.shape)
            if share < 1:
                kept = factoring.energy(rank)
                found.append(Factored(layer, scheme, rank, factoring.full_rank, kept, factors, share))
    return found


def choose(found: Sequence[Factored]) -> list[Factored]:
    """The way of each layer that takes least."""
    best = dict[str, Factored]()
    for one in found:
        if one.layer.name not in best or one.share < best[one.layer.name].share:
            best[one.layer.name] = one
    return list(best.values())


def time_ways(
    found: Sequence[Factored], clock: Clock, tell: Callable[[float], None]
) -> tuple[list[Factored], dict[str, float]]:
    """The same ways with the time that they take alone on the target as a share of what their layers take.

    Returns:
        The ways, and the milliseconds of their layers, by name.

    Raises:
        BuildError: a layer cannot be built or run on the target.
    """
    timed = {_key(one.layer.module, one.layer.shape): (one.layer.module, one.layer.shape) for one in found}
    timed |= {_key(one.factors, one.layer.shape): (one.factors, one.layer.shape) for one in found}
    ms = dict(zip(timed, time_modules(list(timed.values()), clock, tell), strict=True))
    layer_ms = {one.layer.name: ms[_key(one.layer.module, one.layer.shape)] for one in found}
    shares = [ms[_key(one.factors, one.layer.shape)] / layer_ms[one.layer.name] for one in found]
    ways = [dataclasses.replace(one, share=share, cost="time") for one, share in zip(found, shares, strict=True)]
    return ways, layer_ms


def choose_by_time(
    found: Sequence[Factored], clock: Clock, tell: Callable[[float], None]
) -> tuple[list[Factored], dict[str, str]]:
    """The way of each layer that is fastest on the target, where that is faster than the layer itself.

    Returns:
        What was chosen, and of each other layer what was measured, by name.

    Raises:
        BuildError: a layer cannot be built or run on the target.
    """
    ways, _ = time_ways(found, clock, tell)
    fastest = choose(ways)
    left = {one.layer.name: f"{one.share:.2f}× the time at {one.scheme} rank {one.rank}" for one in fastest}
    chosen = [one for one in fastest if one.share <= WORTH]
    return chosen, {name: why for name, why in left.items() if name not in {one.layer.name for one in chosen}}


def keep_running(
    network: nn.Module, chosen: Sequence[Factored], inputs: Sequence[torch.Tensor]
) -> tuple[nn.Module, list[Factored], dict[str, str]]:
    """The network with its layers factored, what was kept of the choice, and why each of the others was not.

    A network may read attributes of a layer, as attention does, which two layers do not have: what fails is left whole.
    """
    if isinstance(made := factor(network, chosen, inputs), nn.Module):
        return made, list(chosen), {}
    kept, left = list[Factored](), dict[str, str]()
    for one in chosen:
        made = factor(network, [*kept, one], inputs)
        if isinstance(made, nn.Module):
            kept.append(one)
        else:
            left[one.layer.name] = made
    made = factor(network, kept, inputs)
    assert isinstance(made, nn.Module)
    return made, kept, left


def factor(network: nn.Module, chosen: Sequence[Factored], inputs: Sequence[torch.Tensor]) -> nn.Module | str:
    """A copy of the network with layers factored, or why it does not run."""
    made = copy.deepcopy(network)
    for one in chosen:
        owner, _, child = one.layer.name.rpartition(".")
        setattr(made.get_submodule(owner), child, one.factors)
    try:
        with torch.no_grad():
            made(*inputs)
    except Exception as error:  # it is the user's code that runs, and the error is told in the facts
        return f"the network does not run with two layers there: {type(error).__name__}"
    return made


def _fits(module: nn.Module, scheme: str) -> bool:
    return make_factors(module, scheme, 1, bias=True) is not None


def _macs(module: nn.Module, shape: tuple[int, ...]) -> int:
    return count_macs(module, [torch.zeros(1, *shape)])


def _key(module: nn.Module, shape: tuple[int, ...]) -> str:
    """What the time of a module depends on: its layers with their options, and the shape of its input."""
    return f"{module} {shape}"
