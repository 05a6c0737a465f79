"""Branches that are summed, and convolutions behind one another, as one convolution: nothing is lost but float error.

A network may be trained with more layers than it computes with (RepVGG: Ding et al. 2021): a 3×3 and a 1×1 convolution
and the input itself, each normalized, are one 3×3 convolution once the normalizations stand still. A fold is taken only
if it needs no more operations than what it stands for, or takes less time on the target although it does, and the
network computes the same with it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from edgeopt.edits import apply_edit
from edgeopt.edits.fold import Fold, find_folds, trace
from edgeopt.edits.hold_zeros import HELD, holds
from edgeopt.gain import WORTH
from edgeopt.model import Edit
from edgeopt.network import name_outputs
from edgeopt.reshaping.kernels import Kernel, add, compose, of_conv, of_norm, of_nothing

#: allowed difference of the network before and after, as a share of the largest output
TOLERANCE = 1e-4

#: (layers, the convolution that they are, the shape of their input without the batch) → its time as a share of theirs
Compare = Callable[[nn.Module, nn.Module, tuple[int, ...]], float]


@dataclass
class Folding:
    """A network and what was folded in it so far.

    Attributes:
        compare: by the target's clock; None: operations decide.
        edits: of all folds.
        folded: modules of each fold → what they became, in words.
        left: modules that could be folded → why they were not.
        untraced: modules whose code cannot be traced → the error.
    """

    network: nn.Module
    inputs: Sequence[torch.Tensor]
    compare: Compare | None = None
    edits: list[Edit] = field(default_factory=list)
    folded: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    untraced: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Fold all that can be, innermost modules first; the network is another one afterwards."""
        for name in reversed([name for name, module in self.network.named_modules() if _has_code(module)]):
            while self._fold_one(name):
                pass

    def _fold_one(self, name: str) -> bool:
        """Fold the first layers in one module that can be; whether there were any."""
        prefix = f"{name}." if name else ""
        leaves = [other.removeprefix(prefix) for other in self.untraced if other.startswith(prefix)]
        try:
            traced = trace(self.network.get_submodule(name), leaves)
        except Exception as error:  # it is the user's code that runs, and the error is told in the facts
            self.untraced[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            return False
        return any(self._try(name, leaves, traced, fold) for fold in find_folds(traced))

    def _try(self, name: str, leaves: Sequence[str], traced: fx.GraphModule, fold: Fold) -> bool:
        """Take a fold if it holds; why not is told in `left`."""
        told = " + ".join(" · ".join(f"{name}.{each}".lstrip(".") for each in term) or "itself" for term in fold.terms)
        if told in self.left:
            return False
        kernel = make_kernel(traced, fold)
        if any(holds(traced.get_submodule(each)) for each in fold.modules):
            self.left[told] = HELD
        elif kernel is None:
            self.left[told] = "is not linear as a whole, or not the same at the borders"
        elif why := self._tell_loss(name, traced, fold, kernel):
            self.left[told] = why
        else:
            edit = _make_edit(name, leaves, traced, fold, kernel)
            made = _apply(self.network, edit, kernel)
            if not _agrees(self.network, made, self.inputs):
                self.left[told] = "the network computes something else with it folded"
                return False
            self.network = made
            self.edits.append(edit)
            self.folded[told] = f"one {kernel.size[0]}×{kernel.size[1]} convolution"
            return True
        return False

    def _tell_loss(self, name: str, traced: fx.GraphModule, fold: Fold, kernel: Kernel) -> str:
        """Why a fold is not worth it; empty: it is."""
        if kernel.own_macs() <= kernel.macs:
            return ""
        dear = "takes fewer operations as it is"
        if self.compare is None:
            return dear
        shape = _find_shape(self.network, f"{name}.{fold.modules[0]}".lstrip("."), self.inputs)
        if shape is None:
            return dear
        share = self.compare(_Layers(traced, fold), _make_conv(kernel), shape)
        return "" if share <= WORTH else f"{dear}, and {share:.2f}× the time as one"


class _Layers(nn.Module):
    """The layers of a fold alone."""

    def __init__(self, traced: fx.GraphModule, fold: Fold) -> None:
        super().__init__()
        chains = ([copy.deepcopy(traced.get_submodule(name)) for name in term] for term in fold.terms)
        self.terms = nn.ModuleList(nn.Sequential(*chain) for chain in chains)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = sum(term(x) for term in self.terms)
        return made


def make_kernel(traced: fx.GraphModule, fold: Fold) -> Kernel | None:
    """What the layers of a fold compute together; None where that is no kernel."""
    chains = [[_kernel(traced.get_submodule(name)) for name in term] for term in fold.terms]
    known = next(chain for chain in chains if chain)[0]
    if known is None:
        return None
    terms = list[Kernel]()
    for chain in chains:
        made: Kernel | None = of_nothing(known.weight.shape[1]) if not chain else chain[0]
        for following in chain[1:]:
            made = None if made is None or following is None else compose(made, following)
        if made is None:
            return None
        terms.append(made)
    return add(terms)


def _kernel(module: nn.Module) -> Kernel | None:
    if isinstance(module, nn.Conv2d):
        return of_conv(module)
    assert isinstance(module, nn.BatchNorm2d)  # `find_folds` gives no other
    return of_norm(module)


def _make_edit(name: str, leaves: Sequence[str], traced: fx.GraphModule, fold: Fold, kernel: Kernel) -> Edit:
    """The convolution takes the name of the largest one that it stands for."""
    sizes = {each: sum(part.numel() for part in traced.get_submodule(each).parameters()) for each in fold.modules}
    conv = _conv_options(kernel)
    arguments: dict[str, Any] = {"modules": fold.modules, "leaves": list(leaves), "conv": conv}
    return Edit(kind="fold", module=name, arguments={**arguments, "name": max(sizes, key=lambda each: sizes[each])})


def _conv_options(kernel: Kernel) -> dict[str, Any]:
    """As `Conv2d` takes them, in plain data."""
    return {
        "in_channels": kernel.weight.shape[1], "out_channels": kernel.weight.shape[0], "kernel_size": list(kernel.size),
        "stride": list(kernel.stride), "padding": list(kernel.padding), "groups": kernel.groups,
    }  # fmt: skip


@torch.no_grad()
def _make_conv(kernel: Kernel) -> nn.Conv2d:
    conv = nn.Conv2d(**_conv_options(kernel))
    _fill(conv, kernel)
    return conv


def _fill(conv: nn.Module, kernel: Kernel) -> None:
    conv.get_parameter("weight").copy_(kernel.own_weight())
    conv.get_parameter("bias").copy_(kernel.bias)


@torch.no_grad()
def _find_shape(network: nn.Module, name: str, inputs: Sequence[torch.Tensor]) -> tuple[int, ...] | None:
    """Of what a module is given, without the batch; None where it is not run."""
    seen = list[tuple[int, ...]]()
    hook = network.get_submodule(name).register_forward_pre_hook(
        lambda _, given: seen.append(tuple(given[0].shape[1:]))
    )
    try:
        network(*inputs)
    finally:
        hook.remove()
    return seen[0] if seen else None


@torch.no_grad()
def _apply(network: nn.Module, edit: Edit, kernel: Kernel) -> nn.Module:
    """A copy of the network with the fold made and the kernel in it."""
    made = copy.deepcopy(network)
    apply_edit(made, edit)
    _fill(made.get_submodule(edit.module).get_submodule(edit.arguments["name"]), kernel)
    return made.eval()


@torch.no_grad()
def _agrees(network: nn.Module, other: nn.Module, inputs: Sequence[torch.Tensor]) -> bool:
    expected = name_outputs(network(*inputs))
    try:
        found = name_outputs(other(*inputs))
    except Exception:  # it reads what was folded away: told in the facts
        return False
    return found.keys() == expected.keys() and all(_is_close(found[name], expected[name]) for name in expected)


def _is_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())


def _has_code(module: nn.Module) -> bool:
    """Whether it calls others in code of its own, or one behind the other."""
    own = type(module)
    return any(True for _ in module.children()) and (not own.__module__.startswith("torch.nn") or own is nn.Sequential)
