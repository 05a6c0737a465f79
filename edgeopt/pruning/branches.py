"""Residual branches that can go as a whole, so that a block is only its shortcut any more.

Where a layer is narrow already, fewer channels hardly save time; a whole block does. A block is found by running it: it
gives a tensor of the shape that it takes, and once one layer of it, the last of its branch, gives nothing but zeros, it
gives back just what it took. So a network without the branch computes what it does with that layer silenced, which is
what `soundness` holds it to. As that looks at small inputs alone, a block is run on large ones here, too: what a bound
cuts off behind the sum is seen there.

That whole blocks can go is an old finding (Veit et al., "Residual Networks Behave Like Ensembles of Relatively Shallow
Networks", NeurIPS 2016); weighing them against channels under one latency budget is that of Sun et al., "MDP:
Multidimensional Vision Model Pruning with Latency Constraint" (CVPR 2025).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import nn

from edgeopt.pruning.groups import Group
from edgeopt.pruning.removal import silence

#: allowed difference of what a silenced block gives and what it took, as a share of the largest value
TOLERANCE = 1e-6

#: how much larger the inputs are with which a block is looked at once more
LARGE = 16


def find_branches(network: nn.Module, inputs: Sequence[torch.Tensor], ignore: Sequence[str] = ()) -> list[Group]:
    """All branches that can go, in the order of the modules, each as a group of one that stays or goes.

    Of modules around one another that do nothing but what their innermost block does, that block is named: its name is
    then the same whichever others went before. Blocks in, below or around a module in `ignore` are left out, and so are
    those with a part that stands elsewhere, too.
    """
    large = [values * LARGE if values.is_floating_point() else values for values in inputs]
    seen = [_watch_blocks(network, each) for each in (inputs, large)]
    found: dict[str, Group] = {}
    for name in (name for name, _ in network.named_modules() if all(name in each for each in seen)):
        if any(f"{one}.".startswith(f"{name}.") or f"{name}.".startswith(f"{one}.") for one in ignore):
            continue
        silenced = _find_silenced(network.get_submodule(name), [each[name] for each in seen])
        if silenced and not _is_shared(network, name):
            silenced = f"{name}.{silenced}"
            found[silenced] = Group(name, 1, 1, (), silenced=silenced)  # the innermost comes last
    return list(found.values())


def _watch_blocks(network: nn.Module, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Modules of several layers that run once, from one tensor to one of its shape, and what they were given."""
    given: dict[str, list[torch.Tensor | None]] = {}
    names = {id(module): name for name, module in network.named_modules()}

    def take(module: nn.Module, arguments: tuple[object, ...], named: dict[str, object]) -> None:
        only = arguments[0] if len(arguments) == 1 and not named else None
        fits = isinstance(only, torch.Tensor) and only.is_floating_point()
        # copied, as a layer may change it in place
        given.setdefault(names[id(module)], []).append(only.clone() if fits else None)  # type: ignore[attr-defined]

    def check(module: nn.Module, _arguments: tuple[object, ...], result: object) -> None:
        taken = given[names[id(module)]]
        if taken[-1] is None or not isinstance(result, torch.Tensor) or result.shape != taken[-1].shape:
            taken[-1] = None

    composite = [module for name, module in network.named_modules() if name and any(True for _ in module.children())]
    with ExitStack() as hooks, torch.inference_mode():
        for module in composite:
            hooks.enter_context(module.register_forward_pre_hook(take, with_kwargs=True))
            hooks.enter_context(module.register_forward_hook(check))
        network.eval()(*inputs)
    return {name: taken[0] for name, taken in given.items() if len(taken) == 1 and taken[0] is not None}


def _is_shared(network: nn.Module, block: str) -> bool:
    """Whether a part of a block stands elsewhere, too: it would not go with the block."""
    parts = set(network.get_submodule(block).modules())
    named = network.named_modules(remove_duplicate=False)
    return any(module in parts and not f"{name}.".startswith(f"{block}.") for name, module in named)


@torch.inference_mode()
def _find_silenced(block: nn.Module, given: Sequence[torch.Tensor]) -> str:
    """The last layer of a block whose zeros make it give whatever it is given; empty where there is none."""
    layers: list[str] = [
        name for name, part in block.named_modules() if name and any(True for _ in part.parameters(False))
    ]
    for name in reversed(layers):
        silent = copy.deepcopy(block)
        silence(silent.get_submodule(name))
        if all(_close(silent(each.clone()), each) for each in given):
            return name
    return ""


def _close(result: torch.Tensor, given: torch.Tensor) -> bool:
    return bool(((result - given).abs() <= TOLERANCE * given.abs().max()).all()) and bool(given.any())
