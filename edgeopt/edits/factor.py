"""One layer as two thinner ones, one behind the other, with `rank` channels between them.

The edit stands at the module that holds the layer, since that is where the two take its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

from torch import nn

from edgeopt.errors import SourceError
from edgeopt.model import Edit

#: what says which positions a convolution reads → what it is along an axis on which nothing happens
GEOMETRY = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}


def make_factors(layer: nn.Module, scheme: str, rank: int, bias: bool) -> nn.Sequential | None:
    """Two fresh layers that read and make what `layer` does, in shape; None where the scheme does not fit it.

    Args:
        scheme: `channel`: a k×k convolution to `rank` channels and a 1×1 one; `spatial`: a k×1 convolution and a 1×k
            one; `linear`: two linear layers. Strides, padding and dilation are the layer's own.
        bias: whether the second one has a bias.
    """
    make = SCHEMES.get(scheme)
    return None if make is None or rank < 1 else make(layer, rank, bias)


def _channel(layer: nn.Module, rank: int, bias: bool) -> nn.Sequential | None:
    if not _is_plain(layer):
        return None
    own: dict[str, Any] = {name: getattr(layer, name) for name in (*GEOMETRY, "padding_mode")}
    first = nn.Conv2d(layer.in_channels, rank, bias=False, **own)
    return nn.Sequential(first, nn.Conv2d(rank, layer.out_channels, 1, bias=bias))


def _spatial(layer: nn.Module, rank: int, bias: bool) -> nn.Sequential | None:
    if not _is_plain(layer) or min(layer.kernel_size) < 2:
        return None
    down, across = (dict[str, Any]({"padding_mode": layer.padding_mode}) for _ in range(2))
    for name, idle in GEOMETRY.items():
        both: Any = getattr(layer, name)
        down[name], across[name] = (both, both) if isinstance(both, str) else ((both[0], idle), (idle, both[1]))
    first = nn.Conv2d(layer.in_channels, rank, bias=False, **down)
    return nn.Sequential(first, nn.Conv2d(rank, layer.out_channels, bias=bias, **across))


def _linear(layer: nn.Module, rank: int, bias: bool) -> nn.Sequential | None:
    if type(layer) is not nn.Linear:
        return None
    first = nn.Linear(layer.in_features, rank, bias=False)
    return nn.Sequential(first, nn.Linear(rank, layer.out_features, bias=bias))


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    return type(layer) is nn.Conv2d and layer.groups == 1


SCHEMES: dict[str, Callable[[nn.Module, int, bool], nn.Sequential | None]] = {
    "channel": _channel,
    "spatial": _spatial,
    "linear": _linear,
}


def apply(module: nn.Module, edit: Edit) -> None:
    """Put two layers of that rank in the place of the layer `child` of the named module."""
    child, scheme, rank, bias = (edit.arguments[name] for name in ("child", "scheme", "rank", "bias"))
    layer = getattr(module, child, None)
    factors = make_factors(layer, scheme, rank, bias) if isinstance(layer, nn.Module) else None
    if factors is None or layer is None:
        found = type(layer).__name__
        raise SourceError(f"cannot factor `{edit.module}.{child}`, a {found}, by `{scheme}` at rank {rank}")
    setattr(module, child, factors.train(layer.training))
