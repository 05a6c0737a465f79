"""How long modules take alone on the target, each as a graph of its own, at the precision that will ship."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
from torch import nn

from edgeopt.clock import Clock, strip_ends
from edgeopt.exporting import export_graph
from edgeopt.model import Model, TensorSpec, TorchValue

#: graphs that are timed in turns, in one process
TOGETHER = 40


def time_modules(
    modules: Sequence[tuple[nn.Module, tuple[int, ...]]], clock: Clock, tell: Callable[[float], None]
) -> list[float]:
    """(modules,) milliseconds of one run of each, with a Relu behind it, between integers where the target has them.

    Args:
        modules: each with the shape of its input, without the batch.
        tell: how far it is, from 0 to 1.

    Raises:
        BuildError: one of them cannot be built or run on the target.
        PassError: one of them cannot be exported.
    """
    times = list[float]()
    for at in range(0, len(modules), TOGETHER):
        chosen = modules[at : at + TOGETHER]
        times += clock.time([strip_ends(clock.finished(_graph(module, shape))) for module, shape in chosen])
        tell(len(times) / len(modules))
    return times


def _graph(module: nn.Module, shape: tuple[int, ...]) -> onnx.ModelProto:
    alone = nn.Sequential(module, nn.ReLU()).eval()
    made = _shape_of(alone, shape)
    specs = [TensorSpec(name=name, shape=("batch", *sides)) for name, sides in (("given", shape), ("made", made))]
    described = Model(value=TorchValue(factory=""), inputs=(specs[0],), outputs=(specs[1],))
    return export_graph(alone, described)


def _shape_of(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of what a module makes, without the batch."""
    import torch

    with torch.no_grad():
        made: torch.Tensor = module(torch.zeros(1, *shape))
    return tuple(made.shape[1:])
