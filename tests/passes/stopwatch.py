"""A clock that tells the same time always: each operator of a graph takes what it has weights, and a little more.

It stands where a real clock would only be slow and uneven: what a pass does with a time is tested, and not the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from edgeopt.model import Model

#: of each operator, in weights
STEP = {"Sigmoid": 5000, "HardSwish": 5000}

#: operators that a layer alone has at most, and how many times longer each takes in a network with more
ALONE, TOGETHER = 4, 3


def time_by_weights(
    _backend: str, _options: Mapping[str, Any], models: Sequence[Model], _threads: int, _batch: int
) -> list[float]:
    graphs = [onnx.load(model.path).graph for model in models]
    weights = [sum(len(tensor.raw_data) // 4 for tensor in graph.initializer) for graph in graphs]
    steps = [sum(STEP.get(node.op_type, 10) for node in graph.node) for graph in graphs]
    return [float(weight + step) for weight, step in zip(weights, steps, strict=True)]


def time_together(
    backend: str, options: Mapping[str, Any], models: Sequence[Model], threads: int, batch: int
) -> list[float]:
    """Layers take longer in their network than alone, as if its weights did not fit into a cache together."""
    times = time_by_weights(backend, options, models, threads, batch)
    counts = [len(onnx.load(model.path).graph.node) for model in models]
    return [time * (TOGETHER if count > ALONE else 1) for time, count in zip(times, counts, strict=True)]


def time_by_steps(
    _backend: str, _options: Mapping[str, Any], models: Sequence[Model], _threads: int, _batch: int
) -> list[float]:
    """Each operator takes as long as any other, whatever it computes."""
    return [float(len(onnx.load(model.path).graph.node)) for model in models]


def time_alike(
    _backend: str, _options: Mapping[str, Any], models: Sequence[Model], _threads: int, _batch: int
) -> list[float]:
    """Nothing is ever faster than anything."""
    return [1.0 for _ in models]
