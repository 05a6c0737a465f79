"""Zero weights of one module that stay zero: what sparsity leaves, and training is to keep.

The edit changes no shape. It marks the module, so that whoever trains the network sets the weights back to zero that
were zero when it began; which they are is read from the tensors.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from edgeopt.errors import SourceError
from edgeopt.model import Edit

#: the attribute that marks a module: the names of its parameters whose zeros stay
MARK = "holds_zeros"

#: why such a module is left as it is
HELD = "has zeros that are to stay"


def apply(module: nn.Module, edit: Edit) -> None:
    """Mark the module.

    Raises:
        SourceError: it has no weights to hold.
    """
    if not isinstance(getattr(module, "weight", None), nn.Parameter):
        raise SourceError(f"cannot hold zeros of `{edit.module}`, a {type(module).__name__}: it has no weights")
    mark(module, ["weight"])


def mark(module: nn.Module, parameters: Iterable[str]) -> None:
    """Let the zeros of these parameters of a module stay."""
    setattr(module, MARK, tuple(parameters))


def holds(module: nn.Module) -> bool:
    """Whether zeros of a module are to stay: then it must not become another one."""
    return bool(getattr(module, MARK, ()))


class HeldZeros:
    """The weights of a network that are zero now, in modules that are marked."""

    def __init__(self, network: nn.Module) -> None:
        marked = [(module, name) for module in network.modules() for name in getattr(module, MARK, ())]
        weights = {id(weight): weight for weight in (module.get_parameter(name) for module, name in marked)}
        self._held = [(weight, weight.detach() == 0) for weight in weights.values()]

    @torch.no_grad()
    def restore(self) -> None:
        """Set them to zero again, in place: after each step of an optimizer."""
        for weight, zeros in self._held:
            weight.masked_fill_(zeros, 0.0)
