"""Another activation in the place of one: layers that have nothing to load, named with their options.

The edit stands at the module that holds the activation, since that is where another one takes its place.
"""

from __future__ import annotations

from torch import nn

from edgeopt.errors import SourceError, did_you_mean
from edgeopt.model import Edit

#: what may be put in, by its name in torch; none of them has tensors
ACTIVATIONS: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh)
}


def apply(module: nn.Module, edit: Edit) -> None:
    """Put an activation of the named kind in the place of `child` of the named module."""
    child, kind = edit.arguments["child"], edit.arguments["kind"]
    if kind not in ACTIVATIONS:
        raise SourceError(f"cannot put `{kind}` in the place of a module", did_you_mean(kind, ACTIVATIONS))
    old = getattr(module, child, None)
    if not isinstance(old, nn.Module) or old.state_dict():
        raise SourceError(f"`{edit.module}` has no activation `{child}` to replace")
    setattr(module, child, ACTIVATIONS[kind]().train(old.training))
