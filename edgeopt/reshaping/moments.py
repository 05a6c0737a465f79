"""What samples look like on both sides of a layer: means and covariances, gathered in one go over a network.

Weights alone do not tell which directions of a layer matter: those that samples never take cost nothing to lose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

#: (layer, what it is given, what it makes) → (values, features)
Rows = Callable[[nn.Module, Tensor, Tensor], Tensor]

#: samples of a batch that are looked at together: what columns of a kernel see is as many times an image as it is high
TOGETHER = 4


@dataclass(frozen=True)
class Moments:
    """(features,) the mean and (features, features) the covariance of some values, in float64."""

    mean: Tensor
    covariance: Tensor


class Sums:
    """Moments in the making, of values less the mean of the first: squares of large ones would swallow a variance."""

    def __init__(self) -> None:
        self._count, self._first, self._second = 0, torch.zeros(()), torch.zeros(())
        self._start: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        self._start = rows.mean(0) if self._start is None else self._start
        rows = rows - self._start
        self._count += len(rows)
        self._first = self._first + rows.sum(0).double()
        self._second = self._second + (rows.T @ rows).double()

    def moments(self) -> Moments:
        assert self._start is not None
        beyond = self._first / self._count
        return Moments(self._start + beyond, self._second / self._count - torch.outer(beyond, beyond))


@torch.no_grad()
def gather(
    network: nn.Module, wanted: Mapping[tuple[str, Rows], nn.Module], batches: Iterable[Sequence[Tensor]]
) -> dict[tuple[str, Rows], Moments]:
    """Run the network on batches and take the moments of what its modules are given or make.

    Args:
        wanted: name of a module and which values of it → the module.
    """
    sums = {key: Sums() for key in wanted}

    def note(key: tuple[str, Rows]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def add(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            for one, other in zip(*(torch.split(each, TOGETHER) for each in (given[0], made)), strict=True):
                sums[key].add(key[1](module, one, other))

        return add

    with ExitStack() as hooks:
        for key, module in wanted.items():
            hooks.enter_context(module.register_forward_hook(note(key)))
        for inputs in batches:
            network.eval()(*inputs)
    return {key: found.moments() for key, found in sums.items()}


def responses(layer: nn.Module, _given: Tensor, made: Tensor) -> Tensor:
    """(positions, outputs) of what a layer makes, without its bias: channels stand second in images, else last."""
    rows = made.transpose(1, -1).flatten(0, -2) if isinstance(layer, nn.Conv2d) else made.flatten(0, -2)
    return rows if layer.bias is None else rows - layer.get_parameter("bias")


def columns(layer: nn.Module, given: Tensor, _made: Tensor) -> Tensor:
    """(positions, inputs · height of the kernel): what one column of a convolution's kernel sees."""
    assert isinstance(layer, nn.Conv2d)
    _, _, top, bottom = layer._reversed_padding_repeated_twice  # as torch itself pads, whatever `padding` says
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(given, (0, 0, top, bottom), mode)
    kernel, dilation, stride = ((int(side[0]), 1) for side in (layer.kernel_size, layer.dilation, layer.stride))
    return functional.unfold(padded, kernel, dilation, 0, stride).transpose(1, 2).flatten(0, 1)
