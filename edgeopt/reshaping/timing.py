"""How long modules take alone on the target, each as a graph of its own, at the precision that will ship."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
import torch
from torch import nn

from edgeopt.clock import Clock, strip_ends
from edgeopt.exporting import export_graph
from edgeopt.model import Model, TensorSpec, TorchValue
from edgeopt.network import name_outputs

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
        times += clock.time([strip_ends(clock.finished(export_alone(module, shape))) for module, shape in chosen])
        tell(len(times) / len(modules))
    return times


def export_alone(module: nn.Module, shape: tuple[int, ...]) -> onnx.ModelProto:
    """The float graph of a module with a Relu behind it."""
    alone = nn.Sequential(module, nn.ReLU()).eval()
    with torch.no_grad():
        made = name_outputs(alone(torch.zeros(1, *shape)))
    given = TensorSpec(name="given", shape=("batch", *shape))
    outputs = tuple(TensorSpec(name=name, shape=("batch", *tensor.shape[1:])) for name, tensor in made.items())
    return export_graph(alone, Model(value=TorchValue(factory=""), inputs=(given,), outputs=outputs))
