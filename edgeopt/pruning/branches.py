"""Residual branches that can go as a whole, so that a block is only its shortcut any more.

Where a layer is narrow already, fewer channels hardly save time; a whole block does. A block is found by running it: it
gives a tensor of the shape that it takes, and once one layer of it, the last of its branch, gives nothing but zeros, it
gives back just what it took. So a network without the branch computes what it does with that layer silenced, which is
what `soundness` holds it to.

That whole blocks can go is an old finding (Veit et al., "Residual Networks Behave Like Ensembles of Relatively Shallow
Networks", NeurIPS 2016); weighing them against channels under one latency budget is that of Sun et al., "MDP:
Multidimensional Vision Model Pruning with Latency Constraint" (CVPR 2025).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from edgeopt.pruning.groups import Group
from edgeopt.pruning.removal import silence

#: allowed difference of what a silenced block gives and what it took, as a share of the largest value
TOLERANCE = 1e-6


def find_branches(network: nn.Module, inputs: Sequence[torch.Tensor], ignore: Sequence[str] = ()) -> list[Group]:
    """All branches that can go, in the order of the modules, each as a group of one that stays or goes.

    Of blocks inside one another the outermost is named alone. Blocks in, below or around a module in `ignore` are left
    out.
    """
    found: dict[str, Group] = {}
    for name, given in _candidates(network, inputs):
        if any(f"{one}.".startswith(f"{name}.") or f"{name}.".startswith(f"{one}.") for one in ignore):
            continue
        silenced = _find_silenced(network.get_submodule(name), given)
        if silenced:
            silenced = f"{name}.{silenced}"
            found.setdefault(silenced, Group(name, 1, 1, (), silenced=silenced))  # the outermost comes first
    return list(found.values())


def _candidates(network: nn.Module, inputs: Sequence[torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Modules of several layers that run once, from one tensor to one of its shape, and what they were given."""
    seen: dict[str, list[torch.Tensor | None]] = {}
    names = {id(module): name for name, module in network.named_modules()}

    def note(module: nn.Module, arguments: tuple[object, ...], result: object) -> None:
        given = arguments[0] if len(arguments) == 1 else None
        fits = isinstance(given, torch.Tensor) and isinstance(result, torch.Tensor) and given.shape == result.shape
        seen.setdefault(names[id(module)], []).append(given if fits else None)  # type: ignore[arg-type]

    composite = [module for name, module in network.named_modules() if name and any(True for _ in module.children())]
    hooks = [module.register_forward_hook(note) for module in composite]
    try:
        with torch.inference_mode():
            network.eval()(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for name, _ in network.named_modules():
        given = seen.get(name, [])
        if len(given) == 1 and given[0] is not None and given[0].is_floating_point():
            yield name, given[0]


@torch.inference_mode()
def _find_silenced(block: nn.Module, given: torch.Tensor) -> str:
    """The last layer of a block whose zeros make it give what it is given; empty where there is none."""
    layers: list[str] = [
        name for name, part in block.named_modules() if name and any(True for _ in part.parameters(False))
    ]
    for name in reversed(layers):
        silent = copy.deepcopy(block)
        silence(silent.get_submodule(name))
        if _close(silent(given), given):
            return name
    return ""


def _close(result: torch.Tensor, given: torch.Tensor) -> bool:
    return bool(((result - given).abs() <= TOLERANCE * given.abs().max()).all()) and bool(given.any())
